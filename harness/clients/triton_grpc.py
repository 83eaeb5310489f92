"""Triton over gRPC: one ``ModelStreamInfer`` a request, on channels that all users of a process share.

The request is the stream's only message, so that the stream ends, with a status, when the answer does, and no
guess is needed at which response is the last. ``tritonclient``'s own client has one stream a user and passes
requests and responses through queues: with 100 users at 50 tokens/s on a busy machine its answers came 80 to
170 ms late, at 105 to 145 us of CPU a response; these come 2 ms late, at 137 to 159 us. A decoupled model
refuses ``ModelInfer``, so an answer in one piece comes the same way, as the only response.

gRPC's thread hands a response over to the hub, and there the time is taken, before the user's greenlet runs.
Responses stay bytes until the last one is there. Of HTTP there is only the status, translated from gRPC's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Any

import gevent
from gevent.hub import get_hub

from harness.clients.base import Reply, RetryPolicy, Target, shorten
from harness.clients.exchange import IF_UNFINISHED, Ending, Exchange
from harness.clients.grpc_channels import SERVICE, Lease, lease, prepare
from harness.clients.triton_fields import (
    FINISH_REASON,
    FORCED_LENGTH,
    SAMPLING,
    TENSORS,
    TEXT_OUTPUT,
    fields_of,
    fill_reason,
    fill_texts,
)
from harness.clients.user import OneUser
from harness.errors import UsageError
from harness.records import Outcome, Prompt

HTTP_STATUS = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
"""gRPC's status in HTTP's words, as ``google/rpc/code.proto`` maps them, so that outcomes compare over protocols."""

# What gRPC itself says with UNAVAILABLE of a connection; anything else with that code is the server's own word.
_NO_CONNECTION = ("failed to connect to all addresses", "DNS resolution failed", "Name resolution failure")
_LOST = (
    "Stream removed",
    "Socket closed",
    "recvmsg",
    "Connection reset",
    "Broken pipe",
    "GOAWAY",
    "Endpoint closing",
    "End of TCP",
)
_LONGEST_TIMER_S = 3600.0
_PACK = {"BOOL": "<?", "INT32": "<i", "UINT64": "<Q", "FP32": "<f"}


@dataclass(slots=True)
class GrpcExchange(Exchange):
    """``parts`` are the responses; ``code`` is a status of the server's own, empty for OK and while there is none."""

    code: str = ""


@dataclass(frozen=True, slots=True)
class GrpcRequest:
    message: bytes
    metadata: tuple[tuple[str, str], ...]


