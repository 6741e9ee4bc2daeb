"""The failover benchmark's own judgement: its figures, and that its application notices a lost write."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks.failover import figures
from benchmarks.failover.workload import Workload
from stoscore.units import BLOCK_BYTES

BLOCKS = 512


class Disk:
    """An NBD connection to a disk in memory that can forget writes or refuse them."""

    def __init__(self, content: bytearray):
        self.size = BLOCKS * BLOCK_BYTES
        self.content = content
        self.forgets = False
        self.refuses = False

    async def write(self, offset: int, data: bytes) -> None:
        await asyncio.sleep(0)
        if self.refuses:
            raise OSError(5, "refused")
        if not self.forgets:
            self.content[offset : offset + len(data)] = data

    async def read(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    async def flush(self) -> None:
        pass


def _workload() -> tuple[Workload, Disk]:
    content = bytearray(BLOCKS * BLOCK_BYTES)
    writer, reader = Disk(content), Disk(content)
    return Workload(writer, reader), writer  # type: ignore[arg-type]


async def _some_writes(load: Workload) -> None:
    load.start()
    await load.more(300)
    await load.stop()


async def test_an_honest_disk_is_believed() -> None:
    load, _ = _workload()
    await _some_writes(load)
    assert await load.wrong_blocks() == []
    assert load.reader.reads > 0
    assert load.io_errors == 0


async def test_a_lost_write_is_noticed() -> None:
    load, disk = _workload()
    disk.forgets = True
    await _some_writes(load)
    assert await load.wrong_blocks()


async def test_an_invented_write_is_noticed() -> None:
    load, disk = _workload()
    await _some_writes(load)
    untouched = next(block for block in range(BLOCKS) if block not in load.recorder.history.blocks)
    disk.content[untouched * BLOCK_BYTES] = 1
    assert await load.wrong_blocks() == [f"block {untouched} at the end"]


async def test_a_refused_write_may_be_there_or_not() -> None:
    load, disk = _workload()
    disk.refuses = True
    load.recorder.resume()
    while load.io_errors < 5:
        await asyncio.sleep(0.01)
    disk.refuses = False
    await load.stop()
    assert await load.wrong_blocks() == []


def test_figures_of_a_run() -> None:
    gaps = {"kill": [500.0] * 98 + [900.0, 1600.0], "handover": [20.0, 40.0], "pause": [700.0], "cut": []}
    found = figures.summary(gaps, lost_writes=0, io_errors=0, writes=10, reads=5)
    assert (found["kills"], found["gap_ms_median"], found["gap_ms_p99"], found["gap_ms_max"]) == (100, 500, 900, 1600)
    assert (found["handover_ms_median"], found["handover_ms_max"]) == (30, 40)
    assert found["pause_gap_ms_max"] == 700
    assert "cut_gap_ms_max" not in found
    assert not figures.held(found)
    assert figures.held(found | {"gap_ms_max": 1400.0})
    assert not figures.held(found | {"gap_ms_max": 1400.0, "lost_writes": 1})
    assert "NOT held" in figures.table(found)


@pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.99, 4), (0.25, 1), (1.0, 4)])
def test_percentile_is_one_of_the_values(share: float, value: float) -> None:
    assert figures.percentile([3, 1, 4, 2], share) == value


def test_every_single_gap_is_kept(tmp_path: Path) -> None:
    figures.save(tmp_path, {"kills": 2}, {"kill": [1.0, 2.5], "pause": []})
    assert (tmp_path / "failover.csv").read_text().splitlines() == ["fault,round,gap_ms", "kill,1,1.0", "kill,2,2.5"]
    saved = json.loads((tmp_path / "failover.json").read_text())
    assert saved["kills"] == 2
    assert saved["machine"]["cores"] > 0
