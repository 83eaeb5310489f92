"""What a judgement says of money and of rate limits, and what one cell leaves of a command's cap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import run as runner
from harness.catalog import load_catalog
from harness.cell import Cell, Overrides, build_cell
from harness.connection import Connection
from harness.errors import ExitCode
from harness.judge import judge
from harness.judgement import CostSummary, Judgement
from harness.records import Outcome, ServerFacts, SpendFacts, TokenSource
from tests.factories import judgement
from tests.runs import failed, load, sample, scenario, stack, write_run

PRICE = {"kind": "tokens", "usd_per_million_input": 30, "usd_per_million_output": 60, "source": {"text": "made up"}}
PAID = stack(engine="openai", price=PRICE)


def judged(directory: Path, samples: list[Any], **changes: Any) -> Judgement:
    spend = SpendFacts(cap_usd=1.0, **changes.pop("spend", {}))
    facts = load(**changes.pop("load", {}))
    write_run(directory, samples, scenario(), facts, **{"stack": PAID, "spend": spend, **changes})
    return judge(directory)


def test_the_leaders_account_is_the_runs(tmp_path: Path) -> None:
    found = judged(tmp_path, [sample(20.0), sample(30.0)], spend={"spent_usd": 0.5, "assumed_usd": 0.125})
    assert found.cost is not None
    assert (found.cost.spent_usd, found.cost.cap_usd) == (0.5, 1.0)
    said = (
        "the run spent $0.500 on tokens, of a cap of $1.00; $0.125 of it is the worst case of requests of unknown usage"
    )
    assert said in found.notes


def test_a_killed_run_spent_at_least_what_its_samples_show(tmp_path: Path) -> None:
    silent = failed(40.0, outcome=Outcome.RESET, prompt_tokens=-1, token_source=TokenSource.NONE)
    found = judged(tmp_path, [sample(20.0), sample(30.0), silent], spend={"spent_usd": 0.25}, seal=False)
    assert found.cost is not None
    assert found.cost.spent_usd == pytest.approx(0.25 + 2 * (20 * 30 + 11 * 60) / 1e6)
    assert any(note.startswith("the run spent at least $0.253") for note in found.notes)


def test_a_cap_that_did_not_hold_is_admitted(tmp_path: Path) -> None:
    found = judged(tmp_path, [sample(20.0)], spend={"spent_usd": 1.5, "reached_s": 1.0})
    assert any(note.startswith("the load ended at the spend cap") for note in found.notes)
    assert any(note.endswith("so the spend cap did not hold") for note in found.notes)


def test_who_pays_nothing_is_told_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, [sample(20.0)], scenario(), load())
    found = judge(tmp_path)
    assert found.cost is not None
    assert found.cost.spent_usd is None
    assert not any("spent" in note or "429" in note for note in found.notes)


def test_the_share_of_rate_limits_and_the_limit_named(tmp_path: Path) -> None:
    limited = failed(30.0, outcome=Outcome.RATE_LIMITED, http_status=429, error="HTTP 429: Slow down.")
    server = ServerFacts(details={"requests/min allowed": 1500, "rate limits": "the API allows little"})
    samples = [sample(20.0), sample(25.0, retries=2, retry_s=0.5), sample(27.0), limited]
    found = judged(tmp_path, samples, server=server)
    assert "before load: the API allows little" in found.notes
    assert (
        "25.0% of 4 judged requests were refused by a rate limit (429); the server names a limit of 1,500 requests a"
        " minute; the first answer said: HTTP 429: Slow down." in found.notes
    )
    assert any(note.startswith("1 judged requests were answered only after a retry") for note in found.notes)


def cells(folder: Path, count: int) -> list[Cell]:
    catalog = load_catalog()
    return [
        build_cell(
            catalog, catalog.scenario("content"), catalog.stack("openai-gpt4"), catalog.profile("quick"), Overrides(),
            Connection(protocol="openai-chat"), run_dir=folder / str(number), emulate=False, max_cost_usd=4.0,
        )
        for number in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("costs", "caps"),
    [
        ([1.0, 2.5, 0.1], [4.0, 3.0, 0.5]),
        ([4.0, 1.0], [4.0]),
        ([None, 1.0], [4.0]),
        ([ExitCode.SERVER, 1.0], [4.0, 4.0]),
    ],
)
def test_all_cells_of_a_command_share_its_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, costs: list[float | None], caps: list[float]
) -> None:
    """None: the cell crashed and left no account. An exit code: it ended before load."""
    given: list[float | None] = []
    left = iter(costs)

    def run_group(group: Sequence[runner.CellProgress], on_change: runner.OnChange) -> bool:
        for each in group:
            given.append(each.cell.max_cost_usd)
            cost = next(left)
            if isinstance(cost, ExitCode):
                each.exit_code = cost
            elif cost is None:
                each.exit_code = ExitCode.LOAD
            else:
                each.judgement = judgement(cost=CostSummary(spent_usd=cost, cap_usd=each.cell.max_cost_usd))
                each.exit_code = ExitCode.FAIL
        return False

    monkeypatch.setattr(runner, "_run_group", run_group)
    progress = runner.run_cells(cells(tmp_path, len(costs)), lambda each: None)
    assert given == pytest.approx(caps)
    for each in progress[len(caps) :]:
        assert each.state == "failed"
        assert each.error == "not started: the cells before it spent the cap of $4.00"
    assert runner.exit_code(progress) != ExitCode.PASS