class TritonGrpc(OneUser[GrpcRequest]):
    """One user of ``GRPCInferenceService``."""

    def __init__(self, target: Target, retry: RetryPolicy | None = None, rng: Random | None = None) -> None:
        super().__init__(target, retry, rng)
        if target.path:
            raise UsageError(f"gRPC has no path: give http://{target.host}:PORT without '{target.path}'")
        self._messages = prepare().messages
        self._decode_error = prepare().decode_error
        self._metadata = _metadata(target)
        self._lease: Lease | None = None
        self._last: GrpcExchange | None = None
        self._waiting: Any = None
        self._closing = False

    def open(self) -> None:
        grpc = prepare().grpc
        live = self._channel().unary_unary(f"{SERVICE}/ServerLive")
        try:
            live(b"", timeout=min(self.target.timeouts.connect_s, _LONGEST_TIMER_S), metadata=self._metadata)
        except grpc.RpcError:
            return

    def close(self) -> None:
        if self._waiting is None:
            self._let_go()
        else:  # the request in flight ends, and lets go of its channel
            self._closing = True
            get_hub().loop.run_callback(self._interrupt, self._last, _Stop(Ending.CANCELLED, "the client was closed"))

    # pure steps, which tests drive without a socket

    def encode(self, prompt: Prompt, request_id: str) -> GrpcRequest:
        fields = fields_of(prompt, stream=self.target.stream)
        self.merge(fields, prompt, FORCED_LENGTH)
        request = self._messages.ModelInferRequest(model_name=self.target.model, id=request_id)
        for name, value in fields.items():
            if name in TENSORS or name.startswith(SAMPLING):
                datatype = TENSORS.get(name) or _datatype(value)
                request.inputs.add(name=name, datatype=datatype, shape=[1])
                request.raw_input_contents.append(_pack(name, datatype, value))
            else:
                _set_parameter(request.parameters[name], name, value)
        metadata = (*self._metadata, ("x-request-id", _printable(request_id)))
        return GrpcRequest(request.SerializeToString(), metadata)

    def read(self, exchange: Exchange) -> Reply:
        reply = Reply(sent_s=exchange.sent_s, end_s=exchange.end_s, bytes=sum(map(len, exchange.parts)))
        if exchange.times:
            reply.first_byte_s = exchange.times[0]
            reply.http_status = 200
        reply.outcome = Outcome.OK
        self._read_responses(reply, exchange)
        code = exchange.code if isinstance(exchange, GrpcExchange) else ""
        unfinished = IF_UNFINISHED.get(exchange.ending)
        if code:
            reply.http_status = HTTP_STATUS.get(code, 500)
            reply.outcome = Outcome.RATE_LIMITED if code == "RESOURCE_EXHAUSTED" else Outcome.HTTP_ERROR
            reply.error = f"gRPC {code}: {exchange.error}"
        elif unfinished is not None:
            reply.outcome, reply.error = unfinished, exchange.error
        elif exchange.ending is Ending.CLOSED:
            reply.outcome = Outcome.TRUNCATED if exchange.parts else Outcome.RESET
            reply.error = exchange.error
        if reply.outcome is not Outcome.OK:
            reply.error = shorten(reply.error, self._secrets)
        return reply

    def _read_responses(self, reply: Reply, exchange: Exchange) -> None:
        texts: list[str] = []
        error = ""
        for number, part in enumerate(exchange.parts, 1):
            try:
                answer = self._messages.ModelStreamInferResponse.FromString(part)
                text, reason = _texts_of(answer.infer_response)
            except (ValueError, struct.error, self._decode_error) as failure:
                reply.outcome = Outcome.MALFORMED
                reply.error = f"response {number} is no answer: {failure}"
                break
            if answer.error_message:
                error = answer.error_message
                break
            texts.append(text)
            fill_reason(reply, reason)
        if self.target.stream:
            fill_texts(reply, texts, exchange.times)
        else:
            reply.text = "".join(texts)
        if error:
            reply.outcome, reply.error = Outcome.HTTP_ERROR, error
        elif reply.outcome is Outcome.OK and not texts:
            reply.outcome, reply.error = Outcome.TRUNCATED, "the stream held no answer"

    # one request

    def _current(self) -> Exchange | None:
        return self._last

    def _channel(self) -> Any:
        if self._lease is None:
            self._lease = lease(self.target)
        return self._lease.channel

    def _let_go(self) -> None:
        self._closing = False
        held, self._lease = self._lease, None
        if held is not None:
            held.give_back()

    def _attempt(self, request: GrpcRequest, deadline_s: float) -> Exchange:
        exchange = self._last = GrpcExchange(sent_s=monotonic())
        stream = self._channel().unary_stream(f"{SERVICE}/ModelStreamInfer", response_deserializer=_with_time)
        self._waiting = gevent.getcurrent()
        timer = _Watch(self, exchange, deadline_s)
        call = None
        try:
            call = stream(request.message, metadata=request.metadata)
            ended: list[float] = []
            call.add_callback(lambda: ended.append(monotonic()))
            self._collect(exchange, call, ended)
        except _Stop as stop:
            exchange.ending, exchange.error, exchange.end_s = stop.ending, stop.reason, monotonic()
        except BaseException:
            exchange.ending, exchange.end_s = Ending.CANCELLED, monotonic()
            raise
        finally:
            self._waiting = None
            timer.close()
            if call is not None and exchange.ending is not Ending.COMPLETE:
                call.cancel()
            if self._closing:
                self._let_go()
        return exchange

    def _collect(self, exchange: GrpcExchange, call: Any, ended: list[float]) -> None:
        grpc = prepare().grpc
        add_time, add_part = exchange.times.append, exchange.parts.append
        try:
            for arrived_s, message in call:
                add_time(arrived_s)
                add_part(message)
        except grpc.RpcError as error:
            exchange.ending, exchange.error = _ending_of(error.code().name, error.details() or "", self.target)
            if exchange.ending is Ending.COMPLETE:
                exchange.code = error.code().name
        else:
            exchange.ending = Ending.COMPLETE
        exchange.end_s = ended[0] if ended else monotonic()

    # time-outs: one timer a request, which looks at the times only when one may be due

    def _interrupt(self, exchange: GrpcExchange | None, stop: _Stop) -> None:
        """Raise ``stop`` where the user waits; called by the hub, and only while that request is under way."""
        if self._waiting is not None and exchange is self._last and exchange is not None and exchange.ending is None:
            self._waiting.throw(stop)


class _Stop(BaseException):
    """Ends a wait from outside. No Exception: grpcio swallows those of its callers in places."""

    def __init__(self, ending: Ending, reason: str) -> None:
        super().__init__(reason)
        self.ending = ending
        self.reason = reason


