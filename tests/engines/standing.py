"""What the tests of vLLM and transformers share: a stack stood up with its real model, and what must be true of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

import psutil
import pytest
import yaml

from harness.catalog import load_catalog
from harness.errors import ExitCode
from harness.spec import Launch, Stack
from servers import RunningServer, launcher_for
from servers.environments import ENVIRONMENTS, make
from servers.models import ensure
from tests.e2e.processes import assert_no_trace, harness, wait_until

CATALOG = load_catalog()
REQUESTS = 200
TOKENS = 32
TOLERANCE = 0.05


def say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def standing(name: str, folder: Path) -> Iterator[RunningServer]:
    """A stack of the catalog, its environment and its weights made first where they are missing."""
    stack = CATALOG.stack(name)
    make(ENVIRONMENTS[stack.engine], say)
    ensure("smollm2-hf", say)
    server = launcher_for(stack, emulate=False).launch(
        stack, CATALOG.scenario("chatbot"), users=8, log_file=folder / "server.log", work_dir=folder, progress=say
    )
    with server:
        yield server


def with_launch(stack: Stack, **changes: object) -> Stack:
    launch = Launch.model_validate({**stack.launch.model_dump(exclude_unset=True), **changes})
    return stack.model_copy(update={"launch": launch})


def family(server: RunningServer) -> list[psutil.Process]:
    """Everything that a server consists of now."""
    assert server.pid is not None
    root = psutil.Process(server.pid)
    return [root, *root.children(recursive=True)]


def assert_ends_with_all_it_started(server: RunningServer) -> None:
    members = family(server)
    assert len(members) > 1
    server.stop()
    wait_until(lambda: not any(each.is_running() for each in members), "all its processes are gone")
    facts = server.facts()
    assert not facts.died
    assert facts.exit_code is not None


def assert_refuses_weights(name: str, folder: Path) -> None:
    """``harness serve`` with a directory that is no model: one sentence, exit code 3, at once."""
    empty = folder / "no-model"
    empty.mkdir()
    for weights, sentence in (
        (folder / "nowhere", "are not there: there is no such file or directory"),
        (empty, "holds no model in Hugging Face's format: config.json and *.safetensors"),
    ):
        document = CATALOG.stack(name).model_dump(mode="json", exclude_unset=True)
        document = {**document, "name": "wrong", "launch": {**document["launch"], "weights": str(weights)}}
        own = folder / "wrong.yaml"
        own.write_text(yaml.safe_dump(document))
        ended = harness("serve", "wrong", "--catalog", own)
        assert ended.code == ExitCode.SERVER, ended
        assert_no_trace(ended.out, ended.err)
        said = [line for line in (ended.out + ended.err).splitlines() if line.startswith("harness: ")]
        assert len(said) == 1, ended
        assert str(weights) in said[0]
        assert said[0].endswith(sentence)


def agree(kind: str, ours: list[float], theirs: list[float]) -> None:
    """Compare two means of the same requests, and write the figures to the file that ``AGREEMENT_FILE`` names."""
    mine, other = fmean(ours), fmean(theirs)
    line = {"kind": kind, "requests": len(ours), "harness_s": mine, "server_s": other, "error": mine / other - 1}
    say(json.dumps(line))
    wanted = os.environ.get("AGREEMENT_FILE")
    if wanted:
        with Path(wanted).open("a") as file:
            file.write(json.dumps(line) + "\n")
    assert mine == pytest.approx(other, rel=TOLERANCE), line
