"""Whole runs on a server that behaves like OpenAI's API, and keeps books of what it would have billed."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.catalog import load_catalog
from harness.errors import ExitCode
from harness.judgement import Mark
from harness.matrix import Options, build_cells
from tests.e2e.paid_api import CACHED_USD, INPUT_USD, KEY, OUTPUT_USD, api
from tests.e2e.processes import (
    ATTEMPTS,
    HARNESS,
    LOCUST,
    LONGEST_S,
    ROOT,
    Ended,
    Together,
    assert_no_trace,
    commands,
    environment,
    harness,
    in_phase,
    judgement_of,
    manifest_of,
    play_selected,
    run,
    samples_of,
    started,
)
from tests.openai_like import MODEL

pytestmark = pytest.mark.slow

LOST = "load worker lost"
WRONG = "sk-wrong-key-9876543210"
LOAD = ("--users", "4", "--think-time", "0.2", "--output-tokens", "100", "--run-time", "12")


@dataclass
class Left:
    run_dir: Path
    ended: Ended
    books: dict[str, int] = field(default_factory=dict)
    billed_usd: float = 0.0
    with_key: dict[int, str] = field(default_factory=dict)
    """Processes in whose arguments the key was seen under load."""


def capped(folder: Path) -> Left:
    with api(folder, "--tokens", "60", "--cached", "5") as like:
        options = (*LOAD, "--yes", "--max-cost", "1", "--run-dir", folder / "run")
        with started([*HARNESS, *like.command(*options)], folder / "harness", {"LIKE_KEY": KEY}) as process:
            process.until(lambda: in_phase(folder / "run" / "progress.jsonl", "load"), "load")
            with_key = commands(KEY)
            ended = process.end()
        return Left(folder / "run", ended, like.books(), like.billed_usd(), with_key)


def arriving(folder: Path) -> Left:
    """An open loop, whose arrivals go on coming while the cap ends the run."""
    with api(folder, "--tokens", "60") as like:
        options = ("--rate", "15", "--output-tokens", "100", "--run-time", "12", "--yes", "--max-cost", "1")
        ended = harness(*like.command(*options, "--run-dir", folder / "run"), variables={"LIKE_KEY": KEY})
        return Left(folder / "run", ended, like.books(), like.billed_usd())


def limited(folder: Path) -> Left:
    with api(folder, "--rpm", "20") as like:
        ended = harness(
            *like.command(*LOAD, "--yes", "--run-dir", folder / "run"), variables={"LIKE_KEY": KEY}
        )  # fmt: skip
        return Left(folder / "run", ended, like.books(), like.billed_usd())


def retried(folder: Path) -> Left:
    with api(folder, "--tokens", "5", "--fault", "429", "--every", "7", "--retry-after", "1") as like:
        command = [*LOCUST, "-f", ROOT / "locustfiles" / "content.py", "--headless", "--only-summary"]
        command += ["--host", like.url, "--model", MODEL, "--api-key-env", "LIKE_KEY", "--max-retries", "3"]
        command += ["--users", "2", "--think-time", "0.1", "--output-tokens", "5", "--run-time", "5"]
        ended = run([*command, "--run-dir", folder / "run"], {"LIKE_KEY": KEY})
        return Left(folder / "run", ended, like.books())


PLAYS: dict[str, Callable[[Path], Left]] = {
    "capped": capped,
    "arriving": arriving,
    "limited": limited,
    "retried": retried,
}


@pytest.fixture(scope="module")
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together[Left]]:
    yield from play_selected(request, PLAYS, tmp_path_factory.mktemp("api-runs"))


@pytest.fixture
def played(request: pytest.FixtureRequest, together: Together[Left]) -> Left:
    return together[request.param]


def play(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("played", names, indirect=True)


@play("capped")
def test_the_cap_ends_the_run_before_it_is_exceeded(played: Left) -> None:
    assert_capped(played)


def assert_capped(played: Left) -> None:
    assert_no_trace(played.ended.out, played.ended.err)
    manifest, judgement = manifest_of(played.run_dir), judgement_of(played.run_dir)
    assert manifest.load.ended_by == "spend cap reached", played.ended.err
    assert Mark.CUT_OFF in judgement.marks
    assert manifest.spend is not None
    assert manifest.spend.reached_s is not None
    assert 0.5 < played.billed_usd <= 1.0
    assert manifest.spend.spent_usd <= 1.0
    # All answers came with a usage, so that the harness's account and the server's books are one.
    samples = samples_of(played.run_dir)
    assert set(samples["outcome"].to_pylist()) == {"ok"}
    assert samples.num_rows + 1 == played.books["billed"]
    cached = (INPUT_USD - CACHED_USD) / 1e6 * sum(max(each, 0) for each in samples["cached_tokens"].to_pylist())
    assert manifest.spend.spent_usd == pytest.approx(played.billed_usd - cached, abs=1e-9)
    assert manifest.spend.assumed_usd == 0
    assert judgement.cost is not None
    assert (judgement.cost.spent_usd, judgement.cost.cap_usd) == (manifest.spend.spent_usd, 1.0)
    assert any(note.startswith("the load ended at the spend cap") for note in judgement.notes)
    assert judgement.window is not None
    assert judgement.window[1] <= manifest.spend.reached_s - (manifest.load.started_s or 0.0) + 1e-6
    assert not manifest.problems


@play("capped")
def test_the_cost_of_a_query_comes_from_measured_tokens(played: Left) -> None:
    judgement = judgement_of(played.run_dir)
    load, cost = judgement.load, judgement.cost
    assert cost is not None
    assert (load.tokens_asked_mean, load.tokens_got_mean, load.cached_tokens_mean) == (100, 60, 5)
    assert load.token_source == "usage"
    assert load.prompt_tokens_mean is not None
    fresh = load.prompt_tokens_mean - 5
    assert cost.usd_per_query == pytest.approx((fresh * INPUT_USD + 5 * CACHED_USD + 60 * OUTPUT_USD) / 1e6)
    assert "5 cached input tokens x $15" in cost.arithmetic
    page = (played.run_dir / "report.html").read_text(encoding="utf-8")
    for text in ("Spent by this run", "Spend cap", "requests/min allowed", "the load ended at the spend cap"):
        assert text in page


@play("arriving")
def test_an_arrival_that_the_cap_forbids_is_recorded_and_not_judged(played: Left) -> None:
    manifest, judgement = manifest_of(played.run_dir), judgement_of(played.run_dir)
    assert manifest.load.ended_by == "spend cap reached", played.ended.err
    assert played.billed_usd <= 1.0
    samples = samples_of(played.run_dir)
    unsent = [row for row in samples.to_pylist() if row["outcome"] == "cancelled"]
    assert unsent
    assert all(row["error"].startswith("not sent: ") for row in unsent)
    assert samples.num_rows == manifest.load.arrivals_due == played.books["billed"] - 1 + len(unsent)
    assert {each.outcome for each in judgement.outcomes} <= {"ok"}
    assert not manifest.problems


@play("limited")
def test_a_rate_limit_is_named_and_its_share(played: Left) -> None:
    assert played.ended.code == ExitCode.FAIL, played.ended.err
    judgement = judgement_of(played.run_dir)
    assert judgement.server["requests/min allowed"] == "20"
    assert float(judgement.server["requests/min expected"]) > 20
    assert any(re.match(r"before load: the API allows 20 requests a minute", note) for note in judgement.notes)
    share = next(each.share for each in judgement.outcomes if each.outcome == "rate_limited")
    said = next(note for note in judgement.notes if "refused by a rate limit" in note)
    assert said.startswith(f"{share:.1%} of ")
    assert "the server names a limit of 20 requests and 1,000,000,000 tokens a minute" in said
    assert "HTTP 429 (limit 20 requests/min, 1000000000 tokens/min): Rate limit reached" in said
    manifest = manifest_of(played.run_dir)
    assert manifest.spend is not None
    assert manifest.spend.spent_usd == pytest.approx(played.billed_usd), "a refusal costs nothing"


@play("retried")
def test_waiting_for_a_rate_limit_is_inside_the_users_latency(played: Left) -> None:
    assert_no_trace(played.ended.out, played.ended.err)
    rows = samples_of(played.run_dir).to_pylist()
    again = [row for row in rows if row["retries"]]
    assert again, played.ended.err
    for row in again:
        assert row["outcome"] == "ok"
        assert row["end_s"] - row["sent_s"] > row["retries"] * 1.0
        assert 1.0 <= row["retry_s"] < row["end_s"] - row["sent_s"]
    assert {row["outcome"] for row in rows} <= {"ok", "in_flight", "cancelled"}
    assert any("answered only after a retry" in note for note in judgement_of(played.run_dir).notes)


def test_a_wrong_key_ends_before_load_and_is_written_nowhere(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with api(tmp_path) as like:
        command = like.command(*LOAD, "--yes", "--run-dir", run_dir)
        ended = harness(*command, variables={"LIKE_KEY": WRONG})
        assert like.books()["seen"] == 0
    assert ended.code == ExitCode.SERVER
    assert "refused the key in $LIKE_KEY (invalid_api_key): it is wrong, expired or of another account" in ended.err
    assert_no_trace(ended.out, ended.err)
    assert WRONG not in ended.out + ended.err
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert WRONG.encode() not in path.read_bytes(), path


@play("capped")
def test_the_right_key_is_in_no_file_and_no_argument(played: Left) -> None:
    assert played.with_key == {}
    assert KEY not in played.ended.out + played.ended.err
    files = [path for path in played.run_dir.rglob("*") if path.is_file()]
    assert any(path.name == "judgement.json" for path in files)
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path


def test_without_consent_nothing_is_started(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with api(tmp_path) as like:
        ended = harness(*like.command(*LOAD, "--run-dir", run_dir), variables={"LIKE_KEY": KEY})
        assert like.books()["seen"] == 0
    assert ended.code == ExitCode.USAGE
    told = (
        r"content on like-api pays for tokens: about \d+ requests \(4 users, 0.2 s of thinking, .*\)"
        r" x \(\d+ input tokens x \$30 \+ 100 output tokens x \$60\) / 1,000,000 = \$\d+\.\d+;"
        r" at most \$[\d,.]+ .*; the cap is \$5\.00; nothing was started: give --yes to agree to it"
    )
    assert re.search(told, ended.err), ended.err
    assert not run_dir.exists()


def test_on_a_terminal_it_asks_and_no_is_no(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with api(tmp_path) as like:
        said = on_terminal([*HARNESS, *like.command(*LOAD, "--run-dir", run_dir)], b"n\n", {"LIKE_KEY": KEY})
        assert like.books()["seen"] == 0
    assert "Start? [y/N]:" in said
    assert "nothing was started" in said
    assert not run_dir.exists()


def on_terminal(command: Sequence[str | Path], answer: bytes, variables: dict[str, str]) -> str:
    """Run a command on a terminal of its own, answer its first question, and return all it said there."""
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        stdin=other,
        stdout=subprocess.DEVNULL,
        stderr=other,
        env=environment(variables),
        start_new_session=True,
    )
    os.close(other)
    said, answered = b"", False
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed
        while part := os.read(terminal, 4096):
            said += part
            if not answered and b"[y/N]:" in said:
                os.write(terminal, answer)
                answered = True
    os.close(terminal)
    assert process.wait(LONGEST_S) == ExitCode.USAGE
    return " ".join(said.decode().split())


def test_the_locust_door_asks_too() -> None:
    command = [*LOCUST, "-f", ROOT / "locustfiles" / "content.py", "--headless", "--stack", "openai-gpt4", "--real"]
    ended = run([*command, "--users", "1", "--run-time", "5", "--output-tokens", "10"])
    assert ended.code == ExitCode.USAGE
    assert "content on openai-gpt4 pays for tokens: about " in ended.err
    assert "nothing was started: give --yes to agree to it" in ended.err
    ended = run([*command, "--max-cost", "-1", "--yes"])
    assert ended.code == ExitCode.USAGE
    assert "--max-cost must be above 0 USD, not -1" in ended.err


def test_two_load_processes_share_the_cap(tmp_path: Path) -> None:
    """Repeated when Locust gave up a load process that this machine had starved; last, when nothing else runs here."""
    for attempt in range(ATTEMPTS):
        left = shared(tmp_path / str(attempt))
        if manifest_of(left.run_dir).load.ended_by != LOST:
            break
    assert_capped(left)
    assert len(manifest_of(left.run_dir).workers) == 2


def shared(folder: Path) -> Left:
    """Two load processes; ``harness run`` starts one, so this is the command of a cell itself."""
    with api(folder, "--tokens", "60") as like:
        options = Options(
            scenarios=("content",),
            stacks=("like-api",),
            users=4,
            think_time_s=0.2,
            output_tokens=100,
            run_time_s=12.0,
            real=True,
            max_cost_usd=1.0,
            run_dir=folder / "run",
        )
        (cell,) = build_cells(load_catalog((like.catalog,)), options)
        (folder / "cell.json").write_text(cell.model_dump_json(), encoding="utf-8")
        command = [*LOCUST, "-f", ROOT / "harness" / "loadgen" / "cell_locustfile.py", "--headless", "--only-summary"]
        ended = run([*command, "--processes", "2", "--cell", folder / "cell.json"], {"LIKE_KEY": KEY})
        return Left(folder / "run", ended, like.books(), like.billed_usd())
