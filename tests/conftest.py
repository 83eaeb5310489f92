"""What all tests share: goldens that are rewritten only on demand, and a place that is like any other."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")
# Shells start background jobs with Ctrl-C ignored, which every process that a test starts would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN = Path(__file__).parent / "golden"

Golden = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden anew instead of comparing with it"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with ``tests/golden/<name>``: ``golden("report/page.html", text)``."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"no golden {name} yet: look at the output, then run pytest --update-golden"
        assert text == path.read_text(encoding="utf-8"), f"{name} differs: pytest --update-golden, and read the diff"

    return check
