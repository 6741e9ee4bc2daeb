"""What is synced, and in which order, before a call that promises durability returns (rules K1, S3).

A forgotten sync shows in no other test: the page cache answers for the disk. So the kernel's calls are recorded
on their way."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.replica.store import FileStore, Format, StoreError, block_sums
from stoscore.units import BLOCK_BYTES

DATA = b"x" * BLOCK_BYTES


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """(call, name of the file) in order; the calls are made all the same."""
    found: list[tuple[str, str]] = []

    def record(name: str) -> None:
        real = getattr(os, name)

        def recorded(fd: int, *rest: object) -> object:
            found.append((name, Path(os.readlink(f"/proc/self/fd/{fd}")).name))
            return real(fd, *rest)

        monkeypatch.setattr(os, name, recorded)

    for name in ("fdatasync", "fsync", "pwrite"):
        record(name)
    yield found


def make(directory: Path) -> FileStore:
    return FileStore.create(directory, Format("c", "a" * 32, "v", "b" * 16, "data", 2000), "boot")


def synced(calls: list[tuple[str, str]]) -> list[str]:
    return [name for call, name in calls if call != "pwrite"]


def test_a_new_replica_is_durable_with_all_of_its_directories(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    make(tmp_path / "replica").close(clean=False)
    synced_paths = [name for call, name in calls if call == "fsync"]
    assert set(synced_paths) == {
        *("format.json", "state", "intent", "tail", "layers", "0001", "data", "sums", "roots"),
        *(".replica.making", tmp_path.name),
    }
    assert synced_paths[-1] == tmp_path.name, "the rename is made durable last"


def test_a_sync_writes_roots_and_syncs_all_three_files(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    store = make(tmp_path / "replica")
    store.mark([0])
    store.write(0, block_sums(DATA), DATA)
    calls.clear()
    store.sync()
    assert calls[0] == ("pwrite", "roots")
    assert sorted(synced(calls)) == ["data", "roots", "sums"]
    calls.clear()
    store.sync()
    assert calls == [], "nothing was written since"
    store.zero(0, 1)
    store.sync()
    assert sorted(synced(calls)) == ["data", "roots", "sums"]
    store.close(clean=False)


def test_a_flush_syncs_the_data_alone_and_leaves_the_rest_to_a_sync(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    """The checksums of marked regions are made from the data after a power loss, so nobody has to wait for them."""
    store = make(tmp_path / "replica")
    store.mark([0])
    store.write(0, block_sums(DATA), DATA)
    calls.clear()
    store.flush()
    assert calls == [("fdatasync", "data")]
    calls.clear()
    store.flush()
    assert calls == [], "nothing was written since"
    store.sync()
    assert sorted(synced(calls)) == ["data", "roots", "sums"], "a flush takes nothing away from what a sync does"
    calls.clear()
    store.flush()
    assert calls == [], "a sync is a flush as well"
    for write in (
        lambda: store.zero(0, 1),
        lambda: store.write_scattered([(3, 1), (9, 1)], block_sums(DATA * 2), DATA * 2),
        lambda: store.write_scattered([(3, 2), (9, 2)], block_sums(DATA * 4), DATA * 4),
    ):
        write()
        calls.clear()
        store.flush()
        assert synced(calls) == ["data"]
    store.close(clean=False)


def test_a_flush_that_the_kernel_does_is_of_the_same_file(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    store = make(tmp_path / "replica")
    assert store.files_to_flush() == []
    store.mark([0])
    store.write(0, block_sums(DATA), DATA)
    calls.clear()
    files = store.files_to_flush()
    assert files is not None
    assert [Path(os.readlink(f"/proc/self/fd/{fd}")).name for fd, _ in files] == ["data"]
    assert store.files_to_flush() == []
    assert calls == [], "that is left to who asked"
    store.write(0, block_sums(DATA), DATA)
    store.sync_failed("the disk is gone")
    assert store.unclean
    with pytest.raises(StoreError, match="the disk is gone"):
        store.files_to_flush()
    with pytest.raises(StoreError, match="the disk is gone"):
        store.flush()
    with pytest.raises(StoreError, match="the disk is gone"):
        store.sync()
    store.close(clean=False)


def test_the_map_of_present_blocks_follows_the_data_of_a_flush(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    store = make(tmp_path / "replica")
    store.mark([0])
    store.write(0, block_sums(DATA), DATA)
    store.seal("snapshot")
    assert store.files_to_flush() == []
    store.write(0, block_sums(DATA), DATA)
    assert store.files_to_flush() is None, "that is no work for an event loop"
    calls.clear()
    store.flush()
    assert calls == [("fdatasync", "data"), ("pwrite", "present"), ("pwrite", "present"), ("fdatasync", "present")]
    store.write(0, block_sums(DATA), DATA)
    assert store.files_to_flush(), "that block is in the map"
    store.close(clean=False)


def test_what_was_flushed_outlives_a_power_loss_that_took_its_checksums(tmp_path: Path) -> None:
    """The same with a layer below, whose block it was before: the map says where it is."""
    store = make(tmp_path / "replica")
    store.mark([0])
    old, new = DATA * 2, b"y" * BLOCK_BYTES * 2
    store.write(0, block_sums(old), old)
    store.seal("snapshot")
    sums = {path: path.read_bytes() for path in sorted((tmp_path / "replica/layers").glob("*/sums"))}
    store.write(0, block_sums(new), new)
    store.zero(1, 1)
    store.flush()
    store.close(clean=False)
    for path, kept_by_the_disk in sums.items():
        path.write_bytes(kept_by_the_disk)
    store = FileStore.open(tmp_path / "replica", cluster="c", boot_id="another")
    assert store.unclean
    found = new[:BLOCK_BYTES] + bytes(BLOCK_BYTES)
    assert store.read(0, 2) == (block_sums(found), found)
    store.close(clean=False)


def test_marks_and_state_are_written_then_synced(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    store = make(tmp_path / "replica")
    calls.clear()
    store.mark([0, 1])
    assert calls == [("pwrite", "intent"), ("pwrite", "intent"), ("fdatasync", "intent")]
    calls.clear()
    store.save_state(b"vote")
    assert calls == [("pwrite", "state"), ("pwrite", "state"), ("fdatasync", "state")]
    calls.clear()
    store.set_unclean()
    assert synced(calls) == ["intent"]
    calls.clear()
    store.unmark([0])
    assert calls == [("pwrite", "intent"), ("pwrite", "intent")]
    store.close(clean=False)


def test_unclean_is_durable_before_anything_else_is_written(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    store = make(tmp_path / "replica")
    store.mark([0])
    store.write(0, block_sums(DATA), DATA)
    store.close(clean=False)
    calls.clear()
    store = FileStore.open(tmp_path / "replica", cluster="c", boot_id="another")
    assert store.unclean
    first = calls.index(("pwrite", "intent"))
    assert [name for call, name in calls[:first] if call == "pwrite"] == []
    assert synced(calls[:first]) == ["state", "intent"], "what was read is durable before it is overwritten"
    assert calls[first : first + 3] == [
        ("pwrite", "intent"),
        ("pwrite", "intent"),
        ("fdatasync", "intent"),
    ]
    assert ("pwrite", "sums") in calls[first + 3 :]
    store.close(clean=False)


def test_the_clean_mark_comes_last(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    store = make(tmp_path / "replica")
    store.mark([0])
    store.tail_append(1, 0, 1)
    store.write(0, block_sums(DATA), DATA)
    store.tail_commit(1)
    calls.clear()
    store.close()
    assert sorted(synced(calls)[:3]) == ["data", "roots", "sums"]
    assert synced(calls)[3:] == ["tail", "intent"]


def test_scattered_writes_of_a_region_write_its_checksums_once_and_the_data_first(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    store = make(tmp_path / "replica")
    store.mark([0])
    calls.clear()
    store.write_scattered([(3, 1), (5, 2), (9, 1)], block_sums(DATA * 4), DATA * 4)
    assert calls == [("pwrite", "data")] * 3 + [("pwrite", "sums")]
    store.write_back()
    assert synced(calls) == [], "a hint is no promise"
    store.sync()
    assert sorted(synced(calls)) == ["data", "roots", "sums"]
    assert store.read(5, 2) == (block_sums(DATA * 2), DATA * 2)
    store.close(clean=False)


def test_writes_and_the_tail_never_wait_for_the_disk(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    store = make(tmp_path / "replica")
    store.mark([0])
    calls.clear()
    store.tail_append(1, 5, 1)
    store.write(5, block_sums(DATA), DATA)
    store.tail_commit(1)
    assert calls == [("pwrite", "data"), ("pwrite", "sums")]
    store.close(clean=False)
