"""Containers: the engine's command lines, and that no container outlives its harness, whatever of it is killed."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from servers_support import ANSWERS, Mark, scenario, script, stack, until

from harness.errors import ServerError
from harness.spec import Launch
from servers import llamacpp
from servers.base import Launcher, Order, RunningServer, port_for, stand_up
from servers.llamacpp import LlamaCpp
from servers.recipe import Recipe
from servers.runtimes import Gpus, container, filled, listen_host, place, program
from servers.runtimes.ask import NOT_THERE, Answer, Ask
from servers.runtimes.container import Engine, Image, explained, fetched, find, run_command
from tests.conftest import Golden

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
SERVER = (
    ANSWERS.replace('("127.0.0.1", 0)', '("127.0.0.1", int(sys.argv[2]))')
    + "import os\nprint('secret', len(os.environ.get('SECRET', '')), 'home', 'HOME' in os.environ, flush=True)\n"
    + "listen().serve_forever()\n"
)
STUBBORN = SERVER.replace("import os\n", "import os, signal\nsignal.signal(15, signal.SIG_IGN)\n")
DOCKER = Engine("docker", "docker", "28.2.2")
PODMAN = Engine("podman", "podman", "4.3.1")


class Contained(Launcher):
    """An engine whose program is a script."""

    name = "contained"

    def __init__(self, command: tuple[str, ...]) -> None:
        self.command = command

    def start(self, order: Order) -> RunningServer:
        port = port_for(order)
        return stand_up(order, self.name, Recipe((*self.command, str(port)), port=port))


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A ``docker`` in PATH, with a daemon of its own; its state is in this directory."""
    state = tmp_path / "docker"
    (state / "bin").mkdir(parents=True)
    command = state / "bin" / "docker"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "fake_docker.py"} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("FAKE_DOCKER", str(state / "socket"))
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.delenv(container.ENGINE_VARIABLE, raising=False)
    daemon = subprocess.Popen([sys.executable, str(HERE / "fake_docker.py"), "daemon"], start_new_session=True)
    try:
        until((state / "socket").exists)
        yield state
    finally:
        daemon.kill()
        daemon.wait()


def golden_recipe() -> Recipe:
    return Recipe(
        ("vllm", "serve", "/models/llama", "--host", "0.0.0.0", "--port", "8000"),
        port=8000,
        ports=(8002,),
        mounts=(Path("/models/llama"),),
        generated=(Path("/runs/1/repository"),),
    )


def a_line_each(words: tuple[str, ...]) -> str:
    return "".join(f"  {shlex.quote(word)}\n" for word in words)


def test_command_lines(golden: Golden) -> None:
    text = ""
    gpus: tuple[Gpus, ...] = ((), (2,), (0, 1, 2, 3), "all")
    for engine in (DOCKER, PODMAN):
        for chosen in gpus:
            words = run_command(
                engine,
                Image("vllm/vllm-openai:v0.11.0", "sha256:1", ("vllm", "serve")),
                golden_recipe(),
                name="llm-harness-1",
                cid_file=Path("/runs/1/cid"),
                gpus=chosen,
                writable=[Path("/cache/huggingface")],
                variables={"HF_TOKEN": "hf_secret", "HF_HOME": "/cache/huggingface"},
                shared_memory_gib=16.0,
            )
            assert "hf_secret" not in " ".join(words)
            text += f"{engine.kind}, GPUs {chosen or 'none'}\n{a_line_each(words)}"
    golden("runtimes/container.txt", text)


def test_the_entry_point_of_an_image_stays_if_it_prepares_and_goes_if_it_is_a_program() -> None:
    script = "/opt/nvidia/nvidia_entrypoint.sh"
    assert Image("triton", "", (script,)).prefix == (script,)
    assert Image("vllm", "", ("vllm", "serve")).prefix == ()
    assert Image("bare", "").prefix == ()


def test_a_path_that_cannot_be_mounted() -> None:
    recipe = Recipe(("x",), port=1, mounts=(Path("/a,b"),))
    with pytest.raises(ServerError, match="its name holds a comma"):
        run_command(
            DOCKER, Image("i", ""), recipe, name="n", cid_file=Path("c"), gpus=(), variables={}, shared_memory_gib=1
        )


