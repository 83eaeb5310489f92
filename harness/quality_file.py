"""``quality.parquet``: the scores of a run's kept answers, one row each, with how they were made in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from harness.errors import RunDirectoryError
from harness.judgement import LlmJudgeSummary
from harness.objective import SCORES
from harness.records import Record
from harness.runlog import replacing

QUALITY = "quality.parquet"
QUALITY_FORMAT = 1
_KEY = b"llm-sla-harness"

SCHEMA = pa.schema(
    [
        ("worker", pa.int32()),
        ("user", pa.int32()),
        ("sequence", pa.int32()),
        ("prompt_id", pa.string()),
        ("split", pa.string()),
        ("says_something", pa.bool_()),
        *((name, pa.float32()) for name in SCORES),
    ]
)
"""Scores are 0 to 1 and null where the prompt says nothing to check by."""


class ScoringFacts(Record):
    """How the scores were made; the same outputs and seed give the same file."""

    format: int = QUALITY_FORMAT
    outputs_digest: str
    """Of the ``outputs.jsonl`` that was scored."""
    kept: int
    """Answers in it."""
    scored: int
    seed: int
    signatures: dict[str, str] = {}
    """Of published metrics, as their authors write them."""
    corpus: dict[str, float] = {}
    """Figures over the whole set, 0 to 1."""
    llm_judge: LlmJudgeSummary | None = None


def write_quality(run_dir: Path, table: pa.Table, facts: ScoringFacts) -> None:
    """Write the file whole, or leave the old one."""
    with replacing(run_dir / QUALITY) as file:
        pq.write_table(table.replace_schema_metadata({_KEY: facts.model_dump_json().encode()}), file)


def read_quality(run_dir: Path) -> tuple[pa.Table, ScoringFacts] | None:
    """Scores and how they were made; None for a run whose answers were not scored.

    Raises
    ------
    RunDirectoryError
        When the file is damaged, or of a newer version.
    """
    path = run_dir / QUALITY
    if not path.exists():
        return None
    try:
        table = pq.read_table(path)
        facts = ScoringFacts.model_validate(json.loads((table.schema.metadata or {})[_KEY]))
        table = table.select(SCHEMA.names).cast(SCHEMA)
    except (OSError, KeyError, ValueError, pa.ArrowException, ValidationError) as error:
        raise RunDirectoryError(f"{path} is damaged or of another version; run: harness score {run_dir}") from error
    if facts.format > QUALITY_FORMAT:
        raise RunDirectoryError(f"{path} has format {facts.format}; this harness reads up to {QUALITY_FORMAT}")
    return table, facts
