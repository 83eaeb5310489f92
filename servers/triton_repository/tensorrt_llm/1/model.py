"""TensorRT-LLM's own Triton model, with the configuration beside this file.

NVIDIA's image brings the model itself (``model.py`` and ``helpers.py`` of ``triton_backend/all_models/llmapi`` in
TensorRT-LLM's sources), in the version that fits the library in the image. It is run from where it lies; it looks for
``model.yaml`` and ``config.pbtxt`` in the repository that Triton was started with, which is this one. Where an image
lacks it, ``TENSORRT_LLM_MODEL`` names the directory in a checkout of TensorRT-LLM with the same version.
"""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

VARIABLE = "TENSORRT_LLM_MODEL"
PLACES = ("/app/all_models/llmapi/tensorrt_llm/1", "/app/triton_backend/all_models/llmapi/tensorrt_llm/1")


def find() -> Path:
    """The directory of TensorRT-LLM's model."""
    places = [os.environ[VARIABLE]] if os.environ.get(VARIABLE) else list(PLACES)
    for place in places:
        if (Path(place) / "model.py").is_file():
            return Path(place)
    raise FileNotFoundError(
        f"TensorRT-LLM's Triton model is not in {' or '.join(places)}: set {VARIABLE} to the directory "
        "triton_backend/all_models/llmapi/tensorrt_llm/1 of TensorRT-LLM's sources, in the version of this image"
    )


def load(directory: Path) -> Any:
    sys.path.insert(0, str(directory))  # it imports the helpers beside it
    spec = spec_from_file_location("tensorrt_llm_triton_model", directory / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.TritonPythonModel


TritonPythonModel = load(find())
