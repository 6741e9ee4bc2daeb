"""A node's link to itself: what is sent at one end is in the other end's receive buffer in the next turn of the loop.

    frontend ──> outgoing link ──Loop──> incoming link ──> primary       one process, one copy of the bytes, no TLS

The volume's user often is where its primary is. Over a socket each byte of such a request would be encrypted, go
through the kernel and be decrypted by the process that has just encrypted it. Nothing here leaves the process, so there
is nothing to encrypt and nobody to prove anything to. The links at both ends know no difference: frames, turns,
charges, limits and flow control are theirs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

from services.replica.peers.link import Link


class Loop(asyncio.Transport):
    """One end; `link` is the protocol at this end."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._other = self
        self._arrived: deque[memoryview] = deque()
        """Written at the other end and not read here yet."""
        self._arrived_bytes = 0
        self._reading = True
        self._due = False
        self._closed = False
        self._over = False
        """The other end has closed: the end comes when everything before it was read."""
        self._high = self._low = 0
        self._full = False
        """The link at this end was told to pause: the other end reads more slowly than it writes."""

    @staticmethod
    def join(outgoing: Link, incoming: Link) -> None:
        """Connect the two."""
        near, far = Loop(outgoing), Loop(incoming)
        near._other, far._other = far, near
        incoming.connection_made(far)
        outgoing.connection_made(near)

    # --- asyncio.Transport ---

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high, self._low = high or 0, low or 0

    def get_write_buffer_size(self) -> int:
        return self._other._arrived_bytes

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Takes a copy of what may change; `bytes` can't."""
        other = self._other
        if self._closed or other._closed:
            return
        other._arrived.append(memoryview(data if isinstance(data, bytes) else bytes(data)))
        other._arrived_bytes += len(data)
        other._read_soon()
        if not self._full and other._arrived_bytes > self._high:
            self._full = True
            self._link.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        for data in list_of_data:
            self.write(data)

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._read_soon()

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        """What was written before still arrives."""
        if self._closed:
            return
        self._closed = True
        self._arrived.clear()
        self._arrived_bytes = 0
        self._loop.call_soon(self._link.connection_lost, None)
        self._other._over = True
        self._other._read_soon()

    def abort(self) -> None:
        self._other._arrived.clear()
        self._other._arrived_bytes = 0
        self.close()

    # --- reading ---

    def _read_soon(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        self._due = False
        while self._arrived and self._reading and not self._closed:
            self._read_once()
        if self._over and not self._arrived and not self._closed:
            self.close()

    def _read_once(self) -> None:
        """As much as the link has room for."""
        room = self._link.get_buffer(-1)
        filled, arrived = 0, self._arrived
        while arrived and filled < len(room):
            part = arrived[0]
            count = min(len(part), len(room) - filled)
            room[filled : filled + count] = part[:count]
            filled += count
            if count == len(part):
                arrived.popleft()
            else:
                arrived[0] = part[count:]
        self._arrived_bytes -= filled
        self._link.buffer_updated(filled)
        writer = self._other
        if writer._full and self._arrived_bytes <= writer._low:
            writer._full = False
            writer._link.resume_writing()
