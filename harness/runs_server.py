"""A folder of runs over HTTP: for reading, on 127.0.0.1 alone, with a page that lists them."""

from __future__ import annotations

import mimetypes
import socketserver
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from harness.run_heads import run_heads
from reports.runs_page import render

SHOWN = frozenset({".html", ".md", ".xml", ".json", ".csv"})
"""Kinds of files that are served: pages and figures, no prompts, answers, logs or samples."""


class RunsServer(socketserver.ThreadingTCPServer):
    """Serves ``root``; nothing outside of it, and no link out of it.

    Raises
    ------
    OSError
        When the port is taken.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, root: Path, port: int = 0) -> None:
        self.root = root.resolve()
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that went away in the middle of an answer is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: RunsServer

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        if not self._asked_here():
            self._send(
                HTTPStatus.FORBIDDEN, b"This server is asked as 127.0.0.1 or localhost only.", "text/plain", body
            )
            return
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            text = render(run_heads(self.server.root), self.server.root)
            self._send(HTTPStatus.OK, text.encode(), "text/html", body)
            return
        file = self._file(path)
        if file is None:
            self._send(HTTPStatus.NOT_FOUND, b"There is no such page.", "text/plain", body)
            return
        kind = mimetypes.guess_type(file.name)[0] or "text/plain"
        self._send(HTTPStatus.OK, file.read_bytes(), kind, body)

    def _asked_here(self) -> bool:
        """Whether the address bar says this machine: else another site's name was made to lead here."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        return host in ("127.0.0.1", "localhost")

    def _file(self, path: str) -> Path | None:
        try:
            file = (self.server.root / path.lstrip("/")).resolve()
            inside = file.is_relative_to(self.server.root) and file.is_file()
        except (OSError, ValueError):  # a name too long, or with a zero byte
            return None
        return file if inside and file.suffix in SHOWN else None

    def _send(self, status: HTTPStatus, content: bytes, kind: str, body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the terminal shows where to look, not who looked."""
