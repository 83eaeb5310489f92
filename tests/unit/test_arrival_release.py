"""One worker's open loop: arrivals leave at their time, take idle connections, and are counted when they cannot."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

with pytest.MonkeyPatch.context() as _patch:
    # The package imports Locust, which would patch this process and with it every other test.
    _patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    import gevent

    from harness.loadgen.alarm import Alarm
    from harness.loadgen.open_loop import Arrival, OpenLoop

SPARES = 8
SLACK_S = 10.0
"""How late anything may be on a machine that is busy with something else; what must not be waited for takes longer."""


def until(holds: Callable[[], bool]) -> None:
    """Let the others run until a condition holds."""
    deadline_s = time.monotonic() + SLACK_S
    while not holds():
        assert time.monotonic() < deadline_s
        gevent.sleep(0.005)


class FakeClient:
    """Counts what is done to it; answers take ``answer_s``."""

    def __init__(self) -> None:
        self.opened = self.sent = self.closed = 0

    def open(self) -> None:
        self.opened += 1

    def close(self) -> None:
        self.closed += 1


class Stage:
    """An open loop with fake clients; ``work`` is what an arrival does once it began."""

    def __init__(self, times: list[float], work: Callable[[], Any] = lambda: None) -> None:
        self.clients: list[FakeClient] = []
        self.began: list[tuple[Arrival, float, FakeClient]] = []
        self.cut_off = 0
        self._work = work
        self.loop = OpenLoop(np.array(times), self.new_client, self.begin)  # type: ignore[arg-type]

    def new_client(self) -> FakeClient:
        self.clients.append(FakeClient())
        return self.clients[-1]

    def begin(self, arrival: Arrival, client: Any) -> Callable[[], None]:
        self.began.append((arrival, time.monotonic(), client))

        def work() -> None:
            client.sent += 1
            try:
                self._work()
            except gevent.GreenletExit:
                self.cut_off += 1
                raise

        return work

    def lateness_s(self) -> list[float]:
        return [began_s - arrival.due_s for arrival, began_s, _ in self.began]


def test_an_alarm_goes_off_at_its_moment_and_lets_others_run_when_it_has_passed() -> None:
    alarm, turns = Alarm(), []
    for delay_s in (0.05, 0.0004, 0.02):
        moment_s = time.monotonic() + delay_s
        alarm.wait_until(moment_s)
        assert 0 <= time.monotonic() - moment_s < SLACK_S
    gevent.spawn(turns.append, 1)
    alarm.wait_until(time.monotonic() - 1)
    assert turns == [1]
    alarm.close()


@pytest.mark.parametrize(("rank", "workers"), [(0, 1), (0, 3), (2, 3)])
def test_each_arrival_of_the_share_begins_at_its_time(rank: int, workers: int) -> None:
    times = [0.01 * index for index in range(30)]
    stage = Stage(times)
    zero_s = time.monotonic() + 0.02
    stage.loop.start(zero_s, rank, workers)
    until(lambda: len(stage.began) == len(range(rank, 30, workers)))
    assert stage.loop.finish() == []
    assert [arrival.place for arrival, _, _ in stage.began] == list(range(rank, 30, workers))
    for arrival, _, _ in stage.began:
        assert arrival.due_s == zero_s + times[arrival.place]
    assert all(0 <= late_s < SLACK_S for late_s in stage.lateness_s())
    assert stage.loop.due == len(stage.began)
    stage.loop.close()


def test_answers_that_never_come_delay_nobody() -> None:
    stage = Stage([0.01 * index for index in range(30)], work=lambda: gevent.sleep(60))
    stage.loop.start(time.monotonic(), 0, 1)
    until(lambda: len(stage.began) == 30)
    assert max(stage.lateness_s()) < SLACK_S
    assert stage.loop.finish() == []
    stage.loop.close()
    assert stage.cut_off == 30, "what is under way ends with the run"
    assert all(client.closed == 1 for client in stage.clients)


def test_idle_connections_are_used_again_the_latest_first() -> None:
    stage = Stage([0.02 * index for index in range(20)])
    until(lambda: len(stage.clients) == SPARES and all(client.opened for client in stage.clients))
    assert [client.opened for client in stage.clients] == [1] * SPARES, "spares are opened before the first arrival"
    stage.loop.start(time.monotonic() + 0.01, 0, 1)
    until(lambda: len(stage.began) == 20)
    first = stage.began[0][2]
    assert sum(client is first for _, _, client in stage.began) >= 18, "a busy machine may need a second one"
    assert len(stage.clients) <= SPARES + 2
    stage.loop.finish()
    stage.loop.close()


def test_a_burst_opens_as_many_connections_as_it_needs() -> None:
    stage = Stage([0.1] * 50, work=lambda: gevent.sleep(0.3))
    stage.loop.start(time.monotonic(), 0, 1)
    until(lambda: len(stage.began) == 50)
    assert len({id(client) for _, _, client in stage.began}) == 50
    stage.loop.finish()
    stage.loop.close()


def test_the_end_releases_what_is_due_and_nothing_after_it() -> None:
    stage = Stage([0.0, 0.1, 30.0])
    stage.loop.start(time.monotonic() - 0.2, 0, 1)
    began_s = time.monotonic()
    assert stage.loop.finish() == []
    assert time.monotonic() - began_s < SLACK_S
    assert [arrival.place for arrival, _, _ in stage.began] == [0, 1]
    assert stage.loop.due == 2
    stage.loop.close()


def test_a_process_without_time_says_which_arrivals_never_started() -> None:
    stage = Stage([0.0] * 200, work=lambda: time.sleep(0.02))  # each holds the whole process
    stage.loop.start(time.monotonic(), 0, 1)
    gevent.sleep(0)
    left = stage.loop.finish()
    assert left
    assert [arrival.place for arrival, _, _ in stage.began] + [arrival.place for arrival in left] == list(range(200))
    assert stage.loop.due == 200
    stage.loop.close()


def test_an_open_loop_that_never_started_ends() -> None:
    stage = Stage([0.0])
    assert stage.loop.finish() == []
    stage.loop.close()
    assert stage.began == []
