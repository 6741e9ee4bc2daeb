"""A directory whose hard state is torn, empty, another's or unreadable is a lost voter, says why, and harms nobody."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from services.replica.brain import HardState, Record, Slot, Stamp, Voter
from services.replica.opening import LostVoter, open_voter
from services.replica.store import FileStore, FileStoreFactory, Format, WitnessStore

CLUSTER, BOOT = "test", "boot-1"
VOLUME, OTHER = "ab" * 16, "cd" * 16
LEASE_NS = 500_000_000
Damage = Callable[[Path], None]


def made(root: Path, volume: str = VOLUME, incarnation: str = "11" * 8, kind: str = "data") -> Path:
    """A founded voter's directory, closed."""
    path = root / volume
    store: FileStore | WitnessStore
    if kind == "witness":
        store = WitnessStore.create(path, Format(CLUSTER, volume, "v", incarnation, "witness", 0))
    else:
        store = FileStore.create(path, Format(CLUSTER, volume, "v", incarnation, "data", 256), BOOT)
    me = Voter("n1", incarnation, "witness" if kind == "witness" else "data")
    data = Voter("n2", "22" * 8)
    record = Record(volume, "v", 1 << 20, 1, (me, data), (data,))
    store.save_state(HardState(me, 3, data, Slot(Stamp(0, 3, 2), record), LEASE_NS).encode())
    store.close()
    return path


def opened(path: Path, node: str = "n1", lease_ns: int = LEASE_NS) -> HardState:
    found = open_voter(path, cluster=CLUSTER, node=node, boot_id=BOOT, lease_ns=lease_ns, factory=FileStoreFactory())
    found.store.close()
    return found.state


def refused(path: Path, node: str = "n1") -> str:
    with pytest.raises(LostVoter) as caught:
        opened(path, node)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["data", "witness"])
def test_a_sound_voter_comes_back_as_it_was(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path, kind=kind)
    state = opened(path)
    assert (state.epoch, state.voted_for, state.me.kind) == (3, Voter("n2", "22" * 8), kind)
    longer = opened(path, lease_ns=4 * LEASE_NS)
    assert longer.lease_max_ns == 4 * LEASE_NS
    assert opened(path).lease_max_ns == 4 * LEASE_NS, "durable before any promise of that length"


def test_made_and_never_founded_is_no_lost_voter(tmp_path: Path) -> None:
    path = tmp_path / VOLUME
    WitnessStore.create(path, Format(CLUSTER, VOLUME, "v", "11" * 8, "witness", 0)).close()
    state = opened(path)
    assert (state.epoch, state.slot, state.me) == (0, None, Voter("n1", "11" * 8, "witness"))


def torn(path: Path) -> None:
    raw = (path / "state").read_bytes()
    (path / "state").write_bytes(raw[: len(raw) // 2])


def empty(path: Path) -> None:
    (path / "state").write_bytes(b"")


def zeros(path: Path) -> None:
    (path / "state").write_bytes(bytes((path / "state").stat().st_size))


def noise(path: Path) -> None:
    (path / "state").write_bytes(random.Random(7).randbytes((path / "state").stat().st_size))


def gone(path: Path) -> None:
    (path / "state").unlink()


def a_directory(path: Path) -> None:
    (path / "state").unlink()
    (path / "state").mkdir()


@pytest.mark.parametrize("kind", ["data", "witness"])
@pytest.mark.parametrize("damage", [torn, empty, zeros, noise, gone, a_directory])
def test_a_hard_state_that_can_not_be_read_is_a_lost_voter(tmp_path: Path, damage: Damage, kind: str) -> None:
    path = made(tmp_path, kind=kind)
    damage(path)
    assert "state" in refused(path)


def save(path: Path, raw: bytes) -> None:
    store = FileStore.open(path, cluster=CLUSTER, boot_id=BOOT)
    store.save_state(raw)
    store.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: b"{}", "can't be read"),
        (lambda raw: b"\xff\xfe", "can't be read"),
        (lambda raw: raw.replace(b'"epoch":3,"voted', b'"epoch":-3,"voted'), "epoch -3"),
        (lambda raw: raw.replace(b'"epoch":3,"voted', b'"epoch":99999999,"voted'), "impossible"),
        (lambda raw: raw.replace(b'"epoch":3,"voted', b'"epoch":2,"voted'), "above the stored epoch"),
        (lambda raw: raw.replace(b'"version":2', b'"version":0'), "version 0"),
        (lambda raw: raw.replace(b'"size_bytes":1048576', b'"size_bytes":1'), "4096"),
        (lambda raw: raw.replace(b'"lease_max_ns"', b'"from_the_future":1,"lease_max_ns"'), "can't be read"),
        (lambda raw: raw.replace(VOLUME.encode(), OTHER.encode()), f"of volume {OTHER}"),
        (lambda raw: raw.replace(b'"n1"', b'"n3"'), "on node n3"),
        (lambda raw: raw.replace(b"11" * 8, b"33" * 8), "incarnation 3333"),
    ],
)
def test_a_hard_state_that_says_impossible_things_is_a_lost_voter(
    tmp_path: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    path = made(tmp_path)
    store = FileStore.open(path, cluster=CLUSTER, boot_id=BOOT)
    raw = store.load_state()
    store.close()
    assert raw is not None and change(raw) != raw
    save(path, change(raw))
    assert reason in refused(path)
    save(path, raw)
    assert opened(path).epoch == 3, "nothing was left open or locked, and nothing was changed"


def test_another_volumes_directory_under_this_name_is_a_lost_voter(tmp_path: Path) -> None:
    made(tmp_path, OTHER).rename(tmp_path / VOLUME)
    assert OTHER in refused(tmp_path / VOLUME)


def test_another_volumes_state_file_is_a_lost_voter(tmp_path: Path) -> None:
    path, other = made(tmp_path), made(tmp_path, OTHER)
    shutil.copy(other / "state", path / "state")
    assert OTHER in refused(path)


def test_the_directory_of_another_node_is_a_lost_voter(tmp_path: Path) -> None:
    assert "on node n1" in refused(made(tmp_path), node="n9")
