"""The intent log: a mark is durable when `mark` returns, whatever `unmark` does meanwhile."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.replica.store.intent import CELL_BYTES, CELL_REGIONS, Header, IntentLog, file_bytes
from services.replica.store.port import FormatError, StoreError

REGIONS = CELL_REGIONS + 100


class LogFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(file_bytes(REGIONS)))
        self.fd = os.open(path, os.O_RDWR)
        self.log = IntentLog(self.fd, REGIONS, str(path))
        self.log.make("boot-1")

    def fresh(self) -> IntentLog:
        log = IntentLog(self.fd, REGIONS, str(self.path))
        log.open()
        return log


@pytest.fixture
def intent(tmp_path: Path) -> Iterator[LogFile]:
    file = LogFile(tmp_path / "intent")
    yield file
    os.close(file.fd)


def test_marks_are_on_disk_when_mark_returns(intent: LogFile) -> None:
    intent.log.mark([0, 7, CELL_REGIONS - 1, CELL_REGIONS, REGIONS - 1])
    assert intent.log.marked == {0, 7, CELL_REGIONS - 1, CELL_REGIONS, REGIONS - 1}
    assert intent.fresh().marked == intent.log.marked


def test_marking_what_is_marked_writes_nothing(intent: LogFile) -> None:
    intent.log.mark([3])
    before = intent.path.read_bytes()
    intent.log.mark([3])
    assert intent.path.read_bytes() == before


def test_unmark_reaches_the_disk_without_a_sync_and_without_touching_the_durable_slot(intent: LogFile) -> None:
    intent.log.mark([1, 2])
    intent.log.unmark([1])
    assert intent.fresh().marked == {2}
    raw = bytearray(intent.path.read_bytes())
    latest = max(
        (copy for copy in intent.fresh().copies()[4:8] if copy.sequence is not None),
        key=lambda copy: copy.sequence or 0,
    )
    at = CELL_BYTES + latest.slot * 8192
    raw[at : at + 8192] = b"\xaa" * 8192
    intent.path.write_bytes(raw)
    assert intent.fresh().marked == {1, 2}


def test_a_mark_survives_the_loss_of_every_page_that_unmarks_wrote_since(intent: LogFile) -> None:
    intent.log.mark([1, 2, 5, 6])
    durable = intent.path.read_bytes()
    for region in (1, 5, 6):
        intent.log.unmark([region])
        now = intent.path.read_bytes()
        pages = [slice(at, at + 4096) for at in range(0, len(now), 4096)]
        lost = b"".join(now[page] if now[page] == durable[page] else b"\xaa" * 4096 for page in pages)
        torn = intent.path.with_name("torn")
        torn.write_bytes(lost)
        with torn.open("r+b") as file:
            log = IntentLog(file.fileno(), REGIONS, "torn")
            log.open()
            assert log.marked == {1, 2, 5, 6}


def test_a_failed_mark_is_not_set(intent: LogFile) -> None:
    read_only = os.open(intent.path, os.O_RDONLY)
    try:
        log = IntentLog(read_only, REGIONS, str(intent.path))
        log.open()
        with pytest.raises(StoreError, match="could not write"):
            log.mark([4])
        assert log.marked == frozenset()
    finally:
        os.close(read_only)
    intent.log.mark([4])
    assert intent.fresh().marked == {4}


def test_the_header_round_trips(intent: LogFile) -> None:
    header = Header("boot-2", unclean=True, closed=True, tail_last=1 << 63, tail_commit=17)
    intent.log.save_header(header)
    assert intent.fresh().header == header


def test_an_unreadable_cell_is_an_error(intent: LogFile) -> None:
    raw = bytearray(intent.path.read_bytes())
    raw[CELL_BYTES : 2 * CELL_BYTES] = bytes(CELL_BYTES)
    intent.path.write_bytes(raw)
    with pytest.raises(FormatError, match="unreadable"):
        intent.fresh()


def test_marks_in_a_worker_and_unmarks_in_the_loop_end_in_the_same_set_on_disk(intent: LogFile) -> None:
    rounds = 60

    def work() -> None:
        for number in range(rounds):
            intent.log.mark([1000 + number])

    worker = threading.Thread(target=work)
    intent.log.mark(range(500))
    worker.start()
    for region in range(500):
        intent.log.unmark([region])
    worker.join()
    intent.log.mark([2000])
    assert intent.log.marked == {*range(1000, 1000 + rounds), 2000}
    assert intent.fresh().marked == intent.log.marked
