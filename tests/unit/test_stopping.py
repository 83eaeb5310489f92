"""When a run may end early: what a look decides, that the judge of the sealed run agrees, and what it says of it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.capacity import level_confidence
from harness.catalog import load_catalog
from harness.errors import SpecError, UsageError
from harness.judge import judge
from harness.judgement import Mark, Verdict
from harness.manifest import Manifest
from harness.matrix import Options, build_cells
from harness.metrics import read_requests
from harness.nightly.plan import plan_night
from harness.nightly.spec import load_nightly
from harness.records import LoadFacts, Look, Outcome, Sample, ServerFacts
from harness.schedule import abort_times_s, decision_times_s
from harness.stopping import Stopping, spared_by, stopping_from
from harness.verdict import terms_of
from harness.watch import deciding
from harness.watch.channel import LookAsked
from harness.watch.deciding import decide, left_to_the_end
from tests import runs
from tests.runs import MONOTONIC, WALL, Loop

LATE_S = 0.07
"""How much later than its moment a survey reaches the workers."""
FAST = Loop(users=100)
BAD = Loop(users=100, answer=lambda rng, now: 3.0 if rng.random() < 0.5 else 0.5)
BROKEN = Loop(users=100, answer=lambda rng, now: None if rng.random() < 0.5 else 0.5)
EDGE = Loop(users=400, answer=lambda rng, now: 3.0 if rng.random() < 0.05 else 0.5)


OPTIONS = Options(scenarios=("chatbot",), stacks=("vllm-7b-int8-a100",), stopping=Stopping(until_decided=True))
NIGHT = """
kind: nightly
name: one
matrix:
  - {scenarios: [chatbot], stacks: [vllm-7b-int8-a100], variants: [quickly]}
variants:
  quickly: {until_decided: true, min_time_s: 20, abort_on: ["error_rate > 20%"]}
