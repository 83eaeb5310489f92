"""The real ``transformers serve`` on this machine's CPU with a small real model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from servers import RunningServer
from servers.environments import home
from tests.engines.scored_quality import assert_translates_as_smollm2_does
from tests.engines.sender import send
from tests.engines.standing import (
    REQUESTS,
    TOKENS,
    agree,
    assert_ends_with_all_it_started,
    assert_refuses_weights,
    standing,
)
from tests.engines.timing_proxy import timing_proxy

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]
STACK = "transformers-smollm2"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with standing(STACK, tmp_path_factory.mktemp("transformers")) as server:
        yield server


def test_what_the_manifest_will_say(server: RunningServer) -> None:
    facts = server.facts()
    assert facts.version.startswith("transformers 5.")
    assert ", torch 2." in facts.version
    assert facts.model == str(home() / ".models" / "smollm2-hf")
    assert "--continuous-batching" in facts.command
    assert len(str(facts.details["model_digest"])) == 71
    assert facts.metrics_url == ""
    assert not facts.died


def test_a_second_clock_on_the_same_requests(server: RunningServer) -> None:
    port = urlsplit(server.url).port
    assert port is not None
    with timing_proxy(port) as proxy:
        sent = send(proxy.url, server.model, REQUESTS, 8, TOKENS)
        passed = proxy.passed
    assert len(passed) == len(sent) == REQUESTS
    assert all(each.tokens > 0 for each in sent)
    agree("transformers TTFT", [each.ttft_s for each in sent], [each.first_token_s - each.began_s for each in passed])
    agree("transformers E2E", [each.e2e_s for each in sent], [each.end_s - each.began_s for each in passed])


def test_its_translations_are_scored_and_those_of_a_small_model(server: RunningServer, tmp_path: Path) -> None:
    assert_translates_as_smollm2_does(server, tmp_path)


def test_weights_that_are_none(tmp_path: Path) -> None:
    assert_refuses_weights(STACK, tmp_path)


def test_it_ends_with_all_it_started(server: RunningServer) -> None:
    assert_ends_with_all_it_started(server)
