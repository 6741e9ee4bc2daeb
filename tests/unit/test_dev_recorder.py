"""The recorder against a device in memory: depth, no two writes to one block, errors, pauses."""

from __future__ import annotations

import asyncio
import errno

import xxhash

from services.dev.demo.recorder import DEPTH, Recorder
from services.dev.demo.verify import Copy, not_as_written
from stoscore.units import BLOCK_BYTES

BLOCKS = 64


class MemoryDevice:
    """Answers after one turn of the loop; `fail` makes it refuse."""

    def __init__(self) -> None:
        self.blocks: dict[int, bytes] = {}
        self.in_flight: set[int] = set()
        self.deepest = 0
        self.flushes = 0
        self.fail: OSError | None = None

    async def write(self, offset: int, data: bytes) -> None:
        block = offset // BLOCK_BYTES
        assert block not in self.in_flight
        self.in_flight.add(block)
        self.deepest = max(self.deepest, len(self.in_flight))
        await asyncio.sleep(0)
        self.in_flight.discard(block)
        if self.fail is not None:
            raise self.fail
        self.blocks[block] = data

    async def flush(self) -> None:
        self.flushes += 1

    def copy(self) -> Copy:
        sums = [xxhash.xxh3_64_intdigest(self.blocks[b]) if b in self.blocks else 0 for b in range(BLOCKS)]
        return Copy("memory", b"".join(value.to_bytes(8, "little") for value in sums))


async def written(device: MemoryDevice, recorder: Recorder, count: int) -> None:
    goal = recorder.history.completed + count
    while recorder.history.completed < goal:
        await asyncio.sleep(0)


async def test_what_was_recorded_is_what_is_there() -> None:
    device = MemoryDevice()
    recorder = Recorder(device, BLOCKS * BLOCK_BYTES)
    for _ in range(2):
        recorder.resume()
        await written(device, recorder, 500)
        await recorder.pause()
    assert device.deepest == DEPTH
    assert device.flushes == 2
    assert not device.in_flight
    allowed = recorder.history.allowed(recorder.pattern)
    assert not_as_written(device.copy(), allowed) == []
    assert recorder.gap.longest_ns > 0


async def test_a_lost_write_is_found() -> None:
    device = MemoryDevice()
    recorder = Recorder(device, BLOCKS * BLOCK_BYTES)
    recorder.resume()
    await written(device, recorder, 200)
    await recorder.pause()
    lost = min(device.blocks)
    del device.blocks[lost]
    assert not_as_written(device.copy(), recorder.history.allowed(recorder.pattern)) == [lost]


async def test_an_invented_write_is_found() -> None:
    device = MemoryDevice()
    recorder = Recorder(device, BLOCKS * BLOCK_BYTES)
    device.blocks[9] = b"x" * BLOCK_BYTES
    assert not_as_written(device.copy(), recorder.history.allowed(recorder.pattern)) == [9]


async def test_errors_are_counted_and_leave_the_block_in_doubt() -> None:
    device = MemoryDevice()
    recorder = Recorder(device, BLOCKS * BLOCK_BYTES)
    device.fail = OSError(errno.EIO, "no")
    recorder.resume()
    while recorder.history.errors < DEPTH:
        await asyncio.sleep(0.01)
    await recorder.pause()
    assert recorder.history.completed == 0
    assert not_as_written(device.copy(), recorder.history.allowed(recorder.pattern)) == []


async def test_a_lost_connection_ends_the_writers_without_a_loop() -> None:
    device = MemoryDevice()
    recorder = Recorder(device, BLOCKS * BLOCK_BYTES)
    device.fail = ConnectionResetError("gone")
    recorder.resume()
    await asyncio.wait_for(recorder.pause(), 5)
    assert recorder.history.errors == DEPTH