"""


def manifest_of(load: LoadFacts, *sla: str, users: int = 100) -> Manifest:
    facts = {"run": "r", "profile": "quick", "scenario": runs.scenario(*sla, users=users), "stack": runs.stack()}
    return Manifest.model_validate({**facts, "load": load, "workers": (runs.WORKER,)})


def deciding_load(users: int = 100, **changes: object) -> LoadFacts:
    facts = {"users_asked": users, "users_reached": users, "until_decided": True}
    facts |= {"looks": tuple(Look(at_s=at) for at in (30.0, 45.0, 67.5))}
    return runs.load(**{**facts, **changes})


def as_surveyed(samples: Sequence[Sample], at_s: float) -> list[Sample]:
    """What is known a little after a look: what ended until then, and what is in flight."""
    seen_s = MONOTONIC + at_s + LATE_S
    found = [each for each in samples if each.end_s <= seen_s]
    for each in samples:
        if each.sent_s < seen_s < each.end_s:
            begun = {} if each.first_token_s <= seen_s else {"first_token_s": math.nan, "last_token_s": math.nan}
            found.append(replace(each, end_s=seen_s, outcome=Outcome.IN_FLIGHT, gaps_us=(), **begun))
    return found


def looked(manifest: Manifest, samples: Sequence[Sample], at_s: float, *, hopeless: bool = False) -> object:
    table = runs.table(as_surveyed(samples, at_s))
    until_s = WALL + (at_s if hopeless else at_s - 2.0)
    asked = LookAsked(
        number=1, at_s=at_s, judged_until_s=until_s, samples=table.num_rows, workers=(runs.WORKER,), hopeless=hopeless
    )
    return decide(manifest, table, asked)


def sealed(directory: Path, loop: Loop, load: LoadFacts, at_s: float, **changes: object) -> None:
    """The run as it ends at a moment, with everything drained that was under way."""
    samples = [each for each in loop.samples() if each.sent_s < MONOTONIC + at_s + 1.0]
    facts = {"judged_until_s": WALL + at_s - 2.0, "stopped_issuing_s": WALL + at_s + 1.0, "drained_s": WALL + at_s + 5}
    load = load.model_copy(update={**facts, **changes})
    runs.write_run(directory, samples, runs.scenario(users=loop.users), load)


@pytest.mark.parametrize(("loop", "decided", "verdict"), [(FAST, "pass", Verdict.PASS), (BAD, "fail", Verdict.FAIL)])
def test_the_judge_agrees_with_the_look(tmp_path: Path, loop: Loop, decided: str, verdict: Verdict) -> None:
    load = deciding_load()
    answer = looked(manifest_of(load), loop.samples(), 30.0)
    assert answer.decided == decided
    looks = (load.looks[0].with_answer(answer.decided), *load.looks[1:])
    ended_by = {"pass": "decided", "fail": "fail decided"}[decided]
    sealed(tmp_path, loop, load, 30.0, looks=looks, ended_by=ended_by)
    found = judge(tmp_path)
    assert (found.verdict, found.marks) == (verdict, (Mark.DECIDED,))
    assert found.window == pytest.approx((10.0, 28.0))
    # four looks, the end included, have 5% together
    assert {check.confidence for check in found.checks} == {0.9875}
    assert "fixed before the first look" in found.warm_up_note
    assert any("4 looks, fixed beforehand at 30, 45, 67.5, 100 s" in note for note in found.notes)
    assert any("ended after 31 s of 102 s" in note for note in found.notes)


def test_they_agree_wherever_a_look_falls(tmp_path: Path) -> None:
    """Near the limit, at moments at which requests are under way: the same checks, to the last digit."""
    loop = Loop(users=60, answer=lambda rng, now: 4.0 if rng.random() < 0.025 else rng.uniform(0.1, 1.9))
    samples, verdicts = loop.samples(), set()
    for at_s in (21.0, 27.3, 34.1, 45.9, 60.2, 88.8):
        load = deciding_load(users=60, looks=(Look(at_s=at_s),))
        answer = looked(manifest_of(load, users=60), samples, at_s)
        verdicts.add(answer.decided)
        if answer.decided in ("pass", "at limit"):
            directory = tmp_path / f"{at_s}"
            sealed(directory, loop, load, at_s, looks=(load.looks[0].with_answer(answer.decided),), ended_by="decided")
            assert judge(directory).verdict is {"pass": Verdict.PASS, "at limit": Verdict.INCONCLUSIVE}[answer.decided]
    assert verdicts == {"", "pass"}


def test_requests_stand_as_they_stood() -> None:
    samples = FAST.samples()
    whole = read_requests(runs.table(samples), [runs.WORKER], runs.load(), 40.0)
    seen = read_requests(runs.table(as_surveyed(samples, 40.0)), [runs.WORKER], runs.load(), 40.0)
    then = whole.begin_s < 40.0

    def rows(requests: object, which: object) -> list[tuple[float, ...]]:
        names = ("e2e", "ttft")
        columns = [requests.issued_s, requests.end_s, requests.ok, *(requests.values[name] for name in names)]
        return sorted(zip(*(column[which].tolist() for column in columns), strict=True))

    assert rows(seen, seen.begin_s < 40.0) == rows(whole, then)
    assert (whole.unfinished & then).sum() == sum(each.sent_s < MONOTONIC + 40.0 < each.end_s for each in samples)


def test_at_the_limit(tmp_path: Path) -> None:
    """An interval within a fifth of the limit on both sides: neither verdict would come in any reasonable time."""
    samples = EDGE.samples()
    at_s = 98.0
    load = deciding_load(users=400, looks=(Look(at_s=at_s),))
    answer = looked(manifest_of(load, "p95(e2e) < 2 s", users=400), samples, at_s)
    assert answer.decided == "at limit"
    directory = tmp_path / "run"
    facts = {"judged_until_s": WALL + at_s - 2.0, "stopped_issuing_s": WALL + at_s + 1, "drained_s": WALL + at_s + 5}
    looks = (load.looks[0].with_answer("at limit"),)
    facts |= {"looks": looks, "ended_by": "decided"}
    mine = [each for each in samples if each.sent_s < MONOTONIC + at_s + 1.0]
    runs.write_run(directory, mine, runs.scenario("p95(e2e) < 2 s", users=400), load.model_copy(update=facts))
    found = judge(directory)
    assert (found.verdict, found.marks) == (Verdict.INCONCLUSIVE, (Mark.DECIDED,))
    assert "at the limit: at least " in found.sentence
    assert "each with 97.5% confidence, which is within 20% of what is allowed" in found.sentence


def test_without_until_decided_only_fail_ends_a_run() -> None:
    load = runs.load(users_asked=100, looks=tuple(Look(at_s=at) for at in (30.0, 50.0, 70.0)))
    assert looked(manifest_of(load), FAST.samples(), 30.0).decided == ""
    assert looked(manifest_of(load), BAD.samples(), 30.0).decided == "fail"


def test_gaps_and_scores_wait_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps keep a run going that does not FAIL; scores come afterwards, and only need answers enough."""
    sla = ("p95(e2e) < 2 s", "p95(itl) < 1 s")
    manifest = manifest_of(deciding_load(), *sla)
    assert [each.metric for each in left_to_the_end(manifest)] == ["itl"]
    assert looked(manifest, FAST.samples(), 30.0).decided == ""
    assert looked(manifest, BAD.samples(), 30.0).decided == "fail"
    scored = runs.scenario("p95(e2e) < 2 s", "quality(chrf) > 0.4", users=100)
    workload = scored.workload.model_copy(update={"kind": "dataset", "data": "x.jsonl"})
    real = manifest.model_copy(update={"scenario": scored.model_copy(update={"workload": workload})})
    assert [each.metric for each in left_to_the_end(real)] == ["chrf"]
    assert looked(real, FAST.samples(), 30.0).decided == "pass"
    assert looked(real, BAD.samples(), 30.0).decided == "fail"
    monkeypatch.setattr(deciding, "FEWEST_ANSWERS", 10**6)
    assert looked(real, FAST.samples(), 30.0).decided == ""
    played = real.model_copy(update={"server": ServerFacts(emulated=True)})
    assert left_to_the_end(played) == []
    assert looked(played, FAST.samples(), 30.0).decided == "pass"


