"""The floors: a module imports lower floors, or neighbours without a circle; pure floors stay pure.

Read from the source with ``ast``, so that nothing has to be imported and an import inside a function counts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("harness", "servers", "reports", "locustfiles")

FLOORS: dict[str, int] = {
    "harness": 0,
    "harness.records": 0,
    "harness.quality_file": 1,
    "harness.quality_join": 5,
    "harness.scored": 2,
    "harness.quality_evidence": 2,
    "harness.quality_summary": 2,
    "harness.quality_run": 5,
    "harness.quality_worker_main": 5,
    "harness.errors": 0,
    "harness.certificate": 0,
    "harness.comparison": 0,
    "harness.judgement": 0,
    "harness.series": 0,
    "harness.phases": 0,
    "harness.connection": 1,
    "harness.arrivals": 1,
    "harness.fields": 1,
    "harness.experiments": 1,
    "harness.objective": 1,
    "harness.spec": 1,
    "harness.strict_yaml": 1,
    "harness.manifest": 1,
    "harness.json_file": 1,
    "harness.runlog": 1,
    "harness.snapshot": 1,
    "harness.run_heads": 1,
    "harness.telemetry_log": 1,
    "harness.capacity_log": 1,
    "harness.compare_log": 1,
    "harness.capacity_spend": 3,
    "harness.expectations": 3,
    "harness.dataset": 1,
    "harness.expected": 1,
    "harness.catalog": 1,
    "harness.nightly": 0,
    "harness.nightly.spec": 1,
    "harness.nightly.record": 2,
    "harness.nightly.lock": 3,
    "harness.nightly.disk": 3,
    "harness.nightly.*": 5,
    "harness.gate": 2,
    "harness.notify": 3,
    "harness.results_store": 3,
    "harness.workload": 2,
    "harness.schedule": 2,
    "harness.cell": 2,
    "harness.compare": 2,
    "harness.differences": 2,
    "harness.certify": 2,
    "harness.clock_offset": 2,
    "harness.energy": 2,
    "harness.telemetry_summary": 2,
    "harness.sse": 2,
    "harness.http1": 2,
    "harness.lifecycle": 2,
    "harness.metrics": 2,
    "harness.effective": 2,
    "harness.worth": 2,
    "harness.little": 2,
    "harness.steady": 2,
    "harness.evidence": 2,
    "harness.sla": 2,
    "harness.stopping": 2,
    "harness.verdict": 2,
    "harness.statistics": 2,
    "harness.timeline": 2,
    "harness.cost": 2,
    "harness.spend": 2,
    "harness.paid": 2,
    "harness.quality.*": 2,
    "harness.quality.llm_judge": 3,
    "harness.quality_judging": 5,
    "harness.roofline": 2,
    "harness.candidates": 2,
    "harness.studies": 2,
    "harness.recommend": 2,
    "harness.ranking": 2,
    "harness.flips": 2,
    "harness.break_even": 2,
    "harness.regions": 2,
    "harness.closed_loop": 2,
    "harness.slowest": 2,
    "harness.frontier": 2,
    "harness.summary": 2,
    "harness.notes": 2,
    "harness.validity": 2,
    "harness.history": 2,
    "harness.history.rows": 2,
    "harness.history.changepoints": 2,
    "harness.regression": 2,
    "harness.history.store": 3,
    "harness.clients.*": 3,
    "harness.telemetry.*": 3,
    "harness.estimate": 3,
    "harness.seal": 3,
    "servers.*": 3,
    "harness.loadgen.*": 4,
    "harness.run": 5,
    "harness.judge": 5,
    "harness.watch": 0,
    "harness.watch.channel": 1,
    "harness.watch.samples": 3,
    "harness.watch.process": 3,
    "harness.watch.view": 3,
    "harness.watch.*": 5,
    "harness.advice": 5,
    "harness.audit.*": 5,
    "harness.plan": 5,
    "harness.capacity_record": 0,
    "harness.capacity": 2,
    "harness.level": 2,
    "harness.daily_profile": 2,
    "harness.sizing": 2,
    "harness.api_break_even": 2,
    "harness.price_age": 2,
    "harness.capacity_run": 5,
    "harness.capacity_sizing": 5,
    "harness.samples_csv": 5,
    "harness.matrix": 5,
    "harness.recorded": 5,
    "harness.compare_run": 5,
    "harness.launches": 5,
    "reports.*": 5,
    "reports.figures": 2,
    "reports.parts": 2,
    "reports.checks": 2,
    "reports.percentiles": 2,
    "reports.rendering": 3,
    "reports.live_view": 4,
    "harness.cli": 6,
    "harness.commands.*": 6,
    "harness.console": 6,
    "harness.capacity_console": 6,
    "harness.runs_console": 6,
    "harness.runs_server": 5,
    "harness.live": 6,
    "harness.live_checks": 6,
    "harness.live_display": 6,
    "harness.live_plain": 6,
    "harness.compare_console": 6,
    "harness.install_console": 6,
    "locustfiles.*": 6,
}
"""Module to floor; ``package.*`` stands for a package with all that is in it. A new module gets a line here."""

PURE_FLOORS = (0, 2)
IMPURE = frozenset(
    {
        *("time",),
        *(
            "socket",
            "_socket",
            "ssl",
            "select",
            "selectors",
            "asyncio",
            "threading",
            "multiprocessing",
            "concurrent",
            "subprocess",
            "signal",
        ),
        *("os", "io", "pathlib", "shutil", "tempfile", "glob"),
        *("secrets", "uuid"),
        *("http", "urllib", "httpx", "requests", "aiohttp"),
        *("gevent", "locust", "psutil", "pynvml"),
        *("harness.runlog", "harness.telemetry_log", "harness.strict_yaml", "harness.dataset", "harness.catalog"),
    }
)
"""Clock, network, disk, processes, chance without a seed, and the modules of floor 1 that read or write files."""

PURITY_EXEMPTIONS: dict[tuple[str, str], str] = {
    ("harness.workload", "harness.dataset"): "the dataclass WorkloadData, which holds texts already read",
    ("harness.spend", "harness.dataset"): "the dataclass WorkloadData, which holds texts already read",
    ("harness.candidates", "harness.catalog"): "the dataclass Catalog, which is handed in already read",
    ("harness.recommend", "harness.catalog"): "the dataclass Catalog, which is handed in already read",
    ("harness.cell", "harness.catalog"): "the dataclass Catalog, which is handed in already read",
    ("harness.cell", "pathlib"): "a cell says where its run goes and makes a user's data file absolute",
    ("harness.cell", "secrets"): "a run's name must be unique on its host",
    ("harness.lifecycle", "signal"): "the table of signals' names",
    ("harness.cell", "datetime.now"): "a run's name sorts by time",
}

GEVENT = frozenset({"gevent", "greenlet", "locust"})
GEVENT_ROOMS = ("harness.clients", "harness.loadgen", "locustfiles")

DOORS: dict[str, str] = {
    "harness.loadgen": "Locust swallows exceptions of listeners, so a refusal at init must print and exit itself",
    "harness.loadgen.leader": "sets the exit code, and says why in the terminal that Locust owns",
    "harness.loadgen.worker": "a second Ctrl-C ends a worker at once",
    "servers.emulator.app": "dies in the middle of a request when a fault asks for it",
    "servers.null_server": "python servers/null_server.py, the server that clients are certified against",
    "servers.null_grpc_server": "python -m servers.null_grpc_server, the same over gRPC",
    "servers.delay_proxy": "python -m servers.delay_proxy, the distance between users and a server",
    "servers.guard": "python -m servers.guard, the parent of every server",
}
"""What may print or exit, besides floor 6, ``*_main.py`` and ``__main__.py``."""


@dataclass(frozen=True)
class Import:
    name: str
    line: int
    runtime: bool
    """False under ``if TYPE_CHECKING``."""


@cache
def modules() -> dict[str, Path]:
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def floor_of(module: str) -> int | None:
    if module in FLOORS:
        return FLOORS[module]
    parts = module.split(".")
    packages = (".".join(parts[:count]) + ".*" for count in range(len(parts), 0, -1))
    return next((FLOORS[package] for package in packages if package in FLOORS), None)


def is_within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def imports(source: ast.Module, module: str, is_package: bool, known: frozenset[str]) -> Iterator[Import]:
    """Every import wherever it stands; ``from package import module`` names the module."""
    package = module if is_package else module.rpartition(".")[0]
    typing_only = {
        id(inner)
        for node in ast.walk(source)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(source):
        runtime = id(node) not in typing_only
        match node:
            case ast.Import(names=names):
                for name in names:
                    yield Import(name.name, node.lineno, runtime)
            case ast.ImportFrom(module=base, names=names, level=level):
                if level:
                    above = package.split(".")[: len(package.split(".")) - level + 1]
                    base = ".".join((*above, base) if base else above)
                for name in names:
                    inner_module = f"{base}.{name.name}"
                    yield Import(inner_module if inner_module in known else str(base), node.lineno, runtime)
            case ast.Call(func=ast.Name(id="import_module" | "__import__"), args=[ast.Constant(value=str(name)), *_]):
                yield Import(name, node.lineno, runtime)
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield Import(name, node.lineno, runtime)


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    is_package = modules()[module].name == "__init__.py"
    return tuple(imports(tree(module), module, is_package, frozenset(modules())))


def own_imports(module: str) -> list[Import]:
    """Imports of this project's modules."""
    return [found for found in imports_of(module) if found.name.split(".")[0] in ROOMS]


