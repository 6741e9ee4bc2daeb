"""Rot of a whole directory: a sample of the sweep, and the rot that leaves every byte valid somewhere else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.replica.store import layer
from services.replica.store.file_store import FileStore
from stoscore.units import BLOCK_BYTES
from tests.crash.rot import Replica, sweep
from tests.crash.run import IN_MEMORY

DATA = Path("layers/0001/data")
SUMS = Path("layers/0001/sums")


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
    patch.setattr(FileStore, "_rehash_under_pen", lambda store: store._layer.rehash(0, store.size_blocks))


@pytest.mark.parametrize("plant", [_nothing_is_verified, _the_data_are_always_right])
def test_a_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="wrong data"):
        sweep(place, one_in=23)


def test_two_blocks_are_swapped(place: Path) -> None:
    replica = Replica.make(place / "replica")
    with (replica.directory / DATA).open("r+b") as file:
        one, other = (os.pread(file.fileno(), BLOCK_BYTES, block * BLOCK_BYTES) for block in (0, 1))
        os.pwrite(file.fileno(), one, BLOCK_BYTES)
        os.pwrite(file.fileno(), other, 0)
    assert replica.look() == "corrupt block"


def test_an_old_block_is_restored(place: Path) -> None:
    """Its checksum was right once."""
    replica = Replica.make(place / "replica")
    old = Replica.make(place / "old")
    with (old.directory / DATA).open("rb") as before, (replica.directory / DATA).open("r+b") as file:
        os.pwrite(file.fileno(), os.pread(before.fileno(), BLOCK_BYTES, 5 * BLOCK_BYTES), 6 * BLOCK_BYTES)
    assert replica.look() == "corrupt block"


@pytest.mark.parametrize("name", ["format.json", "state", "intent", "tail", str(DATA), str(SUMS), "layers/0001/roots"])
def test_a_file_is_truncated(place: Path, name: str) -> None:
    replica = Replica.make(place / "replica")
    path = replica.directory / name
    os.truncate(path, path.stat().st_size // 2)
    assert replica.look() == "refused"


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("format.json", "refused"),
        ("state", "refused"),
        ("intent", "refused"),
        ("tail", "refused"),
        (str(DATA), "corrupt block"),
        (str(SUMS), "harmless"),
        ("layers/0001/roots", "harmless"),
    ],
)
def test_a_file_is_zeroed(place: Path, name: str, outcome: str) -> None:
    """Zeroed sums are proved wrong by the roots, and made again from the data."""
    replica = Replica.make(place / "replica")
    path = replica.directory / name
    path.write_bytes(bytes(path.stat().st_size))
    assert replica.look() == outcome
