"""HTTP/1.1 responses as bytes: the head, and chunked framing. No clock, no socket.

Two readers of chunked framing live here because they answer two questions. While a response streams,
:class:`ChunkScanner` only says whether it is over, and costs nothing for the bytes it may skip. After
the last byte, :func:`dechunk` cuts the body out and keeps the map from body offsets to raw offsets,
from which each event gets the time of the read that delivered it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

MAX_HEAD_BYTES = 64 * 1024
"""A head that has not ended by then is no HTTP response."""

_MAX_SIZE_LINE = 4096
_LAST_CHUNK = b"0\r\n\r\n"
_END = [b"0", b"", b""]
_HEX = frozenset(b"0123456789abcdefABCDEF")


class Http1Error(ValueError):
    """Bytes that are no HTTP/1.1 response."""


@dataclass(frozen=True, slots=True)
class Head:
    """What of a response's head decides how it is read; ``body_start`` is its length in raw bytes.

    ``content_length`` is None and ``chunked`` False for a body that ends with the connection.
    """

    status: int
    content_type: str
    content_length: int | None
    chunked: bool
    close: bool
    retry_after: str
    body_start: int


def parse_head(raw: bytes) -> Head | None:
    """Read the head at the start of ``raw``; None while it is incomplete.

    Interim answers (``100 Continue``) are skipped; ``101`` is final, and an error for its caller.
    """
    start = 0
    while True:
        end = raw.find(b"\r\n\r\n", start)
        if end < 0:
            if not b"HTTP/1.".startswith(raw[start : start + 7]):
                raise Http1Error("the answer is not HTTP/1.x")
            if len(raw) - start > MAX_HEAD_BYTES:
                raise Http1Error(f"the head is longer than {MAX_HEAD_BYTES} bytes")
            return None
        head = _parse_lines(raw[start:end], end + 4)
        if not 100 <= head.status < 200 or head.status == 101:
            return head
        start = end + 4


@lru_cache(maxsize=64)
def _parse_lines(block: bytes, body_start: int) -> Head:
    """Each head is read twice, as it comes and after the answer's end, and most servers send the same to all."""
    lines = block.split(b"\r\n")
    version, _, rest = lines[0].partition(b" ")
    code = rest[:3]
    if not version.startswith(b"HTTP/1.") or not code.isdigit() or len(code) != 3:
        raise Http1Error("the answer is not HTTP/1.x")
    status = int(code)
    close = version == b"HTTP/1.0"
    content_type = retry_after = ""
    length: int | None = None
    chunked = False
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon:
            raise Http1Error("a header line has no colon")
        name, value = name.lower(), value.strip()
        if name == b"content-type":
            content_type = value.decode("latin-1").partition(";")[0].strip().lower()
        elif name == b"content-length":
            if not value.isdigit() or (length is not None and length != int(value)):
                raise Http1Error("the Content-Length is no number, or given twice")
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = value.lower().rpartition(b",")[2].strip() == b"chunked"
        elif name == b"connection":
            options = value.lower()
            close = b"close" in options or (close and b"keep-alive" not in options)
        elif name == b"retry-after":
            retry_after = retry_after or value.decode("latin-1")
        elif name == b"retry-after-ms" and value.isdigit():  # OpenAI's, and finer than whole seconds
            retry_after = f"{int(value) / 1000:g}"
    if status in (101, 204, 304):
        length, chunked = 0, False
    elif chunked:
        length = None  # RFC 9112, 6.3: chunked framing beats a Content-Length beside it
    elif length is None:
        close = True
    return Head(status, content_type, length, chunked, close, retry_after, body_start)


@lru_cache(maxsize=4096)
def chunk_size(line: bytes) -> int:
    """Read a chunk's size line, up to its LF; extensions after ``;`` are ignored.

    Sizes repeat, so the cache saves more than half of the checks' cost.
    """
    digits = line.partition(b";")[0].rstrip(b" \t\r")
    # int(x, 16) alone would also take "0x1f", "-1", "1_0" and blanks
    if not digits or len(digits) > 15 or not _HEX.issuperset(digits):
        raise Http1Error("a chunk's size is not a hexadecimal number")
    return int(digits, 16)


def regular_chunks(framed: bytes) -> tuple[list[bytes], list[bytes], list[int]] | None:
    """Take a whole chunked body apart in one go: size lines, data, and the data's lengths.

    Works where no chunk's data holds CRLF and there are no trailers, which is how most servers stream, at a third of
    a walk's cost. The sizes are checked against the data, so what comes apart this way was framed this way; None for
    anything else, a body cut off among it.
    """
    if not framed.endswith(_LAST_CHUNK):
        return None
    pieces = framed.split(b"\r\n")
    sizes, data = pieces[:-3:2], pieces[1:-3:2]
    lengths = list(map(len, data))
    try:
        regular = pieces[-3:] == _END and list(map(chunk_size, sizes)) == lengths and 0 not in lengths
    except Http1Error:
        return None
    return (sizes, data, lengths) if regular else None


