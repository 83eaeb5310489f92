"""The JSON Schema of ``judgement.json``, made from the model that writes it; published under ``docs/schema/``."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from harness import certificate, judgement, records

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NOT_FINITE = {"enum": ["Infinity", "-Infinity", "NaN"]}


class _Schema(GenerateJsonSchema):
    """JSON has no infinity: an infinite latency is written as a word."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """A title that repeats its field is noise."""
        del schema
        return False

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return {"anyOf": [super().float_schema(schema), _NOT_FINITE]}


def judgement_schema() -> dict[str, Any]:
    """Every field of a Judgement with its meaning; fields that are not there yet in older files have defaults."""
    schema = judgement.Judgement.model_json_schema(mode="serialization", schema_generator=_Schema)
    said = dict(_meanings())
    for name, found in [(judgement.Judgement.__name__, schema), *schema["$defs"].items()]:
        for field, about in found.get("properties", {}).items():
            if text := said.get((name, field)):
                about["description"] = text
    return {"$schema": DIALECT, "title": "judgement.json", **{k: v for k, v in schema.items() if k != "title"}}


def text() -> str:
    return json.dumps(judgement_schema(), indent=1, ensure_ascii=False) + "\n"


def _meanings() -> Iterator[tuple[tuple[str, str], str]]:
    """The string under a field, by class and field: where this project writes what a field means."""
    for module in (judgement, certificate, records):
        for node in ast.parse(inspect.getsource(module)).body:
            if not isinstance(node, ast.ClassDef) or not issubclass(getattr(module, node.name), BaseModel):
                continue
            for field, below in itertools.pairwise(node.body):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(below, ast.Expr)
                ):
                    words = ast.literal_eval(below.value)
                    yield (node.name, field.target.id), " ".join(str(words).split())
