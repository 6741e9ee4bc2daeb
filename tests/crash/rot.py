"""One byte of a replica's directory rots, any byte: is it noticed, or harmless? Never wrong data, never a crash; and
with a second copy at hand every block is healed.

python -m tests.crash.rot            every byte that says something, and a sample of the zeros between
python -m tests.crash.rot --every    every byte of every file
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from services.replica.store import CorruptBlocks, FileStore, Format, FormatError, StoreError, block_sums, check
from stoscore.units import BLOCK_BYTES
from tests.crash.promises import ZEROS
from tests.crash.run import CLUSTER, IN_MEMORY, VOLUME

SIZE_BLOCKS = 24
SNAPSHOT = "s1"
STATE = b"epoch 7, voted for n2"
_NEIGHBOURHOOD = 64
"""Zeros so near to something are looked at one by one."""
_CHECKED_ONE_IN = 8
"""Flips after which the command `stos store check` looks at the directory first."""
_PARTS = 64
"""A whole sweep's shares: enough of them that no process is left with a long one at the end."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A flushed, closed replica with blocks, holes and a tail, and what it must answer."""

    directory: Path
    content: dict[int, bytes]
    snapshot: dict[int, bytes] | None = None

    @classmethod
    def make(cls, directory: Path, *, sealed: bool = False) -> Replica:
        """Sealed: with a snapshot below, of which some blocks were written anew or trimmed since."""
        store = FileStore.create(directory, Format(CLUSTER, VOLUME, "v", "b" * 16, "data", SIZE_BLOCKS), "boot")
        content = {block: random.Random(block).randbytes(BLOCK_BYTES) for block in (0, 1, 5, 6, SIZE_BLOCKS - 1)}
        store.mark([0])
        for seq, (block, data) in enumerate(content.items(), 1):
            store.tail_append(seq, block, 1)
            store.write(block, block_sums(data), data)
        store.tail_commit(3)
        snapshot = dict(content) if sealed else None
        if sealed:
            store.seal(SNAPSHOT)
            for seq, block in enumerate((1, 9), 6):
                content[block] = random.Random(100 + block).randbytes(BLOCK_BYTES)
                store.tail_append(seq, block, 1)
                store.write(block, block_sums(content[block]), content[block])
            store.tail_append(8, 5, 1)
            store.zero(5, 1)
            del content[5]
        store.save_state(b"an older state")
        store.save_state(STATE)
        store.close()
        return cls(directory, content, snapshot)

    def look(self, *, checked: bool = True) -> str:
        """What an opening makes of it. Raises AssertionError on wrong data; any other exception is a crash."""
        with suppress(FormatError, StoreError):
            if checked:
                check(self.directory)
        try:
            store = FileStore.open(self.directory, cluster=CLUSTER, boot_id="boot", volume=VOLUME)
        except (FormatError, StoreError):
            return "refused"
        try:
            assert store.load_state() == STATE, "another hard state"
            found = {self._read(store, block) for block in range(SIZE_BLOCKS)}
            found |= {self._read_snapshot(store, block) for block in range(SIZE_BLOCKS)}
            store.digests(1, 0, 1)
            if not store.scan(0, SIZE_BLOCKS):
                for block in store.recheck(0, SIZE_BLOCKS):  # bytes where nothing is, which no read looks at
                    self._heal(store, block)
                assert store.recheck(0, SIZE_BLOCKS) == [], "a scrub leaves it as it was"
        finally:
            store.close(clean=False)
        return "corrupt block" if "corrupt" in found else "harmless"

    def _read_snapshot(self, store: FileStore, block: int) -> str:
        """After what it shares with the volume was healed there."""
        if self.snapshot is None:
            return "good"
        try:
            _, data = store.snapshots[SNAPSHOT].read(block, 1)
        except CorruptBlocks as error:
            assert error.blocks == (block,)
            return "corrupt"
        assert data == self.snapshot.get(block, ZEROS), f"wrong data in block {block} of the snapshot"
        return "good"

    def _heal(self, store: FileStore, block: int) -> None:
        other = self.content.get(block, ZEROS)
        assert store.heal(block, block_sums(other), other, settled=True) == [block], "another copy does not heal it"

    def _read(self, store: FileStore, block: int) -> str:
        try:
            _, data = store.read(block, 1)
        except CorruptBlocks as error:
            assert error.blocks == (block,)
            self._heal(store, block)
            assert store.read(block, 1)[1] == self.content.get(block, ZEROS)
            return "corrupt"
        assert data == self.content.get(block, ZEROS), f"wrong data in block {block}"
        return "good"


def bytes_of(content: bytes, *, every: bool) -> Iterator[int]:
    """Offsets worth a flip."""
    if every:
        yield from range(len(content))
        return
    choice = random.Random(len(content))
    padded = bytes(_NEIGHBOURHOOD) + content + bytes(_NEIGHBOURHOOD)
    for at in range(len(content)):
        near = any(padded[at : at + 2 * _NEIGHBOURHOOD]) if at % 16 == 0 or content[at] else False
        if content[at] or near or choice.random() < 0.002:
            yield at


def sweep(place: Path, *, every: bool = False, one_in: int = 1, part: int = 0, sealed: bool = False) -> Counter[str]:
    """Flips one byte after the other, of each `one_in` the one at `part`. Raises AssertionError naming file and
    offset."""
    replica = Replica.make(place / "replica", sealed=sealed)
    pristine = contents(replica.directory)
    found: Counter[str] = Counter()
    flips = 0
    for path in sorted(pristine):
        name = path.relative_to(replica.directory)
        for at in bytes_of(pristine[path], every=every):
            if at % one_in != part:
                continue
            flip(path, at)
            flips += 1
            try:
                found[f"{name}: {replica.look(checked=flips % _CHECKED_ONE_IN == 0)}"] += 1
            except Exception as error:
                raise AssertionError(f"byte {at} of {name}: {type(error).__name__}: {error}") from error
            _restore(pristine)
    return found


def contents(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def _restore(pristine: dict[Path, bytes]) -> None:
    """An opening writes here and there, and a heal writes what had rotten."""
    for path, content in pristine.items():
        if path.read_bytes() != content:
            path.write_bytes(content)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (old,) = file.read(1)
        file.seek(at)
        file.write(bytes([old ^ (1 + at % 255)]))


def _share(every: bool, sealed: bool, part: int) -> Counter[str]:
    with tempfile.TemporaryDirectory(prefix="stos-rot-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as place:
        return sweep(Path(place), every=every, one_in=_PARTS, part=part, sealed=sealed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.crash.rot", description="Rot, byte by byte.")
    parser.add_argument("--every", action="store_true", help="every byte of every file")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: all cores)")
    options = parser.parse_args()
    found: Counter[str] = Counter()
    with ProcessPoolExecutor(options.jobs) as pool:
        shares = [
            pool.submit(_share, options.every, sealed, part) for sealed in (False, True) for part in range(_PARTS)
        ]
        for count, share in enumerate(as_completed(shares), 1):
            found += share.result()
            print(f"{count} of {len(shares)} parts, {found.total()} flips", file=sys.stderr, flush=True)
    for what, count in sorted(found.items()):
        print(f"{count:8} {what}")
    print(f"{found.total():8} flips, each noticed or harmless")
    return 0


if __name__ == "__main__":
    sys.exit(main())
