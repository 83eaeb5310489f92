"""The recorder of telemetry: a process of its own, so that nothing it does delays a timestamp of the load.

Host, processes and GPUs are read once a second, GPU power ten times a second where that is cheap, and the server's
metrics page once a second by a thread of its own, because a busy server answers late. Every reading is one line,
written at once: a kill loses less than a second of each.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.telemetry.host import Host, Tree, children_of_all
from harness.telemetry.nvml import Gpus
from harness.telemetry.prometheus import Page, ScrapeError
from harness.telemetry.vocabulary import Reading, read

PERIOD_S = 1.0
POWER_PERIOD_S = 0.1
UNKNOWN_NAMES = "none of its metric names is known"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be recorded, and where to.

    ``without`` are roots of process trees that belong neither to the server nor to the load generator. With
    ``guessed`` the metrics URL is tried once: a server that has no such page is no failure. Several servers of one
    stack are read as one: what they count is added up.
    """

    out: Path
    load_pid: int | None = None
    server_pids: tuple[int, ...] = ()
    without: tuple[int, ...] = ()
    metrics_urls: tuple[str, ...] = ()
    guessed: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: str | None = None
    gpus: bool = False


class Lines:
    """Appends whole lines, from any thread. A full disk costs lines, not the recorder."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        self._lock = threading.Lock()

    def write(self, content: Mapping[str, object]) -> None:
        line = json.dumps(content, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                os.write(self._descriptor, line)
            except OSError:
                return

    def close(self) -> None:
        os.close(self._descriptor)


def record(order: Order, stop: threading.Event) -> None:
    """Record until ``stop`` is set.

    Raises
    ------
    OSError
        When the file cannot be made.
    """
    lines = Lines(order.out)
    gpus = Gpus() if order.gpus else None
    facts: dict[str, object] = {"anchor_wall_s": time.time(), "anchor_monotonic_s": time.monotonic()}
    facts |= {"host": socket.gethostname(), "period_s": PERIOD_S, "gpus": gpus.names if gpus is not None else {}}
    lines.write({"facts": facts})
    scraper = threading.Thread(target=_scrape_until, args=(order, lines, stop), daemon=True)
    if order.metrics_urls:
        scraper.start()
    try:
        _read_until(order, gpus, lines, stop)
    finally:
        if order.metrics_urls:
            scraper.join(PERIOD_S)  # a scrape that hangs is given up
        lines.write({"facts": {"ended": True}})
        if gpus is not None:
            gpus.close()


def _read_until(order: Order, gpus: Gpus | None, lines: Lines, stop: threading.Event) -> None:
    host = Host()
    server = Tree(order.server_pids) if order.server_pids else None
    load = Tree((order.load_pid,), (*order.without, *order.server_pids)) if order.load_pid is not None else None

    def everything() -> None:
        children = children_of_all()
        values = host.read() | {"telemetry_cpu_s": time.process_time()}
        if server is not None:
            values |= server.read("server", children)
        if load is not None:
            values |= _known(load.read("load", children))
        now = time.monotonic()
        line: dict[str, object] = {"t": round(now, 6), "v": _rounded(values)}
        if gpus is not None and gpus.names:
            found = gpus.read(server.members(children) if server is not None else ())
            line["g"] = {str(index): _rounded(each) for index, each in found.items()}
        lines.write(line)

    fast = gpus is not None and gpus.power_is_cheap()
    due = power_due = read_at = time.monotonic()
    while True:
        now = time.monotonic()
        if now >= due:
            everything()
            read_at = now
            due = _next(due, PERIOD_S)
            power_due = _next(power_due, POWER_PERIOD_S)
        elif fast and gpus is not None and now >= power_due:
            power = {str(index): each for index, each in gpus.read_power().items()}
            lines.write({"t": round(time.monotonic(), 6), "g": power})
            power_due = _next(power_due, POWER_PERIOD_S)
        if stop.wait(max(0.0, (min(due, power_due) if fast else due) - time.monotonic())):
            if time.monotonic() - read_at > PERIOD_S / 2:  # a rate over a moment is noise
                everything()
            return


def _next(due: float, period_s: float) -> float:
    """The next moment of a fixed rhythm; those that were missed are left out, not caught up with."""
    missed = max(0, int((time.monotonic() - due) / period_s))
    return due + period_s * (missed + 1)


def _known(values: dict[str, float]) -> dict[str, float]:
    """Threads and processes of the load generator say nothing that anybody asks."""
    return {name: value for name, value in values.items() if name in ("load_cpu_s", "load_rss_bytes")}


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def _scrape_until(order: Order, lines: Lines, stop: threading.Event) -> None:
    pages = [Page(url, order.headers, order.ca_file) for url in order.metrics_urls]
    kind, error = "", ""
    due = time.monotonic()
    while not stop.is_set():
        reading, said = _scrape(pages)
        now = round(time.monotonic(), 6)
        if said and order.guessed and not kind:
            return
        values = dict(reading.values) if reading is not None else {}
        lines.write({"t": now, "v": {"scrape_failed": int(bool(said)), **values}})
        if reading is not None and reading.kind and reading.kind != kind:
            kind = reading.kind
            lines.write({"facts": {"server_kind": kind}})
        if said and said != error:
            error = said
            lines.write({"facts": {"scrape_error": error}})
        due = _next(due, PERIOD_S)
        if stop.wait(max(0.0, due - time.monotonic())):
            break
    for page in pages:
        page.close()


def _scrape(pages: Sequence[Page]) -> tuple[Reading | None, str]:
    """What all pages say together, and what is wrong with it. Without one of several, totals would go backwards."""
    texts, said = [], ""
    for page in pages:
        try:
            texts.append(page.fetch())
        except ScrapeError as problem:
            said = str(problem)[:200]
    if not texts:
        return None, said
    try:
        reading = read("\n".join(texts))
    except ValueError as problem:
        return None, str(problem)[:200]
    if said:
        gauges = {name: value for name, value in reading.values.items() if not name.endswith("_total")}
        return Reading(reading.kind, gauges), said
    return reading, "" if reading.kind else UNKNOWN_NAMES
