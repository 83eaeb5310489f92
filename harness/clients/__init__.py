"""Clients: one class per protocol, one connection per user.

A new protocol is one file and one line in ``CLIENTS``.
"""

from __future__ import annotations

from harness.clients.base import Client, ClientFactory, Reply, RetryPolicy, Target, Timeouts
from harness.clients.openai_chat import OpenAIChat
from harness.clients.triton_generate import TritonGenerate

CLIENTS: dict[str, ClientFactory] = {
    "openai-chat": OpenAIChat,
    "triton-generate-stream": TritonGenerate,
}
"""Protocol name, as a Stack's YAML says it, to class."""

__all__ = ["CLIENTS", "Client", "ClientFactory", "Reply", "RetryPolicy", "Target", "Timeouts"]
