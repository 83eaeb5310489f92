"""Numbers as a reader sees them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import figures


def spaced(text: str) -> str:
    return text.replace(figures.NBSP, " ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞ (failed or unfinished)"),
        (0.0, "0 s"),
        (0.812, "812 ms"),
        (0.0123456, "12.3 ms"),
        (0.000_012_3, "12.3 µs"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (0.000_999_9, "1.00 ms"),
        (1.2345, "1.23 s"),
        (44.64, "44.6 s"),
        (12_345.0, "12,300 s"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert spaced(figures.seconds(value)) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0 %"), (0.000833, "0.0833 %"), (0.05, "5.00 %"), (1.0, "100 %"), (-0.601, "−60.1 %")]
)
def test_share(value: float, text: str) -> None:
    assert spaced(figures.share(value)) == text


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (2.0, "e2e", "2 s"),
        (0.5, "ttft", "500 ms"),
        (0.0075, "itl", "7.5 ms"),
        (0.01, "error_rate", "1 %"),
        (10.0, "goodput", "10 req/s"),
        (1000.0, "throughput", "1,000 req/s"),
    ],
)
def test_a_limit_is_written_as_it_was_given(value: float, metric: str, text: str) -> None:
    assert spaced(figures.limit(value, metric)) == text


def test_a_value_just_under_its_limit_does_not_look_like_the_limit() -> None:
    assert spaced(figures.measured(1.9996, "e2e", 2.0)) == "1.9996 s"
    assert spaced(figures.measured(2.0, "e2e", 2.0)) == "2.00 s"
    assert spaced(figures.measured(1.7212, "e2e", 2.0)) == "1.72 s"


def test_margins_are_signed() -> None:
    assert spaced(figures.signed_share(0.142)) == "+14.2 %"
    assert spaced(figures.signed_share(-0.031)) == "−3.10 %"
    assert figures.signed_share(-math.inf) == "−∞"
    assert figures.signed_share(None) == "–"


@given(st.floats(min_value=1e-9, max_value=1e9))
def test_three_significant_digits_are_within_half_a_percent(value: float) -> None:
    shown = float(figures.significant(value).replace(",", ""))
    assert shown == pytest.approx(value, rel=0.00501)
    assert "e" not in figures.significant(value)


@given(st.one_of(st.none(), st.floats()))
def test_every_float_can_be_written(value: float | None) -> None:
    for write in (figures.seconds, figures.share, figures.rate, figures.number, figures.count, figures.clock):
        assert write(value)
    assert figures.usd(value)
    assert figures.signed_share(value)


@given(st.text())
def test_clean_text_has_no_control_characters(text: str) -> None:
    shown = figures.clean(text)
    assert all(
        character in "\n\t" or character.isprintable() or character.isspace()
        for character in shown
        if character < "\u0378"
    )
    assert not set(shown) & {"\x00", "\x1b", "\r", "\u202e", "\u2066", "\ufeff"}
    assert figures.clean(shown) == shown or len(text) > figures.LONGEST_TEXT


def test_clean_spells_out_what_cannot_be_seen() -> None:
    assert figures.clean("a\u202eb\x00c\r\nd") == "a\\u202eb\\u0000c\nd"
    assert figures.clean("abcdef", longest=3) == "abc … (3 more characters)"
