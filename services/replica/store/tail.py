"""The tail: the latest writes that are not yet confirmed everywhere, in a memory map.

After `kill -9` everything that this replica stored is still in the page cache; the only question is which blocks
lie above the commit point, for those a take-over compares (rule T2). A ring of 4,096 entries in a mapped file
answers it for a few memory stores a write, without a system call and without a sync. A power loss leaves
nothing in it to trust: the ring is bound to the boot id under which it was written, unless it was closed cleanly.

A process can die between any two stores, never between parts of the past: what is in the page cache is a prefix
of what the program did. So an entry carries its running number and a checksum, and at most the one after the
last whole entry may be torn; its write had not begun. Anything else that does not fit makes the ring unreadable.

The `pen` names the range whose data or checksums are being written right now. It is the one place where the two
may disagree after a kill, so exactly these checksums are recomputed, and no others are taken on trust.

Layout (little endian): one page of header words, then the entries.

    0   magic "stostail"          8  format version, entry count (u32 each)
    16  boot tag                  24 doubt (0 or 1)
    32  commit, ~commit           48 lost: highest uncommitted seq that was overwritten
    56  pen: block, count         72 base: highest seq before this ring was started
    4096 + 40 * slot: number, seq, block, count, xxh3-64 of these 32 bytes; number % 4096 == slot, first number is 1
"""

from __future__ import annotations

import mmap
import struct
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import repeat

from xxhash import xxh3_64_intdigest

from services.replica.store.disk import failed, read_at, sync_data
from services.replica.store.port import FormatError

ENTRIES = 4096
VERSION = 1
HEADER_BYTES = 4096
_ENTRY = struct.Struct("<QQQQ")
_CHECKED = struct.Struct("<QQQQQ")
_ENTRY_BYTES = _CHECKED.size
_pack_entry, _put_entry = _ENTRY.pack, struct.Struct(f"<{_ENTRY.size}sQ").pack_into
FILE_BYTES = HEADER_BYTES + ENTRIES * _CHECKED.size
_IDENTITY = struct.Struct("<8sII")
_MAGIC = b"stostail"
_WORD = struct.Struct("<Q")
_put_word = _WORD.pack_into
_TWO = struct.Struct("<QQ")
_BOOT, _DOUBT, _COMMIT, _LOST, _PEN, _BASE = 16, 24, 32, 48, 56, 72
_MASK = (1 << 64) - 1
_PAGE_BYTES = 4096
_ZERO_PAGE = bytes(_PAGE_BYTES)


def boot_tag(boot_id: str) -> int:
    return int(xxh3_64_intdigest(boot_id.encode()))


