"""Static batches of answers, without Triton: who joins, who waits, and how each answer ends."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections import deque
from types import ModuleType
from typing import Any

import pytest

from servers.triton_rendering import SHARED


def _load() -> ModuleType:
    """It lies where only Triton imports from."""
    spec = importlib.util.spec_from_file_location("triton_batching_under_test", SHARED / "batching.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


batching: Any = _load()


class Client:
    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.failed: list[str] = []
        self.gone = False
        self.ended = threading.Event()

    def send(self, text: str, reason: str, times: Any) -> None:
        self.sent.append((text, reason))
        if reason:
            self.ended.set()

    def fail(self, why: str) -> None:
        self.failed.append(why)
        self.ended.set()

    def is_cancelled(self) -> bool:
        return self.gone


def answer(text: str = "q", max_tokens: int = 4, *, streaming: bool = True, **sampling: Any) -> Any:
    client = Client()
    made = batching.Answer(text, batching.Sampling(max_tokens, **sampling), client, streaming=streaming)
    made.client = client
    return made


def test_tokens_are_sent_as_they_come_and_the_last_says_why() -> None:
    one = answer(max_tokens=3)
    for piece in ("a", "b", "c", "never"):
        one.add(piece)
    assert one.client.sent == [("a", ""), ("b", ""), ("c", "length")]
    assert one.ended
    assert 0 < one.times.arrival_ns <= one.times.first_token_ns <= one.times.last_token_ns


def test_half_a_character_waits_and_is_not_lost_at_the_end() -> None:
    one = answer()
    for piece in ("", "é", ""):
        one.add(piece)
    one.stop()
    assert one.client.sent == [("é", ""), ("", "stop")]
    cut = answer(max_tokens=2)
    cut.add("a")
    cut.add("")
    assert cut.client.sent == [("a", ""), ("", "length")]


def test_without_streaming_there_is_one_response() -> None:
    one = answer(streaming=False)
    one.add("a")
    one.add("b")
    one.stop()
    one.stop()
    assert one.client.sent == [("ab", "stop")]


def test_a_client_that_has_gone_ends_its_row() -> None:
    one = answer()
    one.add("a")
    one.client.gone = True
    one.add("b")
    assert one.ended
    assert one.client.failed == ["the client has gone"]


def test_only_like_joins_like_and_nobody_overtakes() -> None:
    greedy = [answer(str(number)) for number in range(4)]
    sampled = [answer("s", temperature=1.0), answer("t", temperature=1.0), answer("hot", temperature=2.0)]
    seeded = answer("seeded", temperature=1.0, seed=1)
    forced = answer("forced", ignore_eos=True)
    waiting = deque([greedy[0], sampled[0], greedy[1], seeded, sampled[2], greedy[2], sampled[1], forced, greedy[3]])
    taken = []
    while waiting:
        taken.append([each.text for each in batching.take_batch(waiting, 3)])
    assert taken == [["0", "1", "2"], ["s", "t"], ["seeded"], ["hot"], ["forced"], ["3"]]


def test_what_comes_meanwhile_is_the_next_batch_and_the_engine_keeps_its_thread() -> None:
    threads: list[int] = []
    seen: list[list[str]] = []
    began, go_on = threading.Event(), threading.Event()

    def make() -> Any:
        threads.append(threading.get_ident())

        def run(batch: list[Any]) -> None:
            threads.append(threading.get_ident())
            seen.append([each.text for each in batch])
            began.set()
            assert go_on.wait(10)
            for each in batch:
                each.add(each.text)
                each.stop()

        return run

    batches = batching.Batches(make, 8)
    batches.open()
    answers = [answer(text) for text in "abc"]
    batches.put(answers[0])
    assert began.wait(10)
    batches.put(answers[1])
    batches.put(answers[2])
    go_on.set()
    for each in answers:
        assert each.client.ended.wait(10)
        assert each.client.sent == [(each.text, ""), ("", "stop")]
    batches.close()
    assert seen == [["a"], ["b", "c"]]
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads
    assert answers[1].times.first_scheduled_ns == answers[2].times.first_scheduled_ns


def test_an_engine_s_error_ends_its_batch_and_not_the_server() -> None:
    def run(batch: list[Any]) -> None:
        if batch[0].text == "bad":
            raise RuntimeError("no memory")
        if batch[0].text == "good":
            batch[0].stop()

    batches = batching.Batches(lambda: run, 8)
    batches.open()
    said = {}
    for text in ("bad", "forgotten", "good"):
        one = answer(text)
        batches.put(one)
        assert one.client.ended.wait(10)
        said[text] = one.client.failed
    batches.close()
    assert said == {
        "bad": ["RuntimeError: no memory"],
        "forgotten": ["the engine ended without an end of this answer"],
        "good": [],
    }


def test_an_engine_that_cannot_be_made_is_said_at_once() -> None:
    def make() -> Any:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        batching.Batches(make, 8).open()


def test_what_waits_at_the_end_is_refused() -> None:
    began, go_on = threading.Event(), threading.Event()

    def run(batch: list[Any]) -> None:
        began.set()
        assert go_on.wait(10)
        batch[0].stop()

    batches = batching.Batches(lambda: run, 1)
    batches.open()
    first, second = answer(), answer()
    batches.put(first)
    assert began.wait(10)
    batches.put(second)
    closing = threading.Thread(target=batches.close)
    closing.start()
    while not batches._closed:
        pass
    go_on.set()
    closing.join(10)
    assert first.client.sent == [("", "stop")]
    assert second.client.failed == ["the server is being stopped"]
