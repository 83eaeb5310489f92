"""llama.cpp says in each answer how long reading the prompt and generating took it."""

from __future__ import annotations

from pathlib import Path

import pytest

from servers import launcher_for
from servers.environments import ENVIRONMENTS, make
from tests.engines.sender import send
from tests.engines.standing import CATALOG, REQUESTS, TOKENS, agree, say

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1200)]


def test_its_own_account_of_the_same_requests(tmp_path: Path) -> None:
    make(ENVIRONMENTS["llamacpp"], say)
    stack = CATALOG.stack("llamacpp-smollm2")
    files = {"log_file": tmp_path / "server.log", "work_dir": tmp_path}
    with launcher_for(stack, emulate=False).launch(stack, CATALOG.scenario("chatbot"), users=2, **files) as server:
        # One at a time: its times of a request begin when a slot takes it, so waiting for a step is not in them.
        sent = send(server.url, server.model, REQUESTS, 1, TOKENS)
    assert len(sent) == REQUESTS
    assert all(each.tokens == each.timings["predicted_n"] > 0 for each in sent)
    whole = [(each.timings["prompt_ms"] + each.timings["predicted_ms"]) / 1000 for each in sent]
    agree("llama.cpp E2E", [each.e2e_s for each in sent], whole)
    first = [each.timings["prompt_ms"] / 1000 for each in sent]
    agree("llama.cpp TTFT", [each.ttft_s for each in sent], first)
