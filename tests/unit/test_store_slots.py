"""Two slots of two copies: a torn write falls back, a flipped bit does not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.replica.store.port import FormatError, StoreError
from services.replica.store.slots import SlotPair, pair_bytes
from services.replica.store.state import COPY_BYTES, FILE_BYTES, STATE_BYTES_MAX, StateFile

SIZE = 4096


class SlotFile:
    """One pair in a real file; `fresh` reads it again as the next process would."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        path.write_bytes(bytes(offset + pair_bytes(SIZE)))
        self._file = path.open("r+b", buffering=0)
        self.pair = self.fresh()
        for value in (b"first", b"second"):
            self.save(value)

    def fresh(self) -> SlotPair:
        return SlotPair(self._file.fileno(), self.offset, SIZE, str(self.path))

    def save(self, value: bytes) -> None:
        self.pair.put(value)
        self.pair.settle()

    def damage(self, slot: int, copy: int, at: int = 33) -> None:
        with self.path.open("r+b") as file:
            file.seek(self.offset + (slot * 2 + copy) * SIZE + at)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 0x40]))

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def slots(tmp_path: Path) -> Iterator[SlotFile]:
    file = SlotFile(tmp_path / "slots", offset=4 * SIZE)
    yield file
    file.close()


def test_the_latest_value_is_read(slots: SlotFile) -> None:
    assert slots.fresh().load() == b"second"
    slots.save(b"third")
    assert slots.fresh().load() == b"third"


def test_a_torn_slot_falls_back_to_the_one_before(slots: SlotFile) -> None:
    slots.damage(1, 0)
    slots.damage(1, 1)
    assert slots.fresh().load() == b"first"


@pytest.mark.parametrize("copy", [0, 1])
@pytest.mark.parametrize("at", [0, 8, 16, 24, 33])
def test_one_rotten_copy_takes_nothing_back(slots: SlotFile, copy: int, at: int) -> None:
    slots.damage(1, copy, at)
    assert slots.fresh().load() == b"second"


def test_nothing_readable_is_an_error_and_never_an_empty_value(slots: SlotFile) -> None:
    for slot in (0, 1):
        for copy in (0, 1):
            slots.damage(slot, copy)
    with pytest.raises(FormatError, match="unreadable"):
        slots.fresh().load()


def test_a_value_that_was_not_settled_never_touches_the_durable_one(slots: SlotFile) -> None:
    for value in (b"third", b"fourth", b"fifth"):
        slots.pair.put(value)
    slots.damage(0, 0)
    slots.damage(0, 1)
    assert slots.fresh().load() == b"second"


def test_after_reading_the_next_value_goes_to_the_other_slot(slots: SlotFile) -> None:
    again = slots.fresh()
    again.load()
    again.put(b"third")
    slots.damage(0, 0)
    slots.damage(0, 1)
    assert slots.fresh().load() == b"second"


def test_a_copy_at_another_place_is_no_copy(slots: SlotFile) -> None:
    raw = slots.path.read_bytes()[slots.offset :]
    slots.path.write_bytes(raw.ljust(slots.offset + pair_bytes(SIZE), b"\0"))
    with slots.path.open("r+b") as file, pytest.raises(FormatError):
        SlotPair(file.fileno(), 0, SIZE, "moved").load()


def test_a_value_that_does_not_fit_is_refused(slots: SlotFile) -> None:
    with pytest.raises(StoreError, match="do not fit"):
        slots.pair.put(bytes(SIZE))
    assert slots.fresh().load() == b"second"


@pytest.fixture
def state_path(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.write_bytes(bytes(FILE_BYTES))
    with path.open("r+b") as file:
        StateFile(file.fileno(), str(path)).make()
    return path


def load_state(path: Path) -> bytes | None:
    with path.open("r+b") as file:
        state = StateFile(file.fileno(), str(path))
        state.open()
        return state.load()


def save_state(path: Path, value: bytes) -> None:
    with path.open("r+b") as file:
        state = StateFile(file.fileno(), str(path))
        state.open()
        state.save(value)


def test_no_state_differs_from_an_empty_and_from_an_unreadable_one(state_path: Path) -> None:
    assert load_state(state_path) is None
    save_state(state_path, b"")
    assert load_state(state_path) == b""
    state_path.write_bytes(bytes(FILE_BYTES))
    with pytest.raises(FormatError, match="unreadable"):
        load_state(state_path)


def test_a_first_state_that_was_torn_is_still_no_state(state_path: Path) -> None:
    save_state(state_path, b"vote for b in epoch 1")
    raw = bytearray(state_path.read_bytes())
    slot = raw.index(b"vote for b") // (2 * COPY_BYTES)
    raw[slot * 2 * COPY_BYTES : (slot + 1) * 2 * COPY_BYTES] = b"\xee" * (2 * COPY_BYTES)
    state_path.write_bytes(raw)
    assert load_state(state_path) is None


def test_the_largest_state_fits_and_one_more_byte_does_not(state_path: Path) -> None:
    save_state(state_path, b"x" * STATE_BYTES_MAX)
    assert load_state(state_path) == b"x" * STATE_BYTES_MAX
    with pytest.raises(StoreError):
        save_state(state_path, b"x" * (STATE_BYTES_MAX + 1))
