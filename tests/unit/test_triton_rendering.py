"""Rendered model repositories: deterministic, and as the goldens have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import load_catalog
from harness.errors import ServerError
from harness.spec import Stack
from servers import LAUNCHERS, triton_onnx
from servers.base import Order
from servers.triton import REPOSITORIES
from servers.triton_rendering import render

PARAMETERS: dict[str, str | int] = {
    "model": '/models/a "quoted" é',
    "threads": 1,
    "max_batch": 8,
    "context_tokens": 2048,
}


@pytest.mark.parametrize("gpus", [0, 1, 4])
def test_config(gpus: int, tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    repository = render("onnx_genai", tmp_path / "r", "llama-2-7b", PARAMETERS, gpus)
    golden(f"triton_rendering/{gpus}_gpus.pbtxt", (repository / "llama-2-7b" / "config.pbtxt").read_text())


def test_the_same_input_gives_the_same_files_and_what_was_there_is_gone(tmp_path: Path) -> None:
    def files(repository: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(repository)): path.read_bytes() for path in repository.rglob("*") if path.is_file()
        }

    first = files(render("onnx_genai", tmp_path / "a", "m", PARAMETERS))
    render("onnx_genai", tmp_path / "b", "other", PARAMETERS)
    assert files(render("onnx_genai", tmp_path / "b", "m", dict(reversed(PARAMETERS.items())))) == first
    assert set(first) == {"m/config.pbtxt", "m/1/model.py", "m/1/batching.py", "m/1/streaming.py"}
    assert first["m/1/model.py"] == (REPOSITORIES / "onnx_genai" / "1" / "model.py").read_bytes()


@pytest.mark.parametrize("name", ["", "a/b", "..", "7B, fp16", "a b"])
def test_a_name_that_is_no_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"set launch\.served_model"):
        render("onnx_genai", tmp_path / "r", name, PARAMETERS)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the launchers would serve; nothing is started."""
    found: list[dict[str, Any]] = []

    def serve(order: Order, launcher: str, **options: Any) -> None:
        found.append({"launcher": launcher, **options})

    monkeypatch.setattr(triton_onnx, "serve", serve)
    return found


def launch(stack: Stack, folder: Path, **changes: Any) -> None:
    stack = stack.model_copy(update={"launch": stack.launch.model_copy(update=changes)})
    scenario = load_catalog().scenario("translation")
    LAUNCHERS[stack.engine].launch(stack, scenario, log_file=folder / "log", work_dir=folder / "work", users=1)


def onnx_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "genai_config.json").write_text('{"model": {"context_length": 1024}}')
    return folder


def test_four_t4s_hold_one_instance_each_and_triton_balances_them(tmp_path: Path, served: list[dict[str, Any]]) -> None:
    stack = load_catalog().stack("onnx-7b-4xt4")
    launch(stack, tmp_path, weights=str(onnx_model(tmp_path / "onnx")), context_tokens=4096)
    (given,) = served
    config = (given["repository"] / given["model"] / "config.pbtxt").read_text()
    assert [f"KIND_GPU, gpus: [ {gpu} ]" in config for gpu in range(5)] == [True] * 4 + [False]
    assert 'key: "context_tokens", value: { string_value: "1024" }' in config  # the model holds no more
    assert (given["environment"], given["details"]["instances"]) == ("triton-onnx", 4)
    assert given["reads"] == [tmp_path / "onnx"]
    assert LAUNCHERS["triton-onnx"].holds_replicas  # type: ignore[attr-defined]


def test_on_a_cpu_there_is_one_instance(tmp_path: Path, served: list[dict[str, Any]]) -> None:
    launch(load_catalog().stack("triton-onnx-smollm2"), tmp_path, weights=str(onnx_model(tmp_path / "onnx")))
    config = (served[0]["repository"] / served[0]["model"] / "config.pbtxt").read_text()
    assert "KIND_CPU" in config
    assert "KIND_GPU" not in config


@pytest.mark.parametrize(
    ("stack", "weights", "said"),
    [
        ("triton-onnx-smollm2", None, "needs launch.weights"),
        ("triton-onnx-smollm2", "/no/such", "there is no such file"),
        ("triton-onnx-smollm2", ".", "is no model of ONNX Runtime GenAI"),
        ("translation-ctranslate2", None, "needs launch.weights"),
        ("translation-ctranslate2", ".", "has no tokenization.json"),
    ],
)
def test_weights_that_cannot_be_served(
    stack: str, weights: str | None, said: str, tmp_path: Path, served: list[dict[str, Any]]
) -> None:
    with pytest.raises(ServerError, match=said):
        launch(load_catalog().stack(stack), tmp_path, weights=str(tmp_path) if weights == "." else weights)
    assert served == []


def test_a_model_is_not_cut_over_gpus(tmp_path: Path, served: list[dict[str, Any]]) -> None:
    stack = load_catalog().stack("onnx-7b-4xt4")
    assert stack.hardware is not None
    hardware = stack.hardware.model_copy(update={"count": 2})
    stack = stack.model_copy(update={"tensor_parallel": 2, "hardware": hardware})
    with pytest.raises(ServerError, match="cannot cut a model over several GPUs"):
        launch(stack, tmp_path, weights=str(onnx_model(tmp_path / "onnx")))
