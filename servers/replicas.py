"""Several servers of one stack, started side by side, each on its own GPUs, behind HAProxy."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from harness.errors import ServerError, UsageError
from harness.records import BalancerCounters, ReplicaFacts, ServerFacts
from harness.spec import Launch, Stack
from servers.base import Launcher, Order, RunningServer, port_for, require_free, stand_up
from servers.haproxy import DRAIN_S, Backend, Control, configuration, find_haproxy, version_of
from servers.process import ServerProcess
from servers.recipe import Recipe

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
HEALTH_ROUTES = {"openai-chat": "/health", "triton-generate-stream": "/v2/health/ready"}
"""Where an engine of a protocol says that it can serve; a server without the route is asked for a connection only."""
HEALTH_S = 5.0
READY_S = 60.0
"""For HAProxy alone, whose replicas are up already."""
_POLL_S = 0.02


class Replicated(Launcher):
    """Starts a stack's replicas with its own launcher, and HAProxy before them."""

    name = "replicas"

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher

    def start(self, order: Order) -> RunningServer:
        if order.stack.protocol not in HEALTH_ROUTES:
            raise UsageError(
                f"stack '{order.stack.name}' has {order.stack.replicas} replicas and speaks {order.stack.protocol},"
                f" which is not balanced here: use {' or '.join(HEALTH_ROUTES)}, or one replica"
            )
        program = find_haproxy()
        version = version_of(program)
        if order.port is not None:
            require_free(order.port)
        began = time.monotonic()
        with ExitStack() as resources:
            replicas = self._start_replicas(order, resources)
            control = Control(order.work_dir)
            resources.callback(control.close)
            balancer = resources.enter_context(_start_haproxy(order, program, version, replicas))
            control.forget()  # the probes
            ready_s = time.monotonic() - began
            server = ReplicatedServer(self._launcher.name, version, balancer, replicas, control, ready_s)
            resources.pop_all()
        order.progress(f"HAProxy balances {len(replicas)} replicas at {server.url}")
        return server

    def _start_replicas(self, order: Order, resources: ExitStack) -> list[RunningServer]:
        """All of them, or none: the first that does not stand up ends the others."""
        starts = _Starts(order)
        count = order.stack.replicas
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(self._launcher.start, starts.order(place)) for place in range(count)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                failed = [(place, future) for place, future in enumerate(futures) if _error(future)]
                if failed:
                    place, future = failed[0]
                    error = _error(future)
                    if isinstance(error, ServerError):
                        raise ServerError(f"replica {place + 1} of {count} did not stand up: {error}") from error
                    future.result()
            except BaseException:
                starts.call_off()
                wait(futures)
                for future in futures:
                    if _error(future) is None:
                        future.result().stop()
                raise
        return [resources.enter_context(future.result()) for future in futures]


