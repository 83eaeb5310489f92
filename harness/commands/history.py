"""``harness history``, ``harness trend`` and ``harness regress``: what runs were, and whether tonight is worse."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.commands.options import JsonOption
from harness.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from harness.judgement import Judgement
    from harness.regression import Finding

DEFAULT_STORE = Path("runs/history.duckdb")

StoreOption = Annotated[Path, typer.Option("--store", help="The history, a DuckDB file.")]
RunsArgument = Annotated[list[Path], typer.Argument(help="Judged run directories, or folders of them.")]

app = typer.Typer(no_args_is_help=True, help="Keep what runs were, night after night, in one file.")


@app.command()
def add(runs: RunsArgument, store: StoreOption = DEFAULT_STORE) -> None:
    """Append judged runs to the history; what is there already stays as it is."""
    from harness.history.store import append

    judgements = _judgements(runs)
    added = append(store, judgements)
    typer.echo(f"{store}: {added} of {_runs(len(judgements))} added")


@app.command()
def baseline(
    name: Annotated[str, typer.Argument(help="How `harness regress --baseline` calls it.")],
    runs: RunsArgument,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Give runs a name to compare with; they are appended where they are not in the history."""
    from harness.history.store import set_baseline

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == "last-good":
        raise UsageError(f"'{name}' cannot name a baseline: letters, digits, '.', '_' and '-', and not last-good")
    count = set_baseline(store, name, _judgements(runs))
    typer.echo(f"{store}: baseline '{name}' is {_runs(count)}")


def trend(
    store: StoreOption = DEFAULT_STORE,
    cell: Annotated[str, typer.Option(help="Only cells whose name contains this, such as 'translation / 13b'.")] = "",
    output: Annotated[Path, typer.Option(help="The HTML file.")] = Path("trend.html"),
) -> None:
    """Write one offline page with every figure's history per cell, its changes marked."""
    from harness.history.store import read
    from harness.runlog import write_atomically
    from reports.trend import render

    rows = read(store, lambda found: cell.lower() in found.label.lower())
    if not rows:
        known = sorted(found.label for found in read(store))
        raise unknown_name("cell", cell, known) if known else UsageError(f"{store} has no runs yet")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, render(rows))
    typer.echo(str(output))


def regress(
    runs: RunsArgument,
    store: StoreOption = DEFAULT_STORE,
    baseline: Annotated[
        str, typer.Option(help="A named baseline, last-good, or window:N for the N nights before.")
    ] = "window:14",
    min_effect: Annotated[str, typer.Option(help="The least change that is worth a finding.")] = "5%",
    min_share: Annotated[str, typer.Option(help="The same for shares, in points: 1% is one point.")] = "1%",
    metric: Annotated[list[str] | None, typer.Option(help="Only this figure; may be given again.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with 98 where something is too noisy to say.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare tonight's runs with a baseline, by what the history says of each cell's noise."""
    from harness.history.rows import METRICS, row_of
    from harness.history.store import baselines, read
    from harness.regression import Limits, compare, exit_code

    for name in metric or ():
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
    limits = Limits(min_effect=_percent("--min-effect", min_effect), min_share=_percent("--min-share", min_share))
    named: frozenset[str] = frozenset()
    if baseline.startswith("window:"):
        if not re.fullmatch(r"window:[1-9][0-9]{0,3}", baseline):
            raise UsageError(f"--baseline {baseline}: a window is a number of nights, such as window:14")
    elif baseline != "last-good":
        known = baselines(store)
        if baseline not in known:
            raise unknown_name("baseline", baseline, (*known, "last-good", "window:14"))
        named = known[baseline]
    tonight = [row_of(judgement) for judgement in _judgements(runs)]
    cells = {row.cell for row in tonight}
    history = read(store, cells.__contains__)
    findings = compare(tonight, history, baseline=baseline, named=named, metrics=metric or (), limits=limits)
    code = exit_code(findings, strict=strict)
    typer.echo(_as_json(findings, baseline, code) if as_json else _as_text(findings))
    raise typer.Exit(code)


def _judgements(paths: Iterable[Path]) -> list[Judgement]:
    from harness.judge import read_judgement
    from harness.runlog import run_directories

    return [read_judgement(directory) for path in paths for directory in run_directories(path)]


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _percent(option: str, text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 10:
        raise UsageError(f"{option} {text}: a share above 0, such as 5% or 0.05")
    return value


def _as_text(findings: Iterable[Finding]) -> str:
    """One line a figure, the worst first; cells as headings."""
    from harness.regression import Change
    from reports.figures import clean

    order = list(Change)
    lines: list[str] = []
    by_cell: dict[str, list[Finding]] = {}
    for finding in findings:
        by_cell.setdefault(finding.cell.label, []).append(finding)
    for label, found in by_cell.items():
        lines.append(clean(label))
        lines.extend(
            f"  {each.change:<10} {each.metric or 'all figures':<20} {each.sentence}"
            for each in sorted(found, key=lambda each: order.index(each.change))
        )
    changes = [finding.change for found in by_cell.values() for finding in found]
    lines.append(", ".join(f"{changes.count(change)} {change.lower()}" for change in Change))
    return "\n".join(lines)


def _as_json(findings: Iterable[Finding], baseline: str, code: int) -> str:
    import dataclasses
    import json
    import math

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        # JSON has no infinity; pydantic writes a judgement's the same way.
        return None if isinstance(value, float) and not math.isfinite(value) else value

    found = [plain(dataclasses.asdict(finding)) for finding in findings]
    return json.dumps({"format": 1, "baseline": baseline, "exit_code": int(code), "findings": found}, indent=1)
