"""A night's file and its plan, its retention, its page, its record."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from nightly_support import FAKE, cell, config, planned
from typer.testing import CliRunner

from harness.cli import app
from harness.errors import ExitCode, RunDirectoryError, SpecError
from harness.judge import judge
from harness.judgement import Verdict
from harness.nightly.plan import in_order, plan_night
from harness.nightly.record import CellRecord, Night, Status, exit_code, sentence
from harness.nightly.retention import apply_retention, old_nights, planned_removals
from harness.nightly.runner import run_night
from harness.nightly.spec import Keep, Nightly, load_nightly
from harness.nightly.store import name_of, nights, read_night, started_of, write_night
from harness.runlog import GAPS, RunReader, compact, compactable
from reports.nightly_page import markdown, render
from tests import runs

NOW = datetime(2026, 11, 22, 2, 17, tzinfo=UTC)


def record(key: str, code: int | None, **changes: Any) -> CellRecord:
    verdict = next((each for each in Verdict if each is not Verdict.NOT_MEASURED and each.exit_code == code), None)
    status = Status.JUDGED if verdict else Status.NOT_RUN if code is None else Status.FAILED
    facts: dict[str, Any] = {"verdict": verdict, "status": status, "exit_code": code, "sentence": "why"}
    return CellRecord(**{"key": key, "scenario": "s", "stack": "t", "variant": key, **facts, **changes})


def night(*codes: int | None, **changes: Any) -> Night:
    cells = tuple(record(f"c{place}", code) for place, code in enumerate(codes))
    return Night(**{"name": "n", "night": "20261122-021700", "plan": "p", "started": "", "cells": cells, **changes})


# The file ---------------------------------------------------------------------------------------


def test_every_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    path = config(tmp_path, "passes")
    path.write_text(
        "kind: nightly\nname: Test\nmatrix:\n- {scenarios: [], stacks: [a]}\nkeep: {dayz: 3}\n"
        "notify: {url_env: 'https://hooks.example/secret'}\nbudget_s: -1\n"
    )
    with pytest.raises(SpecError) as caught:
        load_nightly(path)
    told = [line.removeprefix(f"{path}:").split(":")[:2] for line in caught.value.problems]
    assert sorted(told) == [
        ["2", " name"],
        ["4", " matrix.0.scenarios"],
        ["5", " keep.dayz"],
        ["6", " notify"],
        ["7", " budget_s"],
    ]
    assert "allowed: baselines, days, nights, then" in str(caught.value)
    assert "hooks.example" not in str(caught.value), "it may be the secret itself"


def test_a_variant_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = config(tmp_path, "passes", variants={})
    with pytest.raises(SpecError, match=r"the variant 'passes', which is not in 'variants': base"):
        load_nightly(path)


def test_a_link_may_name_the_night_alone(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"link has \{nite\}; allowed: \{night\}"):
        load_nightly(config(tmp_path, "passes", notify={"url_env": "HOOK", "link": "https://ci/{nite}"}))


def test_every_cell_that_cannot_be_run_is_told_before_any_is(tmp_path: Path) -> None:
    matrix = [
        {"scenarios": ["chatbot", "chatbott"], "stacks": ["vllm-7b-t4", "nothing"], "variants": ["base", "odd"]},
        {"scenarios": ["content"], "stacks": ["openai-gpt4"], "variants": ["paid"]},
    ]
    variants = {"odd": {"rate_rps": 3, "users": 5}, "paid": {"real": True}}
    path = config(tmp_path, matrix=matrix, variants=variants, catalog=["mine.yaml"])
    with pytest.raises(SpecError, match=r"catalog: .*mine\.yaml: there is no such file"):
        plan_night(load_nightly(path), tmp_path)
    path = config(tmp_path, matrix=matrix, variants=variants)
    with pytest.raises(SpecError) as caught:
        plan_night(load_nightly(path), tmp_path)
    told = "\n".join(caught.value.problems)
    assert "unknown scenario 'chatbott'; did you mean 'chatbot'?" in told
    assert "chatbot / nothing (base): unknown stack 'nothing'" in told
    assert "chatbot / vllm-7b-t4 (odd): --users belongs to a closed loop" in told
    assert "content / openai-gpt4 (paid): this stack is paid by the token: give its variant max_cost_usd" in told


def test_a_matrix_is_all_of_it_once(tmp_path: Path) -> None:
    block = {
        "scenarios": ["chatbot", "content"],
        "stacks": ["vllm-7b-t4", "vllm-13b-a100"],
        "variants": ["base", "passes"],
    }
    _, plan = planned(tmp_path, "passes", matrix=[block, block])
    assert len(plan.cells) == 8
    assert plan.cells[0].key == "chatbot--vllm-7b-t4--base"
    assert plan.cells[1].arguments[:2] == ("run", "chatbot")
    assert plan.cells[1].arguments[-3:] == ("--seed", "1", "--json")


def test_the_digest_is_of_what_is_run_and_not_of_its_order(tmp_path: Path) -> None:
    _, plan = planned(tmp_path, "passes", "fails")
    _, other = planned(tmp_path, "fails", "passes")
    _, changed = planned(tmp_path, "passes", "fails", variants={"passes": {"seed": 1}, "fails": {"seed": 3}})
    assert plan.digest == other.digest != changed.digest


def test_the_order_is_the_files_or_what_did_not_pass_last_night_first(tmp_path: Path) -> None:
    spec, plan = planned(tmp_path, "passes", "fails", "server", "invalid")
    keys = [each.key for each in plan.cells]
    last = night(0, 99, None, 0).model_copy(
        update={"cells": tuple(record(key, code) for key, code in zip(keys[:3], (0, 99, None), strict=True))}
    )
    assert [each.key for each in in_order(plan.cells, spec.order, last)] == keys
    ordered = in_order(plan.cells, "not-passed-first", last)
    assert [each.variant for each in ordered] == ["fails", "server", "invalid", "passes"], "one that is new leads too"
    short = in_order(plan.cells, "shortest-first", last)
    assert [each.expected_s for each in short] == sorted(each.expected_s for each in plan.cells)


# What follows from a record ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "code", "word"),
    [
        ((0, 0), ExitCode.PASS, "PASS: n, night 20261122-021700: 2 PASS."),
        ((0, 98, 97), ExitCode.INVALID, "INVALID: n, night 20261122-021700: 1 PASS, 1 INCONCLUSIVE, 1 INVALID. "),
        ((0, 97, 99), ExitCode.FAIL, "FAIL: "),
        ((99, 3), ExitCode.SERVER, "FAILED: "),
        ((99, 3, 4), ExitCode.LOAD, "FAILED: "),
        ((0, None), ExitCode.INCONCLUSIVE, "INCONCLUSIVE: n, night 20261122-021700: 1 PASS, 1 NOT RUN"),
        ((), ExitCode.PASS, ""),
    ],
)
def test_the_worst_cell_is_the_nights_code(codes: tuple[int | None, ...], code: ExitCode, word: str) -> None:
    assert exit_code(night(*codes)) == code
    assert sentence(night(*codes)).startswith(word)


def test_an_interrupt_before_anything_was_judged_has_its_own_code() -> None:
    assert exit_code(night(None, None, stopped="interrupted during c0")) == ExitCode.INTERRUPTED
    assert exit_code(night(0, None, stopped="interrupted during c1")) == ExitCode.INCONCLUSIVE
    assert exit_code(night(99, None, stopped="interrupted during c1")) == ExitCode.FAIL


def test_foreign_text_is_shown_and_does_nothing() -> None:
    nasty = "<script>alert(1)</script> | [x](javascript:1)"
    found = night(99, stopped=nasty, title=nasty, notes=(nasty,), sentence=nasty)
    cells = (found.cells[0].model_copy(update={"sentence": nasty, "check": nasty, "marks": ("EMULATED",)}),)
    found = found.model_copy(update={"cells": cells})
    page, text = render(found), markdown(found)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5
    assert "EMULATED" in page
    assert "<script" not in text
    assert "](javascript" not in text.replace("\\]\\(", "")


def test_a_damaged_or_newer_record_is_refused(tmp_path: Path) -> None:
    write_night(tmp_path, night(0))
    assert read_night(tmp_path) == night(0)
    path = tmp_path / "nightly.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(RunDirectoryError, match="has format 9"):
        read_night(tmp_path)
    path.write_text("{")
    with pytest.raises(RunDirectoryError, match="is damaged"):
        read_night(tmp_path)
    path.unlink()
    with pytest.raises(RunDirectoryError, match="is no night"):
        read_night(tmp_path)


def test_two_nights_of_one_second_have_two_names(tmp_path: Path) -> None:
    (tmp_path / name_of(NOW, tmp_path)).mkdir()
    assert name_of(NOW, tmp_path) == "20261122-021701"


# Retention --------------------------------------------------------------------------------------


def days_ago(*days: int) -> list[str]:
    return [(NOW - timedelta(days=each)).strftime("%Y%m%d-%H%M%S") for each in days]


@given(st.sets(st.integers(0, 60), max_size=20), st.integers(1, 30), st.integers(1, 10), st.integers(-5000, 5000))
def test_no_clock_makes_the_newest_nights_old(ages: set[int], days: int, least: int, wrong_days: int) -> None:
    names = days_ago(*ages)
    old = old_nights(names, Keep(days=days, nights=least), NOW + timedelta(days=wrong_days))
    assert not set(old) & set(sorted(names)[-least:])
    assert all(NOW + timedelta(days=wrong_days) - started_of(name) > timedelta(days=days) for name in old)
    if wrong_days < 0 and -wrong_days >= max(ages, default=0):
        assert old == []


OLD = ("passes", "fails", "invalid-once")
KEEP = {"days": 14, "nights": 1, "then": "compact"}


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory: pytest.TempPathFactory, fake_runs: Path) -> Path:
    """Nights of 30 and 20 days ago, each with a PASS, a FAIL, and a PASS after an INVALID."""
    folder = tmp_path_factory.mktemp("aged")
    spec, plan = planned(folder, *OLD, keep=KEEP)
    for days in (30, 20):
        then = NOW - timedelta(days=days)
        run_night(spec, plan, resume=False, say=lambda text: None, command=FAKE, now=lambda then=then: then)  # type: ignore[misc]
    return folder / "runs"


@pytest.fixture
def aged(two_nights: Path, tmp_path: Path) -> tuple[Nightly, Path]:
    spec, _ = planned(tmp_path, *OLD, keep=KEEP)
    shutil.copytree(two_nights, tmp_path / "runs", symlinks=True)
    return spec, tmp_path / "runs"


def test_old_passing_runs_are_compacted_and_failures_stay_whole(aged: tuple[Nightly, Path]) -> None:
    spec, root = aged
    old, newest = nights(root)
    before = {path: path.read_bytes() for path in (root / old / "cells").rglob("*") if path.is_file()}
    done = apply_retention(root, spec, NOW)
    key = "chatbot--vllm-7b-int8-a100"
    assert sorted(done) == [
        f"compact {old}/{key}--invalid-once",
        f"compact {old}/{key}--passes",
        f"delete {old}/attempts",
    ]
    changed = {path for path, content in before.items() if path.read_bytes() != content}
    assert {(path.parent.name.rpartition("--")[2], path.name) for path in changed} == {
        (variant, name) for variant in ("passes", "invalid-once") for name in ("manifest.json", "samples.parquet")
    }
    assert all(path.stat().st_size < len(before[path]) for path in changed if path.name == "samples.parquet")
    assert apply_retention(root, spec, NOW) == (), "and that once"
    assert RunReader(root / newest / "cells" / f"{key}--passes").manifest.compacted == {}


def test_a_compacted_run_is_judged_as_it_was(aged: tuple[Nightly, Path]) -> None:
    spec, root = aged
    run = root / nights(root)[0] / "cells" / "chatbot--vllm-7b-int8-a100--passes"
    before = judge(run)
    apply_retention(root, spec, NOW)
    after = judge(run)
    assert (after.verdict, after.checks, after.load) == (before.verdict, before.checks, before.load)
    assert any("dropped the gaps between tokens" in note for note in after.notes)
    assert "itl" in {each.metric for each in before.distributions if each.p50 is not None}
    assert "itl" not in {each.metric for each in after.distributions if each.p50 is not None}


def test_delete_leaves_the_record_and_the_page(aged: tuple[Nightly, Path]) -> None:
    spec, root = aged
    spec = spec.model_copy(update={"keep": spec.keep.model_copy(update={"then": "delete"})})
    old = root / nights(root)[0]
    apply_retention(root, spec, NOW)
    assert [path.name.rpartition("--")[2] for path in (old / "cells").iterdir()] == ["fails"]
    found = cell(read_night(old), "passes")
    assert (found.verdict, found.directory, found.report) == (Verdict.PASS, "", "")
    assert "passes" in (old / "summary.html").read_text()
    gate = CliRunner().invoke(app, ["gate", str(old)])
    assert "retention deleted the run" in str(gate.exception)


@pytest.mark.parametrize("how", ["night", "cell", "mark"])
def test_a_baseline_stays_whole_for_ever(aged: tuple[Nightly, Path], how: str) -> None:
    spec, root = aged
    old, key = nights(root)[0], "chatbot--vllm-7b-int8-a100--passes"
    if how == "mark":
        (root / old / "cells" / key / "keep").touch()
    baselines = {"night": (old,), "cell": (f"{old}/{key}",), "mark": ()}[how]
    spec = spec.model_copy(update={"keep": spec.keep.model_copy(update={"baselines": baselines, "then": "delete"})})
    left = [each.key for each in planned_removals(root, spec, NOW)]
    assert key not in left
    assert (left == []) == (how == "night")


def test_nights_of_another_file_and_damaged_ones_are_left(aged: tuple[Nightly, Path]) -> None:
    spec, root = aged
    assert planned_removals(root, spec.model_copy(update={"name": "other"}), NOW) == []
    (root / nights(root)[0] / "nightly.json").write_text("{")
    assert planned_removals(root, spec, NOW) == []


def test_a_run_whose_sla_speaks_of_gaps_keeps_them(tmp_path: Path) -> None:
    runs.write_run(tmp_path / "r", runs.Loop(users=3).samples(), runs.scenario("p95(itl) < 1 s", users=3), runs.load())
    assert not compactable(tmp_path / "r")


def test_a_kill_in_the_middle_of_compacting_leaves_a_run_that_can_be_judged(
    fake_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(fake_runs / "passes", run)
    whole = RunReader(run).samples().column(GAPS)
    monkeypatch.setattr(Path, "replace", _killed_at_samples)
    with pytest.raises(KeyboardInterrupt):
        compact(run)
    monkeypatch.undo()
    assert RunReader(run).samples().column(GAPS).equals(whole)
    assert judge(run).verdict is Verdict.PASS
    assert compactable(run)
    compact(run)
    manifest = RunReader(run).manifest
    assert manifest.compacted == {
        "samples.parquet": RunReader(fake_runs / "passes").manifest.digests["samples.parquet"]
    }
    assert judge(run).verdict is Verdict.PASS
    assert not compactable(run)


_replace = Path.replace


def _killed_at_samples(self: Path, target: Path) -> Path:
    if target.name == "samples.parquet":
        raise KeyboardInterrupt
    return _replace(self, target)


def test_an_altered_run_is_not_compacted(fake_runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(fake_runs / "passes", run)
    (run / "outputs.jsonl").write_text("changed")
    with pytest.raises(RunDirectoryError, match="was changed since it was sealed"):
        compact(run)


# The command ------------------------------------------------------------------------------------


def test_a_dry_run_changes_nothing(aged: tuple[Nightly, Path]) -> None:
    _, root = aged
    path = root.parent / "night.yaml"
    document = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(document | {"budget_s": 200}))
    before = sorted(str(each) for each in root.rglob("*"))
    found = CliRunner().invoke(app, ["nightly", str(path), "--dry-run"])
    assert found.exit_code == 0, found.output
    assert "run      chatbot--vllm-7b-int8-a100--passes" in found.output
    assert "NOT RUN  chatbot--vllm-7b-int8-a100--fails" in found.output
    assert "GiB are free" in found.output
    assert "retention would compact" in found.output
    assert sorted(str(each) for each in root.rglob("*")) == before
