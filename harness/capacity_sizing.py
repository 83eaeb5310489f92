"""What a finished search means in replicas and money, and the run that confirms it."""

from __future__ import annotations

from dataclasses import replace

from harness.capacity import Tried, interval_of, load_text
from harness.capacity_log import write_capacity
from harness.capacity_record import CapacityRecord, Confirmation, Interval, LevelResult
from harness.capacity_run import CONFIDENCE, Search, level_cell
from harness.errors import UsageError
from harness.judge import judge, read_judgement
from harness.judgement import Mark, Verdict
from harness.level import level_result
from harness.objective import Objective
from harness.price_age import price_tag
from harness.run import OnChange, run_cells
from harness.runlog import RunReader
from harness.sizing import LIMIT_FACTORS, Basis, size
from harness.spec import Scenario, Stack

_MARKED = {
    Mark.OTHER_GPU: "it ran on other GPUs than the stack's: replicas and cost are not those of its own hardware",
    Mark.REDUCED: "the load was a smaller one than the scenario's: replicas and cost are those of the smaller one",
}


def with_sizing(search: Search, record: CapacityRecord) -> CapacityRecord:
    """Add replicas and cost, from the lower end of the interval; nothing where there is none."""
    feasible = record.interval.feasible
    if feasible is None:
        return record
    level = next(each for each in record.levels if each.load == feasible)
    scenario = search.catalog.scenario(record.scenario)
    stack = _stack(search)
    options = search.sizing
    api = None if stack.is_api else api_stack(search, scenario)
    basis = Basis(
        stack=stack,
        scenario=scenario,
        kind=record.settings.kind,
        level=level,
        profile=options.profile,
        profile_name=options.profile_name,
        utilisation=options.utilisation,
        spare=options.spare,
    )
    sizing = size(basis, api=api, at_limit=_at_other_limits(search, record))
    marked = tuple(text for mark, text in _MARKED.items() if mark in record.marks)
    sizing = sizing.model_copy(update={"notes": (*sizing.notes, *marked)})
    prices = (price_tag(stack, search.today), *(() if api is None else (price_tag(api, search.today),)))
    record = record.model_copy(update={"sizing": sizing, "prices": prices})
    write_capacity(search.directory, record)
    return record


def confirm(search: Search, record: CapacityRecord, on_change: OnChange) -> CapacityRecord:
    """Run the sized replicas, without the spare ones, at the scenario's load, and say whether that confirms them."""
    confirmation = _confirmed(search, record, on_change)
    record = record.model_copy(update={"confirmation": confirmation})
    write_capacity(search.directory, record)
    return record


def _at_other_limits(search: Search, record: CapacityRecord) -> dict[float, LevelResult | None]:
    """The lower end of the interval had the latency limits been others, by judging the same runs again."""
    if not any(check.is_latency for check in search.catalog.scenario(record.scenario).sla):
        return {}
    found: dict[float, LevelResult | None] = {}
    for factor in LIMIT_FACTORS:
        results: dict[float, LevelResult] = {}
        for level in record.levels:
            directory = search.directory / level.run_dir
            if not read_judgement(directory).load.requests:
                results[level.load] = level
                continue
            sla = tuple(_scaled(check, factor) for check in RunReader(directory).manifest.scenario.sla)
            again = judge(directory, sla=sla)
            results[level.load] = level_result(level.load, level.run_dir, again, level.run_time_s, record.metric)
        interval: Interval = interval_of([Tried(load, result.verdict) for load, result in results.items()])
        found[factor] = None if interval.feasible is None else results[interval.feasible]
    return found


def _scaled(check: Objective, factor: float) -> Objective:
    if not check.is_latency:
        return check
    limit = check.limit * factor
    return replace(check, limit=limit, text=f"{check.text.split(check.comparison)[0]}{check.comparison} {limit:g} s")


def _stack(search: Search) -> Stack:
    return level_cell(search, search.settings.start, search.directory / "level-00").stack


def api_stack(search: Search, scenario: Scenario) -> Stack | None:
    if search.sizing.api is not None:
        api = search.catalog.stack(search.sizing.api)
        if not api.is_api:
            raise UsageError(
                f"--against {api.name}: that stack has no price per token, so it is no API to compare with"
            )
        return api
    stacks = [search.catalog.stack(name) for name in scenario.stacks]
    return next((stack for stack in stacks if stack.is_api), None)


def _confirmed(search: Search, record: CapacityRecord, on_change: OnChange) -> Confirmation:
    plan = record.sizing.replicas if record.sizing is not None else None
    scenario = search.catalog.scenario(record.scenario)
    if plan is None:
        return Confirmation(replicas=0, load=0, sentence="not confirmed: there is no number of replicas to run")
    frame = Confirmation(replicas=plan.needed, load=plan.load, sentence="")
    directory = search.directory / f"confirm-{plan.needed}-replicas"
    again = 1
    while directory.exists():
        again += 1
        directory = search.directory / f"confirm-{plan.needed}-replicas-again-{again}"
    load = scenario.users if record.settings.kind == "users" else plan.load
    cell = level_cell(search, load, directory)
    if search.options.attach:
        reason = "a server at a URL is there once; its replicas are not ours to start"
    elif cell.calibration == "claims":
        reason = "a replayed claim says nothing of more replicas than it was made for"
    elif cell.stack.is_api:
        reason = "an API has no replicas"
    else:
        reason = ""
    if reason:
        return frame.model_copy(update={"sentence": f"not confirmed: {reason}"})
    stack = cell.stack.model_copy(update={"replicas": plan.needed})
    cell = cell.model_copy(update={"stack": stack, "confidence": CONFIDENCE})
    [progress] = run_cells([cell], on_change)
    if progress.judgement is None:
        return frame.model_copy(update={"sentence": f"not confirmed, the run did not come about: {progress.error}"})
    verdict = progress.judgement.verdict
    words = {
        Verdict.PASS: "confirms the sizing",
        Verdict.FAIL: "contradicts the sizing",
        Verdict.INCONCLUSIVE: "neither confirms nor contradicts the sizing",
    }
    said = words.get(verdict, "says nothing of the sizing")
    return frame.model_copy(
        update={
            "verdict": verdict,
            "sentence": f"a run of {plan.needed} replicas at {load_text(record.settings.kind, load)}, the spare ones"
            f" left out, {said}: {progress.judgement.sentence}",
            "run_dir": directory.name,
        }
    )