# Hopeless runs ------------------------------------------------------------------------------------


def test_what_a_run_can_be_aborted_on() -> None:
    kept = spared_by("error_rate > 20%")
    assert (kept.metric, kept.limit, kept.comparison) == ("error_rate", 0.2, "<=")
    assert spared_by("p95(e2e) >= 30 s").comparison == "<"
    for wrong, told in {
        "error_rate < 20%": "no condition to abort on",
        "error_rate > 120%": "up to 100 %",
        "mean(e2e) > 3 s": "a percentile of e2e",
        "p95(itl) > 1 s": "a percentile of e2e",
        "throughput > 3 /s": "no condition to abort on",
    }.items():
        with pytest.raises(UsageError, match="--abort-on") as refused:
            stopping_from(until_decided=False, min_time_s=None, abort_on=[wrong])
        assert told in str(refused.value)


def test_hopeless_is_shown_by_a_bound() -> None:
    load = runs.load(users_asked=100, abort_on=("error_rate > 20%",), abort_looks=17)
    manifest = manifest_of(load)
    shown = looked(manifest, BROKEN.samples(), 30.0, hopeless=True).aborted_on
    assert shown.startswith("error_rate > 20%: error_rate is 5")
    few = [runs.failed(10.0 + place, user=place) for place in range(3)]
    assert looked(manifest, few, 30.0, hopeless=True).aborted_on == ""
    assert looked(manifest, FAST.samples(), 30.0, hopeless=True).aborted_on == ""


@pytest.mark.parametrize(("loop", "verdict"), [(BROKEN, Verdict.FAIL), (FAST, Verdict.INCONCLUSIVE)])
def test_an_aborted_run_never_passes(tmp_path: Path, loop: Loop, verdict: Verdict) -> None:
    load = runs.load(users_asked=100, users_reached=100, abort_on=("error_rate > 20%",), abort_looks=17)
    changes = {"aborted_on": "error_rate > 20%: shown", "ended_by": "aborted", "complete": False}
    sealed(tmp_path, loop, load, 30.0, **changes)
    found = judge(tmp_path)
    assert (found.verdict, found.marks) == (verdict, (Mark.ABORTED,))
    assert "the run was aborted on error_rate > 20%: shown" in found.reasons
    if verdict is Verdict.INCONCLUSIVE:
        assert found.sentence == "INCONCLUSIVE: the run was aborted on error_rate > 20%: shown."


