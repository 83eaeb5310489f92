"""Whether a stack's hardware is there: each refusal names what is wanted and what was found."""

from __future__ import annotations

from typing import Any

import pytest

from harness.catalog import load_catalog
from harness.errors import ServerError
from harness.records import GpuFacts
from harness.spec import Stack
from servers.gpus import Found
from servers.preflight import Placement, _visible, is_a, preflight
from servers.runtimes import pinned_to
from tests.unit.gpu_support import gpu, gpus

CATALOG = load_catalog()
T4, A100, H200 = "Tesla T4", "NVIDIA A100-SXM4-80GB", "NVIDIA H200"


def place(stack: str | Stack, there: tuple[GpuFacts, ...], *, allow_other: bool = False, **found: Any) -> Placement:
    stack = CATALOG.stack(stack) if isinstance(stack, str) else stack
    target = CATALOG.gpu_of(stack)
    assert target is not None
    scenario, known = CATALOG.scenario("chatbot"), CATALOG.gpus.values()
    return preflight(stack, scenario, target, known, allow_other=allow_other, found=Found(there, **found))


def refusal(stack: str | Stack, there: tuple[GpuFacts, ...], **options: Any) -> str:
    with pytest.raises(ServerError) as caught:
        place(stack, there, **options)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_stacks_own_gpus() -> None:
    placed = place("trtllm-13b-2xa100", gpus(A100, 4))
    assert (placed.indices, placed.other) == ((0, 1), "")
    assert placed.gpu == CATALOG.gpus["a100-80"]


def test_of_a_mixed_machine_only_its_own_kind() -> None:
    assert place("vllm-13b-a100", (gpu(T4, 0), gpu(A100, 1), gpu(A100, 2))).indices == (1,)


def test_every_gpu_of_the_replicas() -> None:
    assert place("onnx-7b-4xt4", gpus(T4, 4)).indices == (0, 1, 2, 3)


def test_another_gpu_names_both() -> None:
    said = refusal("trtllm-13b-2xa100", gpus(H200, 1))
    assert "wants 2 x NVIDIA A100 80 GB SXM, this machine has 1 x NVIDIA H200;" in said
    assert "--allow-other-gpu" in said


def test_another_gpu_when_it_is_allowed() -> None:
    placed = place("vllm-7b-t4", gpus(H200, 2), allow_other=True)
    assert (placed.indices, placed.other, placed.gpu) == ((0,), "1 x NVIDIA H200", CATALOG.gpus["h200"])
    unknown = place("vllm-7b-t4", gpus("NVIDIA L40S", 1), allow_other=True)
    assert (unknown.other, unknown.gpu) == ("1 x NVIDIA L40S", None)


def test_allowing_others_prefers_its_own_and_marks_nothing_then() -> None:
    placed = place("vllm-13b-a100", (gpu(H200, 0), gpu(A100, 1)), allow_other=True)
    assert (placed.indices, placed.other) == ((1,), "")


def test_one_stack_is_not_spread_over_kinds() -> None:
    mixed = (gpu(H200, 0), gpu("NVIDIA L4", 1), gpu("NVIDIA L4", 2))
    assert "wants 2 x" not in place("vllm-7b-2xt4", mixed, allow_other=True).other
    assert place("vllm-7b-2xt4", mixed, allow_other=True).indices == (1, 2)


@pytest.mark.parametrize("allow_other", [False, True])
def test_too_few(allow_other: bool) -> None:
    said = refusal("onnx-7b-4xt4", gpus(T4, 2), allow_other=allow_other)
    assert said.endswith("wants 4 x NVIDIA T4 16 GB, this machine has only 2 x Tesla T4")


def test_none() -> None:
    said = refusal("vllm-7b-t4", (), problem="no NVIDIA driver: NVML Shared Library Not Found", allow_other=True)
    assert "this machine has no GPU (no NVIDIA driver: NVML Shared Library Not Found)" in said


def test_another_machine_is_named() -> None:
    assert "and me@box has no GPU (Permission denied)" in refusal(
        "vllm-7b-t4", (), problem="Permission denied", machine="me@box"
    )


def test_mig() -> None:
    said = refusal("vllm-13b-a100", (gpu(A100, 0, mig=True),))
    assert "GPU 0 of this machine is cut into MIG instances: nvidia-smi -i 0 -mig 0" in said
    assert place("vllm-13b-a100", (gpu(A100, 0, mig=True), gpu(A100, 1))).indices == (1,)