def test_where_servers_listen_and_what_they_are_called() -> None:
    contained = Launch(runtime="container", image="vllm/vllm-openai")
    assert listen_host(contained) == "0.0.0.0"
    assert listen_host(Launch()) == "127.0.0.1"
    assert program(contained, "vllm", "vllm") == ("vllm",)
    own = contained.model_copy(update={"executable": "/opt/vllm"})
    assert program(own, "vllm", "vllm") == ("/opt/vllm",)


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = tmp_path / "engine"

    def named(name: str) -> tuple[str, ...]:
        return program(Launch(runtime="path", executable=name), "vllm", "vllm")

    with pytest.raises(ServerError, match=f"launch.executable {executable} is not there"):
        named(str(executable))
    executable.write_text("#!/bin/sh\n")
    with pytest.raises(ServerError, match="is no program that can be run"):
        named(str(executable))
    executable.chmod(0o755)
    assert named(str(executable)) == (str(executable),)
    with pytest.raises(ServerError, match="names engine, which is not in PATH"):
        named("engine")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert named("engine") == (str(executable),)
    far = Launch(runtime="path", executable="/opt/there", ssh_host="box")
    assert program(far, "vllm", "vllm") == ("/opt/there",)


def test_variables_come_from_the_environment() -> None:
    assert filled({"A": "x-${B}", "C": "d"}, {"B": "y"}) == {"A": "x-y", "C": "d"}
    with pytest.raises(ServerError, match="the variable A needs the environment variable B, which is not set"):
        filled({"A": "${B}"}, {})


# Engines ---------------------------------------------------------------------------------------


def machine(**programs: str | None) -> Ask:
    """A machine with these programs: what ``--version`` says, and None for a daemon that does not answer."""

    def ask(words: tuple[str, ...]) -> Answer:
        if words[0] not in programs:
            return Answer(NOT_THERE, "", f"{words[0]}: No such file or directory")
        said = programs[words[0]]
        if words[1] == "--version":
            return Answer(0, said or f"{words[0].title()} version 1", "")
        return Answer(1, "", "Cannot connect to the Docker daemon") if said is None else Answer(0, "1.2.3", "")

    return ask  # type: ignore[return-value]


def test_the_first_engine_that_answers() -> None:
    assert find(machine(docker="Docker version 28"), variables={}) == Engine("docker", "docker", "1.2.3")
    both = machine(docker=None, podman="podman version 4.3.1")
    assert find(both, variables={}) == Engine("podman", "podman", "1.2.3")
    assert find(machine(docker="podman version 5"), variables={}).kind == "podman"
    chosen = {container.ENGINE_VARIABLE: "podman"}
    assert find(machine(docker="Docker version 28", podman="podman version 5"), variables=chosen).program == "podman"


@pytest.mark.parametrize(
    ("ask", "variables", "sentence"),
    [
        (machine(), {}, "^runtime: container needs docker or podman, and neither is here$"),
        (machine(docker=None), {}, "^docker does not work here: Cannot connect to the Docker daemon$"),
        (machine(docker="x"), {container.ENGINE_VARIABLE: "nerdctl"}, "_ENGINE names nerdctl, which is not here$"),
    ],
)
def test_no_engine(ask: Ask, variables: dict[str, str], sentence: str) -> None:
    with pytest.raises(ServerError, match=sentence):
        find(ask, variables=variables)


def test_an_image_that_says_nothing_readable() -> None:
    with pytest.raises(ServerError, match="says nothing of the image x that can be read"):
        fetched(DOCKER, "x", lambda words: Answer(0, "[]", ""), lambda words: None)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].',
            "Toolkit",
        ),
        ("Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=0", "nvidia-ctk cdi generate"),
        (
            "docker: Error response from daemon: Bind for 127.0.0.1:8000 failed: port is already allocated.",
            "port 8000 on 127.0.0.1 is in use",
        ),
        ("Error: container-init binary not found on the host: catatonit: not found", "install catatonit"),
        ('docker: OCI runtime create failed: exec: "/bin/sh": stat /bin/sh: no such file or directory', "no /bin/sh"),
        ("docker: invalid mount config: bind source path does not exist: /models/x.", "is not on this machine"),
        ("ValueError: the server speaks of nvidia.com/gpu itself", ""),
    ],
)
def test_words_of_an_engine(line: str, sentence: str) -> None:
    engine = PODMAN if line.startswith("Error: setting") else DOCKER
    said = explained(["before", line, "See 'docker run --help'."], engine, Image("i", ""), None)
    assert sentence in said
    assert bool(said) == bool(sentence)


