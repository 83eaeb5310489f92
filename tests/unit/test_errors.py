"""The family of errors: exit codes that scripts rely on, and sentences that users read."""

from __future__ import annotations

import pytest

from harness.errors import (
    ExitCode,
    HarnessError,
    HistoryError,
    LoadError,
    RunDirectoryError,
    ScoringError,
    ServerError,
    SpecError,
    UsageError,
    unknown_name,
)


def family(root: type[HarnessError]) -> set[type[HarnessError]]:
    return {root}.union(*(family(child) for child in root.__subclasses__()))


def test_exit_codes_are_the_documented_ones() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "PASS": 0,
        "USAGE": 2,
        "SERVER": 3,
        "LOAD": 4,
        "INVALID": 97,
        "INCONCLUSIVE": 98,
        "FAIL": 99,
        "INTERRUPTED": 130,
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), 2),
        (SpecError(["x"]), 2),
        (RunDirectoryError("x"), 2),
        (ScoringError("x"), 2),
        (HistoryError("x"), 2),
        (ServerError("x"), 3),
        (LoadError("x"), 4),
    ],
)
def test_each_error_has_its_exit_code(error: HarnessError, code: int) -> None:
    assert error.exit_code == code


def test_no_error_ends_with_the_code_of_a_verdict() -> None:
    verdicts = {ExitCode.PASS, ExitCode.FAIL, ExitCode.INCONCLUSIVE, ExitCode.INVALID}
    assert {error.__name__ for error in family(HarnessError) if error.exit_code in verdicts} == set()


def test_wrong_specifications_are_wrong_usage() -> None:
    assert issubclass(SpecError, UsageError)
    assert not issubclass(ServerError, UsageError)


def test_a_spec_error_says_every_problem_on_a_line_of_its_own() -> None:
    error = SpecError(problem for problem in ("a.yaml:1: one", "b.yaml:2: two"))
    assert error.problems == ("a.yaml:1: one", "b.yaml:2: two")
    assert str(error) == "a.yaml:1: one\nb.yaml:2: two"


def test_an_unknown_name_gets_the_nearest_known_one() -> None:
    error = unknown_name("scenario", "chatbto", ["translation", "chatbot", "content"])
    assert isinstance(error, UsageError)
    assert str(error) == "unknown scenario 'chatbto'; did you mean 'chatbot'?"


def test_a_name_that_is_near_to_none_gets_the_list() -> None:
    error = unknown_name("scenario", "zzz", iter(["translation", "chatbot"]))
    assert str(error) == "unknown scenario 'zzz'; known: chatbot, translation"
