"""From a run directory to a Judgement: no server, no gevent, no network, on any machine and years later."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from harness.catalog import Catalog
from harness.cost import cost_summary
from harness.errors import RunDirectoryError
from harness.evidence import Terms, longest_limit
from harness.judgement import (
    CheckResult,
    ClaimAudit,
    ClientHealth,
    CostSummary,
    Distribution,
    Judgement,
    LoadSummary,
    Mark,
    Provenance,
    TelemetrySummary,
    Verdict,
)
from harness.lifecycle import failures as server_failures
from harness.little import closed_loop
from harness.manifest import Manifest
from harness.metrics import BoolArray, Judged, Requests, judged_part, judged_window, read_requests
from harness.notes import open_loop_notes, run_notes, stop_notes
from harness.objective import Objective
from harness.paid import limit_notes, spend_facts, spend_notes
from harness.plan import claim_audit
from harness.quality_join import joined, quality_note
from harness.quality_summary import quality_summary
from harness.records import SpendFacts
from harness.regions import region_results
from harness.runlog import JUDGEMENT, RunReader, read_certificate, write_atomically
from harness.scored import NOT_SCORED, Scored
from harness.sla import cell_verdict, good_and_bad, measured
from harness.slowest import COLUMNS as SLOWEST_COLUMNS
from harness.slowest import slowest
from harness.steady import Drift, warm_up_end_s
from harness.summary import TOKEN_COUNTS, distributions, load_summary, outcome_counts, worst_prompts
from harness.telemetry_summary import telemetry_notes, telemetry_summary
from harness.timeline import timeline
from harness.validity import certificate_faults, certificate_notes, client_health, distribution_notes, faults
from harness.verdict import Weighed, decision_at, terms_of, weigh


def judge(
    run_dir: Path,
    *,
    claim: ClaimAudit | None = None,
    cost: CostSummary | None = None,
    sla: tuple[Objective, ...] | None = None,
) -> Judgement:
    """Judge one run, sealed or cut off.

    ``claim`` and ``cost`` replace what would be worked out from the manifest; ``sla`` asks what the verdict would
    be had the scenario asked for something else.

    Raises
    ------
    RunDirectoryError
        When the directory is not a run, or is damaged.
    """
    reader = RunReader(run_dir)
    manifest, table = reader.manifest, reader.samples()
    if sla is not None:
        manifest = manifest.model_copy(update={"scenario": manifest.scenario.model_copy(update={"sla": sla})})
    requests = read_requests(table, manifest.workers, manifest.load)
    manifest, warm_up_note = _warmed(manifest, requests)
    quality, scoring = joined(run_dir, manifest, table)
    whole = table
    told = ("outcome", "error", "http_status", "region", "token_source", "retries", *TOKEN_COUNTS, *SLOWEST_COLUMNS)
    table = table.select(list(dict.fromkeys(told)))
    judged = judged_part(manifest.load, requests, longest_limit(manifest.scenario.sla), streamed=manifest.stream)
    judged = replace(judged, quality=quality)
    loop = closed_loop(judged, manifest.scenario.think_time.mean_s)
    client = client_health(manifest, judged)
    terms = terms_of(manifest, len(requests))
    weighed = _weighed(manifest, whole, judged, terms)
    checks = weighed.checks
    regions = region_results(manifest.scenario.sla, judged, table.column("region"), terms)
    invalid = faults(manifest, requests, client, loop, reader.altered_files() if manifest.sealed else (), table)
    invalid += _nothing_judged(manifest, judged.rows)
    load = load_summary(manifest, table, judged, loop)
    spend = spend_facts(manifest, table)
    certificate = read_certificate(run_dir)
    client = client.model_copy(update={"certificate": certificate})
    rate_per_s = load.events_per_s if manifest.stream else load.throughput_rps
    invalid += certificate_faults(manifest, certificate, rate_per_s)
    verdict, reasons = _verdict(manifest, checks, invalid, weighed.moved)
    kept = measured(manifest.scenario.sla, streamed=manifest.stream, quality=quality)
    good, bad = (judged.rows & rows for rows in good_and_bad(kept, requests))
    answers = None
    if isinstance(quality, Scored) and scoring is not None:
        answers = quality_summary(judged, quality, scoring, good, bad, terms.confidence)
    acceptable = answers.acceptable_on_time if answers is not None and answers.acceptable_on_time is not None else 1.0
    known = int((good | bad).sum())
    attained = int(good.sum()) / known if known else None
    spreads, curves = distributions(manifest, judged)
    window = judged.window
    telemetry, unreadable = _telemetry(reader, manifest, judged, load)
    return _frame(manifest).model_copy(
        update={
            "verdict": verdict,
            "sentence": f"{verdict}: {reasons[0]}.",
            "reasons": reasons,
            "checks": checks,
            "distributions": spreads,
            "curves": curves,
            "outcomes": outcome_counts(table, judged.rows),
            "slo_attainment": attained,
            "goodput_rps": acceptable * int(judged.ended_in_window(good).sum()) / window.length_s if window else None,
            "load": load,
            "client": client,
            "warm_up_note": warm_up_note,
            "window": (window.low_s, window.high_s) if window else None,
            "timeline": timeline(
                requests, _after_start(manifest, manifest.load.stopped_issuing_s), streamed=manifest.stream
            ),
            "regions": regions,
            "worst_prompts": worst_prompts(table, good | bad, bad),
            "slowest": slowest(manifest.run, table, judged),
            "claim": claim or _claim(manifest, spreads, load),
            "cost": cost or _cost(manifest, load, None if attained is None else acceptable * attained, spend),
            "quality": answers,
            "quality_note": quality_note(manifest, quality),
            "telemetry": telemetry,
            "notes": (
                *open_loop_notes(load),
                *stop_notes(manifest),
                *run_notes(manifest, judged),
                *spend_notes(manifest, spend),
                *limit_notes(manifest, table, judged.rows),
                *distribution_notes(manifest, len(regions)),
                *certificate_notes(manifest, certificate),
                *(unreadable or telemetry_notes(telemetry, loaded=len(requests) > 0)),
            ),
        }
    )


def floor_failure_judgement(
    manifest: Manifest, reason: str, *, claim: ClaimAudit | None = None, cost: CostSummary | None = None
) -> Judgement:
    """FAIL without load: the stack's memory cannot admit one request. ``reason`` is a plain sentence."""
    reason = reason.rstrip(".")
    empty_load = LoadSummary(users=manifest.load.users_asked, users_reached=0)
    return _frame(manifest).model_copy(
        update={
            "verdict": Verdict.FAIL,
            "sentence": f"{Verdict.FAIL}: {reason}.",
            "reasons": (reason,),
            "marks": _marks(manifest, loaded=False),
            "load": empty_load,
            "client": ClientHealth(workers=0),
            "claim": claim or _claim(manifest, (), empty_load),
            "cost": cost,
            "notes": ("no load was made: the figures follow from the specification",),
        }
    )


