"""How long scoring the answers of a run takes: ``python -m benchmarks.score_quality``.

Answers are the catalog's own references and texts made of them, of the length each scenario has; the seconds are of the
whole of ``ensure_scored``: reading, choosing, scoring in processes, corpus figures and writing. CPU seconds are of all
processes; over the cores, they are the least that a quiet machine takes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import tempfile
import time
from pathlib import Path

from benchmarks.million_samples import write_run
from harness.catalog import load_catalog
from harness.dataset import read_workload
from harness.quality_file import read_quality
from harness.quality_run import ensure_scored
from harness.runlog import OUTPUTS, RunReader, seal
from harness.workload import prompt_sources

LENGTHS = {"translation": 12, "chatbot": 140, "content": 700}
"""Words of an answer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--scenario", choices=tuple(LENGTHS), action="append")
    options = parser.parse_args()
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: options.cores]))
    print("| scenario | answers | words each | seconds | CPU seconds |\n| --- | --- | --- | --- | --- |")
    for scenario in options.scenario or LENGTHS:
        words = LENGTHS[scenario]
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / "run"
            write_run(directory, options.answers, 1)
            _write_outputs(directory, scenario, options.answers, words)
            begin, cpu = time.perf_counter(), _cpu_s()
            ensure_scored(directory)
            seconds = time.perf_counter() - begin
            found = read_quality(directory)
            assert found is not None
            scored = found[0].num_rows
            assert scored == options.answers
            print(f"| {scenario} | {scored:,} | {words} | {seconds:.1f} | {_cpu_s() - cpu:.1f} |", flush=True)


def _cpu_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _write_outputs(directory: Path, scenario: str, count: int, words: int) -> None:
    rng = random.Random(1)
    workload = load_catalog().scenario(scenario).workload
    source = prompt_sources(workload, read_workload(workload))(rng)
    vocabulary = Path(__file__).read_text(encoding="utf-8").split()
    with (directory / OUTPUTS).open("w", encoding="utf-8") as file:
        for number in range(count):
            prompt = source.next("ok")
            text = " ".join(rng.choices(vocabulary, k=words))
            if prompt.expected.get("reference"):
                text = prompt.expected["reference"][0]
            line = {"request": f"r/0/{number % 1000}/{number // 1000}", "prompt_id": prompt.prompt_id}
            line |= {"prompt": prompt.messages[-1].content, "expected": prompt.expected, "outcome": "ok"}
            file.write(json.dumps(line | {"finish_reason": "stop", "text": text}) + "\n")
    manifest = RunReader(directory).manifest
    server = manifest.server.model_copy(update={"emulated": False})
    seal(directory, manifest.model_copy(update={"server": server}))


if __name__ == "__main__":
    main()
