"""Searches on an API whose capacity is its account's limit a minute, and which is paid by the token.

The server admits 20 requests a second and no burst, so a constant rate of r is refused for 1 - 20 / r of its requests:
none at 16 and 19.6, and 17% at 24, where 5% may.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.capacity_log import read_capacity
from harness.capacity_record import CapacityRecord
from harness.errors import ExitCode
from harness.judgement import Verdict
from tests.e2e.paid_api import KEY, Api, api
from tests.e2e.processes import HARNESS, Ended, assert_no_trace, harness, started

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SEARCH_S = 400.0
LIMIT_RPS = 20
TOKENS = 10
TOKENS_PER_MIN = 33_600
"""The same 20 requests a second, of the 28 tokens that one counts here."""
DESK = f"""
kind: scenario
name: desk
title: A desk
users: 100
think_time: {{distribution: constant, mean_s: 1, reason: a test}}
sla: [p95(e2e) < 1 s, error_rate < 5 %]
sla_reason: a test
cost_sensitivity: medium
quality_need: medium
workload: {{kind: synthetic, input_tokens: 8, output_tokens: {TOKENS}, output_length: forced}}
stacks: [like-api]
"""


def words(like: Api, folder: Path, *more: str) -> list[str | Path]:
    desk = folder / "desk.yaml"
    desk.write_text(DESK, encoding="utf-8")
    command: list[str | Path] = ["capacity", "desk", "--stack", "like-api", "--real", "--catalog", like.catalog]
    command += ["--catalog", desk, "--rate", "--arrivals", "constant", "--start", "16", "--rate-max", "24"]
    return [
        *command,
        "--levels-max",
        "4",
        "--precision",
        "0.25",
        "--run-time",
        "12",
        "--run-dir",
        folder / "search",
        *more,
    ]


def searched(like: Api, folder: Path, *more: str) -> tuple[Ended, CapacityRecord]:
    with started([*HARNESS, *words(like, folder, *more)], folder / "harness", {"LIKE_KEY": KEY}) as search:
        ended = search.end(SEARCH_S)
    assert_no_trace(ended.out, ended.err)
    return ended, read_capacity(folder / "search")


def test_the_capacity_is_the_accounts_limit(tmp_path: Path) -> None:
    with api(tmp_path, "--rpm", str(60 * LIMIT_RPS), "--burst-s", "1") as like:
        refused = harness(*words(like, tmp_path), variables={"LIKE_KEY": KEY})
        assert refused.code == ExitCode.USAGE
        assert "a search takes up to 4 levels, and this stack is paid by the token" in refused.err
        refused = harness(*words(like, tmp_path, "--max-cost", "3"), variables={"LIKE_KEY": KEY})
        assert refused.code == ExitCode.USAGE
        assert "the cap of $3 holds for all together; nothing was started: give --yes" in refused.err
        assert like.books()["seen"] == 0
        ended, found = searched(like, tmp_path, "--max-cost", "3", "--yes")
        billed_usd = like.billed_usd()
    assert ended.code == ExitCode.PASS, (found.sentence, ended.err)
    feasible, infeasible = found.interval.feasible, found.interval.infeasible
    assert feasible is not None
    assert infeasible is not None
    assert feasible <= LIMIT_RPS < infeasible <= 1.25 * feasible
    top = next(level for level in found.levels if level.load == infeasible)
    assert top.goodput_rps == pytest.approx(LIMIT_RPS, rel=0.1)
    assert found.sizing is not None
    assert "1,200 requests/min / 60 = 20 requests/s" in found.sizing.notes[0]
    assert "too few for the scenario's 100 users" in found.sizing.notes[0]
    assert found.spent_usd == pytest.approx(billed_usd, abs=1e-9)
    assert "of a cap of $3.00 for all of its levels" in ended.out


def test_tokens_a_minute_bind_as_requests_do_and_one_cap_holds_for_all_levels(tmp_path: Path) -> None:
    """A request counts with its prompt and the answer asked for."""
    with api(tmp_path, "--tpm", str(TOKENS_PER_MIN), "--burst-s", "1") as like:
        ended, found = searched(like, tmp_path, "--max-cost", "0.5", "--yes")
        assert ended.code == ExitCode.INCONCLUSIVE, ended.err
        spent_usd = like.billed_usd()
        assert 0.25 < spent_usd <= 0.5
        assert found.spent_usd == pytest.approx(spent_usd, abs=1e-9)
        assert found.ended.startswith("the cap of --max-cost, $0.50")
        again, more = searched(like, tmp_path, "--max-cost", "3", "--yes", "--resume")
        assert spent_usd < like.billed_usd() <= 3
        assert more.spent_usd == pytest.approx(like.billed_usd(), abs=1e-9)
    assert again.code == ExitCode.PASS, (more.sentence, again.err)
    assert more.levels[: len(found.levels)] == found.levels
    level = more.levels[0]
    assert level.verdict is Verdict.PASS
    assert level.prompt_tokens is not None
    truth_rps = TOKENS_PER_MIN / 60 / (level.prompt_tokens + TOKENS)
    assert more.interval.feasible is not None
    assert more.interval.feasible <= truth_rps < (more.interval.infeasible or math.inf) <= 1.25 * more.interval.feasible
