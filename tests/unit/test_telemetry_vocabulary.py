"""Metric pages: of llama.cpp, vLLM and the emulator as they answered under load, the others by their documented names.

Of vLLM's page most histogram buckets are left out, which nobody reads.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.series import SERIES, throttle_reasons
from harness.telemetry.vocabulary import SERVERS, read

PAGES = Path(__file__).parent / "metric_pages"

TRUTH: dict[str, tuple[str, dict[str, float]]] = {
    "llamacpp": (
        "llamacpp",
        {
            "running": 4,
            "waiting": 2,
            "prompt_tokens_total": 180 + 120,
            "cached_tokens_total": 120,
            "output_tokens_total": 16,
        },
    ),
    "emulator": (
        "vllm",
        {
            "running": 3,
            "waiting": 0,
            "kv_use": 0.013933604264527366,
            "prompt_tokens_total": 72,
            "output_tokens_total": 889,
            "finished_total": 4,
        },
    ),
    "vllm": (
        "vllm",
        {
            "running": 4,
            "waiting": 3,
            "kv_use": 0.011019283746556474,
            "prompt_tokens_total": 168,
            "cached_tokens_total": 0,
            "output_tokens_total": 13,
            "preemptions_total": 0,
            "finished_total": 0,
        },
    ),
    "vllm_two_engines": (
        "vllm",
        {
            "running": 28,
            "waiting": 4,
            "kv_use": 0.375,
            "prompt_tokens_total": 21034,
            "cached_tokens_total": 9216,
            "output_tokens_total": 8051,
            "preemptions_total": 3,
            "finished_total": 41,
        },
    ),
    "triton": ("triton", {"waiting": 5, "finished_total": 45}),
    "triton_trtllm": ("triton-trtllm", {"running": 4, "waiting": 3, "kv_use": 0.6, "finished_total": 12}),
}


def page(name: str) -> str:
    return (PAGES / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TRUTH)
def test_a_page_is_read_in_our_words_and_nothing_is_made_up(name: str) -> None:
    kind, values = TRUTH[name]
    reading = read(page(name))
    assert reading.kind == kind
    assert reading.values == pytest.approx(values)


def test_every_term_is_of_the_one_vocabulary() -> None:
    for dialect in SERVERS.values():
        assert set(dialect.terms) <= set(SERIES)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('vllm:gpu_cache_usage_perc{model_name="m"} 0.25\n', {"kv_use": 0.25}),
        ("vllm:num_requests_running NaN\nvllm:num_requests_waiting 2\n", {"waiting": 2}),
        ("vllm:num_requests_running +Inf\n", {}),
        ("llamacpp:prompt_tokens_total 7\n", {"prompt_tokens_total": 7}),
        ("vllm:something_new 3\nvllm:num_requests_running_peak 9\n", {}),
    ],
)
def test_other_versions_and_values_that_are_none(text: str, values: dict[str, float]) -> None:
    assert read(text).values == values


@pytest.mark.parametrize("text", ["", "<html>not found</html>", "process_cpu_seconds_total 3\n"])
def test_a_page_of_nobody_we_know(text: str) -> None:
    reading = read(text)
    assert (reading.kind, reading.values) == ("", {})


def test_a_broken_line_that_is_needed_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"could not convert|Invalid|float"):
        read("vllm:num_requests_running much\n")


def test_throttle_reasons_are_named_and_idleness_is_none() -> None:
    assert throttle_reasons(0) == throttle_reasons(0x1) == ()
    assert throttle_reasons(0x1 | 0x4 | 0x40) == ("software power cap", "hardware thermal slowdown")
    assert throttle_reasons(0x1000) == ("reason 0x1000",)
