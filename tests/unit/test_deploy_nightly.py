"""The examples of deploy/ for a night and a gate: each read by what will read it, or by rules as strict."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml
from test_deploy import VERSIONS, WORKERS, parsed, the

from harness.cell import Cell
from harness.cli import app
from harness.gate import Policy
from harness.loadgen.limits import master_of
from harness.loadgen.options import cell_from
from harness.nightly.plan import plan_night
from harness.nightly.spec import load_nightly
from harness.strict_yaml import load_specs

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CRONJOB = DEPLOY / "kubernetes-nightly" / "cronjob.yaml"
CHECKOUT = "/opt/llm-sla-harness"
SECRET = re.compile(r"^\$\{\{ secrets\.[A-Z_]+ \}\}$")

TEXTS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
STEP = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "if": {"enum": ["always()", "failure()", "success()"]},
        "env": TEXTS,
        "with": TEXTS,
        # A version, so that an action cannot change under us.
        "uses": {"type": "string", "pattern": r"^[\w.-]+/[\w.-]+@v\d+$"},
        "run": {"type": "string", "minLength": 1},
    },
    "oneOf": [{"required": ["uses"]}, {"required": ["run"]}],
}
GITHUB = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "on", "permissions", "concurrency", "jobs"],
    "properties": {
        "name": {"type": "string"},
        "on": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "schedule": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["cron"],
                        "properties": {"cron": {"type": "string", "pattern": r"^(\S+ ){4}\S+$"}},
                    },
                },
                "workflow_dispatch": {"type": "null"},
                "pull_request": {"type": "null"},
            },
        },
        "permissions": {"const": {"contents": "read"}},
        "concurrency": {
            "type": "object",
            "required": ["group", "cancel-in-progress"],
            "additionalProperties": False,
            "properties": {"group": {"type": "string"}, "cancel-in-progress": {"type": "boolean"}},
        },
        "jobs": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["runs-on", "timeout-minutes", "steps"],
                "properties": {
                    "runs-on": {"type": "string", "pattern": r"^ubuntu-\d\d\.04$"},
                    "timeout-minutes": {"type": "integer", "minimum": 1, "maximum": 360},
                    "steps": {"type": "array", "minItems": 1, "items": STEP},
                },
            },
        },
    },
}
"""GitHub's workflow syntax as far as it is used here; a misspelt key is in no such list."""
GITLAB_JOB = {
    "type": "object",
    "additionalProperties": False,
    "required": ["image", "rules", "script", "timeout", "artifacts"],
    "properties": {
        "image": {"type": "string"},
        "rules": {
            "type": "array",
            "items": {"type": "object", "additionalProperties": False, "properties": {"if": {"type": "string"}}},
        },
        "resource_group": {"type": "string"},
        "timeout": {"type": "string", "pattern": r"^\d+h$"},
        "interruptible": {"type": "boolean"},
        "variables": TEXTS,
        "cache": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "key": {"type": "string"},
                "paths": {"type": "array", "items": {"type": "string"}},
                "when": {"const": "always"},
            },
        },
        "before_script": {"type": "array", "items": {"type": "string"}},
        "script": {"type": "array", "minItems": 1, "items": {"type": "string"}},
        "allow_failure": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"exit_codes": {"type": "array", "items": {"type": "integer"}}},
        },
        "artifacts": {
            "type": "object",
            "additionalProperties": False,
            "required": ["when", "paths", "reports"],
            "properties": {
                "when": {"const": "always"},
                "expire_in": {"type": "string"},
                "paths": {"type": "array", "items": {"type": "string"}},
                "reports": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"junit": {"type": "string"}},
                },
            },
        },
    },
}
UNIT_KEYS = {
    "Unit": {"Description", "Wants", "After"},
    "Service": {
        *("Type", "User", "WorkingDirectory", "EnvironmentFile", "ExecStart", "KillMode", "TimeoutStopSec"),
        *("TimeoutStartSec", "LimitNOFILE", "NoNewPrivileges", "PrivateTmp", "ProtectSystem", "ReadWritePaths"),
    },
    "Timer": {"OnCalendar", "Persistent", "RandomizedDelaySec"},
    "Install": {"WantedBy"},
}


class _Yaml12(yaml.SafeLoader):
    """``on`` is a word, as in YAML 1.2, which GitHub and GitLab read; PyYAML takes it for true."""


_Yaml12.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


def read(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Yaml12)


WORKFLOWS = sorted((DEPLOY / "github").glob("*.yml"))
GITLAB = DEPLOY / "gitlab" / "nightly.gitlab-ci.yml"
CRON = DEPLOY / "harness-nightly.cron"
UNITS = sorted((DEPLOY / "systemd").iterdir())


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def scripts() -> Iterator[tuple[str, str]]:
    for path in WORKFLOWS:
        yield from ((path.name, step["run"]) for step in steps(path) if "run" in step)
    (job,) = read(GITLAB).values()
    yield from (("gitlab", line) for line in (*job["before_script"], *job["script"]))
    yield ("cron", cron_line()[6])
    yield ("systemd", units()["harness-nightly.service"]["Service"]["ExecStart"])