def write_judgement(run_dir: Path, judgement: Judgement) -> None:
    """Write ``judgement.json`` whole, or leave the old one."""
    write_atomically(run_dir / JUDGEMENT, judgement.model_dump_json(indent=1))


def read_judgement(run_dir: Path) -> Judgement:
    """Read ``judgement.json``.

    Raises
    ------
    RunDirectoryError
        When there is none, or it is damaged.
    """
    path = run_dir / JUDGEMENT
    try:
        return Judgement.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{run_dir} was not judged yet; run: harness judge {run_dir}") from error
    except OSError as error:
        raise RunDirectoryError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise RunDirectoryError(f"{path} is damaged or of another version; run: harness judge {run_dir}") from error


def _weighed(manifest: Manifest, table: pa.Table, judged: Judged, terms: Terms) -> Weighed:
    """Weigh what is known by now; a run that was ended at a look, as it stood at that look.

    What FAILed there is weighed with all that came after, and as it stood only where that would not show it any more.
    """
    objectives, look = manifest.scenario.sla, manifest.load.ended_look
    if look is not None and not look.failed:
        return weigh(objectives, judged_as_of(manifest, table, judged, look.at_s), terms)
    weighed = weigh(objectives, judged, terms)
    if look is None or decision_at(weighed, until_decided=manifest.load.until_decided) == "fail":
        return weighed
    at_look = weigh(objectives, judged_as_of(manifest, table, judged, look.at_s), terms)
    return at_look if decision_at(at_look, until_decided=manifest.load.until_decided) == "fail" else weighed


