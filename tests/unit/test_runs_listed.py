"""``harness list runs`` and ``harness open``: whole runs, damaged ones, a thousand, and what is served of them."""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness import runs_console
from harness.cli import app
from harness.errors import HarnessError
from harness.judge import write_judgement
from harness.judgement import Mark, Verdict
from harness.run_heads import run_heads
from harness.runs_server import RunsServer
from tests import factories
from tests.e2e.processes import HARNESS, assert_no_trace, listening, started
from tests.hostile import HOSTILE
from tests.runs import Loop, load, loop_run

RUNNER = CliRunner()
STARTED = "2026-11-2{}T02:10:00+00:00"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs alone, of which only one was judged, a matrix with its report, and three kinds of damage."""
    root = tmp_path_factory.mktemp("listed") / "runs"
    loop_run(root / "alone", Loop(users=3, run_s=30), started=STARTED.format(1))
    write_judgement(root / "alone", factories.judgement(marks=(Mark.EMULATED, Mark.REDUCED)))
    loop_run(root / "fresh", Loop(users=3, run_s=102), started=STARTED.format(2))
    loop_run(root / "matrix" / "a--b", Loop(users=3, run_s=30), started=STARTED.format(0), load=load(loop="open"))
    write_judgement(root / "matrix" / "a--b", factories.judgement(median_s=1.8))
    (root / "matrix" / "report.html").write_text("<p>the matrix</p>")
    for name, content in (("cut", '{"format": 1, "run": "r", "scen'), ("newer", '{"format": 99}'), ("odd", "\udcff")):
        (root / name).mkdir()
        (root / name / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    (root / "lost").mkdir()
    (root / "lost" / "cell.json").write_text("{}")
    return root


def invoke(*arguments: str | Path) -> tuple[int, str]:
    result = RUNNER.invoke(app, [str(word) for word in arguments])
    if isinstance(result.exception, HarnessError):
        return int(result.exception.exit_code), str(result.exception)
    return result.exit_code, result.output


def test_the_newest_comes_first_and_damage_is_named(runs: Path) -> None:
    code, text = invoke("list", "runs", "--runs", runs)
    assert code == 0
    lines = text.splitlines()
    assert [line.split("\t")[0][:10] for line in lines[:3]] == ["2026-11-22", "2026-11-21", "2026-11-20"]
    assert [line.split("\t")[4] for line in lines[:3]] == ["not judged", "PASS", "FAIL"]
    assert [line.split("\t")[3] for line in lines[:3]] == ["3", "3", "open"]
    assert lines[1].split("\t")[5:] == ["EMULATED, REDUCED", str(runs / "alone")]
    damaged = "\n".join(lines[3:])
    assert sum(line.startswith("damaged: ") for line in lines[3:]) == len(lines[3:]) == 4
    assert f"{runs / 'cut'}: manifest.json is damaged" in damaged
    assert f"{runs / 'lost'}: no load was recorded" in damaged
    assert f"{runs / 'odd'}: manifest.json is damaged" in damaged
    assert f"{runs / 'newer'}: manifest.json is" in damaged


def test_machines_get_the_same(runs: Path) -> None:
    code, text = invoke("list", "runs", "--runs", runs, "--json")
    assert code == 0
    found = json.loads(text)
    assert [each["verdict"] for each in found] == [None, "PASS", "FAIL", None, None, None, None]
    assert found[1]["marks"] == ["EMULATED", "REDUCED"]
    assert found[2]["report"] == str(runs / "matrix" / "report.html")
    assert [bool(each["damage"]) for each in found] == [False] * 3 + [True] * 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "runs", "--runs", "nowhere"), "there is no folder nowhere"),
        (("list", "others"), "'others' is not one of"),
        (("open", "nothing"), "there is no run nothing"),
        (("open", "--runs", "nowhere"), "there are no runs in nowhere"),
        (("open", "--serve", "--runs", "nowhere"), "there is no folder nowhere"),
        (("open", "--serve", "--print"), "give one of them"),
        (("open", "--port", "80"), "--port is the port of --serve"),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    code, text = invoke(*arguments)
    assert code == 2
    assert said in " ".join(text.replace("│", " ").split())


def test_an_empty_folder_says_how_to_make_a_run(tmp_path: Path) -> None:
    assert invoke("list", "runs", "--runs", tmp_path) == (0, f"{runs_console.NO_RUNS.format(root=tmp_path)}\n")


def test_foreign_texts_are_neither_markup_nor_escape_codes(tmp_path: Path) -> None:
    loop_run(tmp_path / "r", Loop(users=1, run_s=20), started=f"[bold]{HOSTILE[:-1]}")
    _, text = invoke("list", "runs", "--runs", tmp_path)
    assert "[bold]" in text
    assert "\x1b" not in text


def test_a_thousand_runs_are_listed_quickly(runs: Path, tmp_path: Path) -> None:
    """As many bytes as real runs have; five times the two seconds that are asked for, on whatever machine this is."""
    manifest = (runs / "alone" / "manifest.json").read_bytes()
    judgement = (runs / "alone" / "judgement.json").read_bytes()
    for number in range(1000):
        folder = tmp_path / f"{number:04d}"
        folder.mkdir()
        (folder / "manifest.json").write_bytes(manifest)
        (folder / "judgement.json").write_bytes(judgement)
    begin = time.process_time()
    heads = run_heads(tmp_path)
    assert time.process_time() - begin < 10
    assert len(heads) == 1000
    assert {head.verdict for head in heads} == {Verdict.PASS}


def test_a_missing_report_is_written_and_a_page_that_is_there_is_kept(runs: Path) -> None:
    report = runs / "fresh" / "report.html"
    assert not report.exists()
    assert invoke("open", "--print", "--runs", runs) == (0, f"{report}\n")
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert invoke("open", "matrix", "--print", "--runs", runs) == (0, f"{runs / 'matrix' / 'report.html'}\n")
    assert invoke("open", runs / "fresh", "--print") == (0, f"{report}\n")
    report.unlink()


def test_without_a_browser_it_says_how_to_look(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runs_console.webbrowser, "open", lambda url: pytest.fail("there is no browser"))
    code, text = invoke("open", "matrix", "--runs", runs)
    assert code == 0
    assert text.startswith(f"{runs / 'matrix' / 'report.html'}\n")
    assert "--serve" in text


def test_a_desktop_s_browser_is_used(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(runs_console.webbrowser, "get", lambda: None)
    monkeypatch.setattr(runs_console.webbrowser, "open", lambda url: opened.append(url) or True)
    assert invoke("open", "matrix", "--runs", runs)[0] == 0
    assert opened == [(runs / "matrix" / "report.html").as_uri()]


@pytest.fixture
def served(runs: Path) -> Iterator[RunsServer]:
    with RunsServer(runs) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def asked(server: RunsServer, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_the_index_leads_to_every_report(served: RunsServer) -> None:
    assert served.server_address[0] == "127.0.0.1"
    with urllib.request.urlopen(served.url, timeout=10) as answer:
        text = answer.read().decode()
    assert "3 runs in" in text
    assert 'href="matrix/report.html"' in text
    assert text.count("no load was recorded") == 1
    assert asked(served, "/matrix/report.html") == (200, b"<p>the matrix</p>")
    assert asked(served, "/matrix/report.html", "HEAD") == (200, b"")
    assert asked(served, "/", host="localhost:1")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.html",
        "/%2e%2e/secret.html",
        "/alone/../../secret.html",
        "//etc/passwd",
        "/link.html",
        "/alone/samples.parquet",
        "/alone/outputs.jsonl",
        "/alone/",
        "/alone",
        "/%00.html",
        "/" + "x" * 5000 + ".html",
    ],
)
def test_nothing_else_is_served(served: RunsServer, runs: Path, path: str) -> None:
    secret = runs.parent / "secret.html"
    secret.write_text("a secret")
    link = runs / "link.html"
    if not link.is_symlink():
        link.symlink_to(secret)
    status, content = asked(served, path)
    assert status == 404
    assert b"secret" not in content


def test_ctrl_c_ends_it_in_order(runs: Path, tmp_path: Path) -> None:
    with started([*HARNESS, "open", runs / "matrix", "--serve", "--runs", runs], tmp_path) as server:
        url = server.until(lambda: server.out.partition("\n")[1] and server.out.strip(), "an address")
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.read() == b"<p>the matrix</p>"
        assert {address for address, _ in listening(server.pid)} == {"127.0.0.1"}
        server.send(signal.SIGINT)
        ended = server.end()
    assert ended.code == 0
    assert_no_trace(ended.err)


def test_it_is_read_only_and_answers_to_this_machine_s_names_alone(served: RunsServer) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert asked(served, "/matrix/report.html", method)[0] == 501
    assert asked(served, "/", host="evil.example")[0] == 403
    assert asked(served, "/", host="evil.example:8000")[0] == 403
