"""Runs a capacity search: each level a run of its own with a server of its own, all in one directory.

``capacity.json`` is rewritten after every level, so that an interrupted search keeps what it found and can go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from harness.capacity import (
    Tried,
    check_settings,
    describe,
    interval_of,
    level_confidence,
    load_text,
    next_load,
    shape_of,
    verdict_of,
)
from harness.capacity_log import write_capacity
from harness.capacity_record import (
    CapacityRecord,
    LevelResult,
    LoadKind,
    SearchSettings,
)
from harness.capacity_spend import CAPPED, capped_text, spent_usd
from harness.catalog import Catalog
from harness.cell import Cell
from harness.daily_profile import DailyProfile
from harness.errors import ExitCode, HarnessError, UsageError
from harness.judge import read_judgement
from harness.judgement import Judgement, Verdict
from harness.level import binding_text, level_result, run_time_s
from harness.matrix import Options, build_cells
from harness.price_age import price_tag
from harness.run import CellProgress, OnChange, run_cells
from harness.runlog import JUDGEMENT, RunReader
from harness.schedule import MOST_LOOKS
from harness.seal import about_this_host
from harness.spec import Scenario
from harness.spend import CAP_REACHED
from harness.verdict import confidence_at_each

CONFIDENCE = 0.95
"""Of the whole search."""
USERS_MOST = 8
"""Times the scenario's load: where a search ends that finds no limit, unless told otherwise."""
START_SHARE = 4
"""The first level is the scenario's load over this."""

OnStart = Callable[[int, float], None]
"""Gets a level's place (from 1) and its load."""
OnLevel = Callable[[CapacityRecord], None]


@dataclass(frozen=True)
class SizingOptions:
    profile_name: str
    profile: DailyProfile
    utilisation: float
    spare: int
    api: str | None = None
    """The API of the break-even; None: the scenario's first, if it has one."""
    requests_per_min: int | None = None
    """An account's rate limits, where the API's own headers do not say them."""
    tokens_per_min: int | None = None


@dataclass(frozen=True)
class Search:
    """Everything that a search needs, resolved. ``options`` name one scenario and one stack, and no load."""

    catalog: Catalog
    options: Options
    settings: SearchSettings
    sizing: SizingOptions
    directory: Path
    today: date
    command: str = ""


