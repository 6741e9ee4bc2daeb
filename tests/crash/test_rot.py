"""Rot of a whole directory: a sample of the sweep, and the rot that leaves every byte valid somewhere else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.replica.store import layer
from services.replica.store.recovery import Recovery
from stoscore.units import BLOCK_BYTES
from tests.crash.rot import Replica, flip, sweep
from tests.crash.run import IN_MEMORY

DATA = Path("layers/0001/data")
SUMS = Path("layers/0001/sums")
TOP_DATA = Path("layers/0002/data")
"""Of a directory with a snapshot: what was written since."""


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stos-rot-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as name:
        yield Path(name)


def test_rot_is_noticed_or_harmless(place: Path) -> None:
    found = sweep(place, one_in=23)
    assert found[f"{DATA}: corrupt block"] > 500
    assert found["format.json: refused"] > 5
    assert found["state: harmless"] > 0, "the second copy answers"


def test_rot_below_a_snapshot_is_noticed_or_harmless(place: Path) -> None:
    found = sweep(place, one_in=41, sealed=True)
    assert found[f"{DATA}: corrupt block"] > 300
    assert found["layers/0002/data: corrupt block"] > 100
    assert found["layers/0002/present: harmless"] > 0, "the second copy answers"
    assert found["layers/stack: harmless"] > 0


def _nothing_is_verified(patch: pytest.MonkeyPatch) -> None:
    """K3: what does not match its checksum is returned."""
    patch.setattr(layer, "verify", lambda data, sums: [])


def _the_data_are_always_right(patch: pytest.MonkeyPatch) -> None:
    """K3: every opening adopts what it finds, in regions too that nobody was writing to."""
    patch.setattr(Recovery, "_rehash_under_pen", lambda found: found.layers.top.rehash(0, found.size_blocks))


@pytest.mark.parametrize("plant", [_nothing_is_verified, _the_data_are_always_right])
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="wrong data"):
        sweep(place, one_in=23)


@pytest.mark.parametrize(("sealed", "data"), [(False, DATA), (True, DATA), (True, TOP_DATA)])
def test_two_blocks_are_swapped(place: Path, sealed: bool, data: Path) -> None:
    """Above a snapshot, blocks 1 and 9 are in the newest layer and all others in the one below."""
    replica = Replica.make(place / "replica", sealed=sealed)
    one, other = (1, 9) if data == TOP_DATA else (0, 6)
    with (replica.directory / data).open("r+b") as file:
        fd = file.fileno()
        first, second = (os.pread(fd, BLOCK_BYTES, block * BLOCK_BYTES) for block in (one, other))
        os.pwrite(fd, first, other * BLOCK_BYTES)
        os.pwrite(fd, second, one * BLOCK_BYTES)
    assert replica.look() == "corrupt block"


@pytest.mark.parametrize(("sealed", "data"), [(False, DATA), (True, DATA), (True, TOP_DATA)])
def test_an_old_block_is_restored(place: Path, sealed: bool, data: Path) -> None:
    """Its checksum was right once. In the newest layer: what the block was when the snapshot was made."""
    replica = Replica.make(place / "replica", sealed=sealed)
    old = Replica.make(place / "old")
    source, block = (1, 1) if data == TOP_DATA else (5, 6)
    with (old.directory / DATA).open("rb") as before, (replica.directory / data).open("r+b") as file:
        os.pwrite(file.fileno(), os.pread(before.fileno(), BLOCK_BYTES, source * BLOCK_BYTES), block * BLOCK_BYTES)
    assert replica.look() == "corrupt block"


FILES = ["format.json", "state", "intent", "tail", str(DATA), str(SUMS), "layers/0001/roots"]
MORE_FILES = ["layers/stack", str(TOP_DATA), "layers/0002/sums", "layers/0002/roots", "layers/0002/present"]


@pytest.mark.parametrize(
    ("sealed", "name"), [(False, name) for name in FILES] + [(True, name) for name in FILES + MORE_FILES]
)
def test_a_file_is_truncated(place: Path, sealed: bool, name: str) -> None:
    replica = Replica.make(place / "replica", sealed=sealed)
    path = replica.directory / name
    os.truncate(path, path.stat().st_size // 2)
    assert replica.look() == "refused"


@pytest.mark.parametrize(
    ("sealed", "name", "outcome"),
    [
        (False, "format.json", "refused"),
        (False, "state", "refused"),
        (False, "intent", "refused"),
        (False, "tail", "refused"),
        (False, str(DATA), "corrupt block"),
        (False, str(SUMS), "harmless"),
        (False, "layers/0001/roots", "harmless"),
        (True, "format.json", "refused"),
        (True, "layers/stack", "refused"),
        (True, str(DATA), "corrupt block"),
        (True, str(SUMS), "harmless"),
        (True, "layers/0001/roots", "harmless"),
        (True, str(TOP_DATA), "corrupt block"),
        (True, "layers/0002/sums", "harmless"),
        (True, "layers/0002/roots", "harmless"),
        (True, "layers/0002/present", "harmless"),
    ],
)
def test_a_file_is_zeroed(place: Path, sealed: bool, name: str, outcome: str) -> None:
    """Zeroed sums are proved wrong by the roots, and made again from the data; which blocks are present in a marked
    region is told from the sums."""
    replica = Replica.make(place / "replica", sealed=sealed)
    path = replica.directory / name
    path.write_bytes(bytes(path.stat().st_size))
    assert replica.look() == outcome


@pytest.mark.parametrize(("sealed", "sums"), [(False, SUMS), (True, SUMS), (True, Path("layers/0002/sums"))])
def test_checksums_are_zeroed_and_a_block_rots_as_well(place: Path, sealed: bool, sums: Path) -> None:
    """Then they can't be made again from the data: nothing may be concluded from what they say."""
    replica = Replica.make(place / "replica", sealed=sealed)
    path = replica.directory / sums
    path.write_bytes(bytes(path.stat().st_size))
    flip(replica.directory / DATA, 6 * BLOCK_BYTES)
    assert replica.look() == "corrupt block"
