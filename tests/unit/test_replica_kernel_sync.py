"""Syncs by the kernel, told to the event loop when they are done; and those that the kernel does not take."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.replica.kernel_sync import UNDER_WAY_MAX, Files, KernelSync
from services.replica.lanes import Lane, Sync, Work
from services.replica.store import StoreError


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    found = [(os.open(tmp_path / name, os.O_RDWR | os.O_CREAT), name) for name in ("data", "sums", "roots")]
    yield found
    for fd, _ in found:
        os.close(fd)


@pytest.fixture
def pipe() -> Iterator[tuple[int, str]]:
    """Nothing that can be synced."""
    ends = os.pipe()
    yield ends[1], "pipe"
    for end in ends:
        os.close(end)


class Told:
    def __init__(self) -> None:
        self.failures: list[StoreError | None] = []
        self._all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __call__(self, failure: StoreError | None) -> None:
        self.failures.append(failure)
        if not self._all.done():
            self._all.set_result(None)

    async def first(self) -> StoreError | None:
        async with asyncio.timeout(30):
            await self._all
        return self.failures[0]


def opened() -> KernelSync:
    syncs = KernelSync.open(asyncio.get_running_loop())
    if syncs is None:
        pytest.skip("this kernel, or its limits, have no io_submit for us")
    return syncs


async def test_it_tells_once_and_not_before_it_has_returned(files: Files) -> None:
    syncs, told = opened(), Told()
    os.pwrite(files[0][0], b"x" * 4096, 0)
    assert syncs.sync(files, told)
    assert told.failures == []
    assert await told.first() is None
    assert syncs.sync([], told)
    assert len(told.failures) == 1
    await asyncio.sleep(0)
    assert told.failures == [None, None]
    syncs.close()
    syncs.close()


async def test_many_at_a_time(files: Files) -> None:
    syncs = opened()
    every = [Told() for _ in range(UNDER_WAY_MAX // len(files))]
    assert all(syncs.sync(files, told) for told in every)
    assert not syncs.sync(files, Told()), "beyond the limit it takes nothing"
    assert [await told.first() for told in every] == [None] * len(every)
    again = Told()
    assert syncs.sync(files, again)
    assert await again.first() is None
    syncs.close()


async def test_what_the_kernel_refuses_at_once_is_left_to_the_caller(files: Files, pipe: tuple[int, str]) -> None:
    syncs = opened()
    assert not syncs.sync([pipe, *files], Told())
    syncs.close()
    assert not syncs.sync(files, Told())


async def test_one_that_can_not_be_synced_fails_the_whole_flush(files: Files, pipe: tuple[int, str]) -> None:
    """The kernel takes the first two and not the third. Told as done, the flush would be a lie."""
    syncs, told = opened(), Told()
    assert syncs.sync([*files[:2], pipe], told)
    failure = await told.first()
    assert failure is not None
    assert "could not sync pipe" in str(failure)
    assert len(told.failures) == 1
    syncs.close()


@pytest.mark.parametrize("by_kernel", [True, False])
async def test_a_lane_keeps_its_order_whoever_syncs(files: Files, *, by_kernel: bool) -> None:
    syncs = opened() if by_kernel else None
    order: list[str] = []
    last = Told()
    with ThreadPoolExecutor(1) as pool:
        lane = Lane(asyncio.get_running_loop(), pool, syncs)

        def broken() -> Work:
            raise StoreError("refused")

        lane.run(lambda: lambda: order.append("first"), lambda failure: order.append(f"told first {failure}"))
        lane.run(lambda: Sync(files), lambda failure: order.append(f"told sync {failure}"))
        lane.run(broken, lambda failure: order.append(f"told broken {failure}"))
        lane.run(lambda: Sync(files), last)
        assert order == [] or order == ["first"]
        assert await last.first() is None
        await lane.idle()
    assert order == ["first", "told first None", "told sync None", "told broken refused"]
    if syncs is not None:
        syncs.close()


async def test_without_the_kernel_the_failure_comes_from_a_thread(pipe: tuple[int, str]) -> None:
    told = Told()
    with ThreadPoolExecutor(1) as pool:
        Lane(asyncio.get_running_loop(), pool).run(lambda: Sync([pipe]), told)
        failure = await told.first()
    assert failure is not None
    assert "could not sync pipe" in str(failure)
