"""``harness gate``: judged runs against a policy, for CI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.options import JsonOption
from harness.errors import RunDirectoryError, UsageError

if TYPE_CHECKING:
    from harness.gate import Policy
    from harness.judgement import Judgement
    from harness.nightly.record import CellRecord

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


def gate(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, folders of them, or a night's folder.")],
    policy: Annotated[
        Path | None, typer.Option(help="YAML: which checks block and which warn (default: all block).")
    ] = None,
    allow_inconclusive: Annotated[
        bool, typer.Option("--allow-inconclusive", help="What is undecided warns in place of blocking.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Whatever the policy lets through blocks.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML: a test case for each check.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the gate as Markdown.")] = None,
    github: Annotated[
        bool, typer.Option("--github", help="Annotations on the output, Markdown into GITHUB_STEP_SUMMARY.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Let a change through, or not; the exit code is that of the worst check that blocks."""
    from harness.console import write_json
    from harness.gate import gate as weigh
    from reports.gate_output import markdown as as_markdown
    from reports.gate_output import workflow_commands

    if strict and allow_inconclusive:
        raise UsageError("--strict blocks what --allow-inconclusive lets through: give one of them")
    summary = os.environ.get(STEP_SUMMARY, "")
    if github and not summary:
        raise UsageError(f"--github is for a step of GitHub Actions: {STEP_SUMMARY} is not set")
    rules = _policy(policy)
    judgements, not_judged = _read(runs)
    result = weigh(judgements, rules, not_judged=not_judged, allow_inconclusive=allow_inconclusive, strict=strict)
    text = as_markdown(result)
    if junit is not None:
        from reports.junit import render

        _write(junit, render(judgements, allow_inconclusive=allow_inconclusive), "w")
    if markdown is not None:
        _write(markdown, text, "w")
    if github:
        _write(Path(summary), text, "a")
        for line in workflow_commands(result):
            typer.echo(line)
    if as_json:
        write_json(result.model_dump(mode="json"))
    else:
        typer.echo(result.sentence)
        for each in result.findings:
            word = str(each.verdict) if each.verdict is not None else "FAILED"
            typer.echo(f"  {each.action:<6} {word:<12} {each.scenario} / {each.stack}: {each.check}: {each.reason}")
        for place in result.unused_rules:
            typer.echo(f"rule {place} of policy {result.policy} met no check", err=True)
    raise typer.Exit(result.exit_code)


def _policy(path: Path | None) -> Policy:
    from harness.gate import Policy
    from harness.strict_yaml import load_specs

    if path is None:
        return Policy()
    ((_, found),) = load_specs([path], {"policy": Policy})
    assert isinstance(found, Policy)
    return found


def _read(paths: list[Path]) -> tuple[list[Judgement], list[CellRecord]]:
    """Judgements of runs and nights, in order; a run that was not judged yet is judged. And a night's other cells."""
    from harness.judge import judge, read_judgement, write_judgement
    from harness.nightly.store import NIGHT, read_night
    from harness.runlog import JUDGEMENT, run_directories

    directories: list[Path] = []
    others: list[CellRecord] = []
    for path in paths:
        if not (path / NIGHT).exists():
            directories += run_directories(path)
            continue
        night = read_night(path)
        for cell in night.cells:
            if cell.directory:
                directories.append(path / cell.directory)
            elif cell.verdict is None:
                others.append(cell)
            else:
                raise RunDirectoryError(f"{path}: retention deleted the run of {cell.key}, so it cannot be weighed")
    judgements = []
    for directory in directories:
        if not (directory / JUDGEMENT).exists():
            write_judgement(directory, judge(directory))
        judgements.append(read_judgement(directory))
    return judgements, others


def _write(path: Path, text: str, mode: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