def says_or_exits(source: ast.Module) -> Iterator[tuple[int, str]]:
    """Lines that print to the terminal or end the process."""
    for node in ast.walk(source):
        match node:
            case ast.Call(func=ast.Name(id="print" | "exit" | "quit" as name)):
                yield node.lineno, name
            case ast.Attribute(value=ast.Name(id="sys"), attr="exit" | "stdout" | "stderr" | "__stdout__" as name):
                yield node.lineno, f"sys.{name}"
            case ast.Attribute(value=ast.Name(id="os"), attr="_exit" | "abort" as name):
                yield node.lineno, f"os.{name}"
            case ast.Name(id="SystemExit"):
                yield node.lineno, "SystemExit"


def impurities(source: ast.Module, found: tuple[Import, ...]) -> Iterator[tuple[int, str]]:
    for each in found:
        parts = each.name.split(".")
        prefixes = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        hit = next((prefix for prefix in prefixes if prefix in IMPURE), None)
        if hit:
            yield each.line, hit
    for node in ast.walk(source):
        match node:
            case ast.Call(func=ast.Name(id="open" | "input" | "print" as name)):
                yield node.lineno, name
            case ast.Attribute(
                value=ast.Name(id="datetime" | "date" as name), attr="now" | "utcnow" | "today" as method
            ):
                yield node.lineno, f"{name}.{method}"
            case ast.Attribute(value=ast.Name(id="random"), attr=method) if method not in ("Random",):
                yield node.lineno, f"random.{method}"


