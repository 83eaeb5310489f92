"""What a real engine's translations are worth: judged as those of a run are, against what the model is known for.

SmolLM2-135M translates badly, in 4 bits as in bfloat16: runs on llama.cpp have a mean chrF between 0.10 and 0.22. An
engine with the same weights cannot do much better; one far below says that it, or the harness, garbles texts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.catalog import load_catalog
from harness.judge import judge
from harness.judgement import Verdict
from harness.quality_run import ensure_scored
from harness.runlog import OUTPUTS, seal
from harness.spec import Scenario
from servers import RunningServer
from tests.engines.standing import say
from tests.runs import load, sample, write_run

COUNT, CONCURRENCY = 40, 4
LONGEST_S = 600.0
LIKELY_CHRF = (0.08, 0.26)
"""Of llama.cpp's runs, widened by what 40 answers differ by."""
CHECK = "quality(chrf) > 0.45"
SLOT_S = 2.0
"""Seconds between two answers in the judged directory; how fast an engine is, is not the question here."""


def translations(server: RunningServer, protocol: str) -> list[dict[str, Any]]:
    """The same sentences to every engine, with the likeliest words for an answer."""
    arguments = [server.url, server.model, protocol, str(COUNT), str(CONCURRENCY)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.engines.answers", *arguments],
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def assert_translates_as_smollm2_does(
    server: RunningServer, folder: Path, protocol: str = "openai-chat", least_clean: float = 0.9
) -> None:
    """Every answer is scored, the mean lies where this model's does, and the translation scenario's check says FAIL.

    ``least_clean`` is the share of answers without marks of a prompt's form that there must be.
    """
    began = time.monotonic()
    answered = translations(server, protocol)
    took_s = time.monotonic() - began
    assert len({each["prompt_id"] for each in answered}) == COUNT
    spec = load_catalog().scenario("translation").model_dump(mode="json") | {"sla": ["p95(e2e) < 30 s", CHECK]}
    samples = [sample(11 + SLOT_S * place, 1.0, user=0, sequence=place) for place in range(COUNT)]
    manifest = write_run(folder, samples, Scenario.model_validate(spec), load(loop="open", users_asked=0))
    lines = [{"request": each.request_id, **told} for each, told in zip(samples, answered, strict=True)]
    (folder / OUTPUTS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    seal(folder, manifest)
    ensure_scored(folder)
    judgement = judge(folder)
    (check,) = [each for each in judgement.checks if each.text == CHECK]
    assert judgement.quality is not None, judgement.quality_note
    means = {each.scorer: each.mean for each in judgement.quality.scores}
    say(f"{server.facts().launcher}: chrF {check.value:.3f}, {means}, in {took_s:.0f} s")
    assert check.samples == COUNT
    assert LIKELY_CHRF[0] < (check.value or 0.0) < LIKELY_CHRF[1]
    assert check.verdict is Verdict.FAIL, check.reason
    assert (means["clean"] or 0.0) >= least_clean, "marks of a chat's template in texts"
    assert (means["script"] or 0.0) > 0.95
