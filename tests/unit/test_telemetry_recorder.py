"""The recorder against real processes, a real socket and, for GPUs, a stand-in for NVML's module."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from harness.telemetry import Order, _scrape, record
from harness.telemetry.host import Tree, children_of_all
from harness.telemetry.nvml import Gpus
from harness.telemetry.prometheus import Page, ScrapeError
from harness.telemetry_log import TELEMETRY_LIVE, Telemetry, read_telemetry
from tests.e2e.processes import wait_until
from tests.unit import fake_pynvml

ROOT = Path(__file__).parents[2]
PAGE = 'vllm:num_requests_running{engine="0"} 3\nvllm:num_requests_waiting 1\n'
KEY = "sk-hunter2-0123456789"


class Server:
    """A metrics page whose text and status a test changes; it remembers the headers it was asked with."""

    def __init__(self) -> None:
        self.text, self.status, self.asked = PAGE, 200, [dict[str, str]()][:0]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked.append(dict(self.headers))
                body = outer.text.encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/metrics"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


@contextmanager
def recorder(folder: Path, *words: str, variables: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "harness.telemetry", f"--out={folder / TELEMETRY_LIVE}", *words]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(variables or {})})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def recorded(folder: Path) -> Telemetry:
    found = read_telemetry(folder)
    assert found is not None
    return found


def values(folder: Path, series: str, device: int | None = None) -> list[float]:
    found = read_telemetry(folder)
    rows = found.table.to_pylist() if found is not None else []
    return [row["value"] for row in rows if (row["series"], row["device"]) == (series, device)]


def test_it_records_until_it_is_told_to_end(tmp_path: Path, server: Server) -> None:
    words = (f"--load-pid={os.getpid()}", f"--server-pid={os.getpid()}", f"--metrics-url={server.url}", "--gpus")
    with recorder(tmp_path, *words) as process:
        wait_until(lambda: len(values(tmp_path, "host_cpu_share")) > 1 and values(tmp_path, "running"), "two readings")
        process.terminate()
        assert process.wait(30) == 0
    found = recorded(tmp_path)
    assert found.facts.ended
    assert found.facts.server_kind == "vllm"
    assert abs(found.facts.anchor_monotonic_s - time.monotonic()) < 60
    assert values(tmp_path, "running")[0] == 3
    assert values(tmp_path, "waiting")[0] == 1
    assert values(tmp_path, "scrape_failed")[0] == 0
    assert values(tmp_path, "kv_use") == []  # absent, not zero
    rss = psutil.Process().memory_info().rss
    assert values(tmp_path, "server_rss_bytes")[0] == pytest.approx(rss, rel=0.5)
    assert values(tmp_path, "server_threads")[0] >= 1
    assert 0 <= values(tmp_path, "host_cpu_share")[-1] <= 1
    assert "load_threads" not in set(found.table.column("series").to_pylist())
    times = found.table.column("monotonic_s").to_pylist()
    assert all(found.facts.anchor_monotonic_s <= t <= time.monotonic() for t in times)


def test_a_kill_loses_at_most_two_seconds(tmp_path: Path) -> None:
    with recorder(tmp_path) as process:
        wait_until(lambda: len(values(tmp_path, "host_cpu_share")) > 2, "three readings")
        killed_s = time.monotonic()
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = recorded(tmp_path)
    assert not found.facts.ended
    assert killed_s - max(found.table.column("monotonic_s").to_pylist()) < 2.0


def test_gpus_as_nvml_reports_them(tmp_path: Path) -> None:
    shutil.copy(Path(fake_pynvml.__file__), tmp_path / "pynvml.py")
    variables = {"PYTHONPATH": str(tmp_path), "FAKE_NVML_PID": str(os.getpid())}
    with recorder(tmp_path, "--gpus", f"--server-pid={os.getpid()}", variables=variables) as process:
        wait_until(lambda: len(values(tmp_path, "gpu_temperature_c", 0)) > 1, "two readings")
        process.terminate()
        process.wait(30)
    assert recorded(tmp_path).facts.gpus == {0: "NVIDIA H100", 1: "Tesla P4"}
    assert set(values(tmp_path, "gpu_power_w", 0)) == {300.0}
    assert set(values(tmp_path, "gpu_power_w", 1)) == {100.0}
    assert len(values(tmp_path, "gpu_power_w", 0)) > 2 * len(values(tmp_path, "gpu_temperature_c", 0))  # 10 Hz
    assert values(tmp_path, "gpu_utilization", 0)[0] == 0.9
    assert values(tmp_path, "gpu_memory_bytes", 0)[0] == 64 << 30
    assert values(tmp_path, "gpu_sm_mhz", 0)[0] == 1755
    assert values(tmp_path, "gpu_throttle", 0)[0] == 0x4
    assert values(tmp_path, "gpu_server_processes", 0)[0] == 1
    assert values(tmp_path, "gpu_server_processes", 1)[0] == 0
    assert len(values(tmp_path, "gpu_energy_j", 0)) > 1
    for unsupported in ("gpu_energy_j", "gpu_sm_mhz", "gpu_memory_mhz"):
        assert values(tmp_path, unsupported, 1) == []


@pytest.mark.parametrize("state", ["no driver", "no module", "nothing in it"])
def test_without_gpus_there_is_nothing_to_read(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None if state == "no module" else fake_pynvml)
    monkeypatch.setattr(fake_pynvml, "WATTS", ())
    monkeypatch.setenv("FAKE_NVML", state)
    gpus = Gpus()
    assert (gpus.names, gpus.read(()), gpus.read_power(), gpus.power_is_cheap()) == ({}, {}, {}, False)
    gpus.close()


def test_a_gpu_that_tells_nothing_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> int:
        raise fake_pynvml.NVMLError("GPU is lost")

    monkeypatch.setitem(sys.modules, "pynvml", fake_pynvml)
    for name in vars(fake_pynvml):
        if name.startswith("nvmlDeviceGet") and name.removeprefix("nvmlDeviceGet") not in (
            *("Count", "HandleByIndex", "Name"),
        ):
            monkeypatch.setattr(fake_pynvml, name, fails)
    gpus = Gpus()
    assert len(gpus.names) == 2
    assert gpus.read((1,)) == {}
    gpus.close()


def test_a_server_that_fails_is_counted_and_comes_back(tmp_path: Path, server: Server) -> None:
    server.status = 503
    stop = threading.Event()
    order = Order(tmp_path / TELEMETRY_LIVE, metrics_urls=(server.url,))
    thread = threading.Thread(target=record, args=(order, stop))
    thread.start()
    try:
        wait_until(lambda: values(tmp_path, "scrape_failed"), "a failure")
        server.status = 200
        wait_until(lambda: values(tmp_path, "running"), "a reading")
    finally:
        stop.set()
        thread.join()
    assert values(tmp_path, "scrape_failed")[0] == 1
    assert values(tmp_path, "scrape_failed")[-1] == 0
    assert recorded(tmp_path).facts.scrape_error == "HTTP 503"


def test_several_servers_are_added_up_and_without_one_no_total_is_taken_back() -> None:
    class Fake(Page):
        def __init__(self, running: int, tokens: int, use: float) -> None:
            self.text = f"vllm:num_requests_running {running}\nvllm:generation_tokens_total {tokens}\n"
            self.text += f"vllm:kv_cache_usage_perc {use}\n"

        def fetch(self) -> str:
            if not self.text:
                raise ScrapeError("gone")
            return self.text

    pages = [Fake(2, 100, 0.2), Fake(3, 50, 0.4)]
    reading, said = _scrape(pages)
    assert reading is not None
    assert (dict(reading.values), said) == (
        {"running": 5.0, "output_tokens_total": 150.0, "kv_use": pytest.approx(0.3)},
        "",
    )
    pages[0].text = ""
    reading, said = _scrape(pages)
    assert reading is not None
    assert (dict(reading.values), said) == ({"running": 3.0, "kv_use": 0.4}, "gone")
    pages[1].text = ""
    assert _scrape(pages) == (None, "gone")


@pytest.mark.parametrize(("status", "text"), [(404, ""), (200, "<html></html>")])
def test_a_guess_is_tried_once_and_quietly(tmp_path: Path, server: Server, status: int, text: str) -> None:
    server.status, server.text = status, text
    with recorder(tmp_path, f"--metrics-url={server.url}", "--guessed") as process:
        wait_until(lambda: len(values(tmp_path, "host_cpu_share")) > 2, "three readings")
        process.terminate()
        process.wait(30)
    assert len(server.asked) == 1
    assert values(tmp_path, "scrape_failed") == []
    assert recorded(tmp_path).facts.scrape_error == ""


def test_keys_come_from_the_environment_and_are_written_nowhere(tmp_path: Path, server: Server) -> None:
    words = ("--api-key-env=MY_KEY", "--header=X-Tenant: ${MY_TENANT}", "--header=X-Gone: ${MY_GONE}")
    variables = {"MY_KEY": KEY, "MY_TENANT": "blue-0123456789"}
    with recorder(tmp_path, f"--metrics-url={server.url}", *words, variables=variables) as process:
        wait_until(lambda: values(tmp_path, "running"), "a reading")
        command = " ".join(psutil.Process(process.pid).cmdline())
        process.terminate()
        process.wait(30)
    assert server.asked[0]["Authorization"] == f"Bearer {KEY}"
    assert server.asked[0]["X-Tenant"] == "blue-0123456789"
    assert "X-Gone" not in server.asked[0]
    written = (tmp_path / TELEMETRY_LIVE).read_text()
    assert not any(secret in text for secret in (KEY, "blue-0123456789") for text in (command, written))
    assert KEY not in repr(Order(tmp_path, headers={"Authorization": KEY}))


def test_a_page_keeps_its_connection_and_survives_its_loss(server: Server) -> None:
    page = Page(server.url)
    assert page.fetch() == PAGE
    assert page._connection is not None
    assert page._connection.sock is not None
    page._connection.sock.shutdown(2)  # as a server does that closes it between two requests
    assert page.fetch() == PAGE
    page.close()


def test_nobody_listens() -> None:
    with pytest.raises(ScrapeError, match="refused"):
        Page("http://127.0.0.1:9/metrics").fetch()


SPENDER = """
import sys, time
while time.process_time() < 0.3:
    pass
