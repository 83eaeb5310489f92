"""Tell people how a night or a gate ended: one POST to a webhook that takes Slack's ``{"text": ...}``."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from email.message import Message
from urllib.parse import urlsplit

PAUSES_S = (1.0, 4.0, 15.0, 60.0)
"""Between tries; a ``Retry-After`` that asks for longer is kept to, up to :data:`LONGEST_PAUSE_S`."""
LONGEST_PAUSE_S = 120.0
TIMEOUT_S = 10.0
_TOO_MANY = 429


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would turn the POST into a GET, or carry the secret elsewhere."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def notify(
    url: str,
    text: str,
    *,
    pauses_s: Sequence[float] = PAUSES_S,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Post ``text``; return why it was not delivered, empty when it was.

    Tried again after no connection, 429 and 5xx. It never raises, because no verdict may depend on it; what it returns
    never holds the URL, which is a secret.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        return "the webhook's URL is none: it begins with http:// or https://"
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    opener = urllib.request.build_opener(_NoRedirect)
    failed = ""
    for pause_s in (*pauses_s, None):
        failed, again, asked_s = _post(opener, request)
        if not failed or not again or pause_s is None:
            break
        sleep(min(max(pause_s, asked_s), LONGEST_PAUSE_S))
    return failed


def _post(opener: urllib.request.OpenerDirector, request: urllib.request.Request) -> tuple[str, bool, float]:
    """Why it failed, whether to try again, and after how many seconds the receiver asks for it."""
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            answer.read(1024)
    except urllib.error.HTTPError as error:
        with error:
            again = error.code == _TOO_MANY or error.code >= 500
            return f"the webhook answered {error.code}", again, _retry_after_s(error.headers)
    except (OSError, http.client.HTTPException) as error:  # their texts may name the host, which is part of the secret
        return f"the webhook could not be reached ({type(error).__name__})", True, 0.0
    return "", False, 0.0


def _retry_after_s(headers: Message) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:  # a date: the next pause is as good a guess
        return 0.0
