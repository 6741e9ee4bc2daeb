"""The least of the NBD server protocol that fio and libnbd need: GO or EXPORT_NAME, simple replies."""

from __future__ import annotations

import struct

GREETING = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)
REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
READ, WRITE, DISCONNECT, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
FUA = 1
_TRANSMISSION_FLAGS = 1 | 4 | 8
"""has flags, flush, FUA"""
_OPTION = struct.Struct(">QII")
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_EXPORT_NAME, _ABORT, _INFO, _GO = 1, 2, 6, 7
_ACK, _INFO_REPLY, _UNSUPPORTED = 1, 3, (1 << 31) + 1


class Negotiation:
    """Fed with bytes; `done` once requests follow."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.greeted = False
        self.done = False

    def step(self, data: memoryview) -> tuple[int, bytes] | None:
        """(bytes used, answer), or None when more bytes are needed."""
        if not self.greeted:
            if len(data) < 4:
                return None
            self.greeted = True
            return 4, b""
        if len(data) < _OPTION.size:
            return None
        _, option, length = _OPTION.unpack_from(data)
        if len(data) < _OPTION.size + length:
            return None
        return _OPTION.size + length, self._answer(option)

    def _answer(self, option: int) -> bytes:
        def reply(kind: int, body: bytes = b"") -> bytes:
            return struct.pack(">QIII", _OPTION_REPLY_MAGIC, option, kind, len(body)) + body

        size = struct.pack(">QH", self.size_bytes, _TRANSMISSION_FLAGS)
        if option == _EXPORT_NAME:
            self.done = True
            return size
        if option in (_GO, _INFO):
            self.done = option == _GO
            return reply(_INFO_REPLY, struct.pack(">H", 0) + size) + reply(_ACK)
        return reply(_ACK if option == _ABORT else _UNSUPPORTED)
