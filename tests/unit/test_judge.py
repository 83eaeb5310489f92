"""Whole run directories, each with a known answer: verdict, reasons, marks and the numbers beside them."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import load_catalog
from harness.errors import RunDirectoryError
from harness.judge import floor_failure_judgement, judge, read_judgement, write_judgement
from harness.judgement import ClaimAudit, CostSummary, Judgement, Mark, Verdict
from harness.manifest import Manifest
from harness.records import GpuFacts, Look, Outcome, Sample, ServerFacts
from harness.runlog import JUDGEMENT, SAMPLES_LIVE, RunWriter
from tests.runs import (
    MONOTONIC,
    WALL,
    WORKER,
    Loop,
    big_table,
    failed,
    load,
    loop_run,
    sample,
    scenario,
    shifted,
    stack,
    unfinished,
    write_run,
)

FAST = Loop()
SLOW = Loop(answer=lambda rng, now: 1 + 2 * rng.random())
BROKEN = Loop(answer=lambda rng, now: None)
EDGE = Loop(answer=lambda rng, now: 3.0 if rng.random() < 0.05 else 0.5)
DRIFTING = Loop(answer=lambda rng, now: 0.3 if now < 55 else 0.5)
LOOKS = tuple(Look(at_s=at, taken=True) for at in (30.0, 50.0, 70.0))


def judged(directory: Path, loop: Loop = FAST, **changes: Any) -> Judgement:
    loop_run(directory / "run", loop, **changes)
    return judge(directory / "run")


def test_pass(tmp_path: Path) -> None:
    judgement = judged(tmp_path)
    assert judgement.verdict is Verdict.PASS
    assert judgement.sentence.startswith("PASS: p95(e2e) is 1.44 s, the limit is 2 s; 0% of 912 requests violate it")
    assert judgement.marks == ()
    assert judgement.window == (10.0, 100.0)
    assert judgement.slo_attainment == 1.0
    assert judgement.goodput_rps == judgement.load.throughput_rps
    assert judgement.load.judged == 912
    assert judgement.load.little_holds
    assert (judgement.load.tokens_got_mean, judgement.load.token_source) == (11.0, "usage")
    assert judgement.worst_prompts == ()
    assert [entry.outcome for entry in judgement.outcomes] == ["ok"]
    assert [spread.metric for spread in judgement.distributions] == ["e2e", "ttft", "tpot", "itl"]
    assert {curve.metric for curve in judgement.curves} == {"e2e", "ttft", "tpot", "itl"}
    assert judgement.timeline
    assert any("as the independent requests that they are worth" in note for note in judgement.notes)
    assert judgement.checks[0].value == next(s.p95 for s in judgement.distributions if s.metric == "e2e")


def test_fail(tmp_path: Path) -> None:
    judgement = judged(tmp_path, SLOW)
    assert judgement.verdict is Verdict.FAIL
    assert judgement.sentence == (
        "FAIL: p95(e2e) is 2.85 s, the limit is 2 s; 51.8% of 629 requests violate it and at most 5% may."
    )
    assert sum(each.violations for each in judgement.worst_prompts) <= 326
    assert len(judgement.worst_prompts) == 10
    worst = [each.violations for each in judgement.worst_prompts]
    assert worst == sorted(worst, reverse=True)


def test_all_failures(tmp_path: Path) -> None:
    judgement = judged(tmp_path, BROKEN)
    assert judgement.verdict is Verdict.FAIL
    assert "infinite" in judgement.sentence
    assert judgement.slo_attainment == judgement.goodput_rps == 0.0
    assert judgement.outcomes[0].examples == ("http_error",)
    assert judgement.distributions[0].failures == judgement.distributions[0].samples
    write_judgement(tmp_path, judgement)
    assert read_judgement(tmp_path) == judgement


def test_inconclusive(tmp_path: Path) -> None:
    judgement = judged(tmp_path, EDGE)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "more requests would decide at the rate seen" in judgement.sentence


def test_one_user_too_short(tmp_path: Path) -> None:
    judgement = judged(tmp_path, Loop(users=1))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.load.users_implied == pytest.approx(1.0)
    assert any(check.more_samples for check in judgement.checks)


def test_drift_takes_a_pass_away_and_nothing_else(tmp_path: Path) -> None:
    drifting = judged(tmp_path / "a", DRIFTING)
    assert drifting.verdict is Verdict.INCONCLUSIVE
    assert drifting.sentence.startswith("INCONCLUSIVE: drift: the median e2e grew from 0.3 s")
    assert all(check.verdict is Verdict.PASS for check in drifting.checks)
    failing = judged(tmp_path / "b", replace(DRIFTING, answer=lambda rng, now: 3.0 if now < 55 else 6.0))
    assert failing.verdict is Verdict.FAIL
    recovering = judged(tmp_path / "c", replace(DRIFTING, answer=lambda rng, now: 0.5 if now < 55 else 0.3))
    assert recovering.verdict is Verdict.PASS


def test_the_order_of_samples_changes_nothing(tmp_path: Path) -> None:
    samples = EDGE.samples()
    spec, facts = scenario(users=20), load(users_asked=20, users_reached=20)
    write_run(tmp_path / "a", samples, spec, facts)
    random.Random(3).shuffle(samples)
    write_run(tmp_path / "b", samples, spec, facts)
    a, b = judge(tmp_path / "a"), judge(tmp_path / "b")
    same = {"provenance", "outcomes", "load", "timeline", "distributions"}
    assert a.model_dump(exclude=same) == b.model_dump(exclude=same)
    assert a.load.judged == b.load.judged
    assert a.load.users_implied == pytest.approx(b.load.users_implied)


# What the server does is a result ------------------------------------------------------------


def test_a_server_that_died_fails(tmp_path: Path) -> None:
    server = ServerFacts(died=True, exit_code=-9, log_tail=("loading", "CUDA out of memory.", ""))
    judgement = judged(tmp_path / "a", server=server)
    assert judgement.sentence == (
        "FAIL: the server ran out of memory during the run and was killed by SIGKILL; its log says: CUDA out of memory."
    )
    assert judgement.server_log_tail == server.log_tail
    facts = load(started_s=None, judged_until_s=None, users_reached=0, complete=False, ended_by="server died")
    write_run(tmp_path / "b", [], scenario(), facts, server=server)
    assert judge(tmp_path / "b").verdict is Verdict.FAIL


def test_requests_that_never_end_fail(tmp_path: Path) -> None:
    samples = [unfinished(float(user), 103.0 - user, user=user) for user in range(20)]
    write_run(tmp_path, samples, scenario(users=20), load(users_asked=20, users_reached=20))
    judgement = judge(tmp_path)
    assert judgement.verdict is Verdict.FAIL
    assert judgement.load.users_implied == pytest.approx(20, abs=0.2)
    assert judgement.distributions[0].failures == 20


# Runs that were not whole --------------------------------------------------------------------


def cut(loop: Loop, at: float) -> list[Sample]:
    """The samples as they are when everything in flight is given up at ``at``."""
    found = []
    for each in loop.samples():
        start, end = each.sent_s - MONOTONIC, each.end_s - MONOTONIC
        if start < at:
            known = {"user": each.user, "sequence": each.sequence, "prompt_id": each.prompt_id}
            found.append(each if end <= at else unfinished(start, at - start, **known))
    return found


def test_cut_off_runs(tmp_path: Path) -> None:
    facts = load(
        users_asked=20, users_reached=20, judged_until_s=WALL + 50, stopped_issuing_s=WALL + 50, drained_s=WALL + 50,
        complete=False, ended_by="interrupted",
    )  # fmt: skip
    write_run(tmp_path / "fast", cut(FAST, 50.0), scenario(users=20), facts)
    fast = judge(tmp_path / "fast")
    assert fast.marks == (Mark.CUT_OFF,)
    assert fast.verdict is Verdict.INCONCLUSIVE  # error_rate < 1 %: some ten unfinished could all be errors
    assert fast.checks[0].verdict is Verdict.PASS  # p95: it would pass if each of them were a violation
    assert fast.window == pytest.approx((10.0, 50.0))
    assert any("were not over when the run ended" in note for note in fast.notes)
    write_run(tmp_path / "slow", cut(SLOW, 50.0), scenario(users=20), facts)
    assert judge(tmp_path / "slow").verdict is Verdict.FAIL


def test_killed_runs(tmp_path: Path) -> None:
    facts = load(
        users_asked=20, users_reached=0, judged_until_s=None, stopped_issuing_s=None, drained_s=None, complete=False,
        ended_by="",
    )  # fmt: skip
    hello = WORKER.model_copy(update={"samples_sent": None})
    for name, loop in {"fast": FAST, "slow": SLOW}.items():
        ended = [each for each in loop.samples() if each.end_s < MONOTONIC + 60]
        ended.sort(key=lambda each: each.end_s)
        write_run(tmp_path / name, ended, scenario(users=20), facts, seal=False, workers=(hello,))
        live = tmp_path / name / SAMPLES_LIVE
        live.write_bytes(live.read_bytes()[:-40])
    fast, slow = judge(tmp_path / "fast"), judge(tmp_path / "slow")
    assert slow.verdict is Verdict.FAIL
    assert fast.verdict is Verdict.INCONCLUSIVE
    assert "the run was killed" in fast.checks[0].reason
    assert fast.marks == slow.marks == (Mark.CUT_OFF,)


def test_stopped_at_fail(tmp_path: Path) -> None:
    looks = (LOOKS[0], LOOKS[1].model_copy(update={"failed": True}), LOOKS[2].model_copy(update={"taken": False}))
    facts = load(
        users_asked=20, users_reached=20, judged_until_s=WALL + 48, stopped_issuing_s=WALL + 50, drained_s=WALL + 53,
        looks=looks, ended_by="fail decided",
    )  # fmt: skip
    for name, loop in {"fast": FAST, "slow": SLOW}.items():
        write_run(tmp_path / name, cut(loop, 53.0), scenario(users=20), facts)
    slow, fast = judge(tmp_path / "slow"), judge(tmp_path / "fast")
    assert (slow.verdict, slow.marks) == (Verdict.FAIL, (Mark.EARLY_STOP,))
    assert slow.window == pytest.approx((10.0, 48.0))
    assert fast.verdict is Verdict.INCONCLUSIVE
    assert "only a whole run can PASS" in fast.sentence


def test_looks_share_the_chance_of_a_wrong_fail_and_leave_pass_alone(tmp_path: Path) -> None:
    spread = [True] * 69 + [False] * 931
    random.Random(1).shuffle(spread)
    near = [sample(12.0 + index / 12, 3.0 if slow else 1.0, user=index) for index, slow in enumerate(spread)]
    spec, facts = scenario("p95(e2e) < 2 s", users=1000), load(loop="open", users_asked=1000)
    write_run(tmp_path / "a", near, spec, facts)
    write_run(tmp_path / "b", near, spec, facts.model_copy(update={"looks": LOOKS}))
    assert judge(tmp_path / "a").verdict is Verdict.FAIL
    looked = judge(tmp_path / "b")
    assert looked.verdict is Verdict.INCONCLUSIVE
    assert "but 1 check and 4 looks share the 5% chance of a wrong FAIL" in looked.sentence
    passed = judged(tmp_path / "c", load=load(users_asked=20, users_reached=20, looks=LOOKS))
    assert passed.verdict is Verdict.PASS


# Everything else -----------------------------------------------------------------------------


def test_open_loop(tmp_path: Path) -> None:
    samples = [sample(t / 10, 0.5, user=t, scheduled_s=MONOTONIC + t / 10 - 0.01) for t in range(1020)]
    spec = scenario("p95(response_time) < 2 s", "throughput > 9.9 req/s")
    write_run(tmp_path, samples, spec, load(loop="open"))
    judgement = judge(tmp_path)
    assert judgement.verdict is Verdict.PASS
    assert judgement.checks[0].value == pytest.approx(0.51)
    assert judgement.load.little_holds is None
    assert "response_time" in {spread.metric for spread in judgement.distributions}


def test_two_workers_on_two_clocks(tmp_path: Path) -> None:
    samples = FAST.samples()
    ours = [each for each in samples if each.user % 2]
    theirs = shifted([each for each in samples if not each.user % 2], 1e6, worker=1)
    there = WORKER.model_copy(
        update={"worker": 1, "anchor_monotonic_s": MONOTONIC + 1e6, "anchor_wall_s": WALL - 7, "clock_offset_s": -7.0}
    )
    workers = tuple(w.model_copy(update={"samples_sent": n}) for w, n in ((WORKER, len(ours)), (there, len(theirs))))
    facts = load(users_asked=20, users_reached=20)
    write_run(tmp_path / "two", ours + theirs, scenario(users=20), facts, workers=workers)
    write_run(tmp_path / "one", samples, scenario(users=20), facts)
    one, two = judge(tmp_path / "one"), judge(tmp_path / "two")
    assert one.load.judged == two.load.judged
    assert two.verdict is Verdict.PASS
    assert two.load.users_implied == pytest.approx(20)
    off = tuple(w.model_copy(update={"clock_offset_s": 0.0}) for w in workers)
    write_run(tmp_path / "off", ours + theirs, scenario(users=20), facts, workers=off)
    assert judge(tmp_path / "off").load.judged != one.load.judged


def test_another_gpu_is_marked_and_compared_with_neither_claim_nor_price(tmp_path: Path) -> None:
    catalog = load_catalog()
    stack, spec = catalog.stack("vllm-7b-t4"), scenario(users=20)
    claim = stack.claims["chatbot"]
    stack = stack.model_copy(update={"claims": {spec.name: claim}})
    own = judged(tmp_path / "own", spec=spec, stack=stack, gpu=catalog.gpus["t4"])
    assert own.claim is not None
    assert own.cost is not None
    facts = (GpuFacts(index=1, name="NVIDIA H200", memory_gib=139.8, driver="570.1", compute_capability=9.0),)
    h200 = {"gpu": catalog.gpus["h200"], "other_gpu": "1 x NVIDIA H200", "gpu_facts": facts}
    other = judged(tmp_path / "other", spec=spec, stack=stack, **h200)
    assert other.marks == (*own.marks, Mark.OTHER_GPU)
    assert (other.claim, other.cost) == (None, None)
    assert any("it ran on 1 x NVIDIA H200 in place of t4" in note for note in other.notes)
    assert other.server["GPUs"] == "NVIDIA H200, 139.8 GiB, compute capability 9.0, driver 570.1"


def test_marks(tmp_path: Path) -> None:
    spec = scenario(users=20, output_length="forced")
    server = ServerFacts(emulated=True, calibration="claims")
    judgement = judged(tmp_path, spec=spec, server=server, reduced=True)
    assert set(judgement.marks) == {Mark.EMULATED, Mark.CLAIM_REPLAYED, Mark.REDUCED, Mark.FORCED_LENGTH}
    assert judgement.quality_note.startswith("NOT MEASURED")


def test_claim_and_cost_are_filled_in(tmp_path: Path) -> None:
    catalog = load_catalog()
    built, chat = catalog.stack("vllm-7b-t4"), catalog.scenario("chatbot")
    spec = chat.model_copy(update={"users": 20})
    judgement = judged(tmp_path, spec=spec, stack=built, gpu=catalog.gpu_of(built))
    assert judgement.claim is not None
    assert judgement.claim.feasible is False
    assert judgement.claim.measured_p50_s == judgement.distributions[0].p50
    assert judgement.claim.measured_tokens == 11.0
    assert judgement.cost is not None
    assert judgement.cost.usd_per_query is not None
    assert judgement.quality_word == "sufficient"
    given = judge(tmp_path / "run", claim=ClaimAudit(scenario="s", stack="t"), cost=CostSummary(source="given"))
    assert given.claim == ClaimAudit(scenario="s", stack="t")
    assert given.cost == CostSummary(source="given")


def test_outcomes(tmp_path: Path) -> None:
    samples = [
        *(sample(20.0) for _ in range(50)),
        *(failed(20.0, outcome=Outcome.TIMEOUT, error=f"no token after {n % 5} s") for n in range(30)),
        failed(20.0, outcome=Outcome.RESET, error=""),
    ]
    write_run(tmp_path, samples, scenario(), load(loop="open"))
    found = {entry.outcome: entry for entry in judge(tmp_path).outcomes}
    assert {name: entry.count for name, entry in found.items()} == {"ok": 50, "timeout": 30, "reset": 1}
    assert len(found["timeout"].examples) == 3
    assert found["reset"].examples == ()
    assert sum(entry.share for entry in found.values()) == pytest.approx(1)


def test_chunks_of_several_tokens_are_disclosed(tmp_path: Path) -> None:
    write_run(tmp_path, [sample(20.0, output_tokens=40, chunks=10)] * 100, scenario(), load(loop="open"))
    assert any("a content chunk carries 4 tokens" in note for note in judge(tmp_path).notes)


def test_floor_failure(tmp_path: Path) -> None:
    catalog = load_catalog()
    built = catalog.stack("vllm-7b-t4")
    manifest = Manifest(
        run="r", profile="quick", scenario=catalog.scenario("content"), stack=built, gpu=catalog.gpu_of(built),
        load=load(complete=False, started_s=None),
    )  # fmt: skip
    judgement = floor_failure_judgement(manifest, "does not fit: 26 GB of weights in 14 GB.")
    assert judgement.verdict is Verdict.FAIL
    assert judgement.sentence == "FAIL: does not fit: 26 GB of weights in 14 GB."
    assert Mark.CUT_OFF not in judgement.marks
    assert judgement.claim is not None
    write_judgement(tmp_path, judgement)
    assert read_judgement(tmp_path) == judgement


def test_judgements_on_disk(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="was not judged yet; run: harness judge"):
        read_judgement(tmp_path)
    (tmp_path / JUDGEMENT).write_text("{}", encoding="utf-8")
    with pytest.raises(RunDirectoryError, match="damaged or of another version"):
        read_judgement(tmp_path)
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        judge(tmp_path)


def test_judging_needs_no_gevent_and_looks_need_no_scipy_stats() -> None:
    code = (
        "import sys, {}; print([name for name in ('gevent', 'locust', 'scipy.stats', 'pandas') if name in sys.modules])"
    )
    for module in ("harness.judge", "harness.sla"):
        done = subprocess.run([sys.executable, "-c", code.format(module)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_million_samples_in_a_gigabyte(tmp_path: Path) -> None:
    rows = 1_000_000
    writer = RunWriter(tmp_path)
    writer.open_samples()
    for batch in big_table(rows, gaps=20).to_batches(max_chunksize=20_000):
        writer.append(batch)
    spec = scenario("p95(e2e) < 2 s", "p95(itl) < 60 ms", "error_rate < 1 %", "goodput > 1 req/s", users=1000)
    workers = (WORKER.model_copy(update={"samples_sent": rows}),)
    facts = load(loop="open", samples_written=rows, arrivals_scheduled=rows, arrivals_due=rows)
    writer.seal(Manifest(run="r", profile="full", scenario=spec, stack=stack(), load=facts, workers=workers))
    code = (
        "import resource, sys; from pathlib import Path; from harness.judge import judge;"
        "print(judge(Path(sys.argv[1])).verdict, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    verdict, peak_kib = done.stdout.split()
    assert verdict == "PASS"
    assert int(peak_kib) * 1024 < 1.1e9
