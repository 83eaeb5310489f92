"""``--rate`` and ``--arrivals``: at both doors, into the cell, and every nonsense refused in one sentence."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest

from harness.arrivals import GammaArrivals, PoissonArrivals, RampArrivals, arrivals_from
from harness.catalog import load_catalog
from harness.cell import Cell
from harness.errors import UsageError
from harness.matrix import Options, build_cells
from harness.spec import Scenario
from harness.strict_yaml import load_specs

with pytest.MonkeyPatch.context() as _patch:
    # The package imports Locust, which would patch this process and with it every other test.
    _patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from locust.argument_parser import get_empty_argument_parser, setup_parser_arguments

    from harness.loadgen.options import add_options, cell_from

CATALOG = load_catalog()
STACK = "vllm-7b-t4"


def locust_cell(*arguments: str) -> Cell:
    parser = get_empty_argument_parser(default_config_files=[])
    setup_parser_arguments(parser)
    add_options(parser, "chatbot")
    options: argparse.Namespace = parser.parse_args(["--stack", STACK, *arguments])
    return cell_from(options, "chatbot")


def harness_cell(**options: Any) -> Cell:
    (found,) = build_cells(CATALOG, Options(scenarios=("chatbot",), stacks=(STACK,), **options))
    return found


@pytest.mark.parametrize(
    ("rate", "text", "expected"),
    [
        (50, None, {"kind": "poisson", "rate_rps": 50}),
        (50, "poisson", {"kind": "poisson", "rate_rps": 50}),
        (0.5, "constant", {"kind": "constant", "rate_rps": 0.5}),
        (50, "gamma:cv=2", {"kind": "gamma", "rate_rps": 50, "cv": 2}),
        (None, "ramp:10-100", {"kind": "ramp", "from_rps": 10, "to_rps": 100, "cv": 1}),
        (None, "ramp:.5-1.25:cv=0", {"kind": "ramp", "from_rps": 0.5, "to_rps": 1.25, "cv": 0}),
        (None, "step:10,20,40", {"kind": "step", "rates_rps": (10, 20, 40), "cv": 1}),
        (None, "step:7:cv=.5", {"kind": "step", "rates_rps": (7,), "cv": 0.5}),
        (
            None,
            "spike:10-100@30+5",
            {"kind": "spike", "rate_rps": 10, "spike_rps": 100, "at_s": 30, "for_s": 5, "cv": 1},
        ),
        (None, "trace:a:b.csv", {"kind": "trace", "file": "a:b.csv"}),
    ],
)
def test_every_pattern_is_read(rate: float | None, text: str | None, expected: dict[str, Any]) -> None:
    assert arrivals_from(None, rate, text).model_dump() == expected


@pytest.mark.parametrize(
    ("rate", "text", "expected"),
    [
        (0, None, "--rate must be above 0 requests/s, not 0"),
        (-5, "poisson", "--rate must be above 0 requests/s, not -5"),
        (float("nan"), None, "--rate must be above 0 requests/s, not nan"),
        (float("inf"), None, "--rate must be above 0 requests/s, not inf"),
        (5, "poison", "unknown arrivals 'poison'; did you mean 'poisson'?"),
        (5, "", "unknown arrivals ''; known: constant, gamma, poisson, ramp, spike, step, trace"),
        (None, "poisson", "--arrivals poisson needs --rate, in requests/s"),
        (None, "gamma:cv=2", "--arrivals gamma needs --rate, in requests/s"),
        (5, "ramp:1-2", "--arrivals ramp says its own rates, so --rate must be left out"),
        (5, "gamma", "--arrivals 'gamma': cv is missing; write it like gamma:cv=2"),
        (5, "gamma:cv=0", "--arrivals 'gamma:cv=0': cv: Input should be greater than 0; write it like gamma:cv=2"),
        (5, "gamma:2", "--arrivals 'gamma:2' cannot be read: write it like gamma:cv=2"),
        (5, "poisson:cv=2", "--arrivals 'poisson:cv=2': it has no cv; write it like poisson"),
        (5, "constant:5", "--arrivals 'constant:5' cannot be read: write it like constant"),
        (None, "ramp", "--arrivals 'ramp' cannot be read: write it like ramp:10-100"),
        (None, "ramp:-1-5", "--arrivals 'ramp:-1-5' cannot be read: write it like ramp:10-100"),
        (None, "ramp:0-0", "--arrivals 'ramp:0-0': one end of a ramp must be above 0; write it like ramp:10-100"),
        (None, "step:", "--arrivals 'step:' cannot be read: write it like step:10,20,40"),
        (None, "step:1,,2", "--arrivals 'step:1,,2' cannot be read: write it like step:10,20,40"),
        (None, "step:0,0", "--arrivals 'step:0,0': one step must be above 0; write it like step:10,20,40"),
        (None, "spike:1-2@3", "--arrivals 'spike:1-2@3' cannot be read: write it like spike:10-100@30+5"),
        (None, "trace:", "--arrivals 'trace:' cannot be read: write it like trace:FILE.csv"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_one_sentence(rate: float | None, text: str | None, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        arrivals_from(None, rate, text)
    assert str(caught.value) == expected


def test_a_rate_keeps_a_steady_scenarios_pattern() -> None:
    own = GammaArrivals(kind="gamma", rate_rps=3, cv=2)
    assert arrivals_from(own, 50, None) == GammaArrivals(kind="gamma", rate_rps=50, cv=2)
    assert arrivals_from(own, None, None) is own
    ramp = RampArrivals(kind="ramp", from_rps=1, to_rps=2)
    assert arrivals_from(ramp, 50, None) == PoissonArrivals(kind="poisson", rate_rps=50)
    assert arrivals_from(None, None, None) is None


def test_both_doors_make_the_same_arrivals() -> None:
    here, there = (
        locust_cell("--rate", "50", "--arrivals", "gamma:cv=2"),
        harness_cell(rate_rps=50, arrivals="gamma:cv=2"),
    )
    assert here.scenario.arrivals == there.scenario.arrivals == GammaArrivals(kind="gamma", rate_rps=50, cv=2)
    for found in (here, there):
        assert found.overrides == {"rate_rps": "50.0", "arrivals": "gamma:cv=2"}
        assert not found.reduced
        assert Cell.model_validate_json(found.model_dump_json()) == found
        load = found.manifest().load
        assert (load.loop, load.users_asked) == ("open", 0)
    words = shlex.split(there.command)
    assert words[words.index("--rate") + 1] == "50.0"
    assert words[words.index("--arrivals") + 1] == "gamma:cv=2"


def test_without_the_options_the_loop_is_closed() -> None:
    load = harness_cell().manifest().load
    assert (load.loop, load.users_asked) == ("closed", 100)


@pytest.mark.parametrize(("option", "name"), [({"users": 5}, "--users"), ({"think_time_s": 1.0}, "--think-time")])
def test_the_two_loops_exclude_each_other(option: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} belongs to a closed loop"):
        harness_cell(rate_rps=5, **option)


def test_requests_in_flight_follow_from_rate_and_limit() -> None:
    assert harness_cell(rate_rps=50).in_flight_expected == 100, "50/s, each up to 2 s"
    assert harness_cell(arrivals="ramp:1-40").in_flight_expected == 80
    assert harness_cell().in_flight_expected == 100


def test_a_trace_is_found_from_wherever_a_worker_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arrivals = harness_cell(arrivals="trace:mine.csv").scenario.arrivals
    assert arrivals is not None
    assert arrivals.model_dump() == {"kind": "trace", "file": str(tmp_path / "mine.csv")}


# In YAML --------------------------------------------------------------------------------------


def specified(folder: Path, arrivals: str) -> Scenario:
    path = folder / "mine.yaml"
    path.write_text(
        "kind: scenario\nname: mine\ntitle: Mine\nusers: 1\n"
        "think_time: {distribution: constant, mean_s: 1, reason: a test}\n"
        f"arrivals: {arrivals}\nsla: [p95(e2e) < 2 s]\nsla_reason: a test\n"
        "cost_sensitivity: low\nquality_need: medium\n"
        f"workload: {{kind: synthetic, input_tokens: 20, output_tokens: 11}}\nstacks: [{STACK}]\n",
        encoding="utf-8",
    )
    ((_, found),) = load_specs([path])
    assert isinstance(found, Scenario)
    return found


def test_a_scenario_may_be_an_open_loop(tmp_path: Path) -> None:
    found = specified(tmp_path, "{kind: step, rates_rps: [5, 10]}").arrivals
    assert found is not None
    assert found.text == "steps of 5, 10/s"


@pytest.mark.parametrize(
    ("arrivals", "words"),
    [
        ("{kind: bursty, rate_rps: 5}", "'constant', 'poisson', 'gamma'"),
        ("{kind: poisson, rate_rps: 0}", "arrivals.poisson.rate_rps: Input should be greater than 0"),
        ("{kind: poisson, rate_rps: 5, cv: 2}", "unknown key; allowed: kind, rate_rps"),
        ("{kind: gamma, rate_rps: 5}", "arrivals.gamma.cv: missing"),
    ],
)
def test_mistakes_in_a_file_are_named(arrivals: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        specified(tmp_path, arrivals)
    assert words in str(caught.value)
    assert "mine.yaml:6: " in str(caught.value)
