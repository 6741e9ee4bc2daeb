"""The NATS client protocol, without sockets: bytes in, operations out, and the other way round.

Written here instead of taken from the client library because of what the bus needs of a connection: an end
that is an end (the bus itself opens the next one, before or after), callbacks in the order of arrival without
a task per subscription, TLS from the first byte, cancellation that works, and an import that costs a restarted
node service two milliseconds and not four hundred. See https://docs.nats.io/reference/reference-protocols.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

LINE_BYTES_MAX = 64 * 1024
"""An INFO of a large cluster; everything else is far shorter."""
PAYLOAD_BYTES_MAX = 8 << 20
PING, PONG = b"PING\r\n", b"PONG\r\n"
STATUS = "Status"
"""Pseudo header with the number that JetStream and "nobody listens" (503) put into the first line."""
_HEADER_LINE = b"NATS/1.0"


class WireError(Exception):
    """The other side does not speak this protocol."""


@dataclass(frozen=True, slots=True)
class Msg:
    """One delivered message."""

    subject: str
    sid: int
    reply: str
    data: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Info:
    """What the server says about itself, first of all and whenever it changes."""

    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Err:
    text: str


@dataclass(frozen=True, slots=True)
class Ping:
    pass


@dataclass(frozen=True, slots=True)
class Pong:
    pass


Operation = Msg | Info | Err | Ping | Pong


class Parser:
    """Feed it what arrives; it yields whole operations. After a WireError it is of no further use."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._awaited: tuple[str, int, str, int, int] | None = None
        """subject, sid, reply, header bytes, all bytes of the message whose content is still to come"""

    def feed(self, data: bytes) -> Iterator[Operation]:
        """Raises WireError."""
        self._buffer += data
        while True:
            operation = self._next_message() if self._awaited else self._next_line()
            if operation is None and self._awaited is None:
                return
            if operation is None and not self._has_content():
                return
            if operation is not None:
                yield operation

    def _has_content(self) -> bool:
        return self._awaited is not None and len(self._buffer) >= self._awaited[4] + 2

    def _next_message(self) -> Operation | None:
        assert self._awaited is not None
        if not self._has_content():
            return None
        subject, sid, reply, header_bytes, total = self._awaited
        if self._buffer[total : total + 2] != b"\r\n":
            raise WireError("a message does not end where it should")
        content = bytes(self._buffer[:total])
        del self._buffer[: total + 2]
        self._awaited = None
        headers = _parse_headers(content[:header_bytes]) if header_bytes else {}
        return Msg(subject, sid, reply, content[header_bytes:], headers)

    def _next_line(self) -> Operation | None:
        """The operation of a line; None when there is no whole line, or when a message's content follows."""
        end = self._buffer.find(b"\r\n")
        if end < 0 or end > LINE_BYTES_MAX:
            if len(self._buffer) > LINE_BYTES_MAX:
                raise WireError("a line is too long")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        verb, _, rest = line.partition(b" ")
        match verb.upper():
            case b"MSG":
                self._awaited = _message_line(rest, headers=False)
                return self._next_message()
            case b"HMSG":
                self._awaited = _message_line(rest, headers=True)
                return self._next_message()
            case b"PING":
                return Ping()
            case b"PONG":
                return Pong()
            case b"INFO":
                return Info(_object(rest))
            case b"-ERR":
                return Err(rest.decode("utf-8", "replace").strip().strip("'"))
            case b"+OK":
                return self._next_line()
        raise WireError(f"unknown operation {line[:40]!r}")


def _message_line(rest: bytes, *, headers: bool) -> tuple[str, int, str, int, int]:
    numbers = 2 if headers else 1
    try:
        words = rest.decode("utf-8").split()
        subject, sid = words[0], int(words[1])
        reply = words[2] if len(words) == 3 + numbers else ""
        sizes = [int(word) for word in words[-numbers:]]
    except (UnicodeDecodeError, IndexError, ValueError):
        raise WireError(f"bad message line {rest[:80]!r}") from None
    header_bytes, total = (sizes[0], sizes[1]) if headers else (0, sizes[0])
    if len(words) not in (2 + numbers, 3 + numbers) or not 0 <= header_bytes <= total <= PAYLOAD_BYTES_MAX:
        raise WireError(f"bad message line {rest[:80]!r}")
    return subject, sid, reply, header_bytes, total


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise WireError("INFO is no JSON object")
    return found


def _parse_headers(block: bytes) -> dict[str, str]:
    if not block.startswith(_HEADER_LINE):
        raise WireError("headers of another version")
    first, _, rest = block.partition(b"\r\n")
    status = first[len(_HEADER_LINE) :].decode("utf-8", "replace").strip()
    headers = {STATUS: status.partition(" ")[0]} if status else {}
    for line in rest.split(b"\r\n"):
        key, separator, value = line.decode("utf-8", "replace").partition(":")
        if separator:
            headers[key] = value.strip()
    return headers


# ---- what a client says ------------------------------------------------------------------------------


def connect(options: dict[str, Any]) -> bytes:
    return b"CONNECT " + json.dumps(options).encode() + b"\r\n"


def subscribe(subject: str, queue: str, sid: int) -> bytes:
    return f"SUB {_word(subject)} {_word(queue) + ' ' if queue else ''}{sid}\r\n".encode()


def unsubscribe(sid: int) -> bytes:
    return f"UNSUB {sid}\r\n".encode()


def publish(subject: str, reply: str, headers: dict[str, str] | None, data: bytes) -> bytes:
    """Raises ValueError when a subject or a header would break the line that it stands in."""
    target = f"{_word(subject)} {_word(reply)} " if reply else f"{_word(subject)} "
    if not headers:
        return f"PUB {target}{len(data)}\r\n".encode() + data + b"\r\n"
    lines = "".join(f"{_clean(key)}: {_clean(value)}\r\n" for key, value in headers.items())
    block = _HEADER_LINE + b"\r\n" + lines.encode() + b"\r\n"
    return f"HPUB {target}{len(block)} {len(block) + len(data)}\r\n".encode() + block + data + b"\r\n"


def _word(text: str) -> str:
    if not text or any(character <= " " or character == "\x7f" for character in text):
        raise ValueError(f"{text[:80]!r} is no subject")
    return text


def _clean(text: str) -> str:
    if "\r" in text or "\n" in text:
        raise ValueError("a header must not contain line ends")
    return text
