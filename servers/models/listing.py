"""The models of this machine: those that can be made, and those that were fetched by another name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from harness.records import Record
from servers.environments import REQUIREMENTS, SMOLLM2, home, read, sha256
from servers.environments.step import directory_mb
from servers.models import GGUF, MODELS, Model, described, is_complete
from servers.models.digests import damage


class Listed(Record):
    """One line of ``harness models``."""

    name: str
    format: str
    path: Path
    size_mb: float
    """On disk, or what it is expected to take; 0: not known."""
    state: Literal["ready", "incomplete", "not there"]
    source: str
    licence: str
    about: str = ""

    @classmethod
    def of(cls, model: Model) -> Self:
        there = model.path.exists()
        return cls(
            name=model.origin or model.name,
            format=model.format,
            path=model.path,
            size_mb=round(directory_mb(model.path)) if there else model.size_mb,
            state="ready" if is_complete(model) else "incomplete" if _begun(model.path) else "not there",
            source=model.origin or f"made from {model.made_from}",
            licence=_licence(model),
            about=model.about,
        )


def listed() -> list[Listed]:
    return [_gguf(), *(Listed.of(model) for model in MODELS.values()), *(Listed.of(model) for model in _others())]


def check(model: Listed) -> list[str]:
    """What is missing or damaged; reads every byte of the weights."""
    if model.state != "ready":
        return [f"{model.path} is {'unfinished' if model.state == 'incomplete' else 'not there'}"]
    if model.name == GGUF:
        return [] if sha256(model.path) == SMOLLM2.sha256 else [f"{model.path} is damaged: its SHA-256 is another"]
    return damage(model.path)


def _gguf() -> Listed:
    there = SMOLLM2.path.is_file()
    pinned = re.search(r"^(\S+==\S+)", read(REQUIREMENTS / SMOLLM2.requirements), re.MULTILINE)
    return Listed(
        name=GGUF,
        format="gguf",
        path=SMOLLM2.path,
        size_mb=round(directory_mb(SMOLLM2.path)) if there else SMOLLM2.size_mb,
        state="ready" if there else "not there",
        source=f"pypi:{pinned[1] if pinned else SMOLLM2.requirements}",
        licence=SMOLLM2.licence,
        about="SmolLM2-135M-Instruct, Q4_1",
    )


def _others() -> Iterator[Model]:
    """Models of a hub and made-up ones, by the directories that they left."""
    for path in sorted((home() / ".models").glob("*")):
        name = path.name.removesuffix(".partial")
        if not path.is_dir() or name in MODELS or (path.name != name and path.with_name(name).exists()):
            continue
        if name.startswith("hf--") and len(parts := name.split("--")) in (3, 4):
            revision = f"@{parts[3]}" if len(parts) == 4 else ""
            yield described(f"hf:{parts[1]}/{parts[2]}{revision}")
        elif name.startswith("random-"):
            yield described(f"random:{name.removeprefix('random-')}")


def _licence(model: Model) -> str:
    """Its own, that of its model card, or that of what it is made from."""
    card = re.search(r"^license: *(\S+)", read(model.path / "README.md"), re.MULTILINE)
    if model.licence or card:
        return card[1] if card else model.licence
    return SMOLLM2.licence if model.made_from == GGUF else _licence(MODELS[model.made_from]) if model.made_from else ""


def _begun(path: Path) -> bool:
    return path.exists() or path.with_name(f"{path.name}.partial").exists()
