"""``harness models hf:...`` with the real huggingface_hub of an engine's environment, against a hub of our own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.environments import ENVIRONMENTS, HOME_VARIABLE, EnvironmentFailedError, home, make
from servers.models import HUB_ENVIRONMENTS, described, ensure, is_complete, resolve_weights
from servers.models.digests import damage, model_digest
from servers.models.listing import listed
from tests.engines.hub import COMMIT, TOKEN, Hub, hub

pytestmark = pytest.mark.engines

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "README.md": b"---\nlicense: apache-2.0\n---\n",
    "model.safetensors": os.urandom(300_000),
    "pytorch_model.bin": b"the same in another format",
}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and a home whose engine is that of this checkout and whose models are its own."""
    there = [name for name in HUB_ENVIRONMENTS if name in ENVIRONMENTS]
    assert there, f"none of {HUB_ENVIRONMENTS} is known"
    make(ENVIRONMENTS[there[0]], print)
    engines = home() / ".engines"
    (tmp_path / ".engines").symlink_to(engines)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with hub(dict(FILES)) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


def test_an_open_model(served: Hub) -> None:
    said: list[str] = []
    path = ensure("hf:org/open", said.append)
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert not (path / "pytorch_model.bin").exists()
    assert (path / "commit.txt").read_text() == f"{COMMIT}\n"
    assert any(f"fetching 3 files, 0.00 GB, commit {COMMIT}" in line for line in said)
    assert set(json.loads((path / "digests.json").read_text())) >= {"config.json", "model.safetensors"}
    assert damage(path) == []
    assert model_digest(path).startswith("sha256:")
    assert resolve_weights("hf:org/open", said.append) == path
    [found] = [each for each in listed() if each.name == "hf:org/open"]
    assert (found.state, found.licence) == ("ready", "apache-2.0")
    served.asked.clear()
    ensure("hf:org/open", said.append)
    assert served.asked == []


def test_a_gated_model_needs_its_token_and_shows_it_to_nobody(
    served: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(EnvironmentFailedError, match=r"org/gated@main at .* is gated: .*; set HF_TOKEN$"):
        ensure("hf:org/gated", print)
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    with pytest.raises(EnvironmentFailedError, match=r"HF_TOKEN was refused$"):
        ensure("hf:org/gated", print)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    said: list[str] = []
    path = ensure("hf:org/gated", said.append)
    assert TOKEN not in "\n".join(said)
    kept = [each for each in path.rglob("*") if each.is_file()]
    assert kept
    assert all(TOKEN.encode() not in each.read_bytes() for each in kept)


def test_what_is_not_there(served: Hub) -> None:
    with pytest.raises(EnvironmentFailedError, match=r"has no model org/nothing, or it is private: set HF_TOKEN$"):
        ensure("hf:org/nothing", print)
    with pytest.raises(EnvironmentFailedError, match=r"org/open at .* has no revision v9$"):
        ensure("hf:org/open@v9", print)


def test_a_fetch_that_broke_is_repeated(served: Hub) -> None:
    served.breaks_at = "model.safetensors"
    try:
        path = ensure("hf:org/open", print)
    except EnvironmentFailedError:
        assert not is_complete(described("hf:org/open"))
        path = ensure("hf:org/open", print)
    assert damage(path) == []
    assert (path / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_offline(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(EnvironmentFailedError) as caught:
        ensure("hf:org/open", print)
    assert str(caught.value).startswith("org/open@main cannot be fetched from http://127.0.0.1:9: ")
    assert str(caught.value).endswith("is this machine offline?")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EnvironmentFailedError, match=r"HF_HUB_OFFLINE is set$"):
        ensure("hf:org/open", print)
