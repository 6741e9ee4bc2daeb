"""The tail after a kill: what was appended is known, or it is known that it is not."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.replica.store import FileStore, Format
from services.replica.store.port import FormatError
from services.replica.store.tail import ENTRIES, FILE_BYTES, HEADER_BYTES, Tail

ENTRY_BYTES = 40


class TailFile:
    """A ring in a file; `reopen` is what the next process of the same boot does."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(Tail.image())
        self.path = path
        self.fd = os.open(path, os.O_RDWR)
        self.tail = Tail(self.fd, str(path))
        self.tail.load("boot-1", closed=(0, 0))
        self.tail.adopt("boot-1")

    def reopen(self, boot_id: str = "boot-1", closed: tuple[int, int] | None = None) -> bool:
        self.tail.close()
        self.tail = Tail(self.fd, str(self.path))
        return self.tail.load(boot_id, closed=closed)

    def patch(self, offset: int, data: bytes) -> None:
        os.pwrite(self.fd, data, offset)

    def patch_entry(self, number: int, data: bytes, at: int = 0) -> None:
        self.patch(HEADER_BYTES + number % ENTRIES * ENTRY_BYTES + at, data)


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[TailFile]:
    file = TailFile(tmp_path / "tail")
    yield file
    file.tail.close()
    os.close(file.fd)


def append(ring: TailFile, *seqs: int) -> None:
    for seq in seqs:
        ring.tail.append(seq, seq * 10, 2)


def test_entries_above_the_commit_point(ring: TailFile) -> None:
    append(ring, 1, 2, 3)
    ring.tail.commit(2)
    assert ring.tail.entries() == [(3, 30, 2)]
    assert ring.tail.state() == (3, 2)
    assert ring.reopen()
    assert ring.tail.entries() == [(3, 30, 2)]
    assert ring.tail.state() == (3, 2)


def test_the_commit_point_never_goes_back(ring: TailFile) -> None:
    append(ring, 5)
    ring.tail.commit(5)
    ring.tail.commit(3)
    assert ring.tail.state() == (5, 5)


def test_sequence_numbers_are_64_bits(ring: TailFile) -> None:
    last = (1 << 64) - 1
    ring.tail.append(last, (1 << 34) - 1, 1)
    ring.tail.commit(last - 1)
    assert ring.reopen()
    assert ring.tail.entries() == [(last, (1 << 34) - 1, 1)]
    assert ring.tail.state() == (last, last - 1)


def test_entries_come_by_seq_even_when_appended_out_of_order(ring: TailFile) -> None:
    append(ring, 4, 2, 3)
    assert ring.tail.entries() == [(2, 20, 2), (3, 30, 2), (4, 40, 2)]
    ring.tail.commit(3)
    assert ring.tail.entries() == [(4, 40, 2)]


def test_the_ring_wraps(ring: TailFile) -> None:
    for seq in range(1, 3 * ENTRIES):
        append(ring, seq)
        ring.tail.commit(seq - 1)
    assert ring.reopen()
    assert ring.tail.entries() == [(3 * ENTRIES - 1, (3 * ENTRIES - 1) * 10, 2)]


def test_overflow_is_known_and_ends_with_the_commit_point(ring: TailFile) -> None:
    append(ring, *range(1, ENTRIES + 3))
    assert ring.tail.entries() is None
    assert ring.reopen()
    assert ring.tail.entries() is None
    ring.tail.commit(2)
    entries = ring.tail.entries()
    assert entries is not None
    assert len(entries) == ENTRIES
    assert entries[0][0] == 3


@pytest.mark.parametrize("after", [3, ENTRIES + 5])
def test_a_torn_last_entry_is_dropped_because_its_write_had_not_begun(ring: TailFile, after: int) -> None:
    for seq in range(1, after + 1):
        append(ring, seq)
        ring.tail.commit(seq - 2)
    ring.patch_entry(after, b"\xff" * 8, at=16)
    assert ring.reopen()
    assert ring.tail.entries() == [(after - 1, (after - 1) * 10, 2)]
    append(ring, after)
    assert ring.reopen()
    assert ring.tail.entries() == [(after - 1, (after - 1) * 10, 2), (after, after * 10, 2)]


