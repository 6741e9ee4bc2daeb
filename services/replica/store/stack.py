"""Which layers a replica has, from the oldest to the one that takes the writes, and the snapshots that they are.

    layers/stack      one SlotPair: the list, as JSON

A directory that never had a second layer has no such file and is of format 1: its only layer is 0001. The first
seal writes the file, and then format 2 into `format.json`, so that a program that knows no stack refuses the
directory instead of writing into a sealed layer.

Replacing the list is the one step by which a layer is sealed or dropped. A directory of a layer that is not in the
list is the beginning of a seal or the end of a drop that a crash cut short; whoever opens the store removes it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from services.replica.store.directory import open_file
from services.replica.store.disk import failed, sync_data
from services.replica.store.format import Format
from services.replica.store.port import FormatError
from services.replica.store.slots import Copy, SlotPair, pair_bytes

LAYERS = "layers"
FILE = f"{LAYERS}/stack"
COPY_BYTES = 64 * 1024
FILE_BYTES = pair_bytes(COPY_BYTES)
LAYERS_MAX = 256
SHARED_MAX = LAYERS_MAX // 2
"""Up to so many layers, one whose files other replicas share is left as it is when its snapshot goes."""
NAME = re.compile(r"[0-9a-z-]{1,96}")
"""Room for a snapshot's name and the number of the step that sealed it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One layer. `snapshot` names what the volume was when the layer was sealed; "" for a snapshot that was deleted,
    whose layer is to be folded into the next, and for the newest layer. `size_blocks` is the volume's size at the
    seal; 0 for the newest, which has the size that the format says."""

    number: int
    size_blocks: int = 0
    snapshot: str = ""

    @property
    def directory(self) -> str:
        return directory_of(self.number)


def directory_of(number: int) -> str:
    return f"{LAYERS}/{number:04d}"


FIRST: tuple[Entry, ...] = (Entry(1),)


class StackFile:
    """Owns no descriptor: `Layers` does."""

    __slots__ = ("_fd", "_pair", "_where")

    def __init__(self, fd: int, where: str) -> None:
        self._fd = fd
        self._where = where
        self._pair = SlotPair(fd, 0, COPY_BYTES, where)

    def make(self, entries: Sequence[Entry] = FIRST) -> None:
        """Both slots of a new file say the same: one layer, where nothing else is given."""
        for _ in range(2):
            self._pair.put(_pack(entries))
            sync_data(self._fd, self._where)
            self._pair.settle()

    def open(self) -> tuple[Entry, ...]:
        """Raises FormatError when the list is unreadable or makes no sense."""
        entries = self.load()
        sync_data(self._fd, self._where)
        return entries

    def load(self) -> tuple[Entry, ...]:
        """Raises FormatError."""
        raw = self._pair.load()
        try:
            entries = tuple(Entry(**fields) for fields in json.loads(raw))
        except (ValueError, TypeError):
            raise FormatError(f"{self._where} is damaged: it is no list of layers") from None
        if not _makes_sense(entries):
            raise FormatError(f"{self._where} makes no sense: {raw[:200]!r}")
        return entries

    def save(self, entries: Sequence[Entry]) -> None:
        """Durable when it returns. After a StoreError either list may stand."""
        self._pair.put(_pack(entries))
        sync_data(self._fd, self._where)
        self._pair.settle()

    def copies(self) -> list[Copy]:
        return self._pair.copies()


def _pack(entries: Sequence[Entry]) -> bytes:
    return json.dumps([asdict(entry) for entry in entries], separators=(",", ":")).encode()


def _makes_sense(entries: Sequence[Entry]) -> bool:
    numbers = [entry.number for entry in entries]
    if not 0 < len(entries) <= LAYERS_MAX or any(type(number) is not int or number < 1 for number in numbers):
        return False
    *sealed, newest = entries
    sizes = [entry.size_blocks for entry in sealed]
    names = [entry.snapshot for entry in sealed if entry.snapshot != ""]
    return (
        numbers == sorted(set(numbers))
        and all(type(size) is int and size > 0 for size in sizes)
        and sizes == sorted(sizes)
        and all(isinstance(name, str) and NAME.fullmatch(name) for name in names)
        and len(set(names)) == len(names)
        and newest == Entry(newest.number)
    )


def read(directory: Path, format: Format) -> tuple[Entry, ...]:
    """The list of a directory that may be in use. Raises FormatError, StoreError."""
    if format.version == 1:
        return FIRST
    fd = open_file(directory / FILE, FILE_BYTES, writable=False)
    try:
        return StackFile(fd, str(directory / FILE)).load()
    finally:
        os.close(fd)


def clear_leftovers(directory: Path, entries: Sequence[Entry]) -> None:
    """Remove what is no layer of the list. Raises StoreError."""
    known = {entry.directory for entry in entries}
    try:
        for path in sorted((directory / LAYERS).iterdir()):
            if path.is_dir() and f"{LAYERS}/{path.name}" not in known:
                shutil.rmtree(path)
    except OSError as error:
        raise failed("remove what is left in", str(directory / LAYERS), error) from error
