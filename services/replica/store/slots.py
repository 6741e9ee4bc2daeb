"""One small durable value, replaced in place: two slots, and two copies in each.

A value is written to the slot that does not hold the latest durable one, then synced; a power loss in the
middle tears only the slot under way and the other still answers. That costs one fdatasync and no journal
commit, because the file was written with real zeros when it was made (temp file + rename + fsync is four
times slower at the 99th percentile).

Two slots alone can't tell a torn write, which nobody was told about, from a durable one that rotted: falling
back from the second would take back a vote that was given. So each slot holds its value twice, 4 KiB or more
apart, and a flipped bit costs one copy.

    | slot 0, copy 0 | slot 0, copy 1 | slot 1, copy 0 | slot 1, copy 1 |

Each copy: magic, sequence number, length, checksum over all of it, payload. The checksum is seeded with the
pair's offset, so that a copy written to the wrong place is no copy.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from services.replica.store.disk import read_at, write_at
from services.replica.store.port import FormatError, StoreError
from services.replica.store.sums import Buffer
from stoscore.units import BLOCK_BYTES

_MAGIC = b"stosslot"
_HEAD = struct.Struct("<8sQQ")
_CHECK = struct.Struct("<Q")
OVERHEAD = _HEAD.size + _CHECK.size
SLOTS = 2
COPIES = 2


@dataclass(frozen=True, slots=True)
class Copy:
    """What stands in one copy; `sequence` is None when it is not readable."""

    slot: int
    copy: int
    sequence: int | None
    payload: bytes


def pair_bytes(copy_bytes: int) -> int:
    """The space of one pair of slots in its file."""
    return SLOTS * COPIES * copy_bytes


class SlotPair:
    """One value at `offset` of an open file. The caller syncs the file between `put` and `settle`; a value
    counts as durable from `settle` on. Calls are serialised by the owner."""

    __slots__ = ("_copy_bytes", "_durable", "_fd", "_offset", "_sequence", "_where")

    def __init__(self, fd: int, offset: int, copy_bytes: int, where: str) -> None:
        assert copy_bytes % BLOCK_BYTES == 0
        self._fd = fd
        self._offset = offset
        self._copy_bytes = copy_bytes
        self._where = where
        self._durable = 1
        self._sequence = 0

    def load(self) -> bytes:
        """The latest readable value. Raises FormatError when no copy of either slot is readable. The caller
        syncs the file before the next `put`: after a crash of the process the latest value may be in the page
        cache only, and the next one overwrites the slot beside it."""
        readable = [copy for copy in self.copies() if copy.sequence is not None]
        if not readable:
            raise FormatError(f"{self._where} is unreadable: neither slot at {self._offset} has a valid checksum")
        latest = max(readable, key=lambda copy: copy.sequence or 0)
        self._durable = latest.slot
        self._sequence = latest.sequence or 0
        return latest.payload

    def put(self, payload: Buffer) -> None:
        """Write the next value; it is not durable yet, and until it is the one before stays untouched."""
        self.write(self.image(payload))

    def write(self, image: bytes) -> None:
        """The second half of `put`, for an owner that must not write while it holds a lock."""
        slot = self._offset + (1 - self._durable) * COPIES * self._copy_bytes
        for copy in range(COPIES):
            write_at(self._fd, image, slot + copy * self._copy_bytes, self._where)

    def image(self, payload: Buffer) -> bytes:
        """The first half of `put`: the next copy's bytes, complete with sequence number and checksum."""
        if len(payload) + OVERHEAD > self._copy_bytes:
            raise StoreError(f"{len(payload)} bytes do not fit in a slot of {self._where}")
        self._sequence += 1
        head = _HEAD.pack(_MAGIC, self._sequence, len(payload))
        return head + _CHECK.pack(_check(head, payload, self._offset)) + bytes(payload)

    def settle(self) -> None:
        """The file was synced since the last `put`: that value is the durable one now."""
        self._durable = 1 - self._durable

    def copies(self) -> list[Copy]:
        """All four copies as they stand on disk."""
        return [self._read(slot, copy) for slot in range(SLOTS) for copy in range(COPIES)]

    def _read(self, slot: int, copy: int) -> Copy:
        at = self._offset + (slot * COPIES + copy) * self._copy_bytes
        raw = read_at(self._fd, self._copy_bytes, at, self._where)
        magic, sequence, length = _HEAD.unpack_from(raw)
        (check,) = _CHECK.unpack_from(raw, _HEAD.size)
        payload = raw[OVERHEAD : OVERHEAD + length]
        good = (
            magic == _MAGIC
            and length + OVERHEAD <= self._copy_bytes
            and check == _check(raw[: _HEAD.size], payload, self._offset)
        )
        return Copy(slot, copy, sequence, payload) if good else Copy(slot, copy, None, b"")


def _check(head: bytes, payload: Buffer, seed: int) -> int:
    return int(xxh3_64_intdigest(head + bytes(payload), seed=seed))
