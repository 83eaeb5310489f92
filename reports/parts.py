"""The building blocks of the page, as text: what a template loops over and prints, with nothing left to compute."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from harness.judgement import Mark, Verdict

SYMBOLS = {
    Verdict.PASS: "✓",
    Verdict.FAIL: "✗",
    Verdict.INCONCLUSIVE: "?",
    Verdict.INVALID: "!",
    Verdict.NOT_MEASURED: "–",
}


@dataclass(frozen=True, slots=True)
class Chip:
    """A verdict as symbol and word; ``style`` only colours what the text says already."""

    symbol: str
    word: str
    style: str

    @classmethod
    def of(cls, verdict: Verdict) -> Chip:
        return cls(SYMBOLS[verdict], verdict.value, verdict.value.lower().replace(" ", "-"))


@dataclass(frozen=True, slots=True)
class Fact:
    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One table cell. ``href`` is a fragment of this page, ``lines`` are smaller ones under the text."""

    text: str = ""
    chip: Chip | None = None
    lines: tuple[str, ...] = ()
    badges: tuple[str, ...] = ()
    href: str = ""
    number: bool = False
    bar: Bar | None = None
    details: str = ""
    details_title: str = "Arithmetic"


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    number: bool = False
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """The first cell of each row is its heading."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Item, ...], ...]
    style: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its bounds against its limit; positions are percentages of the bar's width."""

    label: str
    room_from: str
    room_width: str
    limit: str
    value: str
    low: str
    high: str
    beyond: bool
    """The value, or its upper bound, lies off the end of the bar."""


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a chart's legend; ``style`` is a class of the style sheet."""

    text: str
    style: str


@dataclass(frozen=True, slots=True)
class Figure:
    title: str
    image: Markup
    keys: tuple[Key, ...]
    caption: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Fold:
    """A table that few look at, behind a title that opens it."""

    title: str
    table: Table


@dataclass(frozen=True, slots=True)
class Download:
    """Numbers that the page carries with it; ``href`` is a ``data:`` address."""

    name: str
    text: str
    href: Markup


@dataclass(frozen=True, slots=True)
class Beside:
    """A chart and the table of what it shows."""

    figure: Figure
    table: Table


@dataclass(frozen=True, slots=True)
class Part:
    """A subject that is looked at over several cells."""

    anchor: str
    title: str
    intro: str
    rows: tuple[Beside, ...]


def badges(marks: tuple[Mark, ...]) -> tuple[str, ...]:
    return tuple(mark.value for mark in marks)