def default_settings(
    scenario: Scenario,
    kind: LoadKind,
    *,
    start: float | None,
    most: float | None,
    levels_max: int,
    precision: float,
) -> SearchSettings:
    """Fill in what was not given, from the scenario's own load.

    Raises
    ------
    UsageError
        For a search that cannot be.
    """
    own: float = scenario.users
    if kind == "rate":
        own = scenario.users / (scenario.think_time.mean_s + scenario.longest_limit_s or 1.0)
        if scenario.arrivals is not None and scenario.arrivals.peak_rps is not None:
            own = scenario.arrivals.peak_rps
    first = max(1.0, own // START_SHARE) if kind == "users" else float(f"{own / START_SHARE:.2g}")
    first = first if start is None else start
    last = max(USERS_MOST * own, first) if most is None else most
    if kind == "users" and start is None:
        first = min(first, max(1.0, last))
    settings = SearchSettings(
        kind=kind,
        start=first,
        most=float(int(last)) if kind == "users" else last,
        levels_max=levels_max,
        precision=precision,
    )
    check_settings(settings)
    return settings


def new_record(search: Search) -> CapacityRecord:
    """The record before any level; everything is validated by building the first level's cell.

    Raises
    ------
    UsageError
        For unknown names and impossible values.
    """
    first = level_cell(search, search.settings.start, search.directory / "level-00")
    about = about_this_host(first.manifest())
    scenario, stack = first.scenario, first.stack
    latency = next((check for check in scenario.sla if check.is_latency), None)
    notes = []
    if search.options.attach:
        notes.append("the server was there already: its caches stay between levels, so later levels may be favoured")
    else:
        notes.append("each level has a server of its own, so no cache or queue of one level reaches the next")
    if search.options.run_time_s is None:
        notes.append("a level runs longer than the profile says where too few requests would come to decide it")
    return CapacityRecord(
        scenario=scenario.name,
        scenario_title=scenario.title,
        stack=stack.name,
        stack_title=stack.title,
        profile=first.profile,
        settings=search.settings,
        options=_options(search.options),
        confidence=CONFIDENCE,
        level_confidence=level_confidence(CONFIDENCE, search.settings.levels_max),
        metric=latency.metric if latency is not None else "e2e",
        limit_s=latency.limit if latency is not None else None,
        prices=(price_tag(stack, search.today),),
        notes=tuple(notes),
        harness_version=about.harness_version,
        git=about.git,
        host=about.host,
        started=about.started,
        command=search.command,
    )


def run_search(
    search: Search, record: CapacityRecord, on_start: OnStart, on_change: OnChange, on_level: OnLevel
) -> CapacityRecord:
    """Try levels until the interval is narrow enough; what was found is kept whatever ends it.

    ``record`` is a new one, or one read back: its levels are not run again.
    """
    judgements = {level.load: read_judgement(search.directory / level.run_dir) for level in record.levels}
    record = record.model_copy(update={"ended": "", "cap_usd": search.options.max_cost_usd})
    try:
        while not record.ended and (load := next_load(search.settings, _tested(record))) is not None:
            left_usd = _left_usd(search)
            if left_usd is not None and left_usd <= 0:
                record = record.model_copy(update={"ended": _capped(search, load)})
                break
            on_start(len(record.levels) + 1, load)
            ran = _run_level(search, len(record.levels), load, on_change)
            record = record.model_copy(update={"ended": ran.ended, "spent_usd": _spent_usd(search)})
            if ran.judgement is None or ran.ended == "interrupted":
                break
            if ran.capped and ran.judgement.verdict not in (Verdict.PASS, Verdict.FAIL):
                break
            judgements[load] = ran.judgement
            found = level_result(load, ran.run_dir.name, ran.judgement, ran.run_time_s, record.metric)
            found = _with_limits(found, search.sizing)
            record = _concluded(record, found, judgements)
            write_capacity(search.directory, record)
            on_level(record)
    except KeyboardInterrupt:
        record = record.model_copy(update={"ended": "interrupted"})
    if not record.ended:
        record = record.model_copy(update={"ended": _why_ended(search.settings, record)})
    write_capacity(search.directory, record)
    return record


def exit_code(record: CapacityRecord) -> ExitCode:
    """PASS only for a search that ran to its end and found a level that passes."""
    if record.ended == "interrupted":
        return ExitCode.INCONCLUSIVE if record.levels else ExitCode.INTERRUPTED
    if record.ended.startswith(CAPPED):
        return ExitCode.INCONCLUSIVE
    if record.ended.startswith(_FAILED):
        return ExitCode.INCONCLUSIVE if record.levels else ExitCode.SERVER
    return record.verdict.exit_code


def resumed(search: Search, record: CapacityRecord) -> CapacityRecord:
    """Check that an earlier search is the same one; its sealed levels then count.

    Raises
    ------
    UsageError
        Naming what differs.
    """
    fresh = new_record(search)
    pairs = {
        "scenario": (record.scenario, fresh.scenario),
        "stack": (record.stack, fresh.stack),
        "settings": (record.settings, fresh.settings),
        "options": (record.options, fresh.options),
        "confidence": (record.confidence, fresh.confidence),
    }
    for name, (was, now) in pairs.items():
        if was != now:
            raise UsageError(
                f"--resume: {search.directory} holds a search with another {name} ({was}), not {now}; its levels"
                " cannot be mixed with these"
            )
    sealed = tuple(level for level in record.levels if _is_sealed(search.directory / level.run_dir))
    return record.model_copy(update={"levels": sealed, "command": fresh.command, "confirmation": None})


# One level ----------------------------------------------------------------------------------------


_FAILED = "a level did not run: "


@dataclass(frozen=True)
class _Ran:
    run_dir: Path
    run_time_s: float
    judgement: Judgement | None
    ended: str = ""
    """Why no further level can be tried; empty: one can."""
    capped: bool = False


def _run_level(search: Search, place: int, load: float, on_change: OnChange) -> _Ran:
    """Run a level; one that is INVALID is run once more, because a machine may be disturbed once."""
    first = _run_once(search, place, load, on_change)
    if first.ended or first.judgement is None or first.judgement.verdict is not Verdict.INVALID:
        return first
    left_usd = _left_usd(search)
    if left_usd is not None and left_usd <= 0:
        return replace(first, ended=_capped(search, load), capped=True)
    return _run_once(search, place, load, on_change)


def _run_once(search: Search, place: int, load: float, on_change: OnChange) -> _Ran:
    name = f"level-{place + 1:02}-{load:g}-{search.settings.kind}"
    kept = search.directory / name
    if _is_sealed(kept):  # judged, and the harness was killed before it could say so
        judgement = read_judgement(kept)
        if judgement.ended_by not in (*_CUT_SHORT, CAP_REACHED) and judgement.verdict is not Verdict.INVALID:
            cell = level_cell(search, load, kept)
            return _Ran(kept, cell.timing.run_time_s, judgement)
    directory, again = kept, 1
    while directory.exists():
        again += 1
        directory = kept.with_name(f"{name}-again-{again}")
    cell = level_cell(search, load, directory)
    if cell.tariff is not None:
        cell = cell.model_copy(update={"max_cost_usd": _left_usd(search)})
    [progress] = run_cells([cell], on_change)
    return _ran(search, cell, load, progress)


_OF_ONE_LEVEL = ("STOPPED AT FAIL", "STOPPED WHEN DECIDED", "ABORTED", "CUT OFF")
_CUT_SHORT = ("interrupted", "stopped")


def _ran(search: Search, cell: Cell, load: float, progress: CellProgress) -> _Ran:
    judgement = progress.judgement
    ran = _Ran(cell.run_dir, cell.timing.run_time_s, judgement)
    if judgement is None:
        if progress.exit_code in (None, ExitCode.INTERRUPTED):
            return replace(ran, ended="interrupted")
        return replace(ran, ended=f"{_FAILED}{progress.error}")
    if judgement.ended_by in _CUT_SHORT:
        return replace(ran, ended="interrupted")
    if judgement.ended_by == CAP_REACHED:
        return replace(ran, ended=_capped(search, load), capped=True)
    if cell.refusal:
        return replace(ran, ended="the stack's memory cannot admit one request")
    return ran


def _spent_usd(search: Search) -> float | None:
    """By all sittings of the search so far; None where nothing is paid by the token."""
    return None if search.options.max_cost_usd is None else spent_usd(search.directory)


def _left_usd(search: Search) -> float | None:
    cap_usd, paid_usd = search.options.max_cost_usd, _spent_usd(search)
    return None if cap_usd is None or paid_usd is None else cap_usd - paid_usd


def _capped(search: Search, load: float) -> str:
    assert search.options.max_cost_usd is not None
    return capped_text(search.options.max_cost_usd, load_text(search.settings.kind, load))


def level_cell(search: Search, load: float, directory: Path) -> Cell:
    users = search.settings.kind == "users"
    options = replace(
        search.options,
        users=int(load) if users else None,
        rate_rps=None if users else load,
        run_dir=directory,
    )
    [cell] = build_cells(search.catalog, options)
    confidence = level_confidence(CONFIDENCE, search.settings.levels_max)
    if search.options.run_time_s is None:
        # A level that may end at any look has its part of alpha at each.
        looks = MOST_LOOKS if options.stopping.until_decided else 1
        at_each = confidence_at_each(confidence, looks)
        longer = run_time_s(cell.scenario, cell.timing, search.settings.kind, load, at_each)
        if longer > cell.timing.run_time_s:
            [cell] = build_cells(search.catalog, replace(options, run_time_s=longer))
    return cell.model_copy(update={"confidence": confidence})


def _is_sealed(directory: Path) -> bool:
    if not (directory / JUDGEMENT).exists():
        return False
    try:
        return RunReader(directory).manifest.sealed
    except HarnessError:
        return False


# What the levels say ------------------------------------------------------------------------------


def _tested(record: CapacityRecord) -> list[Tried]:
    return [Tried(level.load, level.verdict) for level in record.levels]


def _concluded(record: CapacityRecord, found: LevelResult, judgements: Mapping[float, Judgement]) -> CapacityRecord:
    record = record.model_copy(update={"levels": (*record.levels, found)})
    interval, kind = interval_of(_tested(record)), record.settings.kind
    binding = "" if interval.infeasible is None else binding_text(judgements[interval.infeasible])
    shape, shape_text = shape_of(record.levels, interval, kind)
    marks = {mark for judgement in judgements.values() for mark in judgement.marks}
    return record.model_copy(
        update={
            "interval": interval,
            "binding": binding,
            "shape": shape,
            "shape_text": shape_text,
            "verdict": verdict_of(interval),
            "sentence": describe(interval, kind, binding, shape_text),
            # How one level ended says nothing of the others.
            "marks": tuple(mark for mark in sorted(marks) if mark not in _OF_ONE_LEVEL),
        }
    )


def _why_ended(settings: SearchSettings, record: CapacityRecord) -> str:
    interval = record.interval
    if len(record.levels) >= settings.levels_max:
        return f"the most levels, {settings.levels_max}, were tried"
    if interval.feasible is None:
        return "no lower level is left"
    if interval.infeasible is None and interval.invalid is None:
        return f"{load_text(settings.kind, settings.most)} is the most that was asked for"
    return f"the interval is as narrow as asked ({settings.precision:.3g}) or as its undecided levels allow"


def _with_limits(level: LevelResult, options: SizingOptions) -> LevelResult:
    update = {}
    if options.requests_per_min is not None:
        update["requests_per_min_allowed"] = options.requests_per_min
    if options.tokens_per_min is not None:
        update["tokens_per_min_allowed"] = options.tokens_per_min
    return level.model_copy(update=update)


def _options(options: Options) -> dict[str, str]:
    """What of the options makes a level what it is, as text; headers stay out, for they may be secrets."""
    said = {
        "profile": options.profile,
        "seed": str(options.seed),
        "real": str(options.real),
        "think time": "" if options.think_time_s is None else f"{options.think_time_s:g}",
        "output tokens": "" if options.output_tokens is None else str(options.output_tokens),
        "input tokens": "" if options.input_tokens is None else str(options.input_tokens),
        "run time": "" if options.run_time_s is None else f"{options.run_time_s:g}",
        "arrivals": options.arrivals or "",
        "attach": options.attach or "",
        "model": options.model,
        "dataset": str(options.dataset or ""),
        "calibration": options.calibration or "",
        "faults": options.faults,
        "until decided": "yes" if options.stopping.until_decided else "",
    }
    return {name: text for name, text in said.items() if text}
