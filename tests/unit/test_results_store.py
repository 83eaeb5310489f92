"""Runs in a store elsewhere: local folders, and S3 against moto's server on this machine."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
from pyarrow import fs

from harness.errors import RunDirectoryError, UsageError
from harness.results_store import COMPLETE, ResultsStore
from servers.ports import free_ports

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAPLANTED", "AWS_SECRET_ACCESS_KEY": "planted-secret", "AWS_REGION": "us-east-1"}
BUCKET = "results"

Open = Callable[[str], ResultsStore]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """URL of an S3 server."""
    (port,) = free_ports(1)
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
                break
            except URLError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
        process.terminate()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[fs.S3FileSystem]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    raw = fs.S3FileSystem(
        endpoint_override=s3, region="us-east-1", allow_bucket_creation=True, allow_bucket_deletion=True
    )
    raw.create_dir(BUCKET)
    yield raw
    raw.delete_dir(BUCKET)


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ResultsStore:
    if request.param == "s3":
        request.getfixturevalue("bucket")
        return ResultsStore(f"s3://{BUCKET}/nights/")
    return ResultsStore(f"file://{tmp_path}/elsewhere")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "manifest.json").write_text("{}")
    (directory / "samples.parquet").write_bytes(bytes(range(256)) * 40_000)
    (directory / "empty.log").touch()
    (directory / "judgement.json.part").write_text("half")
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".part"}


def test_a_run_is_copied_whole_and_back(store: ResultsStore, run: Path, tmp_path: Path) -> None:
    store.check()
    assert store.names() == []
    url = store.publish(run, "test/20261122-020000/chatbot--a--base")
    assert url == f"{store.url}/test/20261122-020000/chatbot--a--base"
    assert store.names() == ["test/20261122-020000/chatbot--a--base"]
    store.fetch("test/20261122-020000/chatbot--a--base", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(run)


def test_a_reader_never_sees_half_a_run(
    store: ResultsStore, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off after each file in turn: until the last, nobody takes it for a run; a second try completes it."""
    put = ResultsStore._put
    for survivors in range(3):
        left = iter(range(survivors))

        def cut(self: ResultsStore, source: Path, target: str, left: Iterator[int] = left) -> dict[str, int | str]:
            if next(left, None) is None:
                raise OSError("the line was cut")
            return put(self, source, target)

        monkeypatch.setattr(ResultsStore, "_put", cut)
        with pytest.raises(RunDirectoryError, match="the line was cut"):
            store.publish(run, "night/cell")
        assert store.names() == []
        assert not store.has("night/cell")
        with pytest.raises(RunDirectoryError, match="or only a part of one"):
            store.fetch("night/cell", tmp_path / "half")
    monkeypatch.setattr(ResultsStore, "_put", put)
    store.publish(run, "night/cell")
    assert store.names() == ["night/cell"]
    store.fetch("night/cell", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(run)


def test_what_is_there_stays(store: ResultsStore, run: Path, tmp_path: Path) -> None:
    store.publish(run, "night/cell")
    (run / "manifest.json").write_text("another")
    store.publish(run, "night/cell")
    store.fetch("night/cell", tmp_path / "back")
    assert (tmp_path / "back" / "manifest.json").read_text() == "{}"


def test_a_nights_own_files_are_replaced(store: ResultsStore, run: Path) -> None:
    (run / "cells").mkdir()
    store.publish_files(run, "night")
    (run / "manifest.json").write_text("newer")
    store.publish_files(run, "night")
    assert store._files.cat_file(store._path("night", "manifest.json")) == b"newer"
    assert store.names() == []


def test_a_changed_object_is_noticed(store: ResultsStore, run: Path, tmp_path: Path) -> None:
    store.publish(run, "night/cell")
    with store._files.open(store._path("night/cell", "manifest.json"), "wb") as file:
        file.write(b"[]")
    with pytest.raises(RunDirectoryError, match=r"manifest\.json was changed since it was stored"):
        store.fetch("night/cell", tmp_path / "back")


def test_the_marker_comes_last_in_s3(bucket: fs.S3FileSystem, run: Path) -> None:
    ResultsStore(f"s3://{BUCKET}/nights").publish(run, "cell")
    listed = bucket.get_file_info(fs.FileSelector(f"{BUCKET}/nights/cell"))
    times = {each.base_name: each.mtime_ns for each in listed}
    assert set(times) == {COMPLETE, "manifest.json", "samples.parquet", "empty.log"}
    assert times[COMPLETE] == max(times.values())


def test_a_folder_that_is_no_run_is_not_replaced(tmp_path: Path, run: Path) -> None:
    store = ResultsStore(f"file://{tmp_path}/elsewhere")
    (tmp_path / "elsewhere" / "cell").mkdir(parents=True)
    (tmp_path / "elsewhere" / "cell" / "mine.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="is no stored run"):
        store.publish(run, "cell")
    assert [path.name for path in (tmp_path / "elsewhere" / "cell").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "url", ["runs", "/runs", "gs://bucket", "s3://", "file://elsewhere/x", "s3://bucket/x?secret_key=abc", "http://a/b"]
)
def test_other_places_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--results is s3://BUCKET/PREFIX or file:///FOLDER") as caught:
        ResultsStore(url)
    assert "abc" not in str(caught.value)


def test_a_password_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        ResultsStore("s3://AKIAX:planted@bucket/x")
    assert "planted" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_found_out_before_any_load(bucket: fs.S3FileSystem) -> None:
    with pytest.raises(UsageError, match="there is no such bucket"):
        ResultsStore("s3://elsewhere/x").check()


def test_errors_hold_no_keys(bucket: fs.S3FileSystem, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResultsStore(f"s3://{BUCKET}/x")

    def refuse(self: ResultsStore, source: Path, target: str) -> dict[str, int | str]:
        raise OSError(f"AWS Error INVALID_ACCESS_KEY_ID: {KEYS['AWS_ACCESS_KEY_ID']} {KEYS['AWS_SECRET_ACCESS_KEY']}")

    monkeypatch.setattr(ResultsStore, "_put", refuse)
    with pytest.raises(RunDirectoryError) as caught:
        store.publish(run, "cell")
    assert "*** ***" in str(caught.value)
    assert "planted" not in str(caught.value).lower()
