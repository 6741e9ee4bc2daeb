"""Generic netlink, the part that the kernel's nbd driver needs: messages as bytes, and one socket.

A message is a netlink header, a generic header and attributes, each attribute a length, a type and a value
padded to four bytes; a nested attribute's value is attributes again (linux/netlink.h, linux/genetlink.h).
Everything is in the machine's byte order.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

NETLINK_GENERIC = 16
_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_ERROR = 2
_REQUEST, _ACK = 1, 4
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_BYTES_MAX = 65_536

CONTROL_FAMILY = 0x10
_GET_FAMILY = 3
_FAMILY_ID, _FAMILY_NAME, _GROUPS = 1, 2, 7
_GROUP_NAME, _GROUP_ID = 1, 2


@dataclass(frozen=True, slots=True)
class Answer:
    """One generic message from the kernel."""

    family: int
    command: int
    attributes: dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Family:
    """A generic netlink family as the kernel registered it."""

    number: int
    groups: dict[str, int]


def attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *inner: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(inner))


def u32(kind: int, number: int) -> bytes:
    return attribute(kind, struct.pack("=I", number))


def u64(kind: int, number: int) -> bytes:
    return attribute(kind, struct.pack("=Q", number))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute; stops where the data is cut off."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            return
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def message(family: int, command: int, version: int, sequence: int, payload: bytes) -> bytes:
    body = _GENERIC.pack(command, version, 0) + payload
    return _HEADER.pack(_HEADER.size + len(body), family, _REQUEST | _ACK, sequence, 0) + body


def parse(data: bytes) -> Iterator[Answer | int]:
    """The messages of one datagram: an `Answer`, or the errno of an acknowledgement (0 is success)."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return
        body = data[at + _HEADER.size : at + length]
        if kind == _ERROR and len(body) >= 4:
            yield -int(struct.unpack_from("=i", body)[0])
        elif len(body) >= _GENERIC.size and kind >= CONTROL_FAMILY:
            command = _GENERIC.unpack_from(body)[0]
            yield Answer(kind, command, dict(attributes(body[_GENERIC.size :])))
        at += (length + 3) & ~3


class Netlink:
    """A socket to the kernel; a context manager."""

    def __init__(self, timeout_s: float = 10.0):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_GENERIC)
        self.socket.settimeout(timeout_s)
        self.socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, family: int, command: int, version: int, payload: bytes) -> Answer | None:
        """Send a request; the kernel's answer if it gives one besides its acknowledgement. Raises OSError."""
        self._sequence += 1
        self.socket.send(message(family, command, version, self._sequence, payload))
        answer: Answer | None = None
        while True:
            for item in parse(self.socket.recv(_BYTES_MAX)):
                if isinstance(item, Answer):
                    answer = item
                elif item:
                    raise OSError(item, os.strerror(item))
                else:
                    return answer

    def family(self, name: str) -> Family:
        """Raises FileNotFoundError when no such family is registered (its module is not loaded)."""
        answer = self.ask(CONTROL_FAMILY, _GET_FAMILY, 1, text(_FAMILY_NAME, name))
        assert answer is not None
        groups = {}
        for _, group in attributes(answer.attributes.get(_GROUPS, b"")):
            inner = dict(attributes(group))
            label = inner[_GROUP_NAME].rstrip(b"\0").decode()
            groups[label] = int(struct.unpack("=I", inner[_GROUP_ID])[0])
        return Family(struct.unpack("=H", answer.attributes[_FAMILY_ID])[0], groups)

    def join(self, group: int) -> None:
        """Receive what the kernel tells this group."""
        self.socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