def judged_as_of(manifest: Manifest, table: pa.Table, judged: Judged, as_of_s: float) -> Judged:
    """The same window, of requests as they stood at a moment of the run."""
    requests = read_requests(table, manifest.workers, manifest.load, as_of_s)
    then = judged_part(manifest.load, requests, judged.settled_s, streamed=judged.streamed)
    return replace(then, quality=judged.quality)


def _verdict(
    manifest: Manifest, checks: tuple[CheckResult, ...], invalid: list[str], moved: Drift
) -> tuple[Verdict, tuple[str, ...]]:
    """Weigh everything: INVALID over FAIL over INCONCLUSIVE over PASS. The first reason is the sentence.

    A server that died, was started again or ran out of memory is FAIL whatever else was wrong: it is certain without
    the samples, and its end is often what makes the client stumble.
    """
    failing = sorted((c for c in checks if c.verdict is Verdict.FAIL), key=lambda check: _room(check))
    undecided = [check.reason for check in checks if check.verdict is Verdict.INCONCLUSIVE]
    unmeasured = [check.reason for check in checks if check.verdict is Verdict.NOT_MEASURED]
    fallen = server_failures(manifest.server)
    failures = [*fallen, *(check.reason for check in failing), *([moved.breaks] if moved.breaks else [])]
    load = manifest.load
    aborted = [f"the run was aborted on {load.aborted_on}"] if load.aborted_on else []
    if invalid and not fallen:
        return Verdict.INVALID, (*invalid, *failures, *aborted)
    if failures:
        failures += [*invalid, *aborted]
        return Verdict.FAIL, tuple(failures)
    verdict = cell_verdict(checks)
    if verdict is Verdict.PASS and not moved.moves:
        tightest = min(checks, key=_room)
        return verdict, (tightest.reason, *(c.reason for c in checks if c is not tightest))
    return Verdict.INCONCLUSIVE, (*aborted, *([moved.moves] if moved.moves else []), *undecided, *unmeasured)


def _room(check: CheckResult) -> float:
    return math.inf if check.margin is None else check.margin


def _nothing_judged(manifest: Manifest, rows: BoolArray) -> list[str]:
    """No judged request is the harness's fault, unless the server was gone."""
    load = manifest.load
    if rows.any() or server_failures(manifest.server):
        return []
    ended = f" ({load.ended_by})" if load.ended_by else ""
    if load.started_s is None:
        awaited = f"all {load.users_asked:,} users were up" if load.loop == "closed" else "its first arrival"
        return [f"the run ended before {awaited}{ended}, so nothing was judged"]
    if not len(rows):
        return [f"no request was recorded{ended}"]
    return [f"no request was issued after the warm-up of {load.warm_up_s:g} s{ended}: the run was too short"]


def _warmed(manifest: Manifest, requests: Requests) -> tuple[Manifest, str]:
    """The manifest with the warm-up that the run took, and how that was chosen.

    A run that was stopped at a look is judged over the window of that look, and one that ends when it is decided has
    the same warm-up at every look.
    """
    load = manifest.load
    window = judged_window(load, requests)
    told = f"{load.warm_up_s:g} s, the profile's"
    if load.until_decided:
        return manifest, told + ", fixed before the first look"
    if window is None or load.ended_look is not None or load.aborted_on:
        return manifest, told
    end_s = warm_up_end_s(requests, window)
    if end_s <= window.low_s:
        return manifest, told + "; the run was steady by then"
    warmed = manifest.model_copy(update={"load": load.model_copy(update={"warm_up_s": end_s})})
    told = f"{end_s:.4g} s: after the profile's {load.warm_up_s:g} s latencies still differed from the rest"
    return warmed, told


def _cost(
    manifest: Manifest, load: LoadSummary, attained: float | None, spend: SpendFacts | None
) -> CostSummary | None:
    """None where it ran on other GPUs than the price is of."""
    if manifest.other_gpu and manifest.stack.price.kind == "hourly":
        return None
    cost = cost_summary(
        manifest.stack,
        claim=manifest.stack.claims.get(manifest.scenario.name),
        users=load.users,
        response_s=load.response_s,
        think_s=load.think_s,
        rate_rps=load.throughput_rps if load.open_loop else None,
        input_tokens=load.prompt_tokens_mean,
        output_tokens=load.tokens_got_mean,
        cached_tokens=load.cached_tokens_mean,
        good_share=attained,
    )
    if spend is None:
        return cost
    return cost.model_copy(update={"spent_usd": spend.spent_usd, "cap_usd": spend.cap_usd})