def reachable(module: str) -> dict[str, str]:
    """Everything that importing ``module`` can import of this project, to who asked for it."""
    asked_by = {module: ""}
    queue = [module]
    while queue:
        current = queue.pop()
        for found in own_imports(current):
            if not found.runtime:
                continue
            parts = found.name.split(".")
            for name in (".".join(parts[:count]) for count in range(1, len(parts) + 1)):  # packages run first
                if name in modules() and name not in asked_by:
                    asked_by[name] = current
                    queue.append(name)
    return asked_by


# The rules --------------------------------------------------------------------------------------


def test_every_module_has_a_floor() -> None:
    homeless = [module for module in modules() if floor_of(module) is None]
    assert not homeless, f"no floor for {', '.join(homeless)}: give each a line in FLOORS of {Path(__file__).name}"


@pytest.mark.parametrize("module", modules())
def test_imports_go_down(module: str) -> None:
    floor = floor_of(module)
    assert floor is not None, f"{module} has no floor: give it a line in FLOORS"
    problems = []
    for found in own_imports(module):
        other = floor_of(found.name)
        if other is None or other > floor:
            problems.append(f"line {found.line}: {module} (floor {floor}) imports {found.name} (floor {other})")
    assert not problems, "; ".join(problems)


def test_neighbours_do_not_import_in_a_circle() -> None:
    graph = {module: {found.name for found in own_imports(module) if found.runtime} for module in modules()}
    state: dict[str, str] = {}
    circles: list[str] = []

    def visit(module: str, path: tuple[str, ...]) -> None:
        state[module] = "open"
        for other in sorted(graph[module] & graph.keys() - {module}):
            if state.get(other) == "open":
                circles.append(" -> ".join((*path[path.index(other) :], other)))
            elif other not in state:
                visit(other, (*path, other))
        state[module] = "done"

    for module in graph:
        if module not in state:
            visit(module, (module,))
    assert not circles, "\n".join(circles)


@pytest.mark.parametrize("module", [module for module in modules() if floor_of(module) in PURE_FLOORS])
def test_pure_modules_know_no_clock_network_disk_or_gevent(module: str) -> None:
    problems = [
        f"line {line}: {what}"
        for line, what in impurities(tree(module), imports_of(module))
        if (module, what) not in PURITY_EXEMPTIONS
    ]
    assert not problems, f"{module} is pure, but: {'; '.join(problems)}"


def test_no_exemption_outlives_its_reason() -> None:
    used = {(module, what) for module in modules() for _, what in impurities(tree(module), imports_of(module))}
    assert set(PURITY_EXEMPTIONS) - used == set()
    silent = {module for module in DOORS if module in modules() and not [*says_or_exits(tree(module))]}
    assert silent == set()
    assert all(PURITY_EXEMPTIONS.values())
    assert all(DOORS.values())


