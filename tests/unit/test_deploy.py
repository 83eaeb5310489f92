"""What deploy/ holds: valid by Kubernetes' own schemas, consistent, and with command lines that Locust understands."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from harness.cell import Cell

with pytest.MonkeyPatch.context() as _patch:
    # The package imports Locust, which would patch this process and with it every other test.
    _patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from locust.argument_parser import get_empty_argument_parser, setup_parser_arguments

    from harness.loadgen.limits import master_of
    from harness.loadgen.options import add_options, cell_from

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
VERSIONS = ("1.30", kubernetes_validate.latest_version())
COMPOSE_SERVICE = {
    *("image", "build", "entrypoint", "command", "environment", "user", "cap_drop", "security_opt", "init"),
    *("ulimits", "mem_limit", "stop_grace_period", "volumes", "depends_on", "deploy"),
}
"""Keys of the Compose specification that are used here; a misspelt one is in no such list."""

Document = dict[str, Any]


def documents() -> list[Document]:
    return [each for path in KUBERNETES for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def the(kind: str) -> Document:
    (found,) = [each for each in documents() if each["kind"] == kind]
    return found


def pod(kind: str) -> Document:
    found: Document = the(kind)["spec"]["template"]
    return found


def container(kind: str) -> Document:
    (found,) = pod(kind)["spec"]["containers"]
    return dict(found)


def compose() -> Document:
    found: Document = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return found


def words(command: list[str]) -> list[str]:
    """Arguments as the container gets them, with a URL for what the user has to name."""
    return [re.sub(r"\$\{\w+:\?[^}]*\}", "http://server:8000", word) for word in command]


MASTERS = {"kubernetes": container("Job")["args"], "compose": words(compose()["services"]["master"]["command"])}
WORKERS = {
    "kubernetes": container("Deployment")["args"],
    "compose": words(compose()["services"]["worker"]["command"]),
}


def parsed(command: list[str]) -> argparse.Namespace:
    """By Locust's own parser with all of its options, and ours; the locustfile is read by an earlier one."""
    parser: Any = get_empty_argument_parser(default_config_files=[])
    setup_parser_arguments(parser)
    add_options(parser, "translation")
    found: argparse.Namespace = parser.parse_args(command)
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", documents(), ids=lambda each: each["kind"])
def test_manifests_keep_the_schema(document: Document, version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    wrong = the("Deployment")
    wrong["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("kind", ["Job", "Deployment"])
def test_pods_run_without_rights_and_with_resources(kind: str) -> None:
    inside, context = container(kind), pod(kind)["spec"]["securityContext"]
    assert context["runAsNonRoot"]
    assert f"--uid {context['runAsUser']} " in (ROOT / "Containerfile").read_text(encoding="utf-8")
    assert inside["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod(kind)["spec"]["automountServiceAccountToken"] is False
    assert set(inside["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in inside["resources"]["limits"]
    (key,) = inside["env"]
    assert key["name"] == "OPENAI_API_KEY"
    assert set(key["valueFrom"]) == {"secretKeyRef"}, "no key stands in a manifest"


def test_the_service_finds_the_master_and_the_workers_find_the_service() -> None:
    service = the("Service")
    labels = pod("Job")["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    (port,) = service["spec"]["ports"]
    (open_port,) = container("Job")["ports"]
    assert port["targetPort"] == open_port["name"]
    assert port["port"] == open_port["containerPort"]
    assert master_of(WORKERS["kubernetes"], {}) == (service["metadata"]["name"], port["port"])
    assert not service["spec"]["selector"].items() <= pod("Deployment")["metadata"]["labels"].items()
    chosen = the("Deployment")["spec"]["selector"]["matchLabels"]
    assert chosen.items() <= pod("Deployment")["metadata"]["labels"].items()


def test_results_stay_on_the_volume() -> None:
    (mount,) = container("Job")["volumeMounts"]
    (volume,) = pod("Job")["spec"]["volumes"]
    assert mount["name"] == volume["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == the("PersistentVolumeClaim")["metadata"]["name"]
    assert mount["mountPath"] == "/home/harness/app/runs"
    assert compose()["services"]["master"]["volumes"] == [f"results:{mount['mountPath']}"]
    assert f" {mount['mountPath']}\n" in (ROOT / "Containerfile").read_text(encoding="utf-8"), "writable by its user"


@pytest.mark.parametrize("place", MASTERS)
def test_masters_command_lines_make_a_cell(place: str) -> None:
    found = parsed(MASTERS[place])
    assert found.master
    assert found.headless
    assert found.master_bind_host == "0.0.0.0"
    replicas = {
        "kubernetes": the("Deployment")["spec"]["replicas"],
        "compose": compose()["services"]["worker"]["deploy"]["replicas"],
    }
    assert found.expect_workers == replicas[place]
    cell = cell_from(found, "translation")
    assert isinstance(cell, Cell)
    assert cell.connection.url.startswith("http://")


@pytest.mark.parametrize("place", WORKERS)
def test_workers_command_lines_are_understood(place: str) -> None:
    found = parsed(WORKERS[place])
    assert found.worker
    assert found.region
    locustfiles = {word for word in (*WORKERS[place], *MASTERS[place]) if word.startswith("--locustfile=")}
    (locustfile,) = locustfiles
    assert (ROOT / locustfile.partition("=")[2]).is_file()


def test_the_compose_file_is_consistent() -> None:
    found = compose()
    assert set(found) == {"name", "x-harness", "services", "volumes"}
    for name, service in found["services"].items():
        assert set(service) <= COMPOSE_SERVICE, name
        assert service["build"] == {"context": "..", "dockerfile": "Containerfile"}
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["user"] == "10001:10001"
        assert service["cap_drop"] == ["ALL"]
        assert service["environment"] == {"OPENAI_API_KEY": "${OPENAI_API_KEY:-}"}
        assert service["entrypoint"] == container("Job")["command"]
    assert set(found["services"]["worker"]["depends_on"]) <= set(found["services"])
    assert master_of(WORKERS["compose"], {}) == ("master", 5557)
    volumes = {each.partition(":")[0] for each in found["services"]["master"]["volumes"]}
    assert volumes == set(found["volumes"])
