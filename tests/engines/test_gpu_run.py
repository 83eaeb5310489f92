"""The script of the GPU run, with a tiny model on this machine's CPU: all of it but the GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.judge import read_judgement
from servers.environments import ENVIRONMENTS, make
from tests.e2e.processes import ROOT, assert_nothing_left, environment
from tests.engines.standing import say

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]
TINY = """
kind: stack
name: transformers-tiny
title: A tiny shape with random weights on this machine's CPU, transformers
engine: transformers
protocol: openai-chat
price: {kind: none, reason: It runs on the machine that the harness runs on.}
launch: {runtime: path, executable: python3, weights: "random:tiny", threads: 1, ready_timeout_s: 300}
"""


def test_three_verdicts_and_a_page(tmp_path: Path) -> None:
    make(ENVIRONMENTS["transformers"], say)
    catalog, page, runs = tmp_path / "tiny.yaml", tmp_path / "page.md", tmp_path / "runs"
    catalog.write_text(TINY)
    text = (ROOT / "docs" / "gpu-run.md").read_text()
    page.write_text(text)
    settings = {
        "PYTHON": str(ENVIRONMENTS["transformers"].directory / "bin" / "python3"),
        "HARNESS_PYTHON": sys.executable,
        "STACK": "transformers-tiny",
        "CATALOG": str(catalog),
        "USERS": "6",
        "OUTPUT_TOKENS": "8",
        "RUN_TIME": "12",
        "RUN_DIR": str(runs),
        "PAGE": str(page),
    }
    done = subprocess.run(
        [ROOT / "scripts" / "gpu_run.sh"],
        cwd=tmp_path,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_nothing_left(runs)
    written = page.read_text()
    for scenario in ("chatbot", "content", "translation"):
        directory = runs / f"{scenario}--transformers-tiny"
        judgement = read_judgement(directory)
        assert judgement.load.judged > 0
        assert judgement.server["weights"] == "random:tiny"
        asked, got = judgement.load.tokens_asked_mean, judgement.load.tokens_got_mean
        assert got == asked, "random weights never end an answer by themselves"
        assert f"| {scenario} | 6 | **{judgement.verdict.value}** |" in written
    assert f"{runs}/report.html" in done.stdout
    assert "- Device: no GPU: a CPU" in written
    assert "transformers 5." in written
    assert "has not run yet" not in written
    assert written.partition("## The run")[0] == text.partition("## The run")[0]


def test_it_says_what_is_missing(tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if name not in ("STACK", "PYTHONPATH")}
    done = subprocess.run(
        [ROOT / "scripts" / "gpu_run.sh"],
        env={**variables, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.startswith(f"gpu_run: {sys.executable} has no torch transformers")