# Lifecycle -------------------------------------------------------------------------------------


def launch(tmp_path: Path, text: str, mark: Mark, image: str = "some/image:1", **recipe: object) -> RunningServer:
    said: list[str] = []
    server = Contained(script(tmp_path, text, mark.text)).launch(
        stack(runtime="container", image=image, served_model="fake", variables={"SECRET": "${MY_SECRET}"}, **recipe),
        scenario(),
        log_file=tmp_path / "server.log",
        work_dir=tmp_path / "run",
        users=2,
        progress=said.append,
    )
    (tmp_path / "progress").write_text("\n".join(said))
    return server


def test_a_server_in_a_container(tmp_path: Path, docker: Path, mark: Mark, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "hush-hush")
    with launch(tmp_path, SERVER, mark) as server:
        facts = server.facts()
        assert facts.image == "some/image:1"
        assert facts.details["image_digest"] == "sha256:" + "ab" * 32
        assert facts.details["container_engine"] == "docker 28.2.2"
        assert server.pid is None, "its processes are not ours to measure"
        assert f"publish 127.0.0.1:{server.url.rpartition(':')[2]}:" in " ".join(facts.command)
        assert "secret 9 home False" in facts.log_tail
        for pid in mark.pids():
            with psutil.Process(pid).oneshot():
                assert "hush-hush" not in " ".join(psutil.Process(pid).cmdline())
    assert (server.facts().exit_code, server.facts().died) == (-signal.SIGTERM, False)
    assert mark.gone()
    said = (tmp_path / "progress").read_text()
    assert "pulling some/image:1" in said
    assert said.index("pulling") < said.index("starting contained")
    calls = (docker / "calls.txt").read_text().splitlines()
    assert [call.split()[0] for call in calls] == [
        *("version", "container", "image", "pull", "image", "run", "stop", "rm")
    ]
    assert not [*(tmp_path / "run").iterdir()], "nothing stays in the run's directory"


def test_a_server_that_ignores_term(tmp_path: Path, docker: Path, mark: Mark, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "hush-hush")
    monkeypatch.setattr(container, "STOP_S", 1)
    with launch(tmp_path, STUBBORN, mark) as server:
        pass
    assert (server.facts().exit_code, server.facts().died) == (-signal.SIGKILL, False)
    assert mark.gone()


def test_a_server_that_dies_by_itself(
    tmp_path: Path, docker: Path, mark: Mark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "hush-hush")
    with launch(tmp_path, SERVER, mark) as server:
        (pid,) = [pid for pid in mark.pids() if psutil.Process(pid).ppid() not in mark.pids() and is_server(pid)]
        os.kill(pid, signal.SIGKILL)
        until(lambda: server.poll() is not None)
    assert (server.facts().exit_code, server.facts().died) == (-signal.SIGKILL, True)


def is_server(pid: int) -> bool:
    return psutil.Process(pid).cmdline()[:2] == [sys.executable, "-u"]


def test_starts_that_fail(tmp_path: Path, docker: Path, mark: Mark, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerError, match="the variable SECRET needs the environment variable MY_SECRET"):
        launch(tmp_path, SERVER, mark)
    monkeypatch.setenv("MY_SECRET", "hush-hush")
    with pytest.raises(ServerError, match=r"^cannot pull nobody/image: .*pull access denied"):
        launch(tmp_path, SERVER, mark, "nobody/image")
    with pytest.raises(ServerError, match="contained ended with exit code 9 while starting"):
        launch(tmp_path, "raise SystemExit(9)", mark)