def test_a_gpu_in_use() -> None:
    busy = gpu(A100, 0, used_gib=41.0, held={4711: 40.0, 4712: 0.2})
    said = refusal("vllm-13b-a100", (busy,))
    assert said.endswith("are free: GPU 0 is in use: process 4711 (python) holds 40.0 of 79.2 GiB")
    assert "0 of 1 x NVIDIA A100-SXM4-80GB" in said
    assert place("vllm-13b-a100", (busy, gpu(A100, 1))).indices == (1,)


def test_memory_in_use_by_what_the_driver_does_not_show() -> None:
    assert "41.0 of 79.2 GiB, by processes that cannot be seen" in refusal(
        "vllm-13b-a100", (gpu(A100, 0, used_gib=41.0),)
    )
    assert "by process 7" in refusal("vllm-13b-a100", (gpu(A100, 0, used_gib=41.0, held={7: None}),))
    assert place("vllm-13b-a100", (gpu(A100, 0, used_gib=0.04 * 79.2),)).indices == (0,)


def test_an_engine_that_needs_a_newer_gpu() -> None:
    said = refusal("trtllm-7b-int8-a100", gpus(T4, 1), allow_other=True)
    assert said.endswith("cannot run on Tesla T4: TensorRT-LLM needs compute capability 8.0 or newer, it has 7.5")


def test_bfloat16_on_a_t4() -> None:
    stack = CATALOG.stack("vllm-7b-int4-t4")
    launch = stack.launch.model_copy(update={"dtype": "bfloat16"})
    said = refusal(stack.model_copy(update={"launch": launch}), gpus(T4, 1))
    assert "launch.dtype bfloat16 needs compute capability 8.0 or newer, it has 7.5" in said


def test_what_cannot_fit_says_by_how_much() -> None:
    said = refusal("vllm-13b-a100", gpus(T4, 1), allow_other=True)
    # 26.0 GB of weights and 200 + 1 tokens of 800 KiB in 0.9 of 15 GiB: 26.16 - 14.50
    assert "on Tesla T4 does not fit: 26.0 GB of weights" in said
    assert "are 11.67 GB more than the 14.5 GB that the engine may use (90% of 16.1 GB)" in said


def test_the_engines_own_share_of_memory_counts() -> None:
    stack = CATALOG.stack("vllm-7b-t4")
    launch = stack.launch.model_copy(update={"memory_share": 0.5})
    assert "(50% of 16.1 GB)" in refusal(stack.model_copy(update={"launch": launch}), gpus(T4, 1))


@pytest.mark.parametrize(
    ("name", "entry", "same"),
    [
        ("NVIDIA L4", "l4", True),
        ("NVIDIA L40S", "l4", False),
        ("NVIDIA A100-SXM4-40GB", "a100-80", False),
        ("NVIDIA A100-SXM4-40GB", "a100-40", True),
        ("Tesla T4", "t4", True),
        ("NVIDIA H200", "h200", True),
    ],
)
def test_which_gpu_is_the_catalogs(name: str, entry: str, same: bool) -> None:
    assert is_a(gpu(name), CATALOG.gpus[entry]) is same


def test_a_name_alone_is_not_enough() -> None:
    half = gpu(A100).model_copy(update={"memory_gib": 39.6})
    assert not is_a(half, CATALOG.gpus["a100-80"])
    assert not is_a(gpu(A100).model_copy(update={"compute_capability": 9.0}), CATALOG.gpus["a100-80"])
    assert is_a(gpu(A100).model_copy(update={"compute_capability": None}), CATALOG.gpus["a100-80"])


@pytest.mark.parametrize(
    ("allowed", "indices"), [(None, (0, 1, 2)), ("2", (2,)), ("1,0", (0, 1)), ("GPU-2", (2,)), ("", ()), ("-1", ())]
)
def test_what_a_scheduler_hides_is_not_there(allowed: str | None, indices: tuple[int, ...]) -> None:
    variables = {} if allowed is None else {"CUDA_VISIBLE_DEVICES": allowed}
    seen = _visible(Found(gpus(T4, 3)), variables)
    assert tuple(each.index for each in seen.gpus) == indices
    assert bool(seen.problem) == (not indices)


def test_cuda_counts_as_nvml_does() -> None:
    assert pinned_to((2, 3)) == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "2,3"}
