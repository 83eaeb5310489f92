"""A model hub on 127.0.0.1: as much of its API as fetching one repository takes, with a gated and a private one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_a_test"


@dataclass
class Hub:
    files: dict[str, bytes]
    breaks_at: str = ""
    """The connection is cut in the middle of this file, once."""
    url: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[Hub]:
    """Serve ``files`` as org/open and, to the token alone, as org/gated; nothing else is there."""
    state = Hub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            state.asked.append(f"{self.command} {self.path}")
            path = self.path.partition("?")[0]
            about = re.fullmatch(r"/api/models/(org/\w+)(/revision/([\w%.-]+))?", path)
            file = re.fullmatch(rf"/(org/\w+)/resolve/{COMMIT}/(.+)", path)
            tree = re.fullmatch(rf"/api/models/(org/\w+)/tree/{COMMIT}", path)
            repository = (about or tree or file or {1: ""})[1]
            if repository == "org/gated" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._send(403 if about is None else 401, b"{}", {"X-Error-Code": "GatedRepo"}, body)
            elif repository not in ("org/open", "org/gated"):
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)
            elif tree:
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in state.files.items()
                ]
                self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"}, body)
            elif about and about[3] not in ("main", COMMIT):
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
            elif about:
                siblings = [{"rfilename": name, "size": len(data)} for name, data in state.files.items()]
                text = json.dumps({"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings})
                self._send(200, text.encode(), {"Content-Type": "application/json"}, body)
            elif file and file[2] in state.files:
                self._send_file(file[2], body)
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)

        def _send_file(self, name: str, body: bool) -> None:
            data = state.files[name]
            tag = f'"{hashlib.sha256(data).hexdigest()}"'
            cut = body and state.breaks_at == name
            if cut:
                state.breaks_at = ""
            start = int((re.search(r"bytes=(\d+)-", self.headers.get("Range", "")) or {1: "0"})[1])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            for header, value in {"ETag": tag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}.items():
                self.send_header(header, value)
            self.end_headers()
            if body:
                self.wfile.write(data[start : len(data) // 2] if cut else data[start:])
                self.close_connection = cut

        def _send(self, code: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(code)
            for header, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(header, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
