"""What was said once does not work a second time, nor in another order: on the wire, and to a brain."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from services.dev.nbd_client import NbdClient
from services.replica.clock import boot_time_ns
from services.replica.peers import Type, pack
from tests.support.ca import TestAuthority
from tests.support.peers import Make, peer_nodes, until
from tests.support.wired import Wired, WiredNode, wired

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")
Said = list[tuple[str, str, bytes]]


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with peer_nodes(TestAuthority(), tmp_path) as start:
        yield start


# ---- on the wire -----------------------------------------------------------------------------------------


class Middle:
    """Somebody between two nodes who has everything that travels and can send it again."""

    def __init__(self, port: int):
        self._port = port
        self.forth: list[bytes] = []
        """What the dialler sent on the latest connection, piece by piece."""
        self.meddle: str = ""
        self.connections = 0

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self._server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.forth = []
        onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.create_task(self._pump(onward_reader, writer))
        await self._pump(reader, onward, self.forth)
        back.cancel()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: list[bytes] | None = None
    ) -> None:
        try:
            while piece := await reader.read(65_536):
                if kept is not None:
                    kept.append(piece)
                    piece = self._meddled(piece, kept)
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    def _meddled(self, piece: bytes, kept: list[bytes]) -> bytes:
        meddle, self.meddle = self.meddle, ""
        if meddle == "double":
            return piece + piece
        if meddle == "older first":
            return kept[-2] + piece
        if meddle == "flip":
            return piece[:-1] + bytes([piece[-1] ^ 1])
        return piece


@pytest.mark.parametrize("meddle", ["double", "older first", "flip"])
async def test_what_is_replayed_reordered_or_changed_on_the_wire_ends_the_link(make: Make, meddle: str) -> None:
    """TLS numbers its records: a second copy does not fit. No frame is seen twice, and the nodes link again."""
    n1, n2 = await make("n1"), await make("n2")
    middle = Middle(n2.port)
    n1.network.dial("n2", await middle.start())
    await until(lambda: n1.network.connected("n2"))
    n1.network.send("n2", pack(Type.WRITE, id=1))
    await until(lambda: n1.handler.ids(Type.ACK) == [1])
    middle.meddle = meddle
    n1.network.send("n2", pack(Type.WRITE, id=2))
    await until(lambda: "down to n2" in n1.handler.events and n1.network.connected("n2"))
    assert n2.handler.ids(Type.WRITE) in ([1], [1, 2])
    assert middle.connections >= 2
    n1.network.send("n2", pack(Type.WRITE, id=3))
    await until(lambda: 3 in n1.handler.ids(Type.ACK))
    middle.stop()


async def test_a_recorded_connection_can_not_be_played_again(make: Make) -> None:
    """Handshake, greeting and frames of an honest node, byte for byte."""
    n1, n2 = await make("n1"), await make("n2")
    middle = Middle(n2.port)
    n1.network.dial("n2", await middle.start())
    await until(lambda: n1.network.connected("n2"))
    n1.network.send("n2", pack(Type.WRITE, id=1))
    await until(lambda: n1.handler.ids(Type.ACK) == [1])
    n1.network.hang_up("n2")
    await until(lambda: "down from n1" in n2.handler.events)
    _, writer = await asyncio.open_connection("127.0.0.1", n2.port)
    for piece in middle.forth:
        writer.write(piece)
        await asyncio.sleep(0.05)
    await until(lambda: n2.network.strangers.total() == 1)
    assert n2.handler.ids(Type.WRITE) == [1]
    assert n2.handler.events == ["up from n1", "down from n1"]
    writer.transport.abort()
    middle.stop()


# ---- to a brain ------------------------------------------------------------------------------------------


def _listen(node: WiredNode, said: Said) -> None:
    """Keeps what the node's brains are told."""
    heard = node.handlers.brain

    def brain(peer: str, volume: str, raw: bytes | memoryview, now_ns: int) -> None:
        said.append((peer, volume, bytes(raw)))
        heard(peer, volume, raw, now_ns)

    node.handlers.brain = brain  # type: ignore[method-assign]


async def _settled(cluster: Wired, volume: str, alive: list[WiredNode]) -> None:
    await until(lambda: len({node.of(volume).brain.state.slot for node in alive}) == 1, within_s=60)
    await until(lambda: all(not node.of(volume).pending for node in alive))


async def test_brain_messages_that_come_again_in_any_order_change_nothing(tmp_path: Path) -> None:
    """By the bus a message may come late, twice, or from somebody who kept it. Elections, attachments and a failover
    are played to every voter again, in many orders: no vote is given, no epoch rises, no record comes back, nobody
    loses its lead, and the volume goes on."""
    async with wired(tmp_path, "n1", "n2", "n3", "app") as cluster:
        volume_id = await cluster.volume("n1", "n2", "n3")
        said: dict[str, Said] = {name: [] for name in ("n1", "n2", "n3")}
        for name, heard in said.items():
            _listen(cluster.nodes[name], heard)
        for node in ("y", "app", "z", "app"):
            await cluster.attach(volume_id, node)
            await cluster.detach(volume_id)
        gone = cluster.leader(volume_id)
        await gone.stop()
        del cluster.nodes[gone.name]
        await until(lambda: cluster._serving(volume_id), within_s=60)
        opened = await cluster.open(volume_id, "app")
        client = await NbdClient.connect(opened.socket, "vol")
        await client.write(0, b"before" + bytes(4090))
        alive = [cluster.nodes[name] for name in said if name in cluster.nodes]
        await _settled(cluster, volume_id, alive)
        before = [(node.of(volume_id).brain.state, node.node.role(node.of(volume_id))) for node in alive]
        rng = random.Random(7)
        everything = [item for heard in said.values() for item in heard]
        assert len(everything) > 20
        for _ in range(5):
            for node in alive:
                again = list(everything)
                rng.shuffle(again)
                for peer, volume, raw in again:
                    if peer != node.name:
                        node.handlers.brain(peer, volume, raw, boot_time_ns())
                node.shell.settle()
                await asyncio.sleep(0.02)
        await _settled(cluster, volume_id, alive)
        assert [(n.of(volume_id).brain.state, n.node.role(n.of(volume_id))) for n in alive] == before
        assert (await client.read(0, 4096)).startswith(b"before")
        await client.write(4096, b"after" + bytes(4091))
        await client.close()