class _Starts:
    """The orders of one stack's replicas, which can be called off together, from any thread."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._gpus = gpus_of(order.stack, order.gpus)
        self._lock = threading.Lock()
        self._processes: list[ServerProcess] = []
        self._called_off = False

    def order(self, place: int) -> Order:
        number, count = place + 1, self._order.stack.replicas
        directory = self._order.work_dir / f"replica-{number}"
        try:
            directory.mkdir(exist_ok=True)
        except OSError as error:
            raise ServerError(f"cannot make the directory {directory}: {error.strerror}") from error

        def tell(line: str) -> None:
            with self._lock:
                self._order.progress(f"replica {number} of {count}: {line}")

        return replace(
            self._order,
            stack=self._order.stack.model_copy(update={"replicas": 1}),
            log_file=replica_log(self._order.log_file, number),
            work_dir=directory,
            port=None,
            gpus=self._gpus[place],
            progress=tell,
            started=self._note,
        )

    def call_off(self) -> None:
        with self._lock:
            self._called_off = True
            for process in self._processes:
                process.tell_to_end()

    def _note(self, process: ServerProcess) -> None:
        with self._lock:
            self._processes.append(process)
            if self._called_off:
                process.tell_to_end()


def replica_log(log_file: Path, number: int) -> Path:
    """``server.log.live`` of the whole is ``server-1.log.live`` of the first replica."""
    stem, dot, rest = log_file.name.partition(".")
    return log_file.with_name(f"{stem}-{number}{dot}{rest}")


def gpus_of(
    stack: Stack, allowed: Sequence[int] = (), variables: Mapping[str, str] = os.environ
) -> list[tuple[int, ...]]:
    """GPUs of each replica: ``hardware.count`` each, disjoint, in order; none without GPUs, or with emulated ones.

    They are taken from ``allowed``, else from ``CUDA_VISIBLE_DEVICES`` where a scheduler has set it, else from 0 on.

    Raises
    ------
    ServerError
        When there are fewer than needed.
    """
    if stack.hardware is None or stack.engine == "emulator":
        return [()] * stack.replicas
    each, needed = stack.hardware.count, stack.gpu_count
    usable = tuple(allowed)
    if not usable and stack.launch.ssh_host is None:
        usable = _visible(variables)
    if usable and len(usable) < needed:
        raise ServerError(
            f"stack '{stack.name}' needs {needed} GPUs, {each} for each of {stack.replicas} replicas, and may use"
            f" {len(usable)}: {', '.join(map(str, usable))}"
        )
    usable = usable or tuple(range(needed))
    return [usable[place * each : (place + 1) * each] for place in range(stack.replicas)]


def _visible(variables: Mapping[str, str]) -> tuple[int, ...]:
    words = [word.strip() for word in variables.get(VISIBLE_GPUS, "").split(",") if word.strip()]
    if not all(word.isdigit() for word in words):
        raise ServerError(f"{VISIBLE_GPUS} holds something else than numbers, and replicas are pinned by number")
    return tuple(map(int, words))


def _error(future: Future[RunningServer]) -> BaseException | None:
    return future.exception() if future.done() else None


def _start_haproxy(order: Order, program: str, version: str, replicas: Sequence[RunningServer]) -> RunningServer:
    """HAProxy is ready once a token has come through it."""
    port = port_for(replace(order, stack=order.stack.model_copy(update={"launch": Launch()})))
    backends = [
        Backend(f"replica-{number}", urlsplit(each.url).netloc) for number, each in enumerate(replicas, start=1)
    ]
    route = HEALTH_ROUTES[order.stack.protocol]
    health = route if all(_answers(each.url, route) for each in replicas) else ""
    text = configuration(backends, port, health, users=order.users, threads=len(os.sched_getaffinity(0)))
    file = order.work_dir / "haproxy.cfg"
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ServerError(f"cannot write {file}: {error.strerror}") from error
    plain = Launch(served_model=replicas[0].model, ready_timeout_s=READY_S)
    recipe = Recipe((program, "-db", "-f", str(file)), port=port, version=version, directory=order.work_dir)
    stack = order.stack.model_copy(update={"launch": plain, "hardware": None, "replicas": 1})
    return stand_up(replace(order, stack=stack, port=port, gpus=()), "haproxy", recipe)


def _answers(url: str, route: str) -> bool:
    parts = urlsplit(url)
    link = HTTPConnection(parts.hostname or "", parts.port, timeout=HEALTH_S)
    try:
        link.request("GET", route)
        return link.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        link.close()


class ReplicatedServer(RunningServer):
    """HAProxy and what is behind it, as one server. It has died when HAProxy is gone, or every replica."""

    def __init__(
        self,
        launcher: str,
        version: str,
        balancer: RunningServer,
        replicas: Sequence[RunningServer],
        control: Control,
        ready_s: float,
    ) -> None:
        first = replicas[0].facts()
        about = {"replicas": len(replicas), "balancer": f"{version}, least connections"}
        facts = first.model_copy(
            update={
                "launcher": launcher,
                "url": balancer.url,
                "ready_s": ready_s,
                "metrics_url": "",
                "gpus": tuple(gpu for each in replicas for gpu in each.facts().gpus),
                "details": {**first.details, **about},
            }
        )
        super().__init__(balancer.endpoint, facts)
        self._balancer = balancer
        self._replicas = tuple(replicas)
        self._control = control
        self._counters: dict[str, BalancerCounters] = {}
        self._at_stop: ServerFacts | None = None

    @property
    def pid(self) -> int | None:
        """Of HAProxy; the replicas have trees of their own: :attr:`pids`."""
        return self._balancer.pid

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(pid for each in (self._balancer, *self._replicas) for pid in each.pids)

    def poll(self) -> int | None:
        code = self._balancer.poll()
        if code is not None:
            return code
        codes = [each.poll() for each in self._replicas]
        return None if None in codes else codes[-1]

    def facts(self) -> ServerFacts:
        return self._at_stop or self._told([each.facts() for each in self._replicas])

    def conclude(self) -> ServerFacts:
        if self._at_stop is not None:
            return self._at_stop
        self._counters = self._control.counters() or self._counters
        return self._told([each.conclude() for each in self._replicas])

    def stop(self) -> None:
        """HAProxy takes no more and lets what is under way end, then all replicas end, side by side."""
        if self._at_stop is None:
            self._at_stop = self.conclude()
            self._drain()
        self._balancer.stop()
        self._control.close()
        with ThreadPoolExecutor(len(self._replicas)) as pool:
            list(pool.map(lambda each: each.stop(), self._replicas))

    def _drain(self) -> None:
        self._control.drain()
        deadline = time.monotonic() + DRAIN_S + 1.0
        while self._balancer.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _told(self, found: Sequence[ServerFacts]) -> ServerFacts:
        front = self._balancer.facts()
        replicas = tuple(
            ReplicaFacts(
                name=f"replica-{number}",
                url=each.url,
                gpus=each.gpus,
                command=each.command,
                metrics_url=each.metrics_url,
                exit_code=each.exit_code,
                died=each.died,
                restarted=each.restarted,
                out_of_memory=each.out_of_memory,
                log_tail=each.log_tail,
                counters=self._counters.get(f"replica-{number}"),
            )
            for number, each in enumerate(found, start=1)
        )
        said = tuple(f"{each.name}: {line}" for each in replicas if each.died for line in each.log_tail)
        return self._facts.model_copy(
            update={
                "exit_code": front.exit_code if front.died else None,
                "died": front.died or all(each.died for each in replicas),
                "log_tail": (*(f"haproxy: {line}" for line in front.log_tail), *said),
                "replicas": replicas,
            }
        )
