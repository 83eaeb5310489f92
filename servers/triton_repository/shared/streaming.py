"""Between Triton and :mod:`batching`: tensors to answers and back. Copied beside each ``model.py``.

Names and types of the tensors are those of TensorRT-LLM's ``tensorrt_llm`` model (LLM API), so that one client speaks
to both. Responses hold what is new, not all text so far.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from batching import Answer, Batches, Run, Sampling, Times

DEFAULT_MAX_TOKENS = 32
"""TensorRT-LLM's own."""


class TritonSender:
    def __init__(self, request: Any) -> None:
        self._sender = request.get_response_sender()
        self._wants_reason = bool(_value(request, "return_finish_reason", False))
        self._wants_times = bool(_value(request, "sampling_param_return_perf_metrics", False))

    def send(self, text: str, reason: str, times: Times) -> None:
        tensors = [_texts("text_output", text)]
        if self._wants_reason:
            # TensorRT-LLM's model sends Python's None as text until the last response.
            tensors.append(_texts("finish_reason", reason or "None"))
        if self._wants_times and reason:
            tensors += [
                _number("arrival_time_ns", times.arrival_ns),
                _number("first_scheduled_time_ns", times.first_scheduled_ns),
                _number("first_token_time_ns", times.first_token_ns),
                _number("last_token_time_ns", times.last_token_ns),
            ]
        self._send(pb_utils.InferenceResponse(output_tensors=tensors), last=bool(reason))

    def fail(self, why: str) -> None:
        self._send(pb_utils.InferenceResponse(error=pb_utils.TritonError(why)), last=True)

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())

    def _send(self, response: Any, *, last: bool) -> None:
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0)


class StreamingModel:
    """What Triton calls; a model says only how its engine is made."""

    def engine(self, parameters: dict[str, str], device: int | None) -> Run:
        """Make the engine, on this GPU or (None) on the CPU."""
        raise NotImplementedError

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {name: entry["string_value"] for name, entry in config["parameters"].items()}
        device = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None
        self._batches = Batches(lambda: self.engine(parameters, device), int(parameters["max_batch"]))
        self._batches.open()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = TritonSender(request)
            try:
                answer = _answer_of(request, sender)
            except ValueError as error:
                sender.fail(str(error))
            else:
                self._batches.put(answer)

    def finalize(self) -> None:
        self._batches.close()


def _answer_of(request: Any, sender: TritonSender) -> Answer:
    text = _value(request, "text_input", b"").decode("utf-8", "replace")
    if not text.strip():
        raise ValueError("text_input is empty")
    extra = json.loads(request.parameters() or "{}")
    seed = _value(request, "sampling_param_seed", None)
    sampling = Sampling(
        max_tokens=int(_value(request, "sampling_param_max_tokens", DEFAULT_MAX_TOKENS)),
        temperature=float(_value(request, "sampling_param_temperature", 0.0)),
        seed=None if seed is None else int(seed),
        top_k=int(_value(request, "sampling_param_top_k", 0)),
        top_p=float(_value(request, "sampling_param_top_p", 1.0)),
        # No tensor of the LLM API model: Triton makes a parameter of the request of it.
        ignore_eos=bool(extra.get("ignore_eos", False)),
    )
    if sampling.max_tokens < 1:
        raise ValueError(f"sampling_param_max_tokens must be at least 1, not {sampling.max_tokens}")
    if not (sampling.temperature >= 0 and 0 < sampling.top_p <= 1 and sampling.top_k >= 0):
        raise ValueError("temperature and top_k must be 0 or more, top_p above 0 and at most 1")
    return Answer(text, sampling, sender, streaming=bool(_value(request, "streaming", False)))


def _value(request: Any, name: str, default: Any) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return default
    values = tensor.as_numpy().reshape(-1)
    if len(values) != 1:
        raise ValueError(f"{name} must hold one value, not {len(values)}")
    return values[0]


def _texts(name: str, text: str) -> Any:
    return pb_utils.Tensor(name, np.array([text.encode()], dtype=np.object_))


def _number(name: str, value: int) -> Any:
    return pb_utils.Tensor(name, np.array([value], dtype=np.int64))
