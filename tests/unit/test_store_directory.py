"""Bad directories: one clear sentence each, nothing half made, nothing touched."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.replica.store import (
    FileStore,
    FileStoreFactory,
    Format,
    FormatError,
    StoreError,
    WitnessStore,
    block_sums,
    clear_leftovers,
    read_format,
    remove,
)
from stoscore.units import BLOCK_BYTES

VOLUME, INCARNATION = "a" * 32, "b" * 16


def create(directory: Path, size_blocks: int = 2000) -> FileStore:
    return FileStore.create(directory, Format("c", VOLUME, "data", INCARNATION, "data", size_blocks), "boot")


@pytest.fixture
def replica(tmp_path: Path) -> Path:
    create(tmp_path / "replica").close()
    return tmp_path / "replica"


def reopen(directory: Path, cluster: str = "c", volume: str | None = None) -> None:
    FileStore.open(directory, cluster=cluster, boot_id="boot", volume=volume).close()


def rewrite(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "format.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def test_the_identity_is_kept(replica: Path) -> None:
    assert read_format(replica) == Format("c", VOLUME, "data", INCARNATION, "data", 2000)


def test_another_cluster(replica: Path) -> None:
    with pytest.raises(FormatError, match="belongs to cluster 'c' and this is cluster 'd'"):
        reopen(replica, cluster="d")


def test_another_volume(replica: Path) -> None:
    reopen(replica, volume=VOLUME)
    with pytest.raises(FormatError, match=f"holds volume {VOLUME}, not {'c' * 32}"):
        reopen(replica, volume="c" * 32)


def test_a_newer_format_is_named_whatever_else_it_has(replica: Path) -> None:
    rewrite(replica, lambda fields: fields.update(format=3, encryption="aes"))
    with pytest.raises(FormatError, match="format 3 and this program knows up to 2: update stos"):
        reopen(replica)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda fields: fields.update(size_blocks=4000), "checksum does not match"),
        (lambda fields: fields.update(format="1"), "names no format version"),
        (lambda fields: fields.update(format=True), "names no format version"),
        (lambda fields: fields.update(colour="red"), "other fields"),
        (lambda fields: fields.pop("cluster"), "other fields"),
        (lambda fields: fields.update(size_blocks="2000"), "other fields"),
    ],
)
def test_a_damaged_format(replica: Path, change: Callable[[dict[str, Any]], None], reason: str) -> None:
    rewrite(replica, change)
    with pytest.raises(FormatError, match=reason):
        reopen(replica)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"7"])
def test_a_torn_format(replica: Path, content: bytes) -> None:
    (replica / "format.json").write_bytes(content)
    with pytest.raises(FormatError, match="is damaged"):
        reopen(replica)


@pytest.mark.parametrize("name", ["state", "intent", "tail", "layers/0001/data", "layers/0001/sums"])
def test_a_missing_or_short_file(replica: Path, name: str) -> None:
    path = replica / name
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(FormatError, match=f"{path} has .* it is torn"):
        reopen(replica)
    path.unlink()
    with pytest.raises(FormatError, match=f"{path} is missing"):
        reopen(replica)


def test_an_unreadable_state_is_no_fresh_voter(replica: Path) -> None:
    (replica / "state").write_bytes(bytes((replica / "state").stat().st_size))
    with pytest.raises(FormatError, match="state is unreadable"):
        reopen(replica)


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_no_replica_at_all(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x"
    if what == "empty":
        path.mkdir()
    if what == "file":
        path.write_text("hello")
    with pytest.raises(FormatError, match="is no replica directory"):
        reopen(path)


def test_a_second_opener_is_refused_and_the_first_goes_on(replica: Path) -> None:
    store = FileStore.open(replica, cluster="c", boot_id="boot")
    with pytest.raises(StoreError, match="in use by another process"):
        reopen(replica)
    assert store.read(0, 1)[1] == bytes(BLOCK_BYTES)
    store.close()
    reopen(replica)


def _target(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:  # the one by which the directory is listed
        return ""


def test_a_failed_opening_keeps_no_lock_and_no_descriptor(replica: Path) -> None:
    good = (replica / "tail").read_bytes()
    (replica / "tail").write_bytes(bytes(len(good)))
    with pytest.raises(FormatError):
        reopen(replica)
    assert not [path for path in Path("/proc/self/fd").iterdir() if _target(path).startswith(str(replica))]
    (replica / "tail").write_bytes(good)
    reopen(replica)


def test_an_existing_directory_is_not_overwritten(replica: Path) -> None:
    with pytest.raises(StoreError, match="exists already"):
        create(replica)
    reopen(replica)


def test_what_a_crash_left_half_made_is_no_replica_and_in_nobodys_way(tmp_path: Path) -> None:
    making = tmp_path / ".replica.making"
    making.mkdir()
    (making / "format.json").write_text("{}")
    create(tmp_path / "replica").close()
    assert os.listdir(tmp_path) == ["replica"]


def test_a_parent_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"could not create .*: not a directory"):
        create(tmp_path / "file" / "replica")


@pytest.mark.parametrize("identity", [{"volume": "x"}, {"incarnation": "1"}, {"size_blocks": 0}])
def test_impossible_identities(identity: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"volume": VOLUME, "incarnation": INCARNATION, "size_blocks": 10} | identity
    with pytest.raises(ValueError, match=r"identity|can't have"):
        Format(cluster="c", name="n", kind="data", **fields)


def test_removal_is_idempotent_and_leaves_nothing(replica: Path) -> None:
    FileStoreFactory().remove(replica)
    remove(replica)
    assert os.listdir(replica.parent) == []


def test_a_removal_that_was_cut_short_is_finished(replica: Path) -> None:
    shutil.copytree(replica, replica.with_name(".replica.removing"))
    remove(replica)
    assert os.listdir(replica.parent) == []


def test_what_a_killed_process_was_making_or_removing_is_cleared_and_the_rest_stays(replica: Path) -> None:
    shutil.copytree(replica, replica.with_name(".gone.removing"))
    shutil.copytree(replica, replica.with_name(".half.making"))
    clear_leftovers(replica.parent)
    assert os.listdir(replica.parent) == [replica.name]


def test_a_witness_keeps_its_state_and_nothing_else(tmp_path: Path) -> None:
    directory = tmp_path / "witness"
    witness = WitnessStore.create(directory, Format("c", VOLUME, "data", INCARNATION, "witness", 0))
    assert sorted(os.listdir(directory)) == ["format.json", "state"]
    assert witness.load_state() is None
    witness.save_state(b"epoch 1")
    with pytest.raises(StoreError, match="in use"):
        WitnessStore.open(directory, cluster="c")
    witness.close()
    witness = WitnessStore.open(directory, cluster="c", volume=VOLUME)
    assert witness.load_state() == b"epoch 1"
    witness.close()
    with pytest.raises(FormatError, match="is a witness"):
        reopen(directory)


def test_a_data_replica_is_no_witness(replica: Path) -> None:
    with pytest.raises(FormatError, match="no witness"):
        WitnessStore.open(replica, cluster="c")


@pytest.fixture
def as_nobody(replica: Path) -> Iterator[Path]:
    """The replica, readable by everybody and writable by root, seen by another user."""
    for path in (replica, *replica.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for path in list(replica.parents)[:3]:
        path.chmod(0o755)
    os.seteuid(65534)
    yield replica
    os.seteuid(0)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_directory_that_is_not_writable(as_nobody: Path) -> None:
    with pytest.raises(StoreError) as caught:
        reopen(as_nobody)
    assert str(caught.value) == f"could not open {as_nobody}/state: permission denied"
    with pytest.raises(StoreError) as caught:
        create(as_nobody.with_name("new"))
    assert str(caught.value) == f"could not create {as_nobody.parent}/new: permission denied"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(path)], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount")
def test_no_space_when_a_replica_is_made(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(800 * 1024))
    with pytest.raises(StoreError, match=r"could not create .*: no space left on device"):
        create(small_disk / "replica")
    assert os.listdir(small_disk) == ["ballast"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount")
def test_a_disk_that_fills_up_fails_the_write_and_makes_unclean(small_disk: Path) -> None:
    store = create(small_disk / "replica")
    store.mark([0, 1])
    data = os.urandom(64 * BLOCK_BYTES)
    with pytest.raises(StoreError, match=r"could not write .*/data: no space left on device"):
        for at in range(0, 1000, 64):
            store.write(at, block_sums(data), data)
    assert store.unclean
    assert store.read(0, 64)[1] == data
    store.set_unclean()
    store.zero(0, 500)
    store.write(700, block_sums(data), data)
    store.sync()
    store.set_clean()
    store.close()
    reopen(small_disk / "replica")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount")
def test_a_read_only_file_system(small_disk: Path) -> None:
    create(small_disk / "replica").close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match=r"could not open .*/state: read-only file system"):
        reopen(small_disk / "replica")
