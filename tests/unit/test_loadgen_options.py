"""The options of ``locust -f ...``: registered with Locust's own, resolved into a cell or refused in a sentence."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from harness.cell import ATTACHED, Cell
from harness.errors import UsageError

with pytest.MonkeyPatch.context() as _patch:
    # The package imports Locust, which would patch this process and with it every other test.
    _patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from locust.argument_parser import get_empty_argument_parser, setup_parser_arguments

    from harness.connection import parse_body, parse_headers
    from harness.loadgen.options import add_options, cell_from

HOST = ("--host", "http://127.0.0.1:8000")


def parser(scenario: str = "chatbot") -> Any:
    """Locust's own parser with all of its options, and ours."""
    found = get_empty_argument_parser(default_config_files=[])
    setup_parser_arguments(found)
    add_options(found, scenario)
    return found


def options(*arguments: str) -> argparse.Namespace:
    found: argparse.Namespace = parser().parse_args(list(arguments))
    return found


def cell(*arguments: str, scenario: str = "chatbot") -> Cell:
    return cell_from(options(*arguments), scenario)


def refusal(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        cell(*arguments)
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


@pytest.fixture(autouse=True)
def _no_locust_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCUST_USERS", "LOCUST_HOST", "LOCUST_RUN_TIME", "LOCUST_WEB_HOST", "LOCUST_SPAWN_RATE"):
        monkeypatch.delenv(name, raising=False)


# Registration ---------------------------------------------------------------------------------


def test_options_go_beside_locusts_own() -> None:
    found = options("--stack", "vllm-7b-t4", "-u", "5", "-t", "1m30s", "--profile", "full", "--headless")
    assert (found.stack, found.num_users, found.run_time, found.profile) == ("vllm-7b-t4", 5, 90, "full")


def test_doors_listen_on_this_host_only_unless_told_otherwise() -> None:
    assert (options().web_host, options().master_bind_host) == ("127.0.0.1", "127.0.0.1")
    assert options("--web-host", "0.0.0.0").web_host == "0.0.0.0"


def test_nothing_of_ours_appears_in_the_web_form() -> None:
    added = set(vars(options())) - set(vars(_locust_alone()))
    assert {"stack", "header", "extra_body", "cell"} <= added
    assert added & set(parser().args_included_in_web_ui) == set()


def _locust_alone() -> argparse.Namespace:
    found = get_empty_argument_parser(default_config_files=[])
    setup_parser_arguments(found)
    alone: argparse.Namespace = found.parse_args([])
    return alone


# Where to -------------------------------------------------------------------------------------


def test_a_host_is_attached_to() -> None:
    found = cell(*HOST, "--model", "m", "--protocol", "triton-generate-stream")
    assert (found.stack.name, found.stack.engine) == (ATTACHED, "attach")
    assert found.connection.url == "http://127.0.0.1:8000"
    assert (found.connection.model, found.connection.protocol) == ("m", "triton-generate-stream")
    assert found.connection.api_key_env == "OPENAI_API_KEY"
    assert not found.emulated


@pytest.mark.parametrize(("arguments", "stream"), [((), True), (("--no-stream",), False)])
def test_whole_answers_over_any_protocol(arguments: tuple[str, ...], stream: bool) -> None:
    found = cell(*HOST, "--protocol", "triton-grpc", *arguments)
    assert (found.connection.protocol, found.connection.stream) == ("triton-grpc", stream)


def test_a_stack_comes_from_the_catalog_with_its_protocol() -> None:
    found = cell("--stack", "vllm-7b-t4")
    assert found.stack.name == "vllm-7b-t4"
    assert found.connection.url == ""
    assert found.connection.protocol == found.stack.protocol
    assert found.connection.api_key_env == "", "a key is never sent to a server that the harness starts"


def test_host_and_stack_exclude_each_other_and_one_is_needed() -> None:
    assert "not both" in refusal(*HOST, "--stack", "vllm-7b-t4")
    text = refusal()
    assert "--host" in text
    assert "--stack" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--stack", "vllm-7b-t5"), "unknown stack 'vllm-7b-t5'; did you mean 'vllm-7b-t4'?"),
        ((*HOST, "--profile", "quik"), "unknown profile 'quik'; did you mean 'quick'?"),
        ((*HOST, "--protocol", "openai"), "unknown protocol 'openai'; did you mean 'openai-chat'?"),
        (("--stack", "vllm-7b-t4", "--calibration", "claim"), "unknown calibration 'claim'; did you mean 'claims'?"),
        ((*HOST, "-u", "0"), "--users must be at least 1, not 0"),
        ((*HOST, "-t", "0s"), "--run-time must be above 0 s, not 0"),
        ((*HOST, "--think-time", "-1"), "--think-time must be 0 s or more, not -1"),
        ((*HOST, "--think-time", "nan"), "--think-time must be 0 s or more, not nan"),
        ((*HOST, "--output-tokens", "0"), "--output-tokens must be at least 1, not 0"),
        ((*HOST, "--request-timeout", "0"), "--request-timeout must be above 0 s, not 0"),
        ((*HOST, "--request-timeout", "nan"), "--request-timeout must be above 0 s, not nan"),
        ((*HOST, "--max-retries", "-1"), "--max-retries must not be negative, not -1"),
    ],
)
def test_impossible_options_are_refused_in_one_sentence(arguments: tuple[str, ...], expected: str) -> None:
    assert refusal(*arguments) == expected


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'chatbot'"):
        cell(*HOST, scenario="chatbots")


