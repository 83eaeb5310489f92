"""The reader of specifications: strict, and every mistake at once with its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import SpecError
from harness.spec import HourlyPrice, Profile, Stack
from harness.strict_yaml import load_specs

PROFILE = """\
kind: profile
name: quick
title: Some minutes
timing:
  default:
    warm_up_s: 10
    run_time_s: 100
looks: [0.25, 0.5]
"""

STACK = """\
kind: stack
name: a-stack
title: A stack
engine: vllm
hardware: {gpu: t4}
price:
  kind: hourly
  usd_per_gpu_hour: 0.35
  source:
    text: A price list
    read: 2026-11-22
claims:
  chatbot:
    latency_s: 0.8
    source: Somebody
"""


def write(folder: Path, text: str, name: str = "spec.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> list[str]:
    """What is wrong with ``text``, each line without its folder."""
    with pytest.raises(SpecError) as caught:
        load_specs([write(folder, text)])
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_reads_a_specification(tmp_path: Path) -> None:
    [(path, stack), (_, profile)] = load_specs([write(tmp_path, STACK), write(tmp_path, PROFILE, "profile.yaml")])
    assert path.name == "spec.yaml"
    assert isinstance(stack, Stack)
    assert isinstance(stack.price, HourlyPrice)
    assert stack.claims["chatbot"].latency_s == 0.8
    assert isinstance(profile, Profile)
    assert profile.looks == (0.25, 0.5)


@pytest.mark.parametrize(
    ("text", "line", "where", "allowed"),
    [
        (PROFILE + "lucks: []\n", 9, "lucks", "kind, looks, name, timing, title"),
        (PROFILE.replace("warm_up_s", "warmup"), 6, "timing.default.warmup", "run_time_s, spawn_s, warm_up_s"),
        (STACK.replace("latency_s", "latency"), 14, "claims.chatbot.latency", "cost_usd, latency_high_s"),
        (STACK.replace("usd_per_gpu_hour", "usd"), 8, "price.hourly.usd", "kind, source, usd_per_gpu_hour"),
        (STACK.replace("    read:", "    seen:"), 11, "price.hourly.source.seen", "read, text, url"),
        (STACK.replace("{gpu: t4}", "{gpu: t4, n: 2}"), 5, "hardware.n", "count, gpu"),
    ],
)
def test_an_unknown_key_is_refused_with_its_line_and_the_allowed_ones(
    tmp_path: Path, text: str, line: int, where: str, allowed: str
) -> None:
    unknown = next(problem for problem in problems(tmp_path, text) if "unknown key" in problem)
    assert unknown.startswith(f"spec.yaml:{line}: {where}: unknown key; allowed: ")
    assert allowed in unknown


def test_a_missing_key_is_named_at_its_parent(tmp_path: Path) -> None:
    assert problems(tmp_path, STACK.replace("    source: Somebody\n", "")) == [
        "spec.yaml:13: claims.chatbot.source: missing"
    ]


@pytest.mark.parametrize("value", ['"100"', "yes", "abc", "[1]", "null", ".nan", ".inf", "-5"])
def test_a_value_of_the_wrong_type_or_range_is_refused(tmp_path: Path, value: str) -> None:
    [problem] = problems(tmp_path, PROFILE.replace("run_time_s: 100", f"run_time_s: {value}"))
    assert problem.startswith("spec.yaml:7: timing.default.run_time_s: ")


def test_a_number_is_not_a_text(tmp_path: Path) -> None:
    assert "(got 5)" in problems(tmp_path, PROFILE.replace("Some minutes", "5"))[0]


def test_a_rule_between_two_keys_is_reported_in_its_own_words(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, PROFILE.replace("warm_up_s: 10", "warm_up_s: 100"))
    assert problem == "spec.yaml:5: timing.default: warm_up_s must be shorter than run_time_s, or nothing is judged"


def test_a_duplicate_key_is_refused(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, PROFILE.replace("    run_time_s: 100\n", "    run_time_s: 1\n    run_time_s: 100\n"))
    assert problem == "spec.yaml:8: not valid YAML: the key 'run_time_s' is here twice"


@pytest.mark.parametrize("key", ["1", "on", "[a, b]", "2026-11-22"])
def test_a_key_that_is_not_text_is_refused(tmp_path: Path, key: str) -> None:
    [problem] = problems(tmp_path, PROFILE + f"? {key}\n: 1\n")
    assert problem.startswith("spec.yaml:9: not valid YAML: the key ")


@pytest.mark.parametrize("kind", ["stck", "[stack]", "{}", "1", "null"])
def test_the_kind_must_be_known(tmp_path: Path, kind: str) -> None:
    [problem] = problems(tmp_path, f"name: x\nkind: {kind}\n")
    assert problem.startswith("spec.yaml:2: kind is ")
    assert problem.endswith("allowed: scenario, stack, hardware, profile, experiment")


def test_the_kind_of_a_price_must_be_known(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, STACK.replace("kind: hourly", "kind: houry"))
    assert problem.startswith("spec.yaml:6: price: ")
    for kind in ("hourly", "tokens", "none"):
        assert f"'{kind}'" in problem


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "text\n"])
def test_a_file_without_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)[0].startswith("spec.yaml:1: expected a mapping with 'kind'")


@pytest.mark.parametrize(
    "text", ["a: [\n", "a: b: c\n", "a: 1\n--- \nb: 2\n", "!!python/object:os.system x\n", "a: \x07\n"]
)
def test_what_is_not_yaml_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    assert ": not valid YAML: " in problems(tmp_path, text)[0]


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SpecError) as caught:
        load_specs([tmp_path / "absent.yaml", binary])
    assert [": cannot be read: " in problem for problem in caught.value.problems] == [True, True]


def test_all_mistakes_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    several = PROFILE.replace("quick", "fast").replace("looks: [0.25, 0.5]", "looks: [0.25, 1.5]\nextra: 1")
    first, second = write(tmp_path, several, "a.yaml"), write(tmp_path, STACK.replace("vllm", "vlm"), "b.yaml")
    good = write(tmp_path, PROFILE, "c.yaml")
    with pytest.raises(SpecError) as caught:
        load_specs([first, good, second])
    places = [problem.removeprefix(f"{tmp_path}/").split(": ")[:2] for problem in caught.value.problems]
    assert places == [["a.yaml:2", "name"], ["a.yaml:8", "looks.1"], ["a.yaml:9", "extra"], ["b.yaml:4", "engine"]]
    assert str(caught.value).count("\n") == 3
