"""What a look finds in the samples so far: whether the run may end."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from harness.evidence import longest_limit
from harness.manifest import Manifest
from harness.metrics import judged_part, read_requests
from harness.objective import Objective
from harness.quality_join import why_not
from harness.verdict import decision_at, shown_hopeless, terms_at_look, weigh
from harness.watch.channel import LookAnswer, LookAsked

FEWEST_ANSWERS = 200
"""A look may end a run whose answers are scored afterwards once there are so many: the mean of a score that varies by
0.25 is then known to 0.03. What the scores say is found at the end, at the same level as all else.
"""


def decide(manifest: Manifest, table: pa.Table, asked: LookAsked) -> LookAnswer:
    """Answer one look; ``table`` holds every request that was sent by then, those in flight with their age.

    Requests are taken as they stood at the look's own moment, not at that of the survey a little later: so the judge
    of the sealed run sees exactly the same.
    """
    load = manifest.load.model_copy(update={"judged_until_s": asked.judged_until_s})
    requests = read_requests(table, asked.workers, load, asked.at_s)
    judged = judged_part(load, requests, longest_limit(manifest.scenario.sla), streamed=manifest.stream)
    if asked.hopeless:
        return LookAnswer(number=asked.number, aborted_on=shown_hopeless(load, manifest.confidence, judged))
    left_out = left_to_the_end(manifest)
    known = [objective for objective in manifest.scenario.sla if objective not in left_out]
    found = weigh(known, judged, terms_at_look(manifest), len(left_out))
    answered = int((judged.rows & requests.ok).sum())
    waited_for = [each for each in left_out if not each.is_quality or answered < FEWEST_ANSWERS]
    decided = decision_at(found, until_decided=load.until_decided, besides=len(waited_for))
    return LookAnswer(number=asked.number, decided=decided)


def left_to_the_end(manifest: Manifest) -> list[Objective]:
    """Checks that need what only the whole run directory has: the gaps between tokens, and the scores of answers."""
    sla, scored = manifest.scenario.sla, not why_not(manifest)
    gaps = [each for each in sla if each.metric == "itl" and manifest.stream]
    quality = [each for each in sla if each.is_quality and scored]
    goodput = [each for each in sla if each.metric == "goodput" and (gaps or scored)]
    return [*gaps, *quality, *goodput]


def pending_of(path: Path) -> list[pa.RecordBatch]:
    """The requests in flight, as the workers' surveys wrote them: one Arrow stream after the other."""
    found: list[pa.RecordBatch] = []
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(0)
        while file.tell() < end:
            with pa.ipc.open_stream(file) as reader:
                found += list(reader)
    return found