def cron_line() -> list[str]:
    """Five fields, the user, the command."""
    (line,) = [each for each in CRON.read_text().splitlines() if each[:1].isdigit()]
    return line.split(maxsplit=6)


def units() -> dict[str, configparser.ConfigParser]:
    found = {}
    for path in UNITS:
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(path.read_text())
        found[path.name] = parser
    return found


def test_there_is_an_example_for_each() -> None:
    assert [path.name for path in WORKFLOWS] == ["nightly.yml", "pull-request.yml"]
    assert [path.name for path in UNITS] == ["harness-nightly.service", "harness-nightly.timer"]
    assert len([*scripts()]) == 8


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_keep_githubs_syntax(path: Path) -> None:
    jsonschema.validate(read(path), GITHUB)


@pytest.mark.parametrize(
    "change",
    [
        {"job": {}},
        {"permissions": {"contents": "write"}},
        {"on": {"pull_requests": None}},
        {"jobs": {"a": {"step": []}}},
    ],
)
def test_a_wrong_workflow_would_be_found(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**read(WORKFLOWS[0]), **change}, GITHUB)


def test_secrets_come_from_githubs_store_into_the_environment_alone() -> None:
    for path in WORKFLOWS:
        for step in steps(path):
            assert "${{" not in step.get("run", ""), "GitHub pastes an expression into a script before bash reads it"
            for name, value in step.get("env", {}).items():
                secret = any(word in name for word in ("KEY", "TOKEN", "WEBHOOK", "SECRET"))
                assert bool(SECRET.match(str(value))) == secret, name


def test_the_gitlab_job_keeps_its_syntax() -> None:
    found = read(GITLAB)
    (job,) = found.values()
    jsonschema.validate(job, GITLAB_JOB)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**job, "scripts": []}, GITLAB_JOB)
    assert job["artifacts"]["reports"]["junit"] == job["variables"]["JUNIT"]
    assert set(job["artifacts"]["paths"]) == set(job["cache"]["paths"]), "a night that was cut off is gone on with"


@pytest.mark.parametrize(("where", "script"), [*scripts()], ids=lambda each: each[:24])
def test_scripts_are_bash_and_say_what_the_harness_understands(where: str, script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, capture_output=True)
    for path in re.findall(r"(?:^|\s)(?:/opt/llm-sla-harness/)?((?:scripts|deploy)/[\w./-]+)", script):
        assert (ROOT / path).is_file(), path
    for command, options in re.findall(r"\bharness (\w+)([^|>\n]*)", script.replace("llm-sla-harness", "")):
        group = typer.main.get_command(app)
        known = {name for each in group.commands[command].params for name in each.opts}  # type: ignore[attr-defined]
        used = {word for word in shlex.split(options) if word.startswith("--")}
        assert used <= known, f"{where}: {used - known}"


def test_cron_names_a_time_a_user_and_a_command() -> None:
    *when, user, command = cron_line()
    limits = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    for field, (low, high) in zip(when, limits, strict=True):
        assert field == "*" or low <= int(field) <= high
    assert user == "harness"
    assert "%" not in command, "cron takes it for the end of the line"
    assert "WEBHOOK" not in CRON.read_text()


def test_units_hold_known_keys_and_lead_to_each_other() -> None:
    found = units()
    for name, unit in found.items():
        for section in unit.sections():
            assert set(unit[section]) <= UNIT_KEYS[section], f"{name} [{section}]"
    service, timer = found["harness-nightly.service"], found["harness-nightly.timer"]
    assert timer["Install"]["WantedBy"] == "timers.target"
    assert service["Service"]["WorkingDirectory"] == CHECKOUT
    program = shlex.split(service["Service"]["ExecStart"])[0]
    assert program.startswith(f"{CHECKOUT}/")
    assert (ROOT / program.removeprefix(f"{CHECKOUT}/")).stat().st_mode & 0o111
    assert service["Service"]["KillMode"] == "mixed", "TERM to the script alone: a server must outlive the drain"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_itself_accepts_the_units(tmp_path: Path) -> None:
    for path in UNITS:
        (tmp_path / path.name).write_text(path.read_text().replace(CHECKOUT, str(ROOT)).replace("=harness", "=root"))
    verify = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    when = units()["harness-nightly.timer"]["Timer"]["OnCalendar"]
    subprocess.run(["systemd-analyze", "calendar", when], check=True, capture_output=True)
    (tmp_path / "harness-nightly.timer").write_text("[Timer]\nOnCalender=daily\n")
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert "OnCalender" in done.stderr, "it would have found a misspelt key"