# What ------------------------------------------------------------------------------------------


def test_options_reach_the_cell(tmp_path: Path) -> None:
    found = cell(
        *(*HOST, "-u", "4", "-t", "20", "--think-time", "0.5", "--output-tokens", "9", "--seed", "11"),
        *("--region", "eu", "--run-dir", str(tmp_path / "run"), "--request-timeout", "3", "--max-retries", "2"),
        *("--ca-file", "ca.pem", "--extra-body", '{"temperature": 0}', "--header", "X-Tenant: a:b"),
    )
    assert (found.scenario.users, found.scenario.think_time.mean_s, found.timing.run_time_s) == (4, 0.5, 20)
    assert (found.scenario.workload.output_tokens, found.seed, found.region) == (9, 11, "eu")
    assert found.run_dir == tmp_path / "run"
    assert not found.run_dir.exists(), "nothing is written before everything is validated"
    connection = found.connection
    assert (connection.request_timeout_s, connection.max_retries, connection.ca_file) == (3, 2, "ca.pem")
    assert connection.extra_body == {"temperature": 0}
    assert connection.headers == {"X-Tenant": "a:b"}


def test_without_options_the_scenario_decides() -> None:
    found = cell(*HOST)
    assert (found.scenario.users, found.timing.run_time_s, found.profile) == (100, 100, "quick")
    assert found.overrides == {}
    assert found.run_dir == Path("runs") / found.run


def test_a_cell_made_elsewhere_is_taken_as_it_is(tmp_path: Path) -> None:
    made = cell(*HOST, "-u", "3")
    (tmp_path / "cell.json").write_text(made.model_dump_json())
    assert cell("--cell", str(tmp_path / "cell.json"), "-u", "50") == made


# Headers and bodies ---------------------------------------------------------------------------


def test_headers_are_split_at_the_first_colon_and_stripped() -> None:
    assert parse_headers([" X-A :  b: c ", "X-Empty:"]) == {"X-A": "b: c", "X-Empty": ""}
    assert parse_headers([]) == {}


@pytest.mark.parametrize(
    "name",
    ["Authorization", "X-Api-Key", "Ocp-Apim-Subscription-Key", "X-Auth-Token", "Proxy-Auth", "Cookie", "x-SECRET-x",
     "X-Password"],
)  # fmt: skip
def test_a_secret_must_come_from_the_environment(name: str) -> None:
    with pytest.raises(UsageError, match="looks like a secret") as caught:
        parse_headers([f"{name}: hunter2-hunter2"])
    assert "hunter2" not in str(caught.value)
    assert f"'{name}: ${{VARIABLE}}'" in str(caught.value)
    assert parse_headers([f"{name}: Bearer ${{MY_KEY}}"]) == {name: "Bearer ${MY_KEY}"}


@pytest.mark.parametrize("value", ["hunter2${", "hunter2${}", "hunter2$KEY", "hunter2${not a name}"])
def test_a_dollar_alone_makes_no_variable(value: str) -> None:
    with pytest.raises(UsageError, match="looks like a secret"):
        parse_headers([f"Authorization: {value}"])


@pytest.mark.parametrize("header", ["Bearer hunter2-hunter2", ": hunter2-hunter2", ""])
def test_a_header_without_name_or_colon_is_refused_without_showing_it(header: str) -> None:
    with pytest.raises(UsageError, match="must look like 'Name: value'") as caught:
        parse_headers([header])
    assert "hunter2" not in str(caught.value)


def test_a_body_is_a_json_object() -> None:
    body = {"temperature": 0.7, "stop": None, "nested": {"a": [1]}}
    assert parse_body(json.dumps(body)) == body


@pytest.mark.parametrize("text", ["[1]", '"x"', "3", "null", "{", "", "{'a': 1}"])
def test_any_other_body_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--extra-body") as caught:
        parse_body(text)
    assert "\n" not in str(caught.value)
