"""One connection's receive buffer: the socket writes at its end, the parser reads at its start.

Bytes are moved only when the tail is too short for what the parser waits for. A request larger than the
buffer gets a larger one, which is given back once it is empty, so that an idle connection stays small.
"""

from __future__ import annotations

BUFFER_BYTES = 256 * 1024
READ_BYTES_MIN = 64 * 1024
"""Room offered to the socket at least; below it small reads would cost a system call each."""


class ReceiveBuffer:
    """`space()` is where to receive, `received(n)` says how much came, `unread()` is what came,
    `consumed(n)` how much of it is done with."""

    __slots__ = ("_end", "_start", "_view", "_wanted")

    def __init__(self) -> None:
        self._view = memoryview(bytearray(BUFFER_BYTES))
        self._start = 0
        self._end = 0
        self._wanted = 0

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def capacity(self) -> int:
        return len(self._view)

    def space(self) -> memoryview:
        """Never empty. Views of earlier bytes are not valid any more."""
        unread = self._end - self._start
        needed = max(self._wanted, unread + (1 if self._wanted > READ_BYTES_MIN else READ_BYTES_MIN))
        if self._start + needed > len(self._view):
            self._make_room(needed)
        return self._view[self._end :]

    def received(self, count: int) -> None:
        self._end += count

    def unread(self) -> memoryview:
        return self._view[self._start : self._end]

    def consumed(self, count: int, wanted: int) -> None:
        """The first `count` bytes are done with; the next step needs `wanted` bytes in one piece."""
        self._start += count
        self._wanted = wanted
        if self._start == self._end:
            self._start = self._end = 0
            if wanted <= BUFFER_BYTES < len(self._view):
                self._view = memoryview(bytearray(BUFFER_BYTES))

    def _make_room(self, needed: int) -> None:
        unread = bytes(self.unread())
        if needed > len(self._view):
            self._view = memoryview(bytearray(needed))
        self._view[: len(unread)] = unread
        self._start, self._end = 0, len(unread)
