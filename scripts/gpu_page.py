"""Copies the judgements of a GPU run into the page that tells of it: ``gpu_page.py RUN_DIR PAGE COMMAND SECONDS``."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.judge import read_judgement
from harness.judgement import Judgement
from harness.runlog import JUDGEMENT
from reports import checks, figures

BEGIN, END = "<!-- the run: written by scripts/gpu_run.sh -->", "<!-- end of the run -->"


def device(judgements: list[Judgement]) -> str:
    gpus = {gpu for each in judgements if each.provenance for gpu in each.provenance.gpus}
    return "; ".join(sorted(gpus)) or "no GPU: a CPU"


def table(judgements: list[Judgement]) -> list[str]:
    lines = [
        "| scenario | users | verdict | check | measured | bounds | check's verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in judgements:
        for check in each.checks:
            cells = [
                each.scenario,
                str(each.load.users),
                f"**{each.verdict.value}**",
                f"`{check.text}`",
                figures.measured(check.value, check.metric, check.limit),
                checks.value_bounds(check),
                check.verdict.value,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def rates(judgements: list[Judgement]) -> list[str]:
    lines = [
        "| scenario | judged | requests/s | output tokens/s | prompt tokens | output tokens | TTFT p50 (s) "
        "| E2E p50 (s) |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"

    for each in judgements:
        p50 = {found.metric: found.p50 for found in each.distributions}
        load = each.load
        numbers = (load.throughput_rps, load.output_tokens_per_s, load.prompt_tokens_mean, load.tokens_got_mean)
        cells = [each.scenario, str(load.judged), *map(shown, (*numbers, p50.get("ttft"), p50.get("e2e")))]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def section(judgements: list[Judgement], command: str, seconds: str) -> str:
    first = judgements[0]
    about = first.provenance
    facts = [
        f"- Device: {device(judgements)}, {about.cores if about else '?'} CPU cores",
        f"- Server: {first.server.get('version', '')}; weights {first.server.get('weights', '')}",
        f"- Harness {about.harness_version if about else ''}, commit {about.git if about else ''}, Python"
        f" {about.python if about else ''}",
        f"- Begun {about.started if about else ''}, {seconds} s in all, weights and start-up included",
        f"- Command: `{command}`",
        f"- Started as: `{first.server.get('command', '')}`",
    ]
    sentences = [f"- {each.scenario}: {each.sentence}" for each in judgements]
    return "\n".join([*facts, "", *table(judgements), "", *rates(judgements), "", *sentences])


def main() -> None:
    run_dir, page, command, seconds = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    found = [read_judgement(path.parent) for path in sorted(run_dir.rglob(JUDGEMENT))]
    if not found:
        sys.exit(f"gpu_page: there is no judgement in {run_dir}")
    text = page.read_text(encoding="utf-8")
    before, begins, rest = text.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not begins or not ends:
        sys.exit(f"gpu_page: {page} has no place for the run: '{BEGIN}' and '{END}'")
    page.write_text(f"{before}{BEGIN}\n{section(found, command, seconds)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
