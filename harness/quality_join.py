"""The scores of a run beside its samples, or why there are none."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import RunDirectoryError
from harness.manifest import Manifest
from harness.quality_file import ScoringFacts, read_quality
from harness.runlog import OUTPUTS, file_digest
from harness.scored import EVERY_ANSWER, NOT_SCORED, NotScored, Scored, place


def why_not(manifest: Manifest) -> str:
    """Why a run's answers cannot be scored; empty when they can."""
    workload = manifest.scenario.workload
    if manifest.server.emulated:
        return "because an emulator's answers say nothing of a model"
    if workload.output_length == "forced":
        return "because answers of a forced length do not end where they should"
    if workload.kind == "synthetic":
        return "because synthetic prompts have no right answer"
    if manifest.shortened_from:
        asked, full = workload.output_tokens, manifest.shortened_from
        return f"because answers were cut at {asked:,} tokens, where the scenario allows {full:,}"
    return ""


def joined(run_dir: Path, manifest: Manifest, table: pa.Table) -> tuple[Scored | NotScored, ScoringFacts | None]:
    """``table`` has the samples' worker, user and sequence. Scores that cannot be used are no reason not to judge."""
    if why := why_not(manifest):
        return NotScored(why), None
    try:
        found = read_quality(run_dir)
    except RunDirectoryError as error:
        return NotScored(f"because {error}"), None
    if found is None:
        return NOT_SCORED, None
    scores, facts = found
    if not (run_dir / OUTPUTS).exists() or file_digest(run_dir / OUTPUTS) != facts.outputs_digest:
        return NotScored("because the scores are of other answers: run harness score"), None
    if not facts.scored:
        return NotScored("because no answer's text was kept"), None
    if not pc.any(scores.column("says_something")).as_py():
        return NotScored("because the prompts do not say what an acceptable answer has"), None
    spec = manifest.scenario.quality
    return place(table, scores, spec.acceptable if spec is not None else EVERY_ANSWER), facts


def quality_note(manifest: Manifest, quality: Scored | NotScored) -> str:
    """One sentence under the quality of a cell."""
    if isinstance(quality, Scored):
        spec = manifest.scenario.quality
        return f"Acceptable: {spec.reason}" if spec is not None else "Acceptable: not empty, not cut off, plain text."
    why = why_not(manifest) or quality.why
    word = manifest.stack.quality_word(manifest.scenario.name)
    own = f"; '{word}' is the stack's own claim" if word else ""
    return f"NOT MEASURED {why}{own}; left out of the verdict"
