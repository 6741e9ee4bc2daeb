"""One operation per volume, and no operation is cut off."""

from __future__ import annotations

import asyncio

import pytest

from services.csi.pending import Pending
from stoscore.errors import Code, StosError


async def test_a_second_operation_on_the_same_volume_is_aborted() -> None:
    pending, gate = Pending(), asyncio.Event()
    first = asyncio.create_task(pending.run("v", gate.wait))
    await asyncio.sleep(0)
    with pytest.raises(StosError) as caught:
        await pending.run("v", gate.wait)
    assert caught.value.code is Code.ABORTED
    gate.set()
    assert await first is True


async def test_other_volumes_go_on() -> None:
    pending, gate = Pending(), asyncio.Event()
    first = asyncio.create_task(pending.run("v", gate.wait))
    await asyncio.sleep(0)

    async def quick() -> int:
        return 7

    assert await pending.run("w", quick) == 7
    gate.set()
    await first


async def test_a_caller_that_leaves_cuts_nothing_off() -> None:
    pending, gate, done = Pending(), asyncio.Event(), []

    async def work() -> None:
        await gate.wait()
        done.append(True)

    caller = asyncio.create_task(pending.run("v", work))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    with pytest.raises(StosError):
        await pending.run("v", work)
    assert not await pending.settle(0.01)
    gate.set()
    assert await pending.settle(1.0)
    assert done == [True]
    await pending.run("v", work)


async def test_a_failure_frees_the_volume() -> None:
    pending = Pending()

    async def fail() -> None:
        raise StosError(Code.UNAVAILABLE, "no")

    for _ in range(2):
        with pytest.raises(StosError) as caught:
            await pending.run("v", fail)
        assert caught.value.code is Code.UNAVAILABLE
    assert await pending.settle(0)
