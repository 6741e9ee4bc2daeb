"""A node's link to itself: as any link, but nothing leaves the process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from services.replica.peers import Link, Type, network, pack
from services.replica.peers import link as link_module
from stoscore.units import MIB
from tests.support.ca import TestAuthority
from tests.support.peers import Make, PeerNode, peer_nodes, until

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with peer_nodes(TestAuthority(), tmp_path) as start:
        yield start


async def itself(make: Make) -> PeerNode:
    n1: PeerNode = await make("n1")
    n1.network.dial("n1", n1.address)
    n1.network.dial("n1", n1.address)
    await until(lambda: len(n1.handler.events) == 2)
    return n1


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_it_carries_both_ways_without_a_socket(make: Make) -> None:
    n1: PeerNode = await make("n1")
    before = descriptors()
    n1.network.dial("n1", n1.address)
    await until(lambda: len(n1.handler.events) == 2)
    assert sorted(n1.handler.events) == ["up from n1", "up to n1"]
    assert n1.network.connected("n1")
    assert n1.network.send("n1", pack(Type.WRITE, id=7, length=5), b"hello")
    await until(lambda: len(n1.handler.seen) == 2)
    assert n1.handler.seen == [("n1", Type.WRITE, 7, b"hello"), ("n1", Type.ACK, 7, b"")]
    assert descriptors() == before
    assert n1.handler.links["to n1"].wire_bytes() == (0, 0)


async def test_parts_of_every_size_may_be_reused_at_once_and_arrive_in_order(make: Make) -> None:
    n1 = await itself(make)
    sizes = [1, 4096, link_module.DIRECT_BYTES - 1, link_module.DIRECT_BYTES, 200_000, 3 * MIB, 4096, 0] * 3
    expected = []
    for number, size in enumerate(sizes):
        body = bytearray(os.urandom(size))
        expected.append(("n1", int(Type.IO_DATA), number, bytes(body)))
        assert n1.network.send("n1", pack(Type.IO_DATA, id=number, length=size), memoryview(body))
        body[:] = bytes(size)
    await until(lambda: len(n1.handler.seen) == len(sizes))
    assert n1.handler.seen == expected


async def test_a_reader_that_is_slower_holds_the_writer_back_and_lets_it_go(make: Make) -> None:
    n1 = await itself(make)
    link, moments = n1.handler.links["to n1"], []

    def writable(link: Link) -> None:
        moments.append(link.pending_bytes)

    link.on_writable = writable
    count = 3 * link_module.WRITABLE_BYTES // MIB
    for number in range(count):
        link.send(pack(Type.IO_DATA, id=number, length=MIB), bytes(MIB))
    assert not link.writable and link.pending_bytes > link_module.WRITABLE_BYTES
    await until(lambda: len(n1.handler.seen) == count)
    assert link.writable
    assert moments and moments[0] <= link_module.WRITABLE_BYTES // 4


async def test_what_was_sent_before_the_end_arrives(make: Make) -> None:
    n1 = await itself(make)
    link = n1.handler.links["to n1"]
    for number in range(100):
        link.send(pack(Type.WRITE, id=number, length=4096), bytes(4096))
    link.flush()
    await asyncio.sleep(0)
    link.finish("it is over")
    await until(lambda: len(n1.handler.events) >= 4)
    assert n1.handler.ids(Type.WRITE) == list(range(100))


async def test_an_impossible_frame_ends_both_ends_and_it_is_made_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "AGAIN_S", 0.01)
    n1 = await itself(make)
    n1.handler.links["to n1"].send(bytes(88))
    await until(lambda: len(n1.handler.events) >= 6)
    ups = [*2 * ["up from n1"], *2 * ["up to n1"]]
    assert sorted(n1.handler.events) == ["down from n1", "down to n1", *ups]
    n1.network.send("n1", pack(Type.WRITE, id=7))
    await until(lambda: len(n1.handler.seen) == 2)


async def test_hung_up_it_stays_down(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "AGAIN_S", 0.01)
    n1 = await itself(make)
    n1.network.hang_up("n1")
    await until(lambda: len(n1.handler.events) == 4)
    await asyncio.sleep(0.05)
    assert not n1.network.connected("n1") and len(n1.handler.events) == 4
    n1.network.dial("n1", n1.address)
    await until(lambda: n1.network.connected("n1"))


async def test_whoever_comes_over_the_network_with_this_nodes_identity_is_turned_away(make: Make) -> None:
    """It has stolen it, and would push out the node's own link (W5)."""
    n1 = await itself(make)
    thief: PeerNode = await make("n1", identity=n1.identity)
    thief.network._node = "elsewhere"  # it does dial
    thief.network.dial("n1", n1.address)
    await until(lambda: n1.network.strangers["identity"])
    assert "this node's own identity" in n1.audit.told[-1].reason
    assert n1.network.connected("n1") and len(n1.handler.events) == 2