class ChunkScanner:
    """Says when a chunked body is over, fed with pieces of any size, each byte once.

    ``done`` stays True once the last chunk's trailers ended; ``extra`` counts the bytes after that.
    """

    __slots__ = ("_in_trailers", "_line", "_skip", "done", "extra")

    def __init__(self) -> None:
        self.done = False
        self.extra = 0
        self._skip = 0  # bytes of chunk data and its CRLF still to pass over
        self._line = b""  # an unfinished size line or trailer
        self._in_trailers = False

    def feed(self, piece: bytes) -> bool:
        """Pass over ``piece`` and return ``done``."""
        if self.done:
            self.extra += len(piece)
            return True
        if not (self._skip or self._line or self._in_trailers) and regular_chunks(piece) is not None:
            self.done = True
            return True
        position, size = 0, len(piece)
        while position < size:
            if self._skip:
                step = min(self._skip, size - position)
                position += step
                self._skip -= step
                continue
            newline = piece.find(b"\n", position)
            if newline < 0:
                self._line += piece[position:]
                if len(self._line) > _MAX_SIZE_LINE:
                    raise Http1Error("a chunk's size line does not end")
                return False
            line = self._line + piece[position:newline]
            self._line = b""
            position = newline + 1
            if self._in_trailers:
                if line in (b"", b"\r"):
                    self.done = True
                    self.extra = size - position
                    return True
                continue
            chunk = chunk_size(line)
            if chunk:
                self._skip = chunk + 2
            else:
                self._in_trailers = True
        return False


@dataclass(frozen=True, slots=True)
class Body:
    """A body without its framing.

    ``ends`` are the offsets in ``data`` at which each chunk ends, ``shifts`` what to add to an offset
    inside that chunk to get its offset in the raw bytes. ``complete`` says that the framing ended.
    """

    data: bytes
    ends: list[int]
    shifts: list[int]
    complete: bool


def plain_body(raw: bytes, start: int, length: int | None) -> Body:
    """Cut out a body of a given length, or one that ends with the connection (never known complete)."""
    stop = len(raw) if length is None else min(start + length, len(raw))
    complete = length is not None and stop == start + length
    return Body(raw[start:stop], [stop - start], [start], complete)


def dechunk(raw: bytes, start: int) -> Body:
    """Cut a chunked body out of ``raw`` from ``start``; a cut-off one gives what is there."""
    regular = regular_chunks(raw[start:])
    if regular is not None:
        lines, data, lengths = regular
        # Every chunk but the first comes after the CRLF of the one before it; all come after their size line.
        shifts = list(accumulate([len(line) + 4 for line in lines], initial=start - 2))[1:]
        return Body(b"".join(data), list(accumulate(lengths)), shifts, True)
    return _walk_chunks(raw, start)


def _walk_chunks(raw: bytes, start: int) -> Body:
    pieces: list[bytes] = []
    ends: list[int] = []
    shifts: list[int] = []
    position, length, total = start, 0, len(raw)
    find, holds = raw.find, raw.startswith
    while True:
        newline = find(b"\n", position)
        if newline < 0:
            return Body(b"".join(pieces), ends, shifts, False)
        size = chunk_size(raw[position:newline])
        position = newline + 1
        if not size:
            return Body(b"".join(pieces), ends, shifts, _trailers_end(raw, position))
        stop = position + size
        piece = raw[position:stop]
        pieces.append(piece)
        shifts.append(position - length)
        length += len(piece)
        ends.append(length)
        position = stop + 2
        if not holds(b"\r\n", stop):
            if position <= total:
                raise Http1Error("a chunk is longer than its size")
            return Body(b"".join(pieces), ends, shifts, False)


def _trailers_end(raw: bytes, position: int) -> bool:
    while True:
        newline = raw.find(b"\n", position)
        if newline < 0:
            return False
        if raw[position:newline] in (b"", b"\r"):
            return True
        position = newline + 1


def arrivals(body: Body, ends: Sequence[int], parts: Iterable[bytes], times: Sequence[float]) -> list[float]:
    """Give each body offset (exclusive ends, ascending) the time of the read that delivered its last byte.

    ``parts`` are the raw reads from the head's first byte on, ``times`` when each was made.
    """
    found: list[float] = []
    part_ends = list(accumulate(map(len, parts)))
    chunk_ends, shifts = body.ends, body.shifts
    chunk = part = 0
    for end in ends:
        while chunk_ends[chunk] < end:
            chunk += 1
        raw_end = end + shifts[chunk]
        while part_ends[part] < raw_end:
            part += 1
        found.append(times[part])
    return found
