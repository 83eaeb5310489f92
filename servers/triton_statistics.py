"""What Triton itself says of a model, read with ``tritonclient``: readiness, and its statistics before and after.

The counters count requests and the time Triton spent on them. For a model that streams, the time ends when the request
was handed to the model, not with its last token: what a request took is in the model's own ``*_time_ns`` outputs
(:class:`ServerTimes`), which TensorRT-LLM's model adds to an answer for ``sampling_param_return_perf_metrics``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from harness.errors import ServerError

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """Counters of one model since its server started; subtract an earlier reading for what lies between."""

    succeeded: int
    """Requests that ended without an error."""
    failed: int
    executions: int
    """Times that the model was called."""
    requests: int
    """Requests that the model was called with."""

    def __sub__(self, earlier: Self) -> ModelStatistics:
        return ModelStatistics(
            self.succeeded - earlier.succeeded,
            self.failed - earlier.failed,
            self.executions - earlier.executions,
            self.requests - earlier.requests,
        )


@dataclass(frozen=True, slots=True)
class ServerTimes:
    """When a request was where, on the server's own clock, seconds; only differences mean anything."""

    arrival_s: float
    first_scheduled_s: float
    first_token_s: float
    last_token_s: float

    @property
    def ttft_s(self) -> float:
        return self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> float:
        return self.last_token_s - self.arrival_s

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> ServerTimes | None:
        """Read the outputs of a response, by name; None where it has none. A tensor of one element counts as it."""
        names = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
        if any(name not in answer for name in names):
            return None
        values = (answer[name] for name in names)
        return cls(*(int(value[0] if isinstance(value, list | tuple) else value) / 1e9 for value in values))


def server_version(url: str) -> str:
    """Triton's own version.

    Raises
    ------
    ServerError
        When the server at ``url`` (``http://host:port``, its HTTP port) does not answer.
    """
    return str(_ask(url, lambda client: client.get_server_metadata())["version"])


def is_ready(url: str, model: str) -> bool:
    """What Triton calls ready: the model was loaded. It says so of a model whose process has died, too."""
    return bool(_ask(url, lambda client: client.is_model_ready(model)))


def model_statistics(url: str, model: str) -> ModelStatistics:
    """Read a model's counters.

    Raises
    ------
    ServerError
        When the server does not answer or has no such model.
    """
    entries = _ask(url, lambda client: client.get_inference_statistics(model))["model_stats"]
    inference = [entry["inference_stats"] for entry in entries]
    return ModelStatistics(
        succeeded=sum(int(each["success"]["count"]) for each in inference),
        failed=sum(int(each["fail"]["count"]) for each in inference),
        executions=sum(int(entry["execution_count"]) for entry in entries),
        requests=sum(int(entry["inference_count"]) for entry in entries),
    )


def _ask(url: str, question: Any) -> Any:
    client = triton.InferenceServerClient(
        url.removeprefix("http://"), connection_timeout=TIMEOUT_S, network_timeout=TIMEOUT_S
    )
    try:
        return question(client)
    except (InferenceServerException, OSError) as error:
        raise ServerError(f"Triton at {url} does not say: {error}") from error
    finally:
        client.close()
