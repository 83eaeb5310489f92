"""The gate: what blocks, what warns, and the texts that say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.cli import app
from harness.errors import ExitCode, HarnessError, SpecError, UsageError
from harness.gate import GateResult, Policy, gate
from harness.judge import write_judgement
from harness.judgement import Judgement, Verdict
from harness.nightly.record import CellRecord, Night, Status
from harness.nightly.store import write_night
from harness.strict_yaml import load_specs
from reports.gate_output import MOST_ANNOTATIONS, MOST_BYTES, markdown, workflow_commands
from tests import factories

PASSES = factories.judgement(median_s=0.9)
FAILS = factories.judgement(median_s=1.8)
UNDECIDED = factories.judgement(median_s=1.125)
INVALID = factories.invalid()
DIED = PASSES.model_copy(
    update={
        "verdict": Verdict.FAIL,
        "sentence": "FAIL: the server died during the run.",
        "reasons": ("the server died during the run",),
    }
)


def policy(**changes: Any) -> Policy:
    return Policy.model_validate(changes)


def warn_of(check: str, **changes: Any) -> Policy:
    return policy(rules=({"check": check, "action": "warn", "reason": "known"},), **changes)


def test_the_examples_are_what_they_are_called() -> None:
    verdicts = [each.verdict for each in (PASSES, FAILS, UNDECIDED, INVALID, DIED)]
    assert verdicts == ["PASS", "FAIL", "INCONCLUSIVE", "INVALID", "FAIL"]


@given(st.lists(st.sampled_from([PASSES, FAILS, UNDECIDED, INVALID, DIED]), min_size=1, max_size=6))
def test_without_a_policy_the_gate_is_the_worst_verdict(judgements: list[Judgement]) -> None:
    codes = {each.verdict.exit_code for each in judgements}
    worst = next(c for c in (ExitCode.FAIL, ExitCode.INVALID, ExitCode.INCONCLUSIVE, ExitCode.PASS) if c in codes)
    assert gate(judgements, Policy()).exit_code == worst


@given(
    st.sampled_from([PASSES, FAILS, UNDECIDED, INVALID, DIED]),
    st.sampled_from(["block", "warn", "ignore"]),
    st.sampled_from(["block", "warn", "ignore"]),
)
def test_a_looser_policy_never_closes_and_strict_is_as_without(judgement: Judgement, check: str, other: str) -> None:
    loose = policy(rules=({"check": "e2e", "action": check},), otherwise=other, inconclusive=other, invalid=other)
    loosened = gate([judgement], loose).exit_code
    assert loosened in (0, gate([judgement], Policy()).exit_code, ExitCode.INCONCLUSIVE)
    assert gate([judgement], loose, strict=True).exit_code == gate([judgement], Policy()).exit_code


def test_nothing_to_look_at_is_no_pass() -> None:
    assert gate([], Policy()).exit_code == ExitCode.INCONCLUSIVE


def test_a_check_that_only_warns_lets_its_fail_through_and_says_so() -> None:
    result = gate([FAILS], warn_of("p95(e2e) *"))
    assert result.exit_code == 0
    (warning,) = result.warnings
    assert (warning.check, warning.verdict, warning.rule_reason) == ("p95(e2e) < 2 s", Verdict.FAIL, "known")
    assert gate([FAILS], warn_of("error_rate")).exit_code == ExitCode.FAIL


def test_a_server_that_died_is_of_no_check() -> None:
    assert gate([DIED], warn_of("*(*)*")).exit_code == ExitCode.FAIL
    assert gate([DIED], warn_of("cell")).exit_code == 0
    both = FAILS.model_copy(update={"reasons": ("the server died during the run", *FAILS.reasons)})
    assert gate([both], warn_of("e2e")).exit_code == ExitCode.FAIL


@pytest.mark.parametrize(
    ("judgement", "code", "allowed"),
    [
        (UNDECIDED, ExitCode.INCONCLUSIVE, ExitCode.PASS),
        (FAILS, ExitCode.FAIL, ExitCode.FAIL),
        (INVALID, ExitCode.INVALID, ExitCode.INVALID),
    ],
)
def test_allow_inconclusive_lets_nothing_else_through(judgement: Judgement, code: int, allowed: int) -> None:
    assert gate([judgement], Policy()).exit_code == code
    assert gate([judgement], Policy(), allow_inconclusive=True).exit_code == allowed


def test_what_was_not_measured_blocks_only_when_strict() -> None:
    checks = (*PASSES.checks, PASSES.checks[0].model_copy(update={"verdict": Verdict.NOT_MEASURED, "text": "quality"}))
    judgement = PASSES.model_copy(update={"checks": checks})
    result = gate([judgement], Policy())
    assert (result.exit_code, result.ignored) == (0, 1)
    assert gate([judgement], Policy(), strict=True).exit_code == ExitCode.INCONCLUSIVE


def test_a_check_that_misses_in_an_undecided_cell_is_as_undecided_as_the_cell() -> None:
    """The cell corrects for the number of its checks; the gate must not be harsher than the verdict."""
    judgement = FAILS.model_copy(update={"verdict": Verdict.INCONCLUSIVE})
    assert gate([judgement], Policy()).exit_code == ExitCode.INCONCLUSIVE


def record(status: Status, code: int | None, sentence: str = "why") -> CellRecord:
    return CellRecord(
        key="a--b--base", scenario="a", stack="b", variant="base", status=status, exit_code=code, sentence=sentence
    )


def test_a_cell_that_could_not_be_run_always_blocks() -> None:
    server = record(Status.FAILED, ExitCode.SERVER)
    loose = policy(otherwise="ignore", invalid="ignore", inconclusive="ignore")
    assert gate([PASSES], loose, not_judged=[server]).exit_code == ExitCode.SERVER
    left_out = record(Status.NOT_RUN, None)
    assert gate([PASSES], loose, not_judged=[left_out]).exit_code == ExitCode.INCONCLUSIVE
    assert gate([PASSES], loose, not_judged=[left_out], allow_inconclusive=True).exit_code == 0


def test_a_rule_that_meets_nothing_is_told() -> None:
    result = gate([PASSES, FAILS], policy(rules=({"check": "p95(e2)*", "action": "warn"},)))
    assert result.unused_rules == (1,)
    assert "Rule 1 of policy default met no check" in markdown(result)


def test_a_policy_is_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("kind: policy\nname: p\nrules:\n- {check: e2e, action: wran}\nstirct: true\n", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_specs([path], {"policy": Policy})
    assert [line.removeprefix(f"{path}:") for line in caught.value.problems] == [
        "4: rules.0.action: Input should be 'block', 'warn' or 'ignore' (got 'wran')",
        "5: stirct: unknown key; allowed: inconclusive, invalid, kind, name, not_measured, otherwise, rules",
    ]


# Texts ------------------------------------------------------------------------------------------

NASTY = "100% of 3\r\n::error::x, y: <img src=x onerror=alert(1)> | `[link](javascript:1)` @everyone"


def nasty() -> GateResult:
    check = FAILS.checks[0].model_copy(update={"reason": NASTY})
    return gate([FAILS.model_copy(update={"checks": (check,), "reasons": (NASTY,), "scenario": "a:b,c"})], Policy())


def test_a_reason_cannot_give_github_orders() -> None:
    (line,) = workflow_commands(nasty())
    assert line.startswith("::error title=FAIL a%3Ab%2Cc / 7b-t4-vllm::p95(e2e) < 2 s: 100%25 of 3%0A")
    assert "\n" not in line
    assert "\r" not in line


def test_markdown_shows_a_reason_as_it_is() -> None:
    text = markdown(nasty())
    (row,) = [line for line in text.splitlines() if line.startswith("| block")]
    assert row.replace("\\|", "").count("|") == 6
    assert "<img" not in text
    assert "\\[link\\]\\(javascript" in row
    assert "@<!-- -->everyone" in row
    assert text.startswith("## SLA gate: closed\n")


def test_annotations_and_summaries_keep_to_githubs_limits() -> None:
    result = gate([FAILS] * 40, Policy())
    lines = workflow_commands(result)
    assert len(lines) == MOST_ANNOTATIONS
    assert lines[-1] == "::error::31 more are in the step summary"
    long = result.model_copy(update={"findings": result.findings * 400})
    assert len(markdown(long).encode()) <= MOST_BYTES + 100
    assert markdown(long).endswith("The rest was cut off.\n")


# The command ------------------------------------------------------------------------------------


def gated(*arguments: str | Path, env: dict[str, str] | None = None) -> Any:
    found = CliRunner().invoke(app, ["gate", *map(str, arguments)], env=env)
    if isinstance(found.exception, HarnessError):
        raise found.exception
    return found


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, judgement in (("one", PASSES), ("two", FAILS)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "manifest.json").write_text("{}")
        write_judgement(tmp_path / "runs" / name, judgement)
    return tmp_path / "runs"


def test_the_command_writes_all_that_a_ci_shows(runs: Path, tmp_path: Path) -> None:
    summary = tmp_path / "step.md"
    summary.write_text("before\n")
    found = gated(
        runs,
        *("--github", "--junit", tmp_path / "out" / "junit.xml", "--markdown", tmp_path / "gate.md"),
        env={"GITHUB_STEP_SUMMARY": str(summary)},
    )
    assert found.exit_code == ExitCode.FAIL
    assert "closed: 1 of 2 cells pass, 1 finding blocks" in found.output
    assert "::error title=FAIL support-chatbot" in found.output
    assert summary.read_text() == "before\n" + (tmp_path / "gate.md").read_text()
    assert (tmp_path / "out" / "junit.xml").read_text().count("<failure") == 2  # the cell and its check


def test_the_command_says_json(runs: Path) -> None:
    found = json.loads(gated(runs / "one", "--json").stdout)
    assert (found["exit_code"], found["cells"], found["passed"], found["findings"]) == (0, 1, 1, [])


def test_a_night_is_weighed_with_the_cells_that_have_no_run(runs: Path, tmp_path: Path) -> None:
    judged = CellRecord(
        key="k", scenario="s", stack="t", variant="base", status=Status.JUDGED, directory="runs/one", verdict="PASS"
    )
    night = Night(name="n", night="20261122-020000", plan="p", started="", cells=(judged,))
    write_night(tmp_path, night)
    assert gated(tmp_path).exit_code == 0
    write_night(tmp_path, night.model_copy(update={"cells": (judged, record(Status.FAILED, 3))}))
    assert gated(tmp_path).exit_code == ExitCode.SERVER
    assert gated(tmp_path / "runs" / "one").exit_code == 0


def test_contradictions_and_strangers_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give one of them"):
        gated(runs, "--strict", "--allow-inconclusive")
    with pytest.raises(UsageError, match="GITHUB_STEP_SUMMARY is not set"):
        gated(runs, "--github", env={"GITHUB_STEP_SUMMARY": ""})
    with pytest.raises(HarnessError, match="not a run directory"):
        gated(tmp_path)
