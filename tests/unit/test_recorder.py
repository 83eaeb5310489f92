"""The recorder's columns are the samples' rows, and the share of texts that is kept knows nothing of outcomes."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.clients import Reply
from harness.records import Message, Outcome, Prompt, Sample, TokenSource
from harness.runlog import SCHEMA, RunReader, RunWriter, sample_batch

with pytest.MonkeyPatch.context() as _patch:
    # The package imports Locust, which would patch this process and with it every other test.
    _patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from harness.loadgen.recorder import Recorder, from_bytes, to_bytes

UNHURRIED = settings(deadline=None)
"""A machine that is busy with load makes no property false."""
PROMPT = Prompt("p/1", (Message("system", "s"), Message("user", "question")), 20, expected={"reference": ["oui"]})

SECONDS = st.one_of(st.just(math.nan), st.floats(0, 1e7))
COUNTS = st.integers(-1, 2**31 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
REPLIES = st.builds(
    Reply,
    sent_s=SECONDS,
    first_byte_s=SECONDS,
    first_token_s=SECONDS,
    last_token_s=SECONDS,
    end_s=SECONDS,
    outcome=st.sampled_from(Outcome),
    http_status=st.integers(0, 599),
    finish_reason=TEXTS,
    prompt_tokens=COUNTS,
    output_tokens=COUNTS,
    token_source=st.sampled_from(TokenSource),
    chunks=st.integers(0, 10_000),
    gaps_us=st.lists(st.integers(0, 2**32 - 1), max_size=6).map(tuple),
    text=TEXTS,
    bytes=st.integers(0, 2**40),
    cached_tokens=COUNTS,
    error=TEXTS,
    retries=st.integers(0, 9),
    retry_s=st.floats(0, 100),
)


def recorder(share: float = 0.0, seed: int = 1) -> Recorder:
    return Recorder("run-1", 3, "eu", "chatbot", share, f"outputs/{seed}/3")


def sample(user: int, sequence: int, scheduled_s: float, reply: Reply) -> Sample:
    """The row that a reply stands for, field by field."""
    known: dict[str, Any] = {
        "run": "run-1",
        "worker": 3,
        "region": "eu",
        "user": user,
        "sequence": sequence,
        "scenario": "chatbot",
        "prompt_id": PROMPT.prompt_id,
        "scheduled_s": scheduled_s,
        "requested_tokens": PROMPT.output_tokens,
    }
    rest = {field.name for field in fields(Sample)} - set(known)
    return Sample(**known, **{name: getattr(reply, name) for name in rest})


def rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """As Python rows in which NaN equals NaN and no null stands for it."""
    return [{name: "NaN" if value != value else value for name, value in row.items()} for row in batch.to_pylist()]


@UNHURRIED
@given(replies=st.lists(REPLIES, min_size=1, max_size=8))
def test_columns_are_the_samples_rows(replies: list[Reply]) -> None:
    found = recorder()
    for number, reply in enumerate(replies):
        found.add(number, number * 2, PROMPT, number + 0.5, reply)
    flushed = found.flush()
    assert flushed is not None
    expected = sample_batch([sample(n, n * 2, n + 0.5, reply) for n, reply in enumerate(replies)])
    assert flushed[0].schema.equals(SCHEMA)
    assert rows(flushed[0]) == rows(expected)
    flushed[0].validate(full=True)
    assert rows(from_bytes(to_bytes(flushed[0]))) == rows(expected)


def test_a_request_that_got_nothing_is_a_row_all_the_same() -> None:
    found = recorder()
    found.add(0, 0, PROMPT, 1.0, Reply(sent_s=1.0, outcome=Outcome.REFUSED, end_s=1.5))
    flushed = found.flush()
    assert flushed is not None
    (row,) = flushed[0].to_pylist()
    assert (row["outcome"], row["gaps_us"], row["output_tokens"]) == ("refused", [], -1)
    assert math.isnan(row["first_token_s"])
    assert flushed[0].column("first_token_s").null_count == 0


def test_a_flush_hands_over_once_and_counts() -> None:
    found = recorder(share=1.0)
    assert found.flush() is None
    for number in range(3):
        found.add(0, number, PROMPT, 0.0, Reply(sent_s=0.0))
    assert len(found) == 3
    first = found.flush()
    assert first is not None
    batch, outputs = first
    before = rows(batch)
    assert (batch.num_rows, len(outputs), len(found), found.sent) == (3, 3, 0, 3)
    assert found.flush() is None
    found.add(0, 3, PROMPT, 0.0, Reply(sent_s=9.0, gaps_us=(5,)))
    second = found.flush()
    assert second is not None
    assert second[0].column("sequence").to_pylist() == [3]
    assert second[0].column("gaps_us").to_pylist() == [[5]]
    assert found.sent == 4
    assert rows(batch) == before, "a batch handed over must not change with what comes after"


def test_batches_are_what_a_run_directory_takes(tmp_path: Any) -> None:
    found = recorder(share=1.0)
    found.add(4, 2, PROMPT, 1.0, Reply(sent_s=1.0, gaps_us=(1, 2), text="antwort", outcome=Outcome.OK))
    flushed = found.flush()
    assert flushed is not None
    writer = RunWriter(tmp_path)
    writer.open_samples()
    writer.append(from_bytes(to_bytes(flushed[0])))
    writer.append_outputs(flushed[1])
    writer.close()
    reader = RunReader(tmp_path)
    assert reader.samples().column("gaps_us").to_pylist() == [[1, 2]]
    assert [output["text"] for output in reader.outputs()] == ["antwort"]


# The share of texts ---------------------------------------------------------------------------


def kept(share: float, seed: int, outcomes: list[Outcome], flush_every: int = 10_000) -> list[str]:
    """The requests whose texts are kept."""
    found, names = recorder(share, seed), []
    for number, outcome in enumerate(outcomes):
        found.add(0, number, PROMPT, 0.0, Reply(sent_s=0.0, outcome=outcome, text=str(number)))
        if number % flush_every == flush_every - 1 or number == len(outcomes) - 1:
            flushed = found.flush()
            assert flushed is not None
            names += [output["request"] for output in flushed[1]]
    return names


@UNHURRIED
@given(outcomes=st.lists(st.sampled_from(Outcome), min_size=1, max_size=200), seed=st.integers(0, 2**32))
def test_the_share_does_not_depend_on_outcomes(outcomes: list[Outcome], seed: int) -> None:
    assert kept(0.3, seed, outcomes) == kept(0.3, seed, [Outcome.OK] * len(outcomes))


def test_the_share_is_repeatable_and_follows_the_seed_not_the_batches() -> None:
    ok = [Outcome.OK] * 500
    assert kept(0.2, 1, ok) == kept(0.2, 1, ok, flush_every=7)
    assert kept(0.2, 1, ok) != kept(0.2, 2, ok)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_share_is_as_large_as_asked(share: float, seed: int) -> None:
    count = 4000
    found = len(kept(share, seed, [Outcome.OK] * count)) / count
    assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / count)


def test_none_and_all_are_exact() -> None:
    assert kept(0.0, 1, [Outcome.OK] * 50) == []
    assert len(kept(1.0, 1, [Outcome.OK] * 50)) == 50


def test_a_kept_text_names_its_request_and_what_it_is_compared_with() -> None:
    found = recorder(share=1.0)
    reply = Reply(sent_s=0.0, outcome=Outcome.TRUNCATED, finish_reason="length", text="ou")
    found.add(7, 5, PROMPT, 0.0, reply)
    flushed = found.flush()
    assert flushed is not None
    assert flushed[1] == [
        {
            "request": sample(7, 5, 0.0, reply).request_id,
            "prompt_id": "p/1",
            "prompt": "question",
            "expected": {"reference": ["oui"]},
            "outcome": "truncated",
            "finish_reason": "length",
            "text": "ou",
        }
    ]
