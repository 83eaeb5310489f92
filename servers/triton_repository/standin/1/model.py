"""A stand-in for TensorRT-LLM's Triton model: its tensors and its way of streaming, at a pace that is stated.

It runs inside Triton's Python backend, where ``triton_python_backend_utils`` and numpy are all there is. Like the
real model it answers from a thread of its own, sends all text so far in every response, marks the last one final and,
when asked, adds when the request arrived, was scheduled, and had its first and last token (monotonic nanoseconds).
Nothing is generated: the words mean nothing, and their number is what was asked for.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

DEFAULT_TOKENS = 32
PACE = {"ttft_s": 0.3, "itl_s": 0.02, "slots": 64.0}
"""Seconds to the first token and between tokens; how many requests run together, while the others wait. The model's
parameters in ``config.pbtxt`` change them."""
WORDS = ("stand-in", "text", "of", "no", "model")


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        given = json.loads(args["model_config"]).get("parameters", {})
        pace = PACE | {name: float(given[name]["string_value"]) for name in PACE if name in given}
        self._ttft_s, self._itl_s = pace["ttft_s"], pace["itl_s"]
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(int(pace["slots"]))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            arrived_ns = time.monotonic_ns()
            asyncio.run_coroutine_threadsafe(self._answer(request, arrived_ns), self._loop)

    def finalize(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _answer(self, request: Any, arrived_ns: int) -> None:
        sender = request.get_response_sender()
        try:
            await self._generate(request, sender, arrived_ns)
        except Exception as error:  # whatever it is, the client must not wait for ever
            answer = pb_utils.InferenceResponse(error=pb_utils.TritonError(f"the stand-in failed: {error!r}"))
            sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    async def _generate(self, request: Any, sender: Any, arrived_ns: int) -> None:
        tokens = int(_scalar(request, "sampling_param_max_tokens", DEFAULT_TOKENS))
        streaming = bool(_scalar(request, "streaming", False))
        if tokens < 1:
            raise ValueError("sampling_param_max_tokens must be at least 1")
        async with self._slots:
            times = {"arrival_time_ns": arrived_ns, "first_scheduled_time_ns": time.monotonic_ns()}
            due_s = time.monotonic() + self._ttft_s
            text = ""
            for number in range(tokens):
                # Against a schedule, so that late wake-ups do not add up.
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                due_s += self._itl_s
                text += f"{' ' if number else ''}{WORDS[number % len(WORDS)]}"
                last = number == tokens - 1
                times["last_token_time_ns"] = time.monotonic_ns()
                times.setdefault("first_token_time_ns", times["last_token_time_ns"])
                if last or streaming:
                    flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
                    sender.send(_response(request, text, times if last else {}, last), flags=flags)
                # A request must not be touched after its final response: Triton crashes.
                if not last and request.is_cancelled():
                    answer = pb_utils.InferenceResponse(
                        error=pb_utils.TritonError("cancelled by the client", pb_utils.TritonError.CANCELLED)
                    )
                    sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                    return


def _response(request: Any, text: str, times: dict[str, int], last: bool) -> Any:
    tensors = [pb_utils.Tensor("text_output", np.asarray([text.encode()], dtype=np.object_))]
    if _scalar(request, "return_finish_reason", False):
        reason = b"length" if last else b"None"
        tensors.append(pb_utils.Tensor("finish_reason", np.asarray([reason], dtype=np.object_)))
    if last and _scalar(request, "sampling_param_return_perf_metrics", False):
        tensors += [pb_utils.Tensor(name, np.asarray([value], dtype=np.int64)) for name, value in times.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _scalar(request: Any, name: str, default: Any) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().item(0)