print(flush=True)
sys.stdin.read()
"""


def test_a_tree_counts_its_children_and_keeps_what_they_spent() -> None:
    tree = Tree((os.getpid(),))
    before = tree.read("server", children_of_all())
    child = subprocess.Popen([sys.executable, "-c", SPENDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline()
        during = tree.read("server", children_of_all())
        others = Tree((os.getpid(),), without=(child.pid,)).members(children_of_all())
    finally:
        child.stdin.close()
        child.wait()
        child.stdout.close()
    after = tree.read("server", children_of_all())
    assert during["server_processes"] == before["server_processes"] + 1
    assert child.pid not in others
    assert os.getpid() in others
    assert during["server_cpu_s"] - before["server_cpu_s"] >= 0.25  # the kernel counts in hundredths
    assert after["server_cpu_s"] >= during["server_cpu_s"]
    assert during["server_rss_bytes"] > before["server_rss_bytes"]


def test_a_tree_that_is_gone_has_no_values() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert Tree((child.pid,)).read("server", children_of_all()) == {}


def test_every_line_is_whole_json(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    record(Order(tmp_path / TELEMETRY_LIVE, load_pid=os.getpid()), stop)
    lines = (tmp_path / TELEMETRY_LIVE).read_text().splitlines()
    assert [*json.loads(lines[0])] == ["facts"]
    assert json.loads(lines[-1]) == {"facts": {"ended": True}}