def _telemetry(
    reader: RunReader, manifest: Manifest, judged: Judged, load: LoadSummary
) -> tuple[TelemetrySummary | None, tuple[str, ...]]:
    """What was recorded beside the load, or why it cannot be read, which is no reason not to judge."""
    try:
        recorded = reader.telemetry()
    except RunDirectoryError as error:
        return None, (f"no telemetry: {error}",)
    if recorded is None:
        return None, ()
    return telemetry_summary(recorded.facts, recorded.table, manifest, judged, load), ()


def _claim(manifest: Manifest, spreads: tuple[Distribution, ...], load: LoadSummary) -> ClaimAudit | None:
    """Put claim, floor and measurement beside each other; None when nobody claimed anything."""
    scenario, stack, gpu = manifest.scenario, manifest.stack, manifest.gpu
    if scenario.name not in stack.claims or manifest.other_gpu or (stack.hardware is not None and gpu is None):
        return None
    as_run = Catalog({scenario.name: scenario}, {stack.name: stack}, {gpu.name: gpu} if gpu else {}, {})
    median = next((spread.p50 for spread in spreads if spread.metric == "e2e"), None)
    return claim_audit(as_run, scenario.name, stack.name).model_copy(
        update={"measured_p50_s": median, "measured_tokens": load.tokens_got_mean}
    )


def _after_start(manifest: Manifest, wall_s: float | None) -> float | None:
    started = manifest.load.started_s
    return None if wall_s is None or started is None else wall_s - started


def _marks(manifest: Manifest, *, loaded: bool = True) -> tuple[Mark, ...]:
    server, load = manifest.server, manifest.load
    early = load.ended_look is not None
    found = {
        Mark.EMULATED: server.emulated,
        Mark.OTHER_GPU: bool(manifest.other_gpu),
        Mark.CLAIM_REPLAYED: server.calibration == "claims",
        Mark.REDUCED: manifest.reduced,
        Mark.EARLY_STOP: early and not load.until_decided,
        Mark.DECIDED: early and load.until_decided,
        Mark.ABORTED: bool(load.aborted_on),
        Mark.CUT_OFF: loaded and not (manifest.sealed and (load.complete or early or load.aborted_on)),
        Mark.FORCED_LENGTH: manifest.scenario.workload.output_length == "forced",
    }
    return tuple(mark for mark, holds in found.items() if holds)


def _frame(manifest: Manifest) -> Judgement:
    """Build a judgement with everything that the manifest alone says."""
    scenario, stack, load, server = manifest.scenario, manifest.stack, manifest.load, manifest.server
    about = {"launcher": server.launcher, "url": server.url, "version": server.version, "model": server.model}
    about["command"] = " ".join(server.command)
    about["ready after"] = "" if server.ready_s is None else f"{server.ready_s:.3g} s"
    seen = "; ".join(each.text for each in manifest.gpu_facts)
    about |= {"image": server.image, "GPUs": seen or ", ".join(map(str, server.gpus))}
    about["exit code"] = "" if server.exit_code is None else str(server.exit_code)
    about |= {name: str(value) for name, value in server.details.items()}
    return Judgement(
        run=manifest.run,
        scenario=scenario.name,
        scenario_title=scenario.title,
        stack=stack.name,
        stack_title=stack.title,
        profile=manifest.profile,
        verdict=Verdict.INVALID,
        sentence="",
        marks=_marks(manifest),
        load=LoadSummary(users=load.users_asked, users_reached=load.users_reached),
        client=ClientHealth(workers=len(manifest.workers)),
        warm_up_s=load.warm_up_s,
        ended_by=load.ended_by,
        quality_word=stack.quality_word(scenario.name) or "",
        quality_note=quality_note(manifest, NOT_SCORED),
        server={name: text for name, text in about.items() if text},
        server_log_tail=server.log_tail,
        replicas=server.replicas,
        provenance=Provenance(
            harness_version=manifest.harness_version,
            git=manifest.git,
            python=manifest.python,
            host=manifest.host,
            cores=manifest.cores,
            gpus=manifest.gpus,
            locust=manifest.locust,
            started=manifest.started,
            seeds=manifest.seeds,
            command=manifest.command,
            repeat=manifest.repeat,
            digests=manifest.digests,
        ),
    )
