"""What is gRPC's own: the request's tensors, statuses, shared channels, and how it is loaded."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest

from harness.clients import CLIENTS, RetryPolicy, Target, Timeouts
from harness.clients import grpc_channels as channels
from harness.errors import LoadError, UsageError
from harness.records import Message, Outcome, Prompt
from servers.ready import REQUEST_ID, Endpoint, NoTokenError, first_token
from tests.contract.grpc_transcripts import GRPC_TRANSCRIPTS, PROTOCOL, response
from tests.contract.scripted import CA, OTHER_CA, Script, closing, until

PROMPT = Prompt("p1", (Message("system", "Translate."), Message("user", "Guten Tag")), output_tokens=7)
FORCED = Prompt("p1", PROMPT.messages, output_tokens=7, forced=True)
PIECES = GRPC_TRANSCRIPTS[0].pieces
BUSY = Script((), "UNAVAILABLE: Exceeds maximum queue size")
ROOT = Path(__file__).parents[2]

patched = pytest.mark.patched


def server_of(*scripts: Script, tls: bool = False) -> Any:
    from tests.contract.grpc_server import GrpcServer

    return GrpcServer(list(scripts), tls)


def client_of(url: str, retry: RetryPolicy | None = None, **target: Any) -> Any:
    settings = {"model": "m", "ca_file": CA, "timeouts": Timeouts(total_s=20), **target}
    return CLIENTS[PROTOCOL](Target(url=url, protocol=PROTOCOL, **settings), retry)


def channels_now() -> list[Any]:
    (shared,) = channels._shared.values()
    return shared.channels


def connected(channel: Any) -> bool:
    """What grpcio itself tells only to callbacks of its own threads."""
    ready: int = channels.prepare().grpc.ChannelConnectivity.READY.value[0]
    return bool(channel._channel.check_connectivity_state(False) == ready)


def request_of(prompt: Prompt = PROMPT, **target: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Tensors, parameters, and the whole request as Triton would read it."""
    from tritonclient.grpc import service_pb2

    sent = client_of("http://127.0.0.1:1", **target).encode(prompt, "run/0/0/0")
    request = service_pb2.ModelInferRequest.FromString(sent.message)
    tensors = {
        each.name: (each.datatype, tuple(each.shape), data)
        for each, data in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in request.parameters.items()
    }
    return tensors, parameters, request


@patched
@pytest.mark.parametrize("stream", [True, False])
def test_the_request(stream: bool) -> None:
    tensors, parameters, request = request_of(stream=stream)
    text = b"System: Translate.\nUser: Guten Tag\nAssistant:"
    assert tensors == {
        "text_input": ("BYTES", (1,), len(text).to_bytes(4, "little") + text),
        "streaming": ("BOOL", (1,), bytes([stream])),
        "sampling_param_max_tokens": ("INT32", (1,), b"\x07\0\0\0"),
        "sampling_param_temperature": ("FP32", (1,), b"\0\0\0\0"),
        "sampling_param_exclude_input_from_output": ("BOOL", (1,), b"\x01"),
        "return_finish_reason": ("BOOL", (1,), b"\x01"),
    }
    assert parameters == {"stream": stream, "max_tokens": 7}
    assert (request.model_name, request.id) == ("m", "run/0/0/0")


@patched
def test_own_fields_and_a_forced_length() -> None:
    extra = {"sampling_param_top_k": 5, "temperature": 0.5, "note": "x", "stream": None, "min": "$output_tokens"}
    tensors, parameters, _ = request_of(FORCED, extra_body=extra)
    assert tensors["sampling_param_top_k"] == ("INT32", (1,), b"\x05\0\0\0")
    expected = {"temperature": 0.5, "note": "x", "max_tokens": 7, "ignore_eos": True, "min_tokens": 7, "min": 7}
    assert parameters == expected


@patched
@pytest.mark.parametrize("extra", [{"sampling_param_max_tokens": "x"}, {"text_input": 3}, {"note": [1]}])
def test_a_field_that_no_request_can_carry(extra: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(extra))):
        request_of(extra_body=extra)


@patched
def test_a_url_with_a_path_is_refused() -> None:
    with pytest.raises(UsageError, match="no path"):
        client_of("http://127.0.0.1:1/v2")


@patched
def test_keys_and_headers_are_metadata_and_no_error_shows_them() -> None:
    script = Script((), "UNAUTHENTICATED: no such key: sk-very-secret, header-secret-42")
    with server_of(script) as server:
        headers = {"X-Team": "header-secret-42"}
        client = client_of(server.url, api_key="sk-very-secret", headers=headers)
        with closing(client):
            reply = client.send(PROMPT, "run/0/0/0\r\nx: y")
        sent = server.metadata[0]
    assert (sent["authorization"], sent["x-team"]) == ("Bearer sk-very-secret", "header-secret-42")
    assert sent["x-request-id"] == "run/0/0/0??x: y"
    assert (reply.http_status, reply.error) == (401, "gRPC UNAUTHENTICATED: no such key: ***, ***")


@patched
def test_retries() -> None:
    with server_of(BUSY, BUSY, Script(PIECES)) as server:
        retry = RetryPolicy(max_retries=2, base_s=0.1, jitter=0.0)
        with closing(client_of(server.url, retry)) as client:
            reply = client.send(PROMPT, "run/0/0/0")
        assert server.requests[0] == server.requests[2]
    assert (reply.outcome, reply.retries) == (Outcome.OK, 2)
    assert 0.3 <= reply.retry_s < reply.first_byte_s - reply.sent_s


