"""TensorRT-LLM on Triton, by its LLM API (PyTorch backend), in NVIDIA's container: no engine is built.

The model repository is rendered from the stack into the order's own directory. With ``launch.repository`` a model
repository that is there already is served instead, with any program that has its backends.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2

from harness.errors import ServerError
from harness.spec import Stack
from servers.base import Launcher, Order, RunningServer
from servers.models import resolve_weights
from servers.runtimes import has_our_files
from servers.triton import REPOSITORIES, Detail, serve

MODEL = "tensorrt_llm"
TEMPLATES = REPOSITORIES / MODEL
SOURCES_VARIABLE = "TENSORRT_LLM_MODEL"
"""See ``triton_repository/tensorrt_llm/1/model.py``."""
MEMORY_SHARE = 0.9
"""TensorRT-LLM's own default."""
ALGORITHMS = {"fp8": "FP8", "int8": "W8A16", "int4": "W4A16_AWQ", "nvfp4": "NVFP4"}
"""``launch.quantization`` to what a checkpoint of NVIDIA's ModelOpt calls it. INT8 is of the weights alone: the PyTorch
backend has no SmoothQuant (INT8 activations), which went with the engine-build workflow."""
DTYPES = {"auto": "auto", "half": "float16", "bfloat16": "bfloat16", "float32": "float32"}


@dataclass(frozen=True, slots=True)
class Rendering:
    """What the templates are filled with."""

    weights: str
    tensor_parallel: int
    instances: tuple[str, ...]
    """GPUs of each instance, such as ``("0,1", "2,3")``; one instance takes what it finds."""
    dtype: str
    algorithm: str
    max_batch: int
    memory_share: float
    prefix_caching: bool
    context_tokens: int | None = None


class TritonTrtllm(Launcher):
    name = "triton-trtllm"

    def start(self, order: Order) -> RunningServer:
        launch = order.stack.launch
        if launch.repository is not None:
            repository = Path(launch.repository)
            if has_our_files(launch):
                repository = repository.expanduser().resolve()
            return serve(order, self.name, environment="triton", repository=repository, model=order.model_name)
        if launch.runtime == "venv":
            raise ServerError(
                f"stack '{order.stack.name}': TensorRT-LLM comes in NVIDIA's container, not in an environment: set "
                "launch.runtime to container and launch.image, or to path inside that container"
            )
        weights = _weights(order)
        rendering = rendering_of(order.stack, weights, order.gpus)
        repository = render(rendering, order.work_dir / "triton_repository")
        details: dict[str, Detail] = {
            "weights": launch.weights or "",
            "tensor_parallel": rendering.tensor_parallel,
            "instances": len(rendering.instances),
            "max_batch": rendering.max_batch,
            "memory_share": rendering.memory_share,
        }
        details |= {"quantization": rendering.algorithm} if rendering.algorithm else {}
        # As NVIDIA launches it: one rank of MPI per GPU, of which the first runs Triton and the others compute.
        several = rendering.tensor_parallel > 1 and len(rendering.instances) == 1
        ranks = ("mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(rendering.tensor_parallel))
        given = launch.variables.get(SOURCES_VARIABLE)
        return serve(
            order,
            self.name,
            environment="triton",
            repository=repository,
            model=MODEL,
            details=details,
            before=(*ranks, "trtllm-llmapi-launch") if several else (),
            arguments=("--disable-auto-complete-config",),
            rendered=True,
            reads=[*([weights] if isinstance(weights, Path) else []), *([Path(given)] if given else [])],
        )


def rendering_of(stack: Stack, weights: str | Path, gpus: tuple[int, ...] = ()) -> Rendering:
    """Read a launch recipe.

    Raises
    ------
    ServerError
        For GPUs that do not fit the parallelism, or a quantization that TensorRT-LLM does not have.
    """
    launch = stack.launch
    if launch.quantization is not None and launch.quantization not in ALGORITHMS:
        raise ServerError(
            f"stack '{stack.name}': TensorRT-LLM has no quantization '{launch.quantization}'; "
            f"launch.quantization is one of {', '.join(ALGORITHMS)}"
        )
    each, count = stack.tensor_parallel, launch.data_parallel
    if stack.hardware is not None and each * count != stack.hardware.count:
        raise ServerError(
            f"stack '{stack.name}': tensor_parallel {each} x launch.data_parallel {count} is not the "
            f"{stack.hardware.count} GPUs of hardware.count"
        )
    # A container sees its own GPUs from 0 on, whichever they are.
    visible = gpus if gpus and launch.runtime != "container" else tuple(range(each * count))
    instances = tuple(",".join(map(str, visible[at : at + each])) for at in range(0, each * count, each))
    return Rendering(
        weights=str(weights),
        tensor_parallel=each,
        instances=instances,
        dtype=DTYPES[launch.dtype or "auto"],
        algorithm=ALGORITHMS.get(launch.quantization or "", ""),
        max_batch=launch.max_batch or (stack.emulation.max_batch if stack.emulation is not None else 256),
        memory_share=launch.memory_share or MEMORY_SHARE,
        prefix_caching=launch.prefix_caching is not False,
        context_tokens=launch.context_tokens,
    )


def render(rendering: Rendering, repository: Path) -> Path:
    """Write the model repository, anew, and return it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    values: Mapping[str, object] = {name: getattr(rendering, name) for name in Rendering.__dataclass_fields__}
    shutil.rmtree(repository, ignore_errors=True)
    model = repository / MODEL
    (model / "1").mkdir(parents=True)
    for name in ("config.pbtxt", "1/model.yaml"):
        (model / name).write_text(environment.get_template(f"{name}.j2").render(values), encoding="utf-8")
    shutil.copyfile(TEMPLATES / "1" / "model.py", model / "1" / "model.py")
    return repository


def _weights(order: Order) -> str | Path:
    """Find the checkpoint, and see that it is quantized as the recipe says; a Hub's name stays one.

    Raises
    ------
    ServerError
    """
    launch = order.stack.launch
    if launch.weights is None:
        raise ServerError(f"stack '{order.stack.name}' names no weights: set launch.weights")
    if launch.weights.startswith("hf:"):
        return launch.weights.removeprefix("hf:")  # TensorRT-LLM fetches it
    if not has_our_files(launch):
        return Path(launch.weights)
    path = resolve_weights(launch.weights, order.progress)
    if not (path / "config.json").is_file():
        raise ServerError(f"the weights {path} are no checkpoint: there is no config.json in that directory")
    if launch.quantization in ALGORITHMS:
        require_algorithm(path, ALGORITHMS[launch.quantization])
    return path


def require_algorithm(checkpoint: Path, algorithm: str) -> None:
    """See that a checkpoint is quantized in one way; TensorRT-LLM reads it from the checkpoint and nowhere else.

    Raises
    ------
    ServerError
    """
    path = checkpoint / "hf_quant_config.json"
    try:
        found = str(json.loads(path.read_text(encoding="utf-8"))["quantization"]["quant_algo"])
    except FileNotFoundError:
        found = "not quantized"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServerError(f"{path} does not say how the weights are quantized: {error}") from error
    if found != algorithm:
        raise ServerError(
            f"the weights {checkpoint} are {found}, and the launch recipe wants {algorithm}: quantize them with "
            "NVIDIA's ModelOpt (examples/llm_ptq, --export_fmt hf), or change launch.quantization"
        )
