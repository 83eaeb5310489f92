"""Run directories in a store elsewhere, ``s3://`` or ``file://``: there whole, or not there.

fsspec gives both one interface. Its own S3 file system (s3fs) brings botocore at exact versions, aiobotocore and
aiohttp; pyarrow, which is needed anyway, has an S3 client in C++, and fsspec's ``ArrowFSWrapper`` makes it one of its
own. Endpoint and credentials come from the usual variables: ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ...

A folder of local files is written beside its place and renamed. S3 has no rename: the objects are written first, and
``complete.json``, which lists them with sizes and digests, last. A reader takes a run for one only with that file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper

from harness.errors import RunDirectoryError, UsageError

COMPLETE = "complete.json"
_CHUNK = 4 * 2**20
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN")


class ResultsStore:
    """A place for run directories, by name; a name may have folders in it.

    Raises
    ------
    UsageError
        For a URL of another kind, or one with a password in it.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.username or parts.password:
            raise UsageError("--results carries a password: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
        self.url = url.rstrip("/")
        self._local = parts.scheme == "file"
        if self._local and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
            self._root = parts.path.rstrip("/") or "/"
            self._files = fsspec.filesystem("file", auto_mkdir=True)
        elif parts.scheme == "s3" and parts.netloc and not parts.query:
            self._root = f"{parts.netloc}{parts.path.rstrip('/')}"
            self._files = ArrowFSWrapper(_s3())
        else:
            raise UsageError(f"--results is s3://BUCKET/PREFIX or file:///FOLDER, not '{_shown(url)}'")

    def check(self) -> None:
        """Find out now, not after hours of load, that the place is not there.

        Raises
        ------
        UsageError
            In one sentence.
        """
        top = self._root if self._local else self._root.partition("/")[0]
        try:
            if self._local:
                Path(top).mkdir(parents=True, exist_ok=True)
            there = bool(self._files.exists(top)) and (not self._local or os.access(top, os.W_OK))
        except (OSError, pa.ArrowException) as error:
            raise UsageError(f"--results {self.url} cannot be used: {_plain(error)}") from error
        if not there:
            raise UsageError(f"--results {self.url}: there is no such {'folder' if self._local else 'bucket'}")

    def has(self, name: str) -> bool:
        with self._errors(f"read {name}"):
            return bool(self._files.exists(self._path(name, COMPLETE)))

    def names(self) -> list[str]:
        """Names of all runs that are there whole."""
        with self._errors("list it"):
            found = [str(path) for path in self._files.find(self._root)]
        runs = (path for path in found if path.endswith(f"/{COMPLETE}") and "/." not in path[len(self._root) :])
        return sorted(path[len(self._root) + 1 : -len(COMPLETE) - 1] for path in runs)

    def publish(self, directory: Path, name: str) -> str:
        """Copy a run directory; return the URL of the copy. One that is there already stays as it is.

        Raises
        ------
        RunDirectoryError
            When it cannot be written; then no reader sees any of it.
        """
        url = f"{self.url}/{name}"
        if self.has(name):
            return url
        with self._errors(f"write {name}"):
            if self._local:
                self._rename_into_place(directory, name)
            else:
                self._write(directory, name)
        return url

    def publish_files(self, directory: Path, name: str) -> None:
        """Copy the files of a folder, not its folders, over what is there: a night's record and page.

        Raises
        ------
        RunDirectoryError
            When one cannot be written.
        """
        with self._errors(f"write {name}"):
            for file in _files_of(directory):
                target = self._path(name, file)
                if self._local:
                    partial = Path(target).with_name(f".{file}.part")
                    self._put(directory / file, str(partial))
                    partial.replace(target)
                else:  # an object is there whole or not at all
                    self._put(directory / file, target)

    def fetch(self, name: str, directory: Path) -> None:
        """Copy a run back, and compare each file with its digest.

        Raises
        ------
        RunDirectoryError
            When it is not there whole, or was changed.
        """
        if not self.has(name):
            raise RunDirectoryError(f"{self.url} has no run '{name}', or only a part of one")
        with self._errors(f"read {name}"):
            listed = json.loads(self._files.cat_file(self._path(name, COMPLETE)))["files"]
            directory.mkdir(parents=True, exist_ok=True)
            for file, facts in listed.items():
                content = self._files.cat_file(self._path(name, file))
                if hashlib.sha256(content).hexdigest() != facts["sha256"]:
                    raise RunDirectoryError(f"{self.url}/{name}/{file} was changed since it was stored")
                (directory / file).write_bytes(content)

    def _rename_into_place(self, directory: Path, name: str) -> None:
        target = Path(self._path(name))
        partial = target.with_name(f".{target.name}.part")
        shutil.rmtree(partial, ignore_errors=True)  # of a copy that was killed
        self._write(directory, str(partial.relative_to(self._root)))
        if target.exists():  # a folder without complete.json is none of ours
            raise OSError(f"{target} is there already, and is no stored run")
        partial.rename(target)

    def _write(self, directory: Path, name: str) -> None:
        files = {}
        for file in _files_of(directory):
            files[file] = self._put(directory / file, self._path(name, file))
        with self._files.open(self._path(name, COMPLETE), "wb") as out:
            out.write(json.dumps({"format": 1, "files": files}, indent=1).encode())

    def _put(self, source: Path, target: str) -> dict[str, int | str]:
        digest, size = hashlib.sha256(), 0
        with source.open("rb") as file, self._files.open(target, "wb") as out:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                out.write(chunk)
        return {"bytes": size, "sha256": digest.hexdigest()}

    def _path(self, *parts: str) -> str:
        return "/".join((self._root.rstrip("/"), *parts))

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            raise RunDirectoryError(f"--results {self.url}: cannot {what}: {_plain(error)}") from error


def _s3() -> object:
    from pyarrow import fs  # its S3 client starts threads when it is made

    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    options = {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme} if endpoint.netloc else {}
    return fs.S3FileSystem(region=region, connect_timeout=10, request_timeout=60, **options)


def _files_of(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_file() and not path.name.endswith(".part"))


def _shown(url: str) -> str:
    return url.partition("?")[0]


def _plain(error: Exception) -> str:
    """One line without credentials: an S3 server's refusal may repeat them."""
    text = " ".join(str(error).split())[:400]
    for name in _SECRETS:
        if os.environ.get(name):
            text = text.replace(os.environ[name], "***")
    return text.rstrip(".")