@pytest.mark.parametrize("module", modules())
def test_gevent_and_locust_stay_in_their_rooms(module: str) -> None:
    found = {each.name.split(".")[0]: each.line for each in imports_of(module)}
    strays = {name: line for name, line in found.items() if name in GEVENT}
    if not any(is_within(module, room) for room in GEVENT_ROOMS):
        assert not strays, f"{module} imports {strays}: only {', '.join(GEVENT_ROOMS)} may"


@pytest.mark.parametrize("module", modules())
def test_only_doors_print_or_exit(module: str) -> None:
    last = module.rpartition(".")[2]
    if module in DOORS or floor_of(module) == 6 or last == "__main__" or last.endswith("_main"):
        return
    found = [f"line {line}: {what}" for line, what in says_or_exits(tree(module))]
    assert not found, f"{module} is no door, but: {'; '.join(found)}"


@pytest.mark.parametrize(
    "module", [module for module in modules() if module == "harness.judge" or is_within(module, "reports")]
)
def test_nothing_after_the_seal_needs_gevent_a_server_or_locust(module: str) -> None:
    asked_by = reachable(module)
    strays = [
        f"{name} (by {asked_by[name]})"
        for name in asked_by
        if is_within(name, "servers") or {found.name.split(".")[0] for found in imports_of(name)} & GEVENT
    ]
    assert not strays, f"{module} reaches {', '.join(strays)}"


# The test's own eyes ----------------------------------------------------------------------------


def names(text: str, module: str = "harness.loadgen.x", is_package: bool = False) -> dict[str, bool]:
    known = frozenset({"harness.loadgen.messages", "servers.guard"})
    return {found.name: found.runtime for found in imports(ast.parse(text), module, is_package, known)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import harness.cli as c, os", {"harness.cli": True, "os": True}),
        ("from harness.cli import main", {"harness.cli": True}),
        ("from harness.loadgen import messages, Run", {"harness.loadgen.messages": True, "harness.loadgen": True}),
        ("from servers import guard", {"servers.guard": True}),
        ("from . import messages", {"harness.loadgen.messages": True}),
        ("from .messages import CELL", {"harness.loadgen.messages": True}),
        ("from .. import cli", {"harness": True}),
        ("def f():\n    import locust", {"locust": True}),
        ("class A:\n    def f(self):\n        from gevent import sleep", {"gevent": True}),
        ("if TYPE_CHECKING:\n    from locust.env import Environment\nimport os", {"locust.env": False, "os": True}),
        ("if typing.TYPE_CHECKING:\n    import a\nelse:\n    import b", {"a": False, "b": True}),
        ("try:\n    import gevent\nexcept ImportError:\n    pass", {"gevent": True}),
        ("importlib.import_module('gevent')", {"gevent": True}),
        ("import_module('harness.cli')", {"harness.cli": True}),
    ],
)
def test_imports_are_seen_wherever_they_stand(text: str, expected: dict[str, bool]) -> None:
    assert names(text) == expected


def test_a_package_resolves_relative_imports_from_itself() -> None:
    assert names("from .messages import CELL", "harness.loadgen", is_package=True) == {"harness.loadgen.messages": True}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f():\n    print(1)", ["print"]),
        ("sys.exit(2)", ["sys.exit"]),
        ("sys.stderr.write('x')", ["sys.stderr"]),
        ("raise SystemExit(1)", ["SystemExit"]),
        ("os._exit(1)", ["os._exit"]),
        ("self.exit(); table.print()", []),
    ],
)
def test_printing_and_leaving_are_seen(text: str, expected: list[str]) -> None:
    assert [what for _, what in says_or_exits(ast.parse(text))] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import urllib.parse", ["urllib"]),
        ("from time import monotonic", ["time"]),
        ("from harness.runlog import SCHEMA", ["harness.runlog"]),
        ("import harness.records", []),
        ("datetime.now(UTC)", ["datetime.now"]),
        ("open('x')", ["open"]),
        ("random.random()", ["random.random"]),
        ("random.Random(1)", []),
    ],
)
def test_impurities_are_seen(text: str, expected: list[str]) -> None:
    source = ast.parse(text)
    found = tuple(imports(source, "harness.x", False, frozenset()))
    assert [what for _, what in impurities(source, found)] == expected


def test_the_rooms_were_found() -> None:
    assert {"harness.records", "harness.loadgen", "servers", "reports", "locustfiles.chatbot"} <= set(modules())
    assert "harness.workload" in reachable("harness.loadgen")
    assert floor_of("servers.emulator.engine") == 3
    assert floor_of("harness.brand_new") is None
