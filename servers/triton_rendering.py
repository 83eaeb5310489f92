"""Renders a Triton model repository from :mod:`servers.triton_repository`: the same input gives the same bytes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template

from harness.errors import ServerError
from servers.triton import REPOSITORIES

SHARED = REPOSITORIES / "shared"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def render(template: str, repository: Path, name: str, parameters: Mapping[str, str | int], gpus: int = 0) -> Path:
    """Write a repository with one model, in place of what was there, and return it.

    Parameters
    ----------
    template
        The folder of ``servers/triton_repository`` whose ``1/model.py`` it is.
    name
        Under which requests ask for it.
    parameters
        Read by ``model.py``.
    gpus
        Instances, the first on GPU 0, the next on GPU 1 and so on; 0: one instance on the CPU.

    Raises
    ------
    ServerError
        For a name that cannot be a folder's.
    """
    if not _PLAIN_NAME.fullmatch(name):
        raise ServerError(
            f"Triton cannot serve a model named '{name}': set launch.served_model to letters, digits, '.', '_' or '-'"
        )
    version = repository / name / "1"
    shutil.rmtree(repository, ignore_errors=True)
    version.mkdir(parents=True)
    config = Template((SHARED / "config.pbtxt").read_text(encoding="utf-8")).substitute(
        name=_quoted(name),
        instances=",\n".join(_instances(gpus)),
        parameters=",\n".join(
            f"  {{ key: {_quoted(key)}, value: {{ string_value: {_quoted(str(value))} }} }}"
            for key, value in sorted(parameters.items())
        ),
    )
    (repository / name / "config.pbtxt").write_text(config, encoding="utf-8")
    for source in (*sorted(SHARED.glob("*.py")), REPOSITORIES / template / "1" / "model.py"):
        shutil.copyfile(source, version / source.name)
    return repository


def _instances(gpus: int) -> list[str]:
    if not gpus:
        return ["  { count: 1, kind: KIND_CPU }"]
    return [f"  {{ count: 1, kind: KIND_GPU, gpus: [ {gpu} ] }}" for gpu in range(gpus)]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
