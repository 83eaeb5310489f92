"""Server-sent events, framed on bytes: https://html.spec.whatwg.org/multipage/server-sent-events.html.

Only CR, LF and CRLF end a line. ``bytes.splitlines`` also splits on form feed and ``str.splitlines`` on
U+2028, both legal inside JSON. An event ends with its blank line; one that the stream's end cut off is
no event.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import accumulate

_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Events:
    """The events of a body that carry data, in order.

    ``ends[i]`` is the offset just after event i's blank line; ``names`` holds the ``event:`` field of
    those that have one, by index.
    """

    data: list[bytes]
    ends: list[int]
    names: dict[int, bytes] = field(default_factory=dict)


def parse_events(body: bytes) -> Events:
    """Frame a whole body."""
    if b"\r" in body:
        return _parse_any_line_end(body)
    # What most servers send, one "data: " line an event, comes apart in one split; two line ends for
    # each event prove that there was nothing else.
    if body.startswith(b"data: ") and body.endswith(b"\n\n"):
        data = body[6:-2].split(b"\n\ndata: ")
        if body.count(b"\n") == 2 * len(data):
            return Events(data, list(accumulate(len(payload) + 8 for payload in data)))
    events = Events([], [])
    blocks = body.split(b"\n\n")
    blocks.pop()  # what follows the last blank line is unfinished
    position = 0
    for block in blocks:
        position += len(block) + 2
        if position == len(block) + 2:
            block = block.removeprefix(_BOM)
        _add(events, block.split(b"\n"), position)
    return events


def _parse_any_line_end(body: bytes) -> Events:
    events = Events([], [])
    lines: list[bytes] = []
    start = len(_BOM) if body.startswith(_BOM) else 0
    for match in _LINE_END.finditer(body, start):
        stop = match.start()
        if stop > start:
            lines.append(body[start:stop])
        else:
            _add(events, lines, match.end())
            lines = []
        start = match.end()
    return events


def _add(events: Events, lines: list[bytes], end: int) -> None:
    parts: list[bytes] = []
    name = b""
    for line in lines:
        key, _, value = line.partition(b":")
        if key == b"data":
            parts.append(value.removeprefix(b" "))
        elif key == b"event":
            name = value.removeprefix(b" ")
    if parts:
        if name:
            events.names[len(events.data)] = name
        events.data.append(b"\n".join(parts))
        events.ends.append(end)
