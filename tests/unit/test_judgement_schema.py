"""The published schema is that of the model, and admits what the harness writes and nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from harness.judgement import Judgement
from reports import schema
from tests import factories

PUBLISHED = Path(__file__).parents[2] / "docs" / "schema" / "judgement.schema.json"


def validator() -> Draft202012Validator:
    return Draft202012Validator(schema.judgement_schema())


def written(judgement: Judgement) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(judgement.model_dump_json())
    return found


def test_the_published_schema_is_current(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        PUBLISHED.write_text(schema.text(), encoding="utf-8")
    assert PUBLISHED.read_text(encoding="utf-8") == schema.text(), "pytest --update-golden, and read the diff"


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema.judgement_schema())


def test_it_admits_what_is_written() -> None:
    cells = [*factories.mixed(), factories.judgement(telemetry=factories.telemetry(gpus=2))]
    for cell in cells:
        validator().validate(written(cell))
    infinite = factories.latency_check().model_copy(update={"value": math.inf, "margin": -math.inf})
    found = written(factories.judgement(checks=(infinite,)))
    assert found["checks"][0]["value"] == "Infinity"
    validator().validate(found)


@pytest.mark.parametrize(
    "change",
    [{"verdict": "MAYBE"}, {"load": None}, {"unknown": 1}, {"slo_attainment": "much"}, {"marks": ["SPARKLING"]}],
)
def test_it_refuses_what_is_not(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validator().validate({**written(factories.judgement()), **change})


def test_fields_carry_their_meaning() -> None:
    found = schema.judgement_schema()
    assert found["properties"]["window"]["description"] == "Judged window in seconds after the run clock's zero."
    assert "positive: room left" in found["$defs"]["CheckResult"]["properties"]["margin"]["description"]
