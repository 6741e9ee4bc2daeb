"""The cluster under test: the embedded one, a volume of 1 GiB that is full, three copies of it, and its application."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from services.dev.cluster import Cluster
from services.dev.demo.inspection import replica_directory
from services.dev.demo.tools import Command
from services.dev.demo.verify import Copy, differing_blocks, disagreements
from services.dev.demo.watch import Watch
from services.dev.layout import ADMIN, APP
from services.dev.nbd_client import NbdClient
from stoscore.bus import Bus
from stoscore.identity import Identity
from stoscore.messages import ReplicaStatus
from stoscore.units import BLOCK_BYTES, GIB, MIB

VOLUME = "delta"
COPIES = 3
_ASK_S = 0.05
"""A node that is about to start answers late, and the others' word is enough."""
_PATIENCE_S = 120.0
_DEPTH = 32
_FILL_BYTES = MIB


class Arena:
    """A volume with three copies, and the means to take one away and bring it back."""

    def __init__(self, cluster: Cluster, command: Command, watch: Watch, client: NbdClient, volume_id: str):
        self.cluster = cluster
        self.command = command
        self.watch = watch
        self.client = client
        self.nodes = cluster.state().nodes
        self._volume_id = volume_id
        self._choice = random.Random(1)

    @property
    def peer_ports(self) -> frozenset[int]:
        state = self.cluster.state()
        return frozenset(state.ports[node] for node in (*state.nodes, APP))

    def pid(self, node: str) -> int:
        return self.cluster.state().processes[node].pid

    def identity_dir(self, node: str) -> Path:
        return self.cluster.layout.identity(node)

    # ---- who serves, who is in sync ---------------------------------------------------------------------

    async def primary(self, nodes: Iterable[str] | None = None) -> ReplicaStatus:
        """Who serves, once it does."""
        seen = self.watch.seen
        await self.watch.until("a primary", lambda: seen[VOLUME].primary is not None, _PATIENCE_S, nodes=nodes)
        found = seen[VOLUME].primary
        assert found is not None
        return found

    async def settled(self) -> ReplicaStatus:
        """All copies in sync, and who leads them."""
        seen = self.watch.seen
        await self.watch.until("all copies in sync", lambda: len(seen[VOLUME].in_sync) == COPIES, _PATIENCE_S)
        return await self.primary()

    async def without(self, node: str) -> None:
        """The others go on, and the record says so."""
        others = [other for other in self.nodes if other != node]
        await self.watch.until(
            f"a record without {node}",
            lambda: bool(self.watch.seen[VOLUME].in_sync) and node not in self.watch.seen[VOLUME].in_sync,
            _PATIENCE_S,
            nodes=others,
        )

    def kill(self, node: str) -> None:
        self.cluster.kill(node, signal.SIGKILL)

    async def move_primary(self, node: str) -> None:
        """As an operator does it."""
        before = await self.primary()
        if before.node != node:
            await self.command.run("volume", "move-primary", VOLUME, "--to", node)
            seen = self.watch.seen
            await self.watch.until(
                f"{node} leads",
                lambda: (found := seen[VOLUME].primary) is not None and found.node == node,
                _PATIENCE_S,
            )

    # ---- writing ----------------------------------------------------------------------------------------

    async def fill(self) -> None:
        """Every block, with content that nothing can compress."""
        await self._write([(offset, _FILL_BYTES) for offset in range(0, self.client.size, _FILL_BYTES)], depth=4)

    async def scatter(self, blocks: int, run_blocks: int = 1) -> None:
        """That many blocks all over the volume, in runs of so many neighbours, none twice."""
        size = run_blocks * BLOCK_BYTES
        places = self._choice.sample(range(self.client.size // size), blocks // run_blocks)
        await self._write([(place * size, size) for place in places], depth=_DEPTH)

    async def _write(self, pieces: list[tuple[int, int]], depth: int) -> None:
        waiting = iter(pieces)

        async def write_on() -> None:
            for offset, size in waiting:
                await self.client.write(offset, os.urandom(size))

        await asyncio.gather(*(write_on() for _ in range(depth)))
        await self.client.flush()

    # ---- what is on the disks ---------------------------------------------------------------------------

    async def copies(self, nodes: Iterable[str]) -> list[Copy]:
        """Each block's checksum, computed from the data in the directories, by a process of its own."""
        return [await self._copy(node) for node in nodes]

    async def _copy(self, node: str) -> Copy:
        layout = self.cluster.layout
        out = layout.root / f"{node}.sums"
        directory = replica_directory(layout.data(node), self._volume_id)
        try:
            await self.command.run("store", "digest", str(directory), "--out", str(out))
            return Copy(node, out.read_bytes())
        finally:
            out.unlink(missing_ok=True)

    async def missing(self, node: str, other: str) -> int:
        """How many blocks differ on the two disks."""
        return len(differing_blocks(*await self.copies((node, other))))

    async def identical(self) -> bool:
        return not disagreements(await self.copies(self.nodes))


@asynccontextmanager
async def open_arena(directory: Path, size_bytes: int = GIB) -> AsyncIterator[Arena]:
    """Raises StosError when the cluster does not start. Everything is stopped and removed in the end."""
    cluster = Cluster(directory)
    state = await asyncio.to_thread(cluster.up)
    bus = client = None
    try:
        bus = await Bus.connect(
            Identity.load(cluster.layout.identity(ADMIN)), list(state.nats_urls), name="bench", wait=True
        )
        command = Command(directory)
        await command.json("volume", "create", VOLUME, "--size", str(size_bytes), "--replicas", str(COPIES - 1))
        opened = await command.json("volume", "connect", VOLUME, "--node", APP)
        shown = await command.json("volume", "show", VOLUME)
        client = await NbdClient.connect(opened["socket"], VOLUME)
        watch = Watch(bus, state.nodes, _ASK_S)
        watch.add(VOLUME, shown["volume"])
        yield Arena(cluster, command, watch, client, shown["volume"])
    finally:
        if client is not None:
            await client.close()
        if bus is not None:
            await bus.close()
        await asyncio.to_thread(cluster.stop)
        shutil.rmtree(directory, ignore_errors=True)
