"""Fetches a server's metrics page, over one connection that is kept, and never follows it elsewhere."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

TIMEOUT_S = 5.0
"""A server whose event loop is busy answers late; later than this it has failed to."""
LARGEST_PAGE = 8 << 20


class ScrapeError(Exception):
    """No metrics came, in a few words."""


class Page:
    """One metrics page. ``headers`` may hold a key, and so are never shown."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, ca_file: str | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._secure = parts.hostname or "", parts.port, parts.scheme == "https"
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Accept": "text/plain", **(headers or {})}
        self._ca_file = ca_file
        self._connection: http.client.HTTPConnection | None = None

    def fetch(self) -> str:
        """The page's text.

        Raises
        ------
        ScrapeError
        """
        kept = self._connection is not None
        try:
            return self._fetch()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # A server may close a kept connection between two requests.
            if kept and isinstance(error, ConnectionError | http.client.RemoteDisconnected):
                try:
                    return self._fetch()
                except (OSError, http.client.HTTPException) as again:
                    self.close()
                    error = again
            raise ScrapeError(str(error) or type(error).__name__) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fetch(self) -> str:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request("GET", self._path, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read(LARGEST_PAGE)
        if not answer.isclosed():  # longer than any metrics page
            self.close()
        if answer.status != http.client.OK:
            raise ScrapeError(f"HTTP {answer.status}")
        return body.decode("utf-8", "replace")

    def _connect(self) -> http.client.HTTPConnection:
        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        context = ssl.create_default_context(cafile=self._ca_file)
        return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=context)
