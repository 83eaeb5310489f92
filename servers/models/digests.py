"""Digests of weights: written once when a model is made, so that a launch reads no gigabytes to say what it serves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from servers.environments.step import sha256, write

DIGESTS = "digests.json"
"""In a model's directory: file to its size in bytes and its SHA-256."""
NOT_WEIGHTS = (DIGESTS, "complete", ".cache")
QUICK_BYTES = 512 << 20
"""What is hashed at a launch when nobody wrote digests: half a gigabyte takes about a second."""


def write_digests(directory: Path) -> None:
    found = {
        str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in _files(directory)
    }
    write(directory / DIGESTS, json.dumps(found, indent=1) + "\n")


def damage(directory: Path) -> list[str]:
    """What differs from the digests, one plain sentence each; reads every byte."""
    digests = _read(directory)
    if digests is None:
        return [f"{directory} has no {DIGESTS}"]
    there = {str(path.relative_to(directory)) for path in _files(directory)}
    found = [f"{directory / name} is not there" for name in sorted(digests.keys() - there)]
    found += [f"{directory / name} is not among its digests" for name in sorted(there - digests.keys())]
    found += [
        f"{directory / name} is damaged: its SHA-256 is not {said['sha256']}"
        for name, said in sorted(digests.items())
        if name in there and sha256(directory / name) != said["sha256"]
    ]
    return found


def model_digest(path: Path) -> str:
    """Name the weights of a file or a directory by their content, as ``sha256:...``.

    Of a directory with digests it is the SHA-256 over these, after a look at the files' sizes. Others are hashed up to
    :data:`QUICK_BYTES`. Empty where that is not enough: the weights are large and not made by ``harness models``, or
    their sizes are not the recorded ones.
    """
    if path.is_dir():
        digests = _read(path)
        if digests is not None:
            sizes = {str(each.relative_to(path)): each.stat().st_size for each in _files(path)}
            if sizes != {name: said["bytes"] for name, said in digests.items()}:
                return ""
            return _over({name: str(said["sha256"]) for name, said in digests.items()})
    files = list(_files(path)) if path.is_dir() else [path]
    if sum(each.stat().st_size for each in files) > QUICK_BYTES:
        return ""
    if path.is_file():
        return f"sha256:{sha256(path)}"
    return _over({str(each.relative_to(path)): sha256(each) for each in files})


def _over(digests: dict[str, str]) -> str:
    """SHA-256 over the lines ``digest  name`` in the order of names, as ``sha256sum`` would write them."""
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.relative_to(directory).parts[0] not in NOT_WEIGHTS:
            yield path


def _read(directory: Path) -> dict[str, dict[str, str | int]] | None:
    try:
        found = json.loads((directory / DIGESTS).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
