"""YAML to a typed specification, every mistake at once with its file and line."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness.errors import SpecError
from harness.spec import SPECS, Spec

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Strict(_Loader):  # type: ignore[misc, valid-type]
    """Refuses keys that are not text, and duplicate ones, which YAML readers otherwise resolve to the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                problem = f"the key {key!r} is not text; write it in quotes"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


def load_specs(paths: list[Path], kinds: Mapping[str, type[Spec]] = SPECS) -> list[tuple[Path, Spec]]:
    """Read every file; each holds one document, its ``kind`` says which of ``kinds``.

    Raises
    ------
    SpecError
        With all problems of all files.
    """
    specs: list[tuple[Path, Spec]] = []
    problems: list[str] = []
    for path in paths:
        try:
            specs.append((path, _load_one(path, kinds)))
        except SpecError as error:
            problems.extend(error.problems)
    if problems:
        raise SpecError(problems)
    return specs


def _load_one(path: Path, kinds: Mapping[str, type[Spec]]) -> Spec:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([f"{path}: cannot be read: {error}"]) from error
    try:
        node = yaml.compose(text, Loader=_Strict)
        data = yaml.load(text, Loader=_Strict)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise SpecError([f"{path}:{line}: not valid YAML: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise SpecError([f"{path}:1: not valid YAML: {error}"]) from error
    if node is None or not isinstance(data, dict):
        raise SpecError([f"{path}:1: expected a mapping with 'kind', one of: {', '.join(kinds)}"])
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        line = _line(node, ("kind",))
        raise SpecError([f"{path}:{line}: kind is {kind!r}; allowed: {', '.join(kinds)}"])
    try:
        # By way of JSON, for there a strict model takes lists for tuples, yet neither "100" nor yes for a number.
        return kinds[kind].model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        entries = error.errors()
        # A list whose every item is wrong is then also too short, which says nothing new.
        items = {entry["loc"][:count] for entry in entries for count in range(len(entry["loc"]))}
        told = [entry for entry in entries if entry["type"] != "too_short" or entry["loc"] not in items]
        raise SpecError([_problem(path, node, entry, kinds[kind]) for entry in told]) from error


def _problem(path: Path, node: yaml.Node, entry: Any, model: type[Spec]) -> str:
    location = tuple(entry["loc"])
    where = ".".join(str(part) for part in location)
    message = entry["msg"].removeprefix("Value error, ")
    if entry["type"] == "extra_forbidden":
        message = "unknown key; allowed: " + ", ".join(_allowed_keys(model, location))
    elif entry["type"] == "missing":
        message = "missing"
    elif not isinstance(entry.get("input"), dict | list | tuple):
        message += f" (got {entry.get('input')!r})"
    return f"{path}:{_line(node, location)}: {where}: {message}" if where else f"{path}:{_line(node, ())}: {message}"


def _allowed_keys(model: Any, location: tuple[Any, ...]) -> list[str]:
    """Field names of the model in which the unknown key stands, found along the error's location."""
    for part in location[:-1]:
        model = _descend(model, part)
    return sorted(getattr(model, "model_fields", {}))


def _descend(model: Any, part: Any) -> Any:
    fields = getattr(model, "model_fields", None)
    if fields is not None and part in fields:
        return _spec_in(fields[part].annotation)
    if isinstance(model, tuple):  # members of a union: the part is the discriminator's value
        for member in model:
            literal = member.model_fields.get("kind")
            if literal is not None and part in typing.get_args(literal.annotation):
                return member
    return model


def _spec_in(annotation: Any) -> Any:
    """The Spec (or tuple of Specs) that an annotation such as ``dict[str, Claim]`` speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return annotation
    found = [spec for arg in typing.get_args(annotation) if (spec := _spec_in(arg)) is not None]
    flat = tuple(member for spec in found for member in (spec if isinstance(spec, tuple) else (spec,)))
    if not flat:
        return None
    return flat[0] if len(flat) == 1 else flat


def _items(node: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
    return list(node.value) if isinstance(node, yaml.MappingNode) else []


def _line(node: yaml.Node, location: tuple[Any, ...]) -> int:
    """Line of the deepest part of ``location`` that stands in the file, counted from 1."""
    line: int = node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
            continue
        for key, value in _items(node):
            if key.value == str(part):
                node, line = value, key.start_mark.line + 1
                break
    return line
