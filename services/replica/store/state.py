"""The brain's hard state: epoch, vote and record of one voter, opaque here.

Restoring an older state would be a voter that forgot its vote (rule I1), so an unreadable state is an error
and never an empty one. That a directory never had a state is itself written down when it is made.
"""

from __future__ import annotations

from services.replica.store.disk import sync_data
from services.replica.store.slots import OVERHEAD, Copy, SlotPair, pair_bytes

COPY_BYTES = 64 * 1024
FILE_BYTES = pair_bytes(COPY_BYTES)
STATE_BYTES_MAX = COPY_BYTES - OVERHEAD - 1
_NONE, _SOME = b"\0", b"\1"


class StateFile:
    """The file `state` of a replica directory. Owns no descriptor: the directory does."""

    __slots__ = ("_fd", "_loaded", "_pair", "_where")

    def __init__(self, fd: int, where: str) -> None:
        self._fd = fd
        self._where = where
        self._pair = SlotPair(fd, 0, COPY_BYTES, where)
        self._loaded: bytes | None = None

    def make(self) -> None:
        """Both slots of a new file say: there never was a state."""
        for _ in range(2):
            self._pair.put(_NONE)
            sync_data(self._fd, self._where)
            self._pair.settle()

    def open(self) -> None:
        """Raises FormatError when the state is unreadable, so that such a voter is never started."""
        payload = self._pair.load()
        sync_data(self._fd, self._where)
        self._loaded = payload[1:] if payload[:1] == _SOME else None

    def save(self, state: bytes) -> None:
        """Durable when it returns. After a StoreError the former state still stands."""
        self._pair.put(_SOME + state)
        sync_data(self._fd, self._where)
        self._pair.settle()
        self._loaded = bytes(state)

    def load(self) -> bytes | None:
        return self._loaded

    def copies(self) -> list[Copy]:
        return self._pair.copies()
