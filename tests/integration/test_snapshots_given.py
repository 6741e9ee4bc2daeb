"""A copy that was not there when snapshots were taken is given them while it catches up, with writes going on. Whole
nodes with real stores, links and NBD."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import uvloop

from services.dev.nbd_client import NbdClient
from services.replica.brain import Record, Snapshot
from services.replica.brain import events as ev
from services.replica.store import FileStore
from tests.support.moments import BLOCKS, DEPTH, WITHIN_S, Load, check_moment
from tests.support.peers import until
from tests.support.wired import SIZE, Wired, wired

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")
NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


async def volume_of_three(wires: Wired, late: str) -> str:
    """Its third copy is empty, and nobody can reach it."""
    volume, names = "5" * 32, ("n1", "n2", late)
    members = tuple([await wires.nodes[name].create(volume) for name in names])
    record = Record(volume, "vol", SIZE, 2, members, members[:2])
    for name in names[:2]:
        wires.nodes[name].found(record)
    await until(lambda: bool(wires._serving(volume)), within_s=60)
    return volume


def snapshots(wires: Wired, volume: str) -> tuple[Snapshot, ...]:
    return wires.record(volume).snapshots


def held(wires: Wired, node: str, volume: str, snapshot: Snapshot) -> bytes:
    store = wires.nodes[node].shell.hosted[volume].blocks
    assert isinstance(store, FileStore)
    return bytes(store.snapshots[snapshot.layer].read(0, BLOCKS)[1])


async def test_a_new_copy_gets_what_it_lacks_and_one_that_is_dropped_meanwhile_is_not_waited_for(
    tmp_path: Path,
) -> None:
    async with wired(tmp_path, "n1", "n2", "n3", "app") as wires:
        address = wires.addresses.pop("n3")
        volume = await volume_of_three(wires, "n3")
        opened = await wires.open(volume, "app")
        async with await NbdClient.connect(opened.socket, "vol") as client:
            load = Load(client)
            task = asyncio.create_task(load.run())
            try:
                moments: dict[str, tuple[float, float]] = {}
                for name in NAMES:
                    await load.more(4 * DEPTH)
                    since_s = time.monotonic()
                    await wires.leader(volume).ask(volume, lambda number, name=name: ev.TakeAsked(number, name, 1))
                    moments[name] = since_s, time.monotonic()
                assert all(len(snapshot.holders) == 2 for snapshot in snapshots(wires, volume))

                wires.addresses["n3"] = address
                for node in ("n1", "n2"):
                    wires.nodes[node].dial()
                    wires.nodes["n3"].network.dial(node, wires.addresses[node])
                await wires.leader(volume).ask(volume, lambda number: ev.DropAsked(number, "two"))
                await until(lambda: len(wires.record(volume).in_sync) == 3, within_s=WITHIN_S)
                await until(lambda: all(len(s.holders) == 3 for s in snapshots(wires, volume)), within_s=WITHIN_S)
            finally:
                load.end()
                await asyncio.wait_for(task, WITHIN_S)
        assert [snapshot.name for snapshot in snapshots(wires, volume)] == ["one", "three"]
        for snapshot in snapshots(wires, volume):
            content = held(wires, "n3", volume, snapshot)
            assert content == held(wires, "n1", volume, snapshot) == held(wires, "n2", volume, snapshot)
            check_moment(load, content, *moments[snapshot.name])
        assert wires.nodes["n3"].content(volume, 0, BLOCKS) == wires.nodes["n1"].content(volume, 0, BLOCKS)
        assert await sealed_names(wires, volume) == {snapshot.layer for snapshot in snapshots(wires, volume)}


async def sealed_names(wires: Wired, volume: str) -> set[str]:
    """What the new copy has when it has let go of what nobody needs."""
    store = wires.nodes["n3"].shell.hosted[volume].blocks
    await until(lambda: len(store.sealed) == 2, within_s=WITHIN_S)
    return set(store.sealed)
