"""``harness score``: the answers of recorded runs, scored again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.commands.options import JsonOption


def score(
    run_dir: Annotated[Path, typer.Argument(help="A run directory, or a folder of them.")],
    most: Annotated[int, typer.Option(help="Answers to score, spread over the run's time.", min=1)] = 10_000,
    judge_url: Annotated[str, typer.Option(help="OpenAI-compatible URL of a judge model to ask as well.")] = "",
    judge_model: Annotated[str, typer.Option(help="Its name there.")] = "",
    judge_key_env: Annotated[str, typer.Option(help="Environment variable that holds its key.")] = "OPENAI_API_KEY",
    judge_most: Annotated[int, typer.Option(help="Answers to show it; two calls each.", min=1)] = 100,
    judge_price: Annotated[str, typer.Option(help="USD per million tokens, in and out, such as 0.15,0.60.")] = "",
    judge_max_cost: Annotated[float, typer.Option(help="USD at which asking it stops.", min=0)] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Score the answers of recorded runs again, and judge the runs with the new scores. Needs no server."""
    from harness.judge import judge, write_judgement
    from harness.quality_judging import ask_judge, endpoint_of
    from harness.quality_run import ensure_scored
    from harness.runlog import run_directories
    from reports.quality_text import lines

    endpoint = endpoint_of(judge_url, judge_model, judge_key_env, judge_price, judge_max_cost, judge_most)
    found = []
    for directory in run_directories(run_dir):
        facts = ensure_scored(directory, again=True, most=most)
        if facts is not None and endpoint is not None:
            ask_judge(directory, endpoint)
        found.append(judge(directory))
        write_judgement(directory, found[-1])
    if as_json:
        typer.echo("[" + ",".join(each.model_dump_json(include=SHOWN) for each in found) + "]")
        return
    for judgement in found:
        typer.echo("\n".join(lines(judgement)))


SHOWN = {"run", "scenario", "stack", "quality", "quality_note", "quality_word", "verdict"}
