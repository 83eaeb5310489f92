"""Workers with a network of their own each, one of them far away, one of them lost: as on other hosts.

Needs root and iproute2: every worker lives in a network namespace, joined to this one by a veth pair. The master
and the emulator stay on 127.0.0.1; relays on the veth's address make them reachable.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow.compute as pc
import pytest

from harness.judge import read_judgement
from harness.judgement import Mark, Verdict
from harness.records import WorkerFacts
from harness.runlog import RunReader
from tests.e2e.processes import LOCUST, ROOT, Started, started, wait_until

pytestmark = pytest.mark.system

CHATBOT = (*LOCUST, "-f", str(ROOT / "locustfiles" / "chatbot.py"))
FAR_S = 0.04
"""One way."""
LOST_WITHIN_S = 40.0
SAMPLES = 200
"""Of each region before one is lost."""


def ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"ip {' '.join(words)}: {done.stderr}"


@dataclass(frozen=True)
class Place:
    """A namespace, the veth that leads there, and the two addresses of the way."""

    name: str
    link: str
    here: str
    there: str

    def make(self) -> None:
        ip("netns", "add", self.name)
        ip("link", "add", self.link, "type", "veth", "peer", "name", "uplink", "netns", self.name)
        ip("address", "add", f"{self.here}/30", "dev", self.link)
        ip("link", "set", self.link, "up")
        ip("-n", self.name, "address", "add", f"{self.there}/30", "dev", "uplink")
        for device in ("lo", "uplink"):
            ip("-n", self.name, "link", "set", device, "up")
        ip("-n", self.name, "route", "add", "default", "via", self.here)

    def remove(self) -> None:
        ip("link", "delete", self.link, check=False)
        ip("netns", "delete", self.name, check=False)

    def command(self, *words: str) -> list[str]:
        """``ip netns exec`` becomes the command, so that its process id is the command's."""
        return ["ip", "netns", "exec", self.name, *words]


@pytest.fixture
def places() -> Iterator[tuple[Place, Place]]:
    """A near and a far namespace, in the addresses that RFC 2544 sets aside for benchmarks."""
    assert os.geteuid() == 0, "network namespaces need root"
    assert shutil.which("ip"), "network namespaces need iproute2: make test-system installs it"
    _remove_left_behind()
    own, net = os.getpid(), os.getpid() % 250
    near = Place(f"hsla-{own}-near", f"hn{own}", f"198.18.{net}.1", f"198.18.{net}.2")
    far = Place(f"hsla-{own}-far", f"hf{own}", f"198.19.{net}.1", f"198.19.{net}.2")
    try:
        for place in (near, far):
            place.make()
        yield near, far
    finally:
        for place in (near, far):
            place.remove()


def _remove_left_behind() -> None:
    """Namespaces of a test that was killed; the veth pair of one goes with it."""
    found = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for name in re.findall(r"^hsla-\d+-\w+", found, re.MULTILINE):
        if not psutil.pid_exists(int(name.split("-")[1])):
            ip("netns", "delete", name)


