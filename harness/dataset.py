"""Reads the files a workload is made of: JSONL data, prompt templates, and traces of arrivals."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.arrivals import TraceArrivals
from harness.catalog import WORKLOADS
from harness.errors import SpecError
from harness.expected import problem_of
from harness.spec import Workload


@dataclass(frozen=True)
class WorkloadData:
    """Texts of a workload, as read; ``entries`` in file order."""

    entries: tuple[dict[str, Any], ...] = ()
    system_template: str = ""
    user_template: str = ""
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By a prompt's id, what lies in ``<stem>.references.jsonl`` beside the data."""


_REQUIRED: dict[str, tuple[tuple[str, type], ...]] = {
    "conversation": (("turns", list),),
    "brief": (("brief", str),),
    "translation": (("text", str),),
    "dataset": (),
    "references": (("id", str),),
}


def read_workload(workload: Workload) -> WorkloadData:
    """Read what ``workload`` refers to.

    Raises
    ------
    SpecError
        With every bad line of the data file, or the missing file.
    """
    if workload.kind == "synthetic":
        return WorkloadData()
    system, user = "", ""
    if workload.templates is not None and workload.kind != "dataset":
        folder = WORKLOADS / "templates"
        system = _text(folder / f"{workload.templates}.system.j2")
        user = _text(folder / f"{workload.templates}.user.j2")
    paths = [WORKLOADS / name for name in workload.data]  # an absolute path stays one
    entries = [entry for path in paths for entry in _entries(path, workload.kind)]
    expected = {key: entry for path in paths for key, entry in _references(path).items()}
    where = ", ".join(map(str, paths))
    if workload.difficulty != "mixed":
        entries = [entry for entry in entries if entry.get("difficulty") == workload.difficulty]
        if not entries:
            raise SpecError([f"{where}: no entry has difficulty '{workload.difficulty}'"])
    if workload.split != "all":
        splits = _splits(expected)
        entries = [entry for entry in entries if workload.split in _split_of(entry, splits)]
        if not entries:
            raise SpecError([f"{where}: no entry has split '{workload.split}'"])
    return WorkloadData(tuple(entries), system, user, expected)


def read_trace(trace: TraceArrivals) -> npt.NDArray[np.float64]:
    """Read the arrivals' seconds: the column ``seconds`` of a CSV file with a header, else the first column.

    Raises
    ------
    SpecError
        With every bad line, or the missing file.
    """
    path = WORKLOADS / trace.file  # an absolute path stays one
    problems: list[str] = []
    moments: list[float] = []
    column = 0
    reader = csv.reader(_text(path).splitlines())
    for row in reader:
        line = reader.line_num
        if not any(cell.strip() for cell in row):
            continue
        cell = row[column].strip() if column < len(row) else ""
        moment = _seconds(cell)
        if moment is not None:
            moments.append(moment)
        elif not moments and not problems and _is_header(row):
            column = next((index for index, name in enumerate(row) if name.strip().lower() == "seconds"), 0)
        else:
            problems.append(f"{path}:{line}: '{cell}' is no number of seconds, 0 or more")
    if not moments and not problems:
        problems.append(f"{path}: holds no arrival")
    if problems:
        raise SpecError(problems)
    return np.array(moments, dtype=np.float64)


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None


def _is_header(row: list[str]) -> bool:
    """Names only: a bad number in the first line is no header."""
    return all(cell.strip()[:1].isalpha() and cell.strip().lower() not in ("nan", "inf") for cell in row)


def _entries(path: Path, kind: str) -> list[dict[str, Any]]:
    problems: list[str] = []
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"{path}:{number}: not a JSON object: {error.msg} at column {error.colno}")
            continue
        problem = _problem(entry, kind)
        if problem:
            problems.append(f"{path}:{number}: {problem}")
            continue
        entry.setdefault("id", f"line-{number}")
        entries.append(entry)
    if not entries and not problems:
        problems.append(f"{path}: holds no prompt")
    if problems:
        raise SpecError(problems)
    return entries


def _problem(entry: Any, kind: str) -> str:
    if not isinstance(entry, dict):
        return "expected a JSON object"
    for key, kind_of in _REQUIRED[kind]:
        if not isinstance(entry.get(key), kind_of) or not entry[key]:
            return f"needs '{key}', a non-empty {'text' if kind_of is str else kind_of.__name__}"
    if kind == "translation":
        found = _reference_problem(entry)
        if found:
            return found
    if found := problem_of(entry):
        return found
    if kind != "dataset":
        return ""
    tokens = entry.get("output_tokens", 1)
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        return "'output_tokens' must be a whole number above 0"
    if isinstance(entry.get("prompt"), str) and entry["prompt"]:
        return ""
    messages = entry.get("messages")
    if not isinstance(messages, list) or not messages:
        return "needs 'prompt', a text, or 'messages', a list of {role, content}"
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
            return "each message needs a role: system, user or assistant"
        if not isinstance(message.get("content"), str):
            return "each message needs 'content', a text"
    return ""


def _references(path: Path) -> dict[str, dict[str, Any]]:
    beside = path.with_name(f"{path.stem}.references.jsonl")
    if not beside.exists():
        return {}
    return {str(entry["id"]): entry for entry in _entries(beside, "references")}


def _splits(expected: Mapping[str, Mapping[str, Any]]) -> dict[str, set[str]]:
    """By an entry's id, the splits of its prompts: their ids are its own, or begin with it (``support-016/1``)."""
    found: dict[str, set[str]] = {}
    for prompt_id, beside in expected.items():
        for own in {prompt_id, prompt_id.rpartition("/")[0]}:
            found.setdefault(own, set()).add(str(beside.get("split", "")))
    return found


def _split_of(entry: Mapping[str, Any], splits: Mapping[str, set[str]]) -> set[str]:
    """One split or none; a conversation or a sentence whose prompts are of both is of neither."""
    own = {str(entry["split"])} if entry.get("split") else splits.get(str(entry["id"]), set())
    return own if len(own) == 1 else set()


def _reference_problem(entry: dict[str, Any]) -> str:
    """One reference for each language, or one text for the entry's own ``target_language``."""
    references = entry.get("references")
    if entry.get("target_language") and entry.get("reference") and references is None:
        return ""
    if not isinstance(references, dict) or not references:
        return "needs 'references', a non-empty dict, or 'reference' with its 'target_language'"
    if not all(isinstance(text, str) and text for text in references.values()):
        return "each of 'references' needs to be a text"
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError([f"{path}: there is no such file"]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([f"{path}: cannot be read: {error}"]) from error
