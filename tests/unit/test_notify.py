"""The webhook, against a receiver on this machine that fails first."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from harness.notify import LONGEST_PAUSE_S, PAUSES_S, notify

SECRET = "T0000-B0000-planted"


class Receiver:
    """Answers with each of ``statuses`` in turn, then with the last; keeps what it got."""

    def __init__(self, statuses: list[int], headers: dict[str, str]) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self._statuses = iter(statuses)
        self._last = statuses[-1]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((self.path, json.loads(body)))
                self.send_response(next(outer._statuses, outer._last))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/{SECRET}"


@contextmanager
def receiving(*statuses: int, **headers: str) -> Iterator[Receiver]:
    receiver = Receiver(list(statuses), {name.replace("_", "-"): value for name, value in headers.items()})
    thread = threading.Thread(target=receiver.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()


def test_one_sentence_arrives_as_slack_takes_it() -> None:
    with receiving(200) as receiver:
        assert notify(receiver.url, "FAIL: “p95” <b>") == ""
    assert receiver.got == [(f"/services/{SECRET}", {"text": "FAIL: “p95” <b>"})]


@pytest.mark.parametrize("statuses", [(500, 503, 200), (429, 200), (502, 502, 502, 502, 204)])
def test_it_is_tried_again_with_longer_and_longer_pauses(statuses: tuple[int, ...]) -> None:
    slept: list[float] = []
    with receiving(*statuses) as receiver:
        assert notify(receiver.url, "x", sleep=slept.append) == ""
    assert len(receiver.got) == len(statuses)
    assert slept == list(PAUSES_S[: len(statuses) - 1])
    assert slept == sorted(slept)


def test_it_gives_up_after_its_last_pause() -> None:
    slept: list[float] = []
    with receiving(500) as receiver:
        assert notify(receiver.url, "x", sleep=slept.append) == "the webhook answered 500"
    assert len(receiver.got) == len(PAUSES_S) + 1


@pytest.mark.parametrize(("asked", "paused"), [("7", 7.0), ("9999", LONGEST_PAUSE_S), ("-3", 1.0), ("soon", 1.0)])
def test_a_receiver_may_ask_for_a_longer_pause(asked: str, paused: float) -> None:
    slept: list[float] = []
    with receiving(429, 200, Retry_After=asked) as receiver:
        assert notify(receiver.url, "x", sleep=slept.append) == ""
    assert slept == [paused]


@pytest.mark.parametrize("status", [400, 403, 404, 301, 302, 307])
def test_what_will_not_change_is_not_tried_again(status: int) -> None:
    """A redirect is not followed: it would carry the secret elsewhere, or turn the POST into a GET."""
    with receiving(200) as elsewhere, receiving(status, Location=elsewhere.url) as receiver:
        assert notify(receiver.url, "x", sleep=lambda _: pytest.fail("paused")) == f"the webhook answered {status}"
    assert len(receiver.got) == 1
    assert elsewhere.got == []


def test_nobody_there_is_told_without_the_secret() -> None:
    with receiving(200) as receiver:
        url = receiver.url
    slept: list[float] = []
    told = notify(url, "x", sleep=slept.append)
    assert "could not be reached" in told
    assert SECRET not in told
    assert str(receiver.server.server_port) not in told
    assert len(slept) == len(PAUSES_S)


@pytest.mark.parametrize("url", ["", "hooks.slack.com/x", f"ftp://a/{SECRET}", "http://", "http://[::1", "http://a:0/"])
def test_a_url_that_is_none_is_no_reason_to_raise(url: str) -> None:
    told = notify(url, "x", sleep=lambda _: pytest.fail("paused"))
    assert told == "the webhook's URL is none: it begins with http:// or https://"