class _Watch:
    """The timer of one request."""

    def __init__(self, user: TritonGrpc, exchange: GrpcExchange, deadline_s: float) -> None:
        self._user = user
        self._exchange = exchange
        self._deadline_s = deadline_s
        self._timer: Any = None
        self._arm()

    def close(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def _due_s(self) -> float:
        limits, exchange = self._user.target.timeouts, self._exchange
        if exchange.times:
            return min(self._deadline_s, exchange.times[-1] + limits.idle_s)
        return min(self._deadline_s, exchange.sent_s + limits.first_byte_s)

    def _arm(self) -> None:
        limits = self._user.target.timeouts
        left_s = min(self._due_s() - monotonic(), limits.idle_s, _LONGEST_TIMER_S)
        self._timer = get_hub().loop.timer(max(left_s, 0.001))
        self._timer.start(self._look)

    def _look(self) -> None:
        self.close()
        if self._exchange.ending is not None:
            return
        if self._due_s() > monotonic():
            self._arm()
        else:
            self._user._interrupt(self._exchange, _Stop(Ending.TIMED_OUT, self._reason()))

    def _reason(self) -> str:
        limits = self._user.target.timeouts
        if monotonic() >= self._deadline_s:
            return f"not over after {limits.total_s:g} s"
        return f"silent for {limits.idle_s:g} s" if self._exchange.times else f"no answer in {limits.first_byte_s:g} s"


def _with_time(message: bytes) -> tuple[float, bytes]:
    return monotonic(), message


def _ending_of(code: str, details: str, target: Target) -> tuple[Ending, str]:
    """Tell the connection's end from a status of the server's own; both may be UNAVAILABLE."""
    if code == "UNAVAILABLE":
        if any(text in details for text in _NO_CONNECTION):
            why = details.rpartition(f":{target.port}: ")[2].removeprefix("Failed to connect to remote host: ")
            timed_out = "timed out" in why.lower() or "timeout" in why.lower()
            ending = Ending.TIMED_OUT if timed_out else Ending.REFUSED
            return ending, f"cannot connect to {target.host}:{target.port}: {why}"
        if any(text in details for text in _LOST):
            reset = "reset" in details.lower() or "broken pipe" in details.lower()
            return (Ending.RESET if reset else Ending.CLOSED), f"the connection was lost: {details}"
    return Ending.COMPLETE, details


def _metadata(target: Target) -> tuple[tuple[str, str], ...]:
    found = {"authorization": f"Bearer {target.api_key.get_secret_value()}"} if target.api_key else {}
    found |= {name.lower(): value for name, value in target.headers.items()}
    return tuple((name, _printable(value)) for name, value in found.items())


def _printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def _datatype(value: object) -> str:
    match value:
        case bool():
            return "BOOL"
        case int():
            return "INT32"
        case float():
            return "FP32"
        case _:
            return "BYTES"


def _pack(name: str, datatype: str, value: Any) -> bytes:
    try:
        if datatype != "BYTES":
            return struct.pack(_PACK[datatype], value)
        data = value.encode()
    except (struct.error, AttributeError) as error:
        raise UsageError(f"'{name}' cannot be sent as {datatype}: {value!r}") from error
    return struct.pack("<I", len(data)) + bytes(data)


def _set_parameter(parameter: Any, name: str, value: object) -> None:
    match value:
        case bool():
            parameter.bool_param = value
        case int():
            parameter.int64_param = value
        case float():
            parameter.double_param = value
        case str():
            parameter.string_param = value
        case _:
            raise UsageError(f"'{name}' cannot be a parameter of a gRPC request: {value!r}")


def _texts_of(answer: Any) -> tuple[str, str]:
    """Text and finish reason of one response; a response may carry neither."""
    raw = iter(answer.raw_output_contents)
    found = {output.name: _first(output, raw) for output in answer.outputs}
    return found.get(TEXT_OUTPUT, ""), found.get(FINISH_REASON, "")


def _first(output: Any, raw: Iterator[bytes]) -> str:
    """The first element of a tensor of texts. Tensors without typed contents take the raw ones in turn."""
    if output.HasField("contents"):
        texts = output.contents.bytes_contents
        return texts[0].decode("utf-8", "replace") if texts else ""
    data = next(raw, b"")
    if output.datatype != "BYTES" or not data:
        return ""
    (length,) = struct.unpack_from("<I", data)
    if len(data) < 4 + length:
        raise ValueError(f"the tensor {output.name} is shorter than it says")
    return data[4 : 4 + length].decode("utf-8", "replace")
