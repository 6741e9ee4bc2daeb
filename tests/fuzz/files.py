"""A replica's directory that somebody changed: opened, read, written, closed and opened again, and checked offline.

    byte 0: which directory (closed cleanly, killed; with a snapshot), and whether the host was restarted since
    then edits: file, offset (3 bytes), length, that many bytes; length 0 cuts the file there, 255 removes it

The outcome is a store that works, or one of the errors of the store's port. A block that is returned matches its
checksum, whatever the files say.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from services.replica.brain import HardState, Voter
from services.replica.store import CorruptBlocks, FileStore, Format, FormatError, StoreError, block_sums, check
from stoscore.units import BLOCK_BYTES, REGION_BLOCKS

SIZE = REGION_BLOCKS + 50
FILES = ("format.json", "state", "intent", "tail", "layers/0001/sums", "layers/0001/roots", "layers/0001/data")
SEALED_FILES = ("layers/stack", *(f"layers/0002/{name}" for name in ("present", "sums", "roots", "data")))
SEQ_MAX = (1 << 64) - 1
"""A forged entry may have it; no epoch that a voter stores goes so far."""
ERRORS = (FormatError, StoreError, CorruptBlocks)
WRITTEN = (0, 1, 500, REGION_BLOCKS - 1, REGION_BLOCKS, SIZE - 1)
_HERE = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None


@cache
def _templates() -> tuple[dict[str, list[tuple[int, bytes]]], ...]:
    """Of each directory: what its files hold where they hold something, the last entry the end of the file."""
    found = []
    for sealed in (False, True):
        for clean in (True, False):
            with tempfile.TemporaryDirectory(dir=_HERE) as parent:
                directory = Path(parent) / "replica"
                _make(directory, clean=clean, sealed=sealed)
                names = FILES + SEALED_FILES if sealed else FILES
                found.append({name: _content(directory / name) for name in names})
    return tuple(found)


def _make(directory: Path, *, clean: bool, sealed: bool) -> None:
    store = FileStore.create(directory, Format("c", "a" * 32, "v", "b" * 16, "data", SIZE), "boot")
    store.save_state(HardState(Voter("n1", "b" * 16, "data"), 3, None, None, 500).encode())
    for seq, block in enumerate(WRITTEN, 1):
        data = block.to_bytes(8, "little") * (BLOCK_BYTES // 8 - 1) + b"the end\n"
        store.mark({block // REGION_BLOCKS})
        store.tail_append(seq, block, 1)
        store.write(block, block_sums(data), data)
    store.sync()
    if sealed:
        store.seal("s1")
        store.zero(1, 1)
        store.sync()
    store.tail_commit(3)
    store.close(clean=clean)


def _content(path: Path) -> list[tuple[int, bytes]]:
    raw = path.read_bytes()
    pages = [(at, raw[at : at + BLOCK_BYTES]) for at in range(0, len(raw), BLOCK_BYTES)]
    return [(at, page) for at, page in pages if any(page)] + [(len(raw), b"")]


def _write(directory: Path, template: dict[str, list[tuple[int, bytes]]]) -> None:
    for name, pages in template.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        with (directory / name).open("wb") as file:
            for at, page in pages:
                file.seek(at)
                file.write(page)
            file.truncate(pages[-1][0])


def _edit(directory: Path, edits: bytes) -> None:
    at = 0
    while len(edits) - at >= 5:
        path = directory / (FILES + SEALED_FILES)[edits[at] % len(FILES + SEALED_FILES)]
        offset, length = int.from_bytes(edits[at + 1 : at + 4], "little"), edits[at + 4]
        at += 5
        if not path.exists():
            continue
        offset %= path.stat().st_size + 1
        if length == 255:
            path.unlink()
        elif not length:
            os.truncate(path, offset)
        else:
            with path.open("r+b") as file:
                file.seek(offset)
                file.write(edits[at : at + length])
            at += length


def run(data: bytes) -> None:
    if not data:
        return
    parent = Path(tempfile.mkdtemp(dir=_HERE))
    try:
        directory = parent / "replica"
        _write(directory, _templates()[data[0] & 1 | data[0] >> 1 & 2])
        _edit(directory, data[1:])
        _check(directory)
        if _use(directory, boot_id="boot" if data[0] & 2 else "another"):
            _use(directory, boot_id="boot")
        _check(directory)
    finally:
        shutil.rmtree(parent)


def _check(directory: Path) -> None:
    with contextlib.suppress(*ERRORS):
        check(directory)


def _use(directory: Path, boot_id: str) -> bool:
    try:
        store = FileStore.open(directory, cluster="c", boot_id=boot_id)
    except ERRORS:
        return False
    try:
        for block in WRITTEN:
            _read(store, block)
        store.digests(1, 0, -(-store.size_blocks // 256))
        assert sum(count for count, _ in store.extents(0, store.size_blocks)) <= store.size_blocks
        for _, block, count in store.tail_entries() or []:
            assert count > 0 and block + count <= store.size_blocks
        assert all(0 <= region <= (store.size_blocks - 1) // REGION_BLOCKS for region in store.marked)
        _state(store)
        fresh = b"new!" * (BLOCK_BYTES // 4)
        store.mark({0})
        store.tail_append(min(store.tail_state()[0] + 1, SEQ_MAX), 0, 1)
        store.write(0, block_sums(fresh), fresh)
        assert store.read(0, 1)[1] == fresh
        store.sync()
        _seal_and_fold(store)
        assert store.read(0, 1)[1] == fresh
    except ERRORS:
        store.close(clean=False)
        return False
    store.close()
    return True


def _seal_and_fold(store: FileStore) -> None:
    for layer in store.snapshots.values():
        with contextlib.suppress(CorruptBlocks):
            sums, data = layer.read(0, 2)
            assert block_sums(data) == sums
    store.seal("fresh")
    for snapshot in store.snapshots:
        store.drop(snapshot)
        while store.fold(1000):
            pass
        store.settle_fold()


def _read(store: FileStore, block: int) -> None:
    if block < store.size_blocks:
        try:
            sums, data = store.read(block, 1)
        except CorruptBlocks as corrupt:
            assert list(corrupt.blocks) == [block]
        else:
            assert block_sums(data) == sums


def _state(store: FileStore) -> None:
    raw = store.load_state()
    if raw:
        with contextlib.suppress(ValueError):  # whoever opens the copy says so and leaves it alone
            HardState.decode(raw)


def seeds() -> Iterator[bytes]:
    """Each directory as it is, and one small edit of each file."""
    for shape in range(8):
        yield bytes([shape])
        for file in range(len(FILES + SEALED_FILES)):
            yield bytes([shape, file, 40, 0, 0, 2, 7, 7])
            yield bytes([shape, file, 9, 0, 0, 0])
            yield bytes([shape, file, 0, 0, 0, 255])
