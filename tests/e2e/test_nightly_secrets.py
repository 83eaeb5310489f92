"""Planted keys, and every byte that a night leaves or shows while it runs."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from harness.errors import ExitCode
from harness.nightly.record import Status
from tests.e2e.nights import SHORT, command, folder_of, night_file, night_of
from tests.e2e.processes import assert_nothing_left, free_port, started, wait_until
from tests.openai_like import MODEL

RIGHT = "sk-right-key-0123456789"
"""What the server of these tests asks for, so that a night which gets through has used it."""
SECRETS = {
    "GUARDED_KEY": RIGHT,
    "WRONG_KEY": "sk-wrong-planted-222222",
    "OPENAI_API_KEY": "sk-unused-planted-333333",
    "HF_TOKEN": "hf_planted444444",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED555555",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+666666",
}
HOOK_PATH = "/services/T0/B0/planted-777777"
PLANTED = (*SECRETS.values(), HOOK_PATH)
BUCKET = "secrets"


class Watch:
    """Reads the command line of every process, again and again, from the moment it is entered."""

    def __init__(self, mark: str) -> None:
        self.leaks: set[bytes] = set()
        self.seen: set[bytes] = set()
        self._mark = mark.encode()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = file.read_bytes()
                except OSError:  # it ended
                    continue
                if self._mark in line:
                    self.seen.add(line)
                if any(secret.encode() in line for secret in PLANTED):
                    self.leaks.add(line)


@contextmanager
def webhook() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A receiver that is busy at first."""
    got: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(503 if len(got) == 1 else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{HOOK_PATH}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except URLError:
        return False
    return True


def attached(name: str, url: str, key: str) -> dict[str, Any]:
    return {
        "kind": "stack",
        "name": name,
        "title": "A server that wants a key",
        "engine": "attach",
        "price": {"kind": "none", "reason": "a test"},
        "launch": {"url": url, "served_model": MODEL, "api_key_env": key},
    }


def everything(folder: Path) -> dict[str, bytes]:
    """All bytes of all files; Parquet is read, because it is compressed."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[str(path)] = path.read_bytes()
            if path.suffix == ".parquet":
                table = pq.read_table(path)
                metadata = repr(table.schema.metadata)
                found[f"{path} (read)"] = (metadata + repr(table.to_pylist())).encode()
    return found


def holders(things: dict[str, bytes], text: str) -> list[str]:
    return [name for name, content in things.items() if text.encode() in content or text.encode() in name.encode()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_key_is_in_any_byte_that_a_night_leaves(tmp_path: Path) -> None:
    """A key that is right, one that the server refuses and repeats, a webhook, a token, and those of a store."""
    port = free_port()
    moto = [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    server = [sys.executable, "-m", "tests.openai_like"]
    s3 = f"http://127.0.0.1:{port}"
    with webhook() as (hook, got), started(moto, tmp_path / "moto"), started(server, tmp_path / "server") as guarded:
        line = guarded.until(lambda: guarded.out.partition("\n")[1] and guarded.out.partition("\n")[0], "the server")
        wait_until(lambda: answers(f"{s3}/moto-api/"), "S3")
        keys = {"access_key": SECRETS["AWS_ACCESS_KEY_ID"], "secret_key": SECRETS["AWS_SECRET_ACCESS_KEY"]}
        bucket = fs.S3FileSystem(endpoint_override=s3, region="us-east-1", allow_bucket_creation=True, **keys)
        bucket.create_dir(BUCKET)
        url = f"http://127.0.0.1:{json.loads(line)['port']}"
        stacks = [attached("guarded", url, "GUARDED_KEY"), attached("refused", url, "WRONG_KEY")]
        names = ["vllm-7b-int8-a100", "guarded", "refused"]
        matrix = [{"scenarios": ["chatbot-short"], "stacks": names, "variants": ["short"]}]
        path = night_file(
            tmp_path,
            matrix,
            {"short": SHORT},
            stacks,
            retries=1,
            results=f"s3://{BUCKET}/nights",
            notify={"url_env": "SLA_WEBHOOK"},
        )
        variables = SECRETS | {"SLA_WEBHOOK": hook, "AWS_ENDPOINT_URL": s3, "AWS_REGION": "us-east-1"}
        with Watch(str(tmp_path)) as watch, started(command(path), tmp_path / "harness", variables) as process:
            ended = process.end(300)
        stored = {
            each.path: bucket.open_input_stream(each.path).read()
            for each in bucket.get_file_info(fs.FileSelector(BUCKET, recursive=True))
            if each.is_file
        }
    assert_nothing_left(tmp_path / "runs")
    night, folder = night_of(path), folder_of(path)
    by_stack = {each.stack: each for each in night.cells}
    # Each secret was used, so each could have leaked.
    assert by_stack["guarded"].status is Status.JUDGED
    assert (by_stack["guarded"].requests or 0) > 0
    assert by_stack["refused"].exit_code == ExitCode.SERVER
    assert [path for path, _ in got] == [HOOK_PATH, HOOK_PATH]
    assert json.loads(got[1][1])["text"].startswith("FAILED: test, night ")
    assert f"{BUCKET}/nights/test/{night.night}/{by_stack['guarded'].key}/complete.json" in stored
    assert f"{BUCKET}/nights/test/{night.night}/nightly.json" in stored
    assert by_stack["guarded"].stored.startswith(f"s3://{BUCKET}/nights/test/")
    assert ended.code == ExitCode.SERVER
    # And none did.
    things = everything(tmp_path) | stored | {"stdout": ended.out.encode(), "stderr": ended.err.encode()}
    things["webhook"] = "\n".join(body for _, body in got).encode()
    leaks = {secret: holders(things, secret) for secret in PLANTED if holders(things, secret)}
    assert not leaks
    assert watch.leaks == set()
    # The search sees what is there: the key's name in manifests, a prompt's name within Parquet, the cells' commands.
    assert holders(things, "GUARDED_KEY")
    assert any(name.endswith("(read)") for name in holders(things, "chatbot-short"))
    assert len(watch.seen) > 3
    assert (folder / "summary.html").is_file()