def test_a_server_that_chooses_its_port_itself_is_refused(tmp_path: Path) -> None:
    from servers_support import FakeEngine

    made = stack(runtime="container", image="some/image:1")
    with pytest.raises(ServerError, match="chooses its port itself, which works only on this machine outside"):
        FakeEngine(("x",)).launch(made, scenario(), log_file=tmp_path / "log", work_dir=tmp_path, users=1)


@pytest.mark.parametrize(
    ("victim", "text"),
    [("harness", SERVER), ("guard", SERVER), ("watcher", SERVER), ("command", SERVER), ("all", STUBBORN)],
    ids=["harness", "guard", "watcher", "command", "all"],
)
def test_no_container_outlives_what_is_killed(tmp_path: Path, docker: Path, mark: Mark, victim: str, text: str) -> None:
    parent = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(HERE)!r}]
from pathlib import Path
from servers.runtimes import container
from servers_support import scenario, stack
from test_runtimes_container import Contained
container.STOP_S = 1
here = Path({str(tmp_path)!r})
made = stack(runtime="container", image="some/image:1", served_model="fake")
engine = Contained({script(tmp_path, text, mark.text)!r})
with engine.launch(made, scenario(), log_file=here / "server.log", work_dir=here / "run", users=2) as server:
    (here / "serving").touch()
    while server.poll() is None:
        time.sleep(0.05)
"""
    top = subprocess.Popen(script(tmp_path, parent))
    try:
        until((tmp_path / "serving").exists, 30)
        harness = psutil.Process(top.pid)
        (guard,) = harness.children()
        (watcher,) = guard.children()
        (command,) = watcher.children()
        family = {"harness": harness, "guard": guard, "watcher": watcher, "command": command}
        assert any(is_server(pid) for pid in mark.pids())
        for process in family.values() if victim == "all" else [family[victim]]:
            process.kill()
        until(mark.gone, 10)
        if victim in ("harness", "all"):
            assert top.wait(10) == -signal.SIGKILL
    finally:
        top.kill()
        top.wait()


# Launchers -------------------------------------------------------------------------------------


def test_what_is_emulated_stays_here(tmp_path: Path) -> None:
    launch = Launch(runtime="container", image="vllm/vllm-openai", ssh_host="box")
    recipe = Recipe(("python", "-m", "servers.emulator"), variables={"TOKEN": "${NOT_SET}"}, emulated=True)
    assert place(launch, recipe, gpus="all", work_dir=tmp_path, progress=lambda _: None) is recipe


def test_examples_of_the_documentation() -> None:
    text = (ROOT / "docs" / "runtimes.md").read_text()
    examples = [part.partition("```")[0] for part in text.split("```yaml")[1:]]
    found = [Launch.model_validate(yaml.safe_load(each)["launch"]) for each in examples]
    assert [each.runtime for each in found] == ["venv", "path", "container", "path"]
    assert found[-1].ssh_host == "me@gpu-box"


def test_llamacpps_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "model.gguf"
    model.touch()
    recipes: list[Recipe] = []

    def keep(order: Order, name: str, recipe: Recipe) -> None:
        recipes.append(recipe)

    monkeypatch.setattr(llamacpp, "stand_up", keep)
    options: dict[str, Any] = {
        "scenario": scenario(),
        "log_file": tmp_path / "log",
        "work_dir": tmp_path,
        "users": 2,
        "port": 9000,
    }
    contained = {"runtime": "container", "image": "llama.cpp", "arguments": ["--n-gpu-layers", "99"]}
    LlamaCpp().launch(stack(**contained, model_file=str(model), served_model="m"), **options)
    (recipe,) = recipes
    assert recipe.command == (
        *("/app/llama-server", "--model", str(model), "--alias", "m", "--host", "0.0.0.0", "--port", "9000"),
        *("--parallel", "4", "--ctx-size", "4096", "--threads-http", "10", "--metrics", "--n-gpu-layers", "99"),
    )
    assert (recipe.port, recipe.mounts) == (9000, (model,))
    monkeypatch.setattr(llamacpp, "port_for", lambda _: 9000)
    with pytest.raises(ServerError, match=r"launch.model_file must name a GGUF file of box"):
        LlamaCpp().launch(stack(runtime="path", executable="/x", ssh_host="box"), **options)