def test_a_torn_entry_elsewhere_makes_the_ring_unreadable(ring: TailFile) -> None:
    append(ring, 1, 2, 3)
    ring.patch_entry(2, b"\xff")
    assert not ring.reopen()


def test_a_missing_entry_makes_the_ring_unreadable(ring: TailFile) -> None:
    append(ring, 1, 2, 3)
    ring.patch_entry(2, bytes(ENTRY_BYTES))
    assert not ring.reopen()


def test_a_torn_commit_point_makes_the_ring_unreadable(ring: TailFile) -> None:
    append(ring, 1)
    ring.patch(32, b"\x09")
    assert not ring.reopen()
    assert ring.tail.state()[1] == 0


def test_another_boot_trusts_only_what_was_closed_cleanly(ring: TailFile) -> None:
    append(ring, 1, 2)
    ring.tail.commit(1)
    assert not ring.reopen("boot-2")
    assert ring.reopen("boot-2", closed=(2, 1))
    assert not ring.reopen("boot-2", closed=(3, 1))


def test_a_restarted_ring_is_empty_and_remembers_the_numbers(ring: TailFile) -> None:
    append(ring, 1, 2)
    ring.tail.commit(1)
    ring.reopen("boot-2")
    ring.tail.restart("boot-2", doubt=True)
    assert ring.tail.entries() is None
    assert ring.tail.state() == (2, 1)
    assert ring.reopen("boot-2")
    assert ring.tail.entries() is None
    ring.tail.doubt(False)
    assert ring.tail.entries() == []
    append(ring, 3)
    assert ring.reopen("boot-2")
    assert ring.tail.entries() == [(3, 30, 2)]
    assert ring.tail.state() == (3, 1)


def test_a_foreign_file_is_no_tail(tmp_path: Path) -> None:
    path = tmp_path / "tail"
    path.write_bytes(bytes(FILE_BYTES))
    with path.open("r+b") as file, pytest.raises(FormatError, match="does not begin as a tail"):
        Tail(file.fileno(), str(path))


CHILD = """
import sys
from pathlib import Path
from services.replica.store import FileStore, block_sums
store = FileStore.open(Path(sys.argv[1]), cluster="c", boot_id="boot-1")
store.mark(range(3))
seq = 0
while True:
    seq += 1
    block = seq * 7 % 2400
    data = seq.to_bytes(8, "little") * 512 * 3
    store.tail_append(seq, block, 3)
    store.write(block, block_sums(data), data)
    store.tail_commit(seq - 100)
    if seq % 50 == 0:
        print(seq, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 37, 90])
def test_after_kill_9_the_tail_names_the_latest_writes_and_every_block_is_readable(tmp_path: Path, lines: int) -> None:
    directory = tmp_path / "replica"
    FileStore.create(directory, Format("c", "a" * 32, "v", "b" * 16, "data", 2500), "boot-1").close()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    for _ in range(lines):
        seen = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()

    store = FileStore.open(directory, cluster="c", boot_id="boot-1")
    assert store.restarted
    assert not store.unclean
    last, commit = store.tail_state()
    assert last >= seen
    assert last - 101 <= commit <= last - 99 or last < 100
    entries = store.tail_entries()
    assert entries is not None
    assert [seq for seq, _, _ in entries] == list(range(commit + 1, last + 1))
    assert all(entry == (entry[0], entry[0] * 7 % 2400, 3) for entry in entries)
    for block in range(0, 2500, 100):
        store.read(block, 100)
    latest = {at: seq for seq in range(1, last) for at in range(seq * 7 % 2400, seq * 7 % 2400 + 3)}
    under_way = range(last * 7 % 2400, last * 7 % 2400 + 3)
    for at, seq in latest.items():
        if at not in under_way:
            assert store.read(at, 1)[1][:8] == seq.to_bytes(8, "little")
    store.close()
