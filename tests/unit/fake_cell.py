"""Stands in for ``harness run`` and ``harness judge`` in tests of a night: run directories made before, without load.

The variant of a cell, which comes as its seed, says what befalls it. Only the standard library, so that it starts at
once; ``FAKE_CELL_RUNS`` holds the runs that it copies.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

PLAYS = {
    1: "passes",
    2: "fails",
    3: "invalid",
    4: "server",
    5: "crash",
    6: "killed",
    7: "hangs",
    8: "sealed-only",
    9: "invalid-once",
    10: "server-once",
    11: "cut-off",
    12: "no-space",
}
LEAVES = {"sealed-only": "passes", "server-once": "passes"}
RUNS = "FAKE_CELL_RUNS"
JUDGEMENT = "judgement.json"


def leave(directory: Path, name: str) -> int:
    made = Path(os.environ[RUNS]) / name
    shutil.copytree(made, directory, dirs_exist_ok=True)
    (directory / "made.txt").write_text(name)
    return {"PASS": 0, "FAIL": 99, "INVALID": 97}[json.loads((directory / JUDGEMENT).read_text())["verdict"]]


def say(code: int, sentence: str) -> int:
    print(json.dumps({"cells": [{"sentence": sentence, "exit_code": code}]}))
    return code


def run(directory: Path, name: str) -> int:
    first = directory.name.endswith("--1")
    if name == "server" or (name == "server-once" and first):
        return say(3, "the server did not stand up")
    if name == "crash":
        return say(4, "the load generator crashed")
    if name == "no-space":
        sys.stderr.write("harness: no space left on the disk of here; what was recorded until now is kept\n")
        return 2
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name in ("hangs", "cut-off"):
        (directory / "hangs").touch()
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            if name == "hangs":
                return say(130, "interrupted before there was anything to judge")
    if name == "invalid-once":
        name = "invalid" if first else "passes"
    code = leave(directory, LEAVES.get(name, name))
    if name == "sealed-only":
        (directory / JUDGEMENT).unlink()
    return code


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("name")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options, _ = parser.parse_known_args()
    if options.command == "judge":
        directory = Path(options.name)
        name = (directory / "made.txt").read_text()
        shutil.copyfile(Path(os.environ[RUNS]) / name / JUDGEMENT, directory / JUDGEMENT)
        return 0
    return run(options.run_dir, PLAYS[options.seed])


if __name__ == "__main__":
    sys.exit(main())
