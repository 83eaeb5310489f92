"""Triton's command lines and repositories as text; what runs them is tested in ``tests/engines``."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers_support import scenario

from harness.catalog import load_catalog
from harness.errors import ServerError
from harness.records import ServerFacts
from harness.spec import Stack
from servers import LAUNCHERS, RunningServer, triton, triton_main
from servers.base import Order
from servers.ready import Endpoint
from servers.recipe import Recipe
from servers.triton import Ports, choose_ports, errors_in, options, require_model
from servers.triton_statistics import ServerTimes
from servers.triton_trtllm import render, rendering_of, require_algorithm
from tests.conftest import Golden

CATALOG = load_catalog()
TRTLLM = [stack for stack in CATALOG.stacks.values() if stack.engine == "triton-trtllm"]
IMAGE = "nvcr.io/nvidia/tritonserver:26.09-trtllm-python-py3"


def changed(stack: Stack, *, protocol: str | None = None, hardware: int | None = None, **launch: Any) -> Stack:
    update: dict[str, Any] = {"launch": stack.launch.model_copy(update=launch)}
    if protocol is not None:
        update["protocol"] = protocol
    if hardware is not None:
        assert stack.hardware is not None
        update |= {"hardware": stack.hardware.model_copy(update={"count": hardware}), "tensor_parallel": 1}
    return stack.model_copy(update=update)


Start = Callable[..., Recipe]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """What a launcher would run for a stack."""
    recipes: list[Recipe] = []

    def stand_up(order: Order, launcher: str, recipe: Recipe) -> RunningServer:
        recipes.append(recipe)
        facts = ServerFacts(launcher=launcher, details={"ssh_host": "kept from asking for a version"})
        return RunningServer(Endpoint("http://127.0.0.1:1", order.model_name), facts)

    def start(stack: Stack, **order: Any) -> Recipe:
        files = {"log_file": tmp_path / "server.log", "work_dir": tmp_path}
        LAUNCHERS["triton-trtllm"].start(Order(stack, scenario(), users=4, **files, **order))
        return recipes[-1]

    monkeypatch.setattr(triton, "stand_up", stand_up)
    return start


def checkpoint(folder: Path, algorithm: str = "") -> Path:
    path = folder / "checkpoint"
    path.mkdir()
    (path / "config.json").write_text("{}")
    if algorithm:
        (path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": algorithm}}))
    return path


# Rendering -------------------------------------------------------------------------------------


def rendered(stack: Stack, folder: Path, gpus: tuple[int, ...] = ()) -> str:
    repository = render(rendering_of(stack, stack.launch.weights or "", gpus), folder / "repository")
    files = sorted(path for path in repository.rglob("*") if path.is_file() and path.name != "model.py")
    return "\n".join(f"==> {path.relative_to(repository)}\n{path.read_text()}" for path in files)


@pytest.mark.parametrize(
    ("name", "stack"),
    [
        ("tensor-parallel", CATALOG.stack("trtllm-13b-2xa100")),
        ("int8", CATALOG.stack("trtllm-13b-int8-a100")),
        ("two-instances", changed(CATALOG.stack("trtllm-13b-int8-2xa100"), hardware=2, data_parallel=2)),
        (
            "all-options",
            changed(
                CATALOG.stack("trtllm-13b-fp8-2xh100"),
                dtype="bfloat16",
                memory_share=0.7,
                max_batch=64,
                prefix_caching=False,
                context_tokens=4096,
            ),
        ),
    ],
)
def test_repositories(name: str, stack: Stack, tmp_path: Path, golden: Golden) -> None:
    text = rendered(stack, tmp_path)
    golden(f"triton/{name}.txt", text)
    assert rendered(stack, tmp_path) == text  # over an earlier one, too


def test_a_repository_has_its_model(tmp_path: Path) -> None:
    repository = render(rendering_of(CATALOG.stack("trtllm-13b-2xa100"), "w"), tmp_path / "repository")
    require_model(repository, "tensorrt_llm")
    assert "class" not in (repository / "tensorrt_llm" / "1" / "model.py").read_text()  # the image brings the model


def test_the_stand_in_takes_and_gives_what_tensorrt_llm_does(tmp_path: Path) -> None:
    """Name, type, shape and whether it may be left out: the same lines in both files."""
    text = rendered(CATALOG.stack("trtllm-13b-2xa100"), tmp_path)
    stand_in = (triton.REPOSITORIES / "standin" / "config.pbtxt").read_text()
    tensors = [line.strip().rstrip(",") for line in stand_in.splitlines() if "data_type:" in line]
    assert len(tensors) == 14
    missing = [line for line in tensors if line not in text]
    assert missing == []


def test_instances_get_the_gpus_that_the_order_names(tmp_path: Path) -> None:
    stack = changed(CATALOG.stack("trtllm-13b-int8-2xa100"), hardware=2, data_parallel=2)
    on_this_machine = changed(stack, runtime="path", image=None, executable="/opt/tritonserver/bin/tritonserver")
    assert rendering_of(on_this_machine, "w", (3, 5)).instances == ("3", "5")
    assert rendering_of(stack, "w", (3, 5)).instances == ("0", "1")  # a container sees its own from 0 on


@pytest.mark.parametrize(
    ("launch", "sentence"),
    [
        ({"data_parallel": 2}, r"tensor_parallel 2 x launch.data_parallel 2 is not the 2 GPUs of hardware.count"),
        ({"quantization": "int3"}, r"no quantization 'int3'; launch.quantization is one of fp8, int8, int4, nvfp4"),
    ],
)
def test_recipes_that_cannot_be(launch: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ServerError, match=sentence):
        rendering_of(changed(CATALOG.stack("trtllm-13b-2xa100"), **launch), "w")


# Command lines ---------------------------------------------------------------------------------


def words(recipe: Recipe) -> list[str]:
    """Without the folder of the test and without ports."""
    ports = {recipe.port, *recipe.ports}
    text = [word.replace(str(recipe.generated[0]), "REPOSITORY") for word in recipe.command]
    return [word.partition("=")[0] if word.partition("=")[2] in map(str, ports) else word for word in text]


def test_tensor_parallel_in_the_container(start: Start) -> None:
    recipe = start(CATALOG.stack("trtllm-13b-2xa100"))
    assert words(recipe) == [
        *("python3", triton_main.__file__),
        *("mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", "trtllm-llmapi-launch"),
        "tritonserver",
        "--model-repository=REPOSITORY",
        *("--strict-readiness=false", "--exit-on-error=true", "--exit-timeout-secs=3", "--log-verbose=0"),
        *("--http-address=0.0.0.0", "--http-port", "--grpc-address=0.0.0.0", "--grpc-port"),
        *("--metrics-address=0.0.0.0", "--metrics-port"),
        "--disable-auto-complete-config",
    ]
    assert recipe.mounts == ()  # the Hub's name of the weights is TensorRT-LLM's to fetch
    assert recipe.generated[1:] == (Path(triton_main.__file__),)
    assert recipe.metrics_path == f"http://127.0.0.1:{recipe.details['metrics_port']}/metrics"
    assert recipe.details["tensor_parallel"] == 2


def test_one_gpu_needs_no_mpi_and_weights_of_a_directory_are_mounted(start: Start, tmp_path: Path) -> None:
    path = checkpoint(tmp_path, "W8A16")
    sources = {"TENSORRT_LLM_MODEL": "/src/llmapi/1"}
    stack = changed(CATALOG.stack("trtllm-13b-int8-a100"), weights=str(path), variables=sources, arguments=("--id=x",))
    recipe = start(stack)
    assert "mpirun" not in recipe.command
    assert recipe.command[-2:] == ("--disable-auto-complete-config", "--id=x")
    assert recipe.mounts == (path, Path("/src/llmapi/1"))
    assert recipe.details["quantization"] == "W8A16"


@pytest.mark.parametrize(("protocol", "port"), [("triton-generate-stream", "http_port"), ("triton-grpc", "grpc_port")])
def test_the_protocol_says_which_port_is_the_servers(start: Start, protocol: str, port: str) -> None:
    recipe = start(changed(CATALOG.stack("trtllm-13b-2xa100"), protocol=protocol), port=4711)
    assert recipe.port == recipe.details[port] == 4711
    assert f"--{port.replace('_', '-')}=4711" in recipe.command
    assert len({recipe.port, *recipe.ports}) == 3


def test_a_protocol_that_triton_does_not_speak(start: Start) -> None:
    with pytest.raises(ServerError, match="does not speak openai-chat; a stack on it has protocol triton-generate-str"):
        start(changed(CATALOG.stack("trtllm-13b-2xa100"), protocol="openai-chat"))


def test_a_program_that_is_there_already(start: Start, tmp_path: Path) -> None:
    stack = changed(
        CATALOG.stack("trtllm-13b-int8-a100"),
        **{"runtime": "path", "image": None, "executable": sys.executable},
        weights=str(checkpoint(tmp_path, "W8A16")),
    )
    recipe = start(stack)
    assert recipe.command[:3] == (sys.executable, triton_main.__file__, sys.executable)
    assert "--http-address=127.0.0.1" in recipe.command


@pytest.mark.parametrize("stack", TRTLLM, ids=lambda stack: stack.name)
def test_every_stack_of_the_catalog_has_a_recipe(start: Start, stack: Stack, tmp_path: Path) -> None:
    assert (stack.launch.runtime, stack.launch.image) == ("container", IMAGE)
    if stack.launch.quantization is not None:
        algorithm = {"int8": "W8A16", "fp8": "FP8"}[stack.launch.quantization]
        stack = changed(stack, weights=str(checkpoint(tmp_path, algorithm)))
    recipe = start(stack)
    assert "tritonserver" in recipe.command


# What is refused before anything starts ---------------------------------------------------------


def test_weights(start: Start, tmp_path: Path) -> None:
    stack = CATALOG.stack("trtllm-13b-int8-a100")
    with pytest.raises(ServerError, match=r"names no weights: set launch\.weights"):
        start(changed(stack, weights=None))
    with pytest.raises(ServerError, match=r"the weights .*/nowhere are not there"):
        start(changed(stack, weights=str(tmp_path / "nowhere")))
    with pytest.raises(ServerError, match=r"the weights .* are no checkpoint: there is no config.json"):
        start(changed(stack, weights=str(tmp_path)))
    path = checkpoint(tmp_path)
    with pytest.raises(ServerError, match="are not quantized, and the launch recipe wants W8A16: quantize them with"):
        start(changed(stack, weights=str(path)))
    (path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    with pytest.raises(ServerError, match="are FP8, and the launch recipe wants W8A16"):
        require_algorithm(path, "W8A16")
    (path / "hf_quant_config.json").write_text("[]")
    with pytest.raises(ServerError, match="does not say how the weights are quantized"):
        require_algorithm(path, "W8A16")


def test_tensorrt_llm_is_in_no_environment(start: Start) -> None:
    stack = changed(CATALOG.stack("trtllm-13b-2xa100"), runtime="venv", image=None)
    with pytest.raises(ServerError, match=r"comes in NVIDIA's container.*launch\.runtime to container"):
        start(stack)


def test_models_of_a_repository(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"is not there$"):
        require_model(tmp_path / "nowhere", "m")
    with pytest.raises(ServerError, match=r"has no model 'm': no folder in it has a config\.pbtxt$"):
        require_model(tmp_path, "m")
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").touch()
    with pytest.raises(ServerError, match=r"has no model 'm': it holds a, b$"):
        require_model(tmp_path, "m")
    require_model(tmp_path, "a")


# Small parts -----------------------------------------------------------------------------------


def test_chosen_ports_are_free_and_differ(tmp_path: Path) -> None:
    order = Order(CATALOG.stack("trtllm-13b-2xa100"), scenario(), tmp_path / "log", tmp_path, 1)
    for _ in range(20):
        ports = choose_ports(order)
        assert len({ports.http, ports.grpc, ports.metrics}) == 3
        for port in (ports.http, ports.grpc, ports.metrics):
            with socket.socket() as trial:
                trial.bind(("127.0.0.1", port))
    assert options(Path("/r"), Ports(1, 2, 3))[0] == "--model-repository=/r"


def test_errors_in_a_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    assert errors_in(log) == ()
    earlier = 'E1122 20:59:13.967474 806 server.cc:1] "of an earlier start"\n'
    log.write_text(
        earlier
        + 'E1122 20:59:11.029025 806 server.cc:241] "CudaDriverHelper has not been initialized."\n'
        + 'W1122 20:59:11.028841 806 a.cc:273] "a warning"\n'
        + "E1122 20:59:13.967474 806 b.cc:642] \"failed to load 'm': RuntimeError: no\\n\\nAt:\\n  model.py(30)\\n\"\n"
        + "| a table | \n"
    )
    assert errors_in(log, len(earlier)) == ("failed to load 'm': RuntimeError: no At: model.py(30)",)


def test_times_of_an_answer() -> None:
    outputs = {
        "arrival_time_ns": 1_000_000_000,
        "first_scheduled_time_ns": "1100000000",
        "first_token_time_ns": [1_250_000_000],
        "last_token_time_ns": 3_000_000_000,
    }
    times = ServerTimes.of(outputs)
    assert times is not None
    assert (times.ttft_s, times.e2e_s) == (pytest.approx(0.25), pytest.approx(2.0))
    assert ServerTimes.of({"text_output": "x"}) is None