@patched
def test_no_retry_unless_asked_for() -> None:
    with server_of(BUSY, BUSY) as server, closing(client_of(server.url)) as client:
        assert client.send(PROMPT, "run/0/0/0").http_status == 503
        assert len(server.requests) == 1


@patched
def test_a_lost_idle_connection_costs_nothing() -> None:
    with server_of(Script(PIECES), Script(PIECES)) as server, closing(client_of(server.url)) as client:
        client.open()
        assert client.send(PROMPT, "run/0/0/0").outcome is Outcome.OK
        server.cut()
        until(lambda: not any(map(connected, channels_now())), "the client knows that the connection ended")
        assert client.send(PROMPT, "run/0/0/1").outcome is Outcome.OK
        assert server.accepts == 2


@patched
def test_users_share_a_few_channels_and_the_last_closes_them() -> None:
    users = 3 * channels.CHANNELS
    with server_of(*[Script(PIECES)] * (users + 1)) as server:
        clients = [client_of(server.url) for _ in range(users)]
        sent = [gevent.spawn(client.send, PROMPT, f"run/0/{k}/0") for k, client in enumerate(clients)]
        assert [each.get(timeout=20).outcome for each in sent] == [Outcome.OK] * users
        assert server.accepts == channels.CHANNELS
        for client in clients[1:]:
            client.close()
        assert clients[0].send(PROMPT, "run/0/0/1").outcome is Outcome.OK
        assert server.accepts == server.open == channels.CHANNELS
        clients[0].close()
        clients[0].close()
        until(lambda: server.open == 0, "the channels closed")
        assert not channels._shared


@patched
@pytest.mark.parametrize("pieces", [0, 1])
def test_a_kill_cancels_the_call_at_the_server(pieces: int) -> None:
    with server_of(Script(PIECES[:pieces], "stall")) as server, closing(client_of(server.url)) as client:
        user = gevent.spawn(client.send, PROMPT, "run/0/0/0")
        until(server.asked.is_set, "the request at the server")
        assert server.calls == 1
        user.kill()
        until(lambda: server.calls == 0, "the server learned of it")


@patched
@pytest.mark.parametrize("ca_file", [None, OTHER_CA], ids=["the system's CAs", "another CA"])
def test_an_unknown_ca_is_refused(ca_file: str | None) -> None:
    with server_of(Script(PIECES), tls=True) as server, closing(client_of(server.url, ca_file=ca_file)) as client:
        reply = client.send(PROMPT, "run/0/0/0")
        assert not server.requests
    assert reply.outcome is Outcome.REFUSED
    assert "CERTIFICATE_VERIFY_FAILED" in reply.error


@patched
def test_a_certificate_cannot_go_unverified(tmp_path: Path) -> None:
    for wrong in ({"verify": False}, {"ca_file": str(tmp_path / "missing.pem")}):
        with pytest.raises(UsageError):
            client_of("https://127.0.0.1:1", **wrong).open()


@patched
def test_a_silent_server_times_out_within_connect_s() -> None:
    with gevent.socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with closing(client_of(url, timeouts=Timeouts(total_s=20, connect_s=0.3))) as client:
            reply = client.send(PROMPT, "run/0/0/0")
    assert reply.outcome is Outcome.TIMEOUT
    assert reply.end_s - reply.sent_s < 5


def test_it_is_loaded_only_when_asked_for() -> None:
    program = "import harness.clients, sys; print({'grpc', 'tritonclient', 'google.protobuf'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"


def test_it_refuses_a_process_without_gevents_patches() -> None:
    with pytest.raises(LoadError, match="patched"):
        channels.prepare()


@patched
def test_it_refuses_a_process_that_was_forked_later(monkeypatch: pytest.MonkeyPatch) -> None:
    channels.prepare()
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(LoadError, match="forked"):
        channels.prepare()


@patched
@pytest.mark.parametrize("stream", [True, False])
def test_a_probe_of_readiness_is_a_token_that_came_back(stream: bool) -> None:
    endpoint = Endpoint("", "m", PROTOCOL, {"Authorization": "Bearer sk-secret-1"}, secrets=("sk-secret-1",))
    scripts = [Script(PIECES), Script((response("", "stop"),)), Script((), "NOT_FOUND: no m for sk-secret-1"), BUSY]
    with server_of(*scripts) as server:
        endpoint = replace(endpoint, url=server.url, stream=stream)
        first_token(endpoint, timeout_s=10)
        assert server.metadata[0]["authorization"] == "Bearer sk-secret-1"
        assert server.request_ids[0] == REQUEST_ID
        with pytest.raises(NoTokenError, match="without a token"):
            first_token(endpoint, timeout_s=10)
        with pytest.raises(NoTokenError, match=r"NOT_FOUND: no m for \*\*\*") as caught:
            first_token(endpoint, timeout_s=10)
        assert (caught.value.permanent, caught.value.status) == (True, 404)
        with pytest.raises(NoTokenError, match="maximum queue") as caught:
            first_token(endpoint, timeout_s=10)
        assert not caught.value.permanent