def test_what_each_moment_is_worth() -> None:
    """Looks share alpha; the moments at which a run could be aborted have one more part, together."""
    three = tuple(Look(at_s=at) for at in (30.0, 45.0, 67.5))
    fail_only = terms_of(manifest_of(runs.load(looks=three, abort_on=("error_rate > 20%",), abort_looks=10)), 0)
    assert (fail_only.confidence, fail_only.looks) == (0.95, 5)
    both = runs.load(looks=three, until_decided=True, abort_on=("error_rate > 20%",), abort_looks=10)
    assert terms_of(manifest_of(both), 0).alpha == pytest.approx(0.01)
    aborted = terms_of(manifest_of(both.model_copy(update={"aborted_on": "x"})), 0)
    assert aborted.fail_alpha(1) == pytest.approx(0.001)
    assert aborted.no_pass


# Moments and options ------------------------------------------------------------------------------


def test_looks_grow_by_a_half_and_are_six_at_most() -> None:
    assert decision_times_s(80.0, 60.0, 660.0, 0.5) == [80.0, 120.0, 180.0, 270.0, 405.0]
    assert decision_times_s(None, 10.0, 100.0, 2.0) == [22.0, 33.0, 49.5, 74.25]
    assert decision_times_s(95.0, 10.0, 100.0, 2.0) == []
    rng = random.Random(4)
    for _ in range(200):
        warm_up_s, limit_s = rng.uniform(0, 60), rng.uniform(0.1, 10)
        run_time_s = warm_up_s + rng.uniform(1, 2000)
        times = decision_times_s(rng.choice([None, rng.uniform(1, run_time_s)]), warm_up_s, run_time_s, limit_s)
        assert len(times) <= 5
        assert all(warm_up_s + limit_s < at <= 0.9 * run_time_s for at in times)


def test_abort_is_looked_for_between_warm_up_and_end() -> None:
    assert abort_times_s(10.0, 31.0) == [15.0, 20.0, 25.0, 30.0]
    assert abort_times_s(10.0, 12.0) == []


def test_the_options_reach_cell_manifest_and_command() -> None:
    stopping = Stopping(until_decided=True, min_time_s=30.0, abort_on=("error_rate > 20%",))
    options = Options(scenarios=("chatbot",), stacks=("vllm-7b-int8-a100",), stopping=stopping)
    (cell,) = build_cells(load_catalog(), options)
    assert cell.looks == (30.0, 45.0, 67.5)
    load = cell.manifest().load
    assert (load.until_decided, load.abort_on, load.abort_looks) == (True, ("error_rate > 20%",), 17)
    assert "--until-decided --min-time 30 --abort-on 'error_rate > 20%'" in cell.command
    with pytest.raises(UsageError, match="give both"):
        build_cells(load_catalog(), replace(options, stopping=Stopping(min_time_s=30.0)))
    for wrong in (5.0, 100.0):
        late = stopping.model_copy(update={"min_time_s": wrong})
        with pytest.raises(UsageError, match="--min-time must lie between"):
            build_cells(load_catalog(), replace(options, stopping=late))


def test_a_nights_variant_and_a_capacity_search_take_them_too(tmp_path: Path) -> None:
    (tmp_path / "night.yaml").write_text(NIGHT)
    (cell,) = plan_night(load_nightly(tmp_path / "night.yaml"), tmp_path).cells
    assert " ".join(cell.arguments).count("--until-decided --min-time 20 --abort-on error_rate > 20%") == 1
    (tmp_path / "night.yaml").write_text(NIGHT.replace("> 20%", "< 20%"))
    with pytest.raises(SpecError, match="no condition to abort on"):
        plan_night(load_nightly(tmp_path / "night.yaml"), tmp_path)


def test_a_level_of_a_search_splits_its_own_share_again() -> None:
    (cell,) = build_cells(load_catalog(), OPTIONS)
    level = cell.model_copy(update={"confidence": level_confidence(0.95, 12)}).manifest()
    looks = tuple(Look(at_s=at) for at in cell.looks)
    terms = terms_of(level.model_copy(update={"load": level.load.model_copy(update={"looks": looks})}), 0)
    assert terms.alpha == pytest.approx(0.05 / 12 / (len(cell.looks) + 1), abs=1e-6)
    assert terms.alpha <= 0.05 / 12 / (len(cell.looks) + 1)