class Scene:
    """Emulator, relays, master and a worker in each place."""

    def __init__(self, stack: ExitStack, near: Place, far: Place, folder: Path) -> None:
        self.run_dir = folder / "run"
        self._stack, self._folder, self._far = stack, folder, far
        line = [sys.executable, "-m", "servers.emulator", "--fixed", "ttft_s=0.02,itl_s=0.005,tokens=4"]
        emulator = self._start(line, "emulator")
        ready = wait_until(lambda: emulator.out.partition("\n")[0], "the emulator is ready")
        server_port = self._relay(near, json.loads(ready)["port"], "server")
        with socket.create_server(("127.0.0.1", 0)) as free:
            master_port = free.getsockname()[1]
        words = [*CHATBOT, "--headless", "--only-summary", "--users", "20", "--think-time", "0.5"]
        words += ["--output-tokens", "4", "--run-time", "30", "--master", "--master-bind-port", str(master_port)]
        words += ["--expect-workers", "2", "--host", f"http://{near.here}:{server_port}"]
        self.master = self._start([*words, "--run-dir", str(self.run_dir)], "master")
        self.near, self.far = (self._worker(place, master_port) for place in (near, far))

    def _start(self, line: list[str], name: str) -> Started:
        return self._stack.enter_context(started(line, self._folder / name))

    def _relay(self, place: Place, port: int, name: str) -> str:
        """One address for all: the far namespace reaches the near veth's end here by its default route."""
        line = [sys.executable, str(Path(__file__).with_name("relay.py")), place.here, str(port)]
        relay = self._start([*line, f"{self._far.there}={FAR_S}"], f"relay-{name}")
        return wait_until(lambda: relay.out.strip(), "the relay listens")

    def _worker(self, place: Place, master_port: int) -> Started:
        region = place.name.rpartition("-")[2]
        port = self._relay(place, master_port, region)
        words = [*CHATBOT, "--worker", "--master-host", place.here, "--master-port", port, "--region", region]
        return self._start(place.command(*words), region)

    def samples_of(self, region: str) -> int:
        live = self.run_dir / "samples.arrows"
        return RunReader(self.run_dir).samples()["region"].to_pylist().count(region) if live.exists() else 0


@pytest.mark.parametrize("end", ["killed", "cut off"])
def test_a_near_and_a_far_worker_of_which_one_is_lost(end: str, places: tuple[Place, Place], tmp_path: Path) -> None:
    near, far = places
    with ExitStack() as stack:
        scene = Scene(stack, near, far, tmp_path)
        wait_until(lambda: min(map(scene.samples_of, ("near", "far"))) > SAMPLES, "load from both regions", 90)
        if end == "killed":
            scene.near.kill()
        else:
            ip("link", "set", near.link, "down")
        lost_s = time.time()
        ended = scene.master.end(LOST_WITHIN_S)
    assert ended.code == Verdict.INVALID.exit_code, ended.out + ended.err
    assert "Traceback" not in ended.out + ended.err, ended.out + ended.err
    manifest, judgement = RunReader(scene.run_dir).manifest, read_judgement(scene.run_dir)
    workers = {worker.region: worker for worker in manifest.workers}
    assert judgement.verdict is Verdict.INVALID
    assert manifest.load.ended_by == "load worker lost"
    assert f"load worker {workers['near'].worker} (host " in judgement.sentence
    assert "region near) was lost during the run" in judgement.sentence
    assert Mark.CUT_OFF in judgement.marks
    assert manifest.load.stopped_issuing_s is not None
    assert manifest.load.stopped_issuing_s - lost_s < 12
    _assert_regions(scene.run_dir, lost_s, workers["near"])
    assert [each.region for each in judgement.regions] == ["far", "near"]
    assert all(each.requests and each.samples for each in judgement.regions)
    _assert_clocks(workers)


def _assert_regions(run_dir: Path, lost_s: float, lost: WorkerFacts) -> None:
    """Every region's samples are there, the distance in them, and the last two seconds at most are missing."""
    table = RunReader(run_dir).samples()
    median = {}
    for region in ("near", "far"):
        mine = table.filter(pc.equal(table["region"], region))
        assert len(mine) > SAMPLES
        ttft_s = pc.subtract(mine["first_token_s"], mine["sent_s"]).to_pylist()
        median[region] = statistics.median(each for each in ttft_s if not np.isnan(each))
        if region == lost.region:
            assert lost.wall_s(max(mine["end_s"].to_pylist())) > lost_s - 2.0
    assert median["far"] - median["near"] == pytest.approx(2 * FAR_S, rel=0.3)
    assert median["near"] > 0.02, "the emulator's own"


def _assert_clocks(workers: dict[str, WorkerFacts]) -> None:
    """All share this host's clock: the offset is 0, as exactly as the way to the master allows."""
    near_s, far_s = (workers[region].clock_round_trip_s for region in ("near", "far"))
    assert near_s is not None
    assert far_s is not None
    assert far_s > 2 * FAR_S > near_s
    for worker in workers.values():
        assert abs(worker.clock_offset_s) <= (worker.clock_round_trip_s or 0) / 2
