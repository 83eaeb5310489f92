"""What a reader of a judgement must know, in sentences."""

from __future__ import annotations

from harness.cost import format_usd, usd_per_hour
from harness.effective import BLOCKS
from harness.judgement import LoadSummary
from harness.manifest import Manifest
from harness.metrics import Judged

WORTH = (
    "requests that were served together are slow together: every bound counts them as the independent requests that"
    " they are worth, estimated from {blocks} equal blocks of the judged window"
)
NO_ERRORS = (
    "no error was seen, so nothing tells whether errors would come in bursts: for the error rate requests count as"
    " independent"
)
SCOPE = "a verdict covers this launch of the server, this host and this set of prompts"


def run_notes(manifest: Manifest, judged: Judged) -> tuple[str, ...]:
    requests, rows = judged.requests, judged.rows
    notes = [WORTH.format(blocks=BLOCKS), SCOPE]
    if any(each.metric == "error_rate" for each in manifest.scenario.sla) and not (requests.failed & rows).any():
        notes.append(NO_ERRORS)
    if manifest.other_gpu:
        hardware = "" if manifest.stack.hardware is None else f" in place of {manifest.stack.hardware.gpu}"
        notes.append(
            f"it ran on {manifest.other_gpu}{hardware}: nothing of it speaks of the stack's own hardware, and neither"
            " its claims nor its price are of this GPU"
        )
    if not manifest.sealed:
        notes.append("the run was killed: what was in flight or not shipped then was never written")
    if manifest.compacted:
        notes.append("retention dropped the gaps between tokens from this run: nothing is said of ITL any more")
    unfinished = int((requests.unfinished & rows).sum())
    if unfinished:
        notes.append(
            f"{unfinished:,} judged requests were not over when the run ended: older than a limit they violate it,"
            " younger ones are unknown and count against a PASS"
        )
    chunks = requests.chunks[requests.ok & rows]
    tokens = requests.output_tokens[requests.ok & rows]
    if chunks.sum() and tokens.sum() > 1.05 * chunks.sum():
        notes.append(
            f"a content chunk carries {tokens.sum() / chunks.sum():.3g} tokens on average, which ITL is between"
        )
    return tuple(notes)


def stop_notes(manifest: Manifest) -> tuple[str, ...]:
    """Of a run that was to end when decided: what each look was worth, and what its early end saves."""
    load, stack = manifest.load, manifest.stack
    if not load.until_decided:
        return ()
    looks = len(load.looks) + 1
    at = ", ".join(f"{each:g}" for each in (*(look.at_s for look in load.looks), load.run_time_s))
    notes = [
        f"the run was to end when decided: {looks} {'look' if looks == 1 else 'looks'}, fixed beforehand at {at} s,"
        " share the chance of a wrong verdict equally"
    ]
    if load.ended_look is None or load.started_s is None or load.stopped_issuing_s is None:
        return tuple(notes)
    ran_s, whole_s = load.stopped_issuing_s - load.started_s, load.run_time_s + load.tail_s
    left_s = max(0.0, whole_s - ran_s)
    saved = f"it ended after {ran_s:,.0f} s of {whole_s:,.0f} s"
    if stack.gpu_count:
        saved += f" and left {stack.gpu_count * left_s / 60:,.1f} GPU minutes unused"
        hourly = None if manifest.other_gpu else usd_per_hour(stack)
        saved += "" if hourly is None else f", {format_usd(hourly * left_s / 3600)}"
    return (*notes, saved)


def open_loop_notes(load: LoadSummary) -> tuple[str, ...]:
    """Offered against achieved: the open loop's counterpart of N = X (R + Z)."""
    found = load.open_loop
    if found is None:
        return ()
    late = "" if found.late_p99_s is None else f" (late by {1e3 * found.late_p99_s:.3g} ms at p99)"
    first, second = found.in_flight_halves
    return (
        f"open loop, {found.arrivals}: {found.due:,} arrivals were due in the judged window, {found.offered_rps:.4g}/s;"
        f" {found.started:,} started{late}; {found.completed_rps:.4g}/s ended; in flight on average {first:,.3g} in the"
        f" window's first half and {second:,.3g} in its second",
        "response times run from the scheduled time of an arrival; think time is unused, and each arrival asks the"
        " first turn of its conversation",
    )
