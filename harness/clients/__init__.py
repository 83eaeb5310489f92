"""Clients: one class per protocol, one user an instance.

A new protocol is one file and one line in ``CLIENTS``.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.clients import grpc_channels
from harness.clients.base import Client, ClientFactory, Reply, RetryPolicy, Target, Timeouts
from harness.clients.openai_chat import OpenAIChat
from harness.clients.triton_generate import TritonGenerate
from harness.clients.triton_grpc import TritonGrpc

CLIENTS: dict[str, ClientFactory] = {
    "openai-chat": OpenAIChat,
    "triton-generate-stream": TritonGenerate,
    "triton-grpc": TritonGrpc,
}
"""Protocol name, as a Stack's YAML says it, to class."""

_PREPARE: dict[str, Callable[[], object]] = {"triton-grpc": grpc_channels.prepare}


def prepare(protocol: str) -> None:
    """Load what only this protocol needs; call it once in each process that sends, after any fork."""
    if protocol in _PREPARE:
        _PREPARE[protocol]()


__all__ = ["CLIENTS", "Client", "ClientFactory", "Reply", "RetryPolicy", "Target", "Timeouts", "prepare"]
