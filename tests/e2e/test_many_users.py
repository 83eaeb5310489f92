"""Real-time translation with 1,500 users, "1,000+": all of them run, and every request is accounted for."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pytest

from harness.judgement import Judgement, Verdict
from harness.records import Outcome
from harness.runlog import RunReader
from tests.e2e.processes import assert_no_trace, harness, judgement_of, manifest_of, unstarved

pytestmark = [pytest.mark.slow, pytest.mark.alone]

USERS = 1500
LOAD = ("--users", str(USERS), "--run-time", "14", "--stack", "trtllm-13b-int8-4xa100")


def play(run_dir: Path) -> Judgement:
    ended = harness("run", "translation", *LOAD, "--run-dir", run_dir)
    assert_no_trace(ended.out, ended.err)
    judgement = judgement_of(run_dir)
    assert ended.code == judgement.verdict.exit_code
    return judgement


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unstarved(play, tmp_path_factory.mktemp("many"))[0]


def test_all_users_run(run_dir: Path) -> None:
    manifest, judgement = manifest_of(run_dir), judgement_of(run_dir)
    assert manifest.load.users_reached == USERS
    assert judgement.load.users == judgement.load.users_reached == USERS
    assert manifest.workers[0].users_peak == USERS


def test_every_request_is_accounted_for(run_dir: Path) -> None:
    manifest, samples = manifest_of(run_dir), RunReader(run_dir).samples()
    assert manifest.load.samples_written == samples.num_rows == manifest.workers[0].samples_sent
    assert len(pc.unique(samples["user"])) == USERS
    outcomes = set(pc.unique(samples["outcome"]).to_pylist())
    assert outcomes <= {Outcome.OK, Outcome.IN_FLIGHT}


def test_the_verdict_is_the_servers(run_dir: Path) -> None:
    judgement = judgement_of(run_dir)
    assert judgement.verdict in (Verdict.PASS, Verdict.INCONCLUSIVE)
    assert judgement.load.little_holds