class Tail:
    """The open ring. Event loop's thread, except `doubt` and `sync`."""

    __slots__ = (
        "_commit",
        "_fd",
        "_held",
        "_lost",
        "_map",
        "_number",
        "_pen_next",
        "_penned",
        "_where",
        "_writes",
        "highest",
    )

    def __init__(self, fd: int, where: str) -> None:
        # Read once through the descriptor: a bad sector is an error there, and a fatal signal in a map.
        raw = read_at(fd, FILE_BYTES, 0, where)
        if _IDENTITY.unpack_from(raw) != (_MAGIC, VERSION, ENTRIES):
            raise FormatError(f"{where} is damaged: it does not begin as a tail")
        self._fd = fd
        self._where = where
        try:
            self._map = mmap.mmap(fd, FILE_BYTES)
        except OSError as error:
            raise failed("map", where, error) from error
        self._writes: deque[tuple[int, Sequence[tuple[int, int]]]] = deque()
        """(seq, ranges) of the latest ones, as far as all of their entries are in the ring."""
        self._held = 0
        """Entries of these."""
        self._pen_next: Callable[[int], None] = partial(_put_word, self._map, _PEN)
        self._number = 0
        self._commit = 0
        self._penned = -1
        """The count in the map; -1: not known, so it has to be cleared before another is set."""
        self._lost = self._word(_LOST)
        self.highest = self._word(_BASE)

    @staticmethod
    def image() -> bytes:
        """A new file's content."""
        head = _IDENTITY.pack(_MAGIC, VERSION, ENTRIES).ljust(_COMMIT, b"\0") + _TWO.pack(0, _MASK)
        return head.ljust(FILE_BYTES, b"\0")

    def load(self, boot_id: str, *, closed: tuple[int, int] | None) -> bool:
        """Read the ring; True when every write above the commit point is known. `closed` is (last, commit) as
        the clean mark names them: then the ring may be of another boot and must say the same."""
        commit, inverse = _TWO.unpack_from(self._map, _COMMIT)
        whole = commit == inverse ^ _MASK
        if whole:
            self._commit = commit
        found = scan(self._map[:FILE_BYTES])
        for number, seq, block, count in found or ():
            self._number = number
            self.highest = max(self.highest, seq)
            if seq > self._commit:
                self._writes.append((seq, ((block, count),)))
                self._held += 1
        if closed is not None:
            trusted = closed == (self.highest, self._commit)
        else:
            trusted = self._word(_BOOT) == boot_tag(boot_id)
        return found is not None and whole and trusted

    def restart(self, boot_id: str, *, doubt: bool) -> None:
        """An empty ring for this boot. The last known numbers stay, as lower bounds of the true ones."""
        self._store(_DOUBT, int(doubt))
        self._store(_LOST, 0)
        self._store(_BASE, self.highest)
        self.pen(0, 0)
        self._map[HEADER_BYTES:FILE_BYTES] = bytes(FILE_BYTES - HEADER_BYTES)
        _TWO.pack_into(self._map, _COMMIT, self._commit, self._commit ^ _MASK)
        self._writes.clear()
        self._held = 0
        self._number = 0
        self._lost = 0
        self.adopt(boot_id)

    def adopt(self, boot_id: str) -> None:
        """From here on the ring is of this boot."""
        self._store(_BOOT, boot_tag(boot_id))

    def append(self, seq: int, block: int, count: int) -> None:
        number = self._number + 1
        self._holds(seq, ((block, count),))
        entry = _pack_entry(number, seq, block, count)
        place = HEADER_BYTES + number % ENTRIES * _ENTRY_BYTES
        _put_entry(self._map, place, entry, xxh3_64_intdigest(entry))
        self._number = number

    def append_many(self, seq: int, ranges: Sequence[tuple[int, int]]) -> None:
        """All of one write, before any of it is written."""
        self._holds(seq, ranges)
        last = self._number + len(ranges)
        numbers = range(self._number + 1, last + 1)
        entries = list(map(_pack_entry, numbers, repeat(seq), *zip(*ranges, strict=True)))
        places = [HEADER_BYTES + number % ENTRIES * _ENTRY_BYTES for number in numbers]
        list(map(_put_entry, repeat(self._map), places, entries, map(xxh3_64_intdigest, entries)))
        self._number = last

    def _holds(self, seq: int, ranges: Sequence[tuple[int, int]]) -> None:
        """Its entries come next, over those of the oldest."""
        self._held += len(ranges)
        while self._held > ENTRIES:
            lost, gone = self._writes.popleft()
            self._held -= len(gone)
            self._lost = max(self._lost, lost)
            self._store(_LOST, self._lost)
        self._writes.append((seq, ranges))
        if seq > self.highest:
            self.highest = seq

    def commit(self, seq: int) -> None:
        if seq <= self._commit:
            return
        self._commit = seq
        _TWO.pack_into(self._map, _COMMIT, seq, seq ^ _MASK)
        writes = self._writes
        while writes and writes[0][0] <= seq:
            self._held -= len(writes.popleft()[1])

    def entries(self) -> list[tuple[int, int, int]] | None:
        """(seq, block, count) above the commit point, by seq; None when some of them are not known."""
        if self.doubtful or self._lost > self._commit:
            return None
        above = [(seq, ranges) for seq, ranges in self._writes if seq > self._commit]
        return sorted((seq, block, count) for seq, ranges in above for block, count in ranges)

    def state(self) -> tuple[int, int]:
        return max(self.highest, self._commit), self._commit

    @property
    def doubtful(self) -> bool:
        return self._word(_DOUBT) != 0

    def doubt(self, doubt: bool) -> None:
        """Writes of before this opening may be unknown. Kept in the ring, so that another kill forgets nothing."""
        self._store(_DOUBT, int(doubt))

    def pen(self, block: int, count: int) -> None:
        """(block, count) is being written; count 0: nothing is. Count is cleared first and set last, so that
        a kill between the stores never leaves a range that nobody meant. Where it stays what it was, one store, of the
        block, says it all."""
        if count == self._penned:
            if count:
                _put_word(self._map, _PEN, block)
            return
        if not count or self._penned:
            _put_word(self._map, _PEN + 8, 0)
        if count:
            _TWO.pack_into(self._map, _PEN, block, count)
        self._penned = count

    def pen_each(self, block: int, count: int) -> Callable[[int], None]:
        """As `pen`. What is returned names the next range of as many blocks."""
        self.pen(block, count)
        return self._pen_next

    def pen_range(self) -> tuple[int, int]:
        block, count = _TWO.unpack_from(self._map, _PEN)
        return block, count

    def sync(self) -> None:
        sync_data(self._fd, self._where)

    def close(self) -> None:
        self._map.close()

    def _word(self, offset: int) -> int:
        value: int = _WORD.unpack_from(self._map, offset)[0]
        return value

    def _store(self, offset: int, value: int) -> None:
        _WORD.pack_into(self._map, offset, value)


def scan(image: bytes) -> list[tuple[int, int, int, int]] | None:
    """The whole entries (number, seq, block, count) of a ring by number; None when one is missing that must be
    there."""
    # A young ring is zeros but for its beginning, and zeros are free slots. Whole pages of them are passed over first,
    # because stripping looks at one byte at a time and every opening does this.
    end = len(image)
    while end - _PAGE_BYTES > HEADER_BYTES and image[end - _PAGE_BYTES : end] == _ZERO_PAGE:
        end -= _PAGE_BYTES
    used = image[HEADER_BYTES:end].rstrip(b"\0")
    used = used.ljust(len(used) + -len(used) % _CHECKED.size, b"\0")
    found, torn = [], []
    for slot, fields in enumerate(_CHECKED.iter_unpack(used)):
        number, *_, check = fields
        if number % ENTRIES == slot and check == xxh3_64_intdigest(_ENTRY.pack(*fields[:4])):
            found.append(fields[:4])
        elif any(fields):
            torn.append(slot)
    found.sort()
    last = found[-1][0] if found else 0
    if torn and torn != [(last + 1) % ENTRIES]:
        return None
    # A torn entry stood where the oldest one was.
    first = max(1, last - ENTRIES + (2 if torn else 1))
    return found if [entry[0] for entry in found] == list(range(first, last + 1)) else None
