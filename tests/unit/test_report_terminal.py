"""Verdicts on a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness.judgement import Judgement
from reports import terminal
from tests import factories
from tests.conftest import Golden


def shown(judgements: list[Judgement], *, tty: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=tty, width=160, color_system="truecolor" if tty else None)
    terminal.print_verdicts(console, judgements, [factories.recommendation()])
    return out.getvalue()


def test_plain_lines_are_what_they_were(golden: Golden) -> None:
    golden("report/verdicts.txt", shown(factories.mixed(), tty=False))


def test_a_terminal_gets_both_tables() -> None:
    text = shown(factories.mixed(), tty=True)
    assert "Verdicts" in text
    assert "Checks" in text
    assert "✗ FAIL" in text
    assert "EMULATED" in text
    assert "6 cells: 1 PASS, 3 FAIL, 1 INCONCLUSIVE, 1 INVALID" in text


@pytest.mark.parametrize("tty", [True, False])
def test_foreign_texts_are_neither_markup_nor_escape_codes(tty: bool) -> None:
    evil = "[bold]x[/nope]\x1b[2J\nline"
    cell = factories.judgement(scenario=evil, stack=evil, sentence=evil)
    text = shown([cell], tty=tty)
    assert "[bold]x[/nope]" in text
    assert "\x1b[2J" not in text
    assert "\\u001b[2J" in text