def cronjob() -> dict[str, Any]:
    (found,) = [each for each in yaml.safe_load_all(CRONJOB.read_text()) if each["kind"] == "CronJob"]
    return dict(found)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_cronjob_keeps_the_schema(version: str) -> None:
    for document in yaml.safe_load_all(CRONJOB.read_text()):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_cronjob_is_the_job_every_night_with_the_same_workers() -> None:
    """Whatever ``test_deploy`` shows of the Job's pod then holds for it too."""
    nightly, once = cronjob()["spec"]["jobTemplate"]["spec"], the("Job")["spec"]
    assert nightly["template"] == once["template"]
    assert nightly["backoffLimit"] == once["backoffLimit"] == 0
    assert cronjob()["spec"]["concurrencyPolicy"] == "Forbid"
    (service,) = [each for each in yaml.safe_load_all(CRONJOB.read_text()) if each["kind"] == "Service"]
    assert service == the("Service")
    assert master_of(WORKERS["kubernetes"], {}) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
    (container,) = nightly["template"]["spec"]["containers"]
    assert isinstance(cell_from(parsed(container["args"]), "translation"), Cell)


def test_the_example_night_can_be_run() -> None:
    spec = load_nightly(DEPLOY / "nightly.yaml")
    plan = plan_night(spec, DEPLOY)
    assert len(plan.cells) == 11
    assert sum(cell.expected_s for cell in plan.cells) < (spec.budget_s or 0)
    ((_, policy),) = load_specs([DEPLOY / "policy.yaml"], {"policy": Policy})
    assert isinstance(policy, Policy)


# scripts/nightly.sh -----------------------------------------------------------------------------

STUB = """#!/usr/bin/env bash
echo "$@" >> "$CALLS"
case $1 in
nightly)
    trap 'echo TERM >> "$CALLS"; exit 98' TERM
    [ -z "${HANG:-}" ] || { touch "$HANG"; while :; do sleep 0.05; done; }
    echo "FAIL: a sentence"
    [ -z "${NIGHT:-}" ] || echo "summary: $NIGHT/summary.html"
    exit "${CODE:-0}" ;;
gate) exit "${GATED:-0}" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose harness and make only write down how they were called."""
    root = tmp_path / "a checkout"
    for name in ("scripts", ".venv/bin", "bin"):
        (root / name).mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "nightly.sh", root / "scripts")
    for stub, text in ((root / ".venv/bin/harness", STUB), (root / "bin/make", '#!/bin/sh\necho "made $*"\n')):
        stub.write_text(text)
        stub.chmod(0o755)
    (root / "night.yaml").touch()
    monkeypatch.setenv("PATH", f"{root / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("CALLS", str(root / "calls"))
    for name in ("POLICY", "JUNIT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    return root


def run_script(checkout: Path, *options: str, **variables: str) -> tuple[int, list[str], str]:
    command = [str(checkout / "scripts" / "nightly.sh"), str(checkout / "night.yaml"), *options]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, cwd="/"
    )
    calls = checkout / "calls"
    return done.returncode, calls.read_text().splitlines() if calls.exists() else [], done.stdout


@pytest.mark.parametrize(
    ("code", "gated", "exits"),
    [(0, 0, 0), (99, 99, 99), (98, 0, 0), (0, 99, 99), (2, 0, 2), (3, 3, 3), (4, 0, 4)],
)
def test_the_script_ends_with_the_gates_word(checkout: Path, code: int, gated: int, exits: int) -> None:
    """A policy may let a verdict through, but nothing that went wrong beside it."""
    found, calls, out = run_script(checkout, "--results", "file:///x", CODE=str(code), GATED=str(gated), NIGHT="/n/1")
    assert found == exits
    assert calls == [f"nightly {checkout}/night.yaml --resume --results file:///x", "gate /n/1"]
    assert out == "FAIL: a sentence\nsummary: /n/1/summary.html\n", "what make says is not the night's"


def test_the_script_hands_on_policy_junit_and_githubs_summary(checkout: Path) -> None:
    _, calls, _ = run_script(checkout, NIGHT="/n/1", POLICY="p.yaml", JUNIT="j.xml", GITHUB_STEP_SUMMARY="/s")
    assert calls[1] == "gate /n/1 --policy /p.yaml --junit /j.xml --github"


@pytest.mark.parametrize(("code", "night"), [(2, ""), (130, "/n/1")])
def test_without_a_whole_night_there_is_nothing_to_gate(checkout: Path, code: int, night: str) -> None:
    found, calls, _ = run_script(checkout, CODE=str(code), NIGHT=night)
    assert found == code
    assert len(calls) == 1


def test_the_script_passes_term_on_and_waits_for_the_end(checkout: Path) -> None:
    hang = checkout / "hangs"
    command = [str(checkout / "scripts" / "nightly.sh"), str(checkout / "night.yaml")]
    with subprocess.Popen(command, env={**os.environ, "HANG": str(hang)}) as process:
        deadline = time.monotonic() + 60
        while not hang.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.terminate()
        assert process.wait(60) == 98
    assert (checkout / "calls").read_text().splitlines()[1:] == ["TERM"]


def test_the_script_refuses_a_file_that_is_not_there(checkout: Path) -> None:
    (checkout / "night.yaml").unlink()
    found, calls, _ = run_script(checkout)
    assert found == 2
    assert calls == []
