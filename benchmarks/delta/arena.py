"""The cluster under test: the embedded one, volumes in it with three copies each, and their application."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from benchmarks.delta.load import Load
from benchmarks.store.cluster import SetCluster
from services.dev.demo.inspection import replica_directory
from services.dev.demo.tools import Command
from services.dev.demo.verify import Copy, differing_blocks, disagreements
from services.dev.demo.watch import Watch
from services.dev.layout import ADMIN, APP
from services.dev.nbd_client import NbdClient
from services.replica.replication.pace import IDLE_NS
from services.replica.store import digest
from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.errors import StosError
from stoscore.identity import Identity
from stoscore.messages import ReplicaStatus
from stoscore.units import BLOCK_BYTES, GIB, MIB, SECOND, TIB
from stoscore.volumes import Volumes

COPIES = 3
CAPACITY = {"STOS_REPLICA_CAPACITY_BYTES": str(4 * TIB)}
"""Thin: the largest volumes here are nearly empty."""
_ASK_S = 0.05
"""A node that is about to start answers late, and the others' word is enough."""
_PATIENCE_S = 120.0
_DEPTH = 32
_FILL_BYTES = MIB
_REST_S = 2 * IDLE_NS / SECOND


class Site:
    """The cluster, and whoever asks it."""

    def __init__(self, cluster: SetCluster, bus: Bus, command: Command):
        self.cluster = cluster
        self.bus = bus
        self.command = command
        self.volumes = Volumes(bus, Catalogue(bus))
        self.nodes = cluster.state().nodes

    @property
    def peer_ports(self) -> frozenset[int]:
        state = self.cluster.state()
        return frozenset(state.ports[node] for node in (*state.nodes, APP))

    def pid(self, node: str) -> int:
        return self.cluster.state().processes[node].pid

    def identity_dir(self, node: str) -> Path:
        return self.cluster.layout.identity(node)

    def kill(self, node: str) -> None:
        self.cluster.kill(node, signal.SIGKILL)

    def directory(self, node: str, volume_id: str) -> Path:
        return replica_directory(self.cluster.layout.data(node), volume_id)

    async def same_on_disk(self, volume_id: str) -> bool:
        """Every block's checksum computed from the data in each copy's directory, and one hash over them all."""
        found = [await asyncio.to_thread(digest, self.directory(node, volume_id)) for node in self.nodes]
        return len({(one.digest, one.size_blocks) for one in found}) == 1

    async def socket(self, name: str) -> str:
        """Of the volume, attached to the application's node."""
        attached = await self.volumes.attach(name, APP, timeout_s=60)
        opened = await self.volumes.open_frontend(name, APP, attached=attached, timeout_s=60)
        return opened.socket

    async def connect(self, name: str) -> NbdClient:
        return await NbdClient.connect(await self.socket(name), name)

    @asynccontextmanager
    async def load(self, name: str, seed: int) -> AsyncIterator[Load]:
        """At work on that volume; it ends with the context at the latest."""
        load = Load(await self.socket(name), name, seed)
        try:
            await load.start()
            yield load
        finally:
            load.end()

    @asynccontextmanager
    async def volume(self, name: str, size_bytes: int, *, replicas: int = COPIES - 1) -> AsyncIterator[Arena]:
        """Made, attached and connected; deleted in the end."""
        record = (await self.volumes.create(name, size_bytes, replicas=replicas, timeout_s=60)).record
        assert record is not None
        watch = Watch(self.bus, self.nodes, _ASK_S)
        watch.add(name, record.volume)
        async with AsyncExitStack() as ending:
            ending.push_async_callback(self._delete, name)
            client = await self.connect(name)
            ending.push_async_callback(client.close)
            yield Arena(self, name, record.volume, watch, client)

    async def _delete(self, name: str) -> None:
        with suppress(StosError):  # after a case that failed; the cluster goes as well
            await self.volumes.close_frontend(name, APP)
            await self.volumes.detach(name)
            await self.volumes.delete(name)


class Arena:
    """A volume with three copies, and the means to take one away and bring it back."""

    def __init__(self, site: Site, name: str, volume_id: str, watch: Watch, client: NbdClient):
        self.site = site
        self.name = name
        self.volume_id = volume_id
        self.watch = watch
        self.client = client
        self.nodes = site.nodes
        self._choice = random.Random(1)
        self._worked_s = time.monotonic()

    # ---- who serves, who is in sync ---------------------------------------------------------------------

    async def primary(self, nodes: Iterable[str] | None = None) -> ReplicaStatus:
        """Who serves, once it does."""
        seen = self.watch.seen
        await self.watch.until("a primary", lambda: seen[self.name].primary is not None, _PATIENCE_S, nodes=nodes)
        found = seen[self.name].primary
        assert found is not None
        return found

    async def settled(self, copies: int = COPIES) -> ReplicaStatus:
        """All copies in sync, and who leads them."""
        seen = self.watch.seen
        await self.watch.until("all copies in sync", lambda: len(seen[self.name].in_sync) == copies, _PATIENCE_S)
        return await self.primary()

    async def without(self, node: str) -> None:
        """The others go on, and the record says so."""
        others = [other for other in self.nodes if other != node]
        await self.watch.until(
            f"a record without {node}",
            lambda: bool(self.watch.seen[self.name].in_sync) and node not in self.watch.seen[self.name].in_sync,
            _PATIENCE_S,
            nodes=others,
        )

    async def move_primary(self, node: str) -> None:
        """As an operator does it."""
        before = await self.primary()
        if before.node != node:
            await self.site.command.run("volume", "move-primary", self.name, "--to", node)
            seen = self.watch.seen
            await self.watch.until(
                f"{node} leads",
                lambda: (found := seen[self.name].primary) is not None and found.node == node,
                _PATIENCE_S,
            )

    # ---- writing ----------------------------------------------------------------------------------------

    async def fill(self, share: int = 1) -> None:
        """Every block of each `share`th MiB, with content that nothing can compress."""
        starts = range(0, self.client.size, share * _FILL_BYTES)
        await self._write([(offset, _FILL_BYTES) for offset in starts], depth=4)

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
        self._worked_s = time.monotonic()

    async def rest(self) -> None:
        """Until recovery takes nobody to be at work any more. *The map's returns began just before that, at the rate
        that is kept beside an application, and took half as long again as the tree's.*"""
        await asyncio.sleep(max(0.0, self._worked_s + _REST_S - time.monotonic()))

    # ---- what is on the disks ---------------------------------------------------------------------------

    async def copies(self, nodes: Iterable[str]) -> list[Copy]:
        """Each block's checksum, computed from the data in the directories, by a process of its own."""
        return [await self._copy(node) for node in nodes]

    async def _copy(self, node: str) -> Copy:
        layout = self.site.cluster.layout
        out = layout.root / f"{node}.sums"
        directory = replica_directory(layout.data(node), self.volume_id)
        try:
            await self.site.command.run("store", "digest", str(directory), "--out", str(out))
            return Copy(node, out.read_bytes())
        finally:
            out.unlink(missing_ok=True)

    async def missing(self, node: str, other: str) -> int:
        """How many blocks differ on the two disks."""
        return len(differing_blocks(*await self.copies((node, other))))

    async def identical(self) -> bool:
        return not disagreements(await self.copies(self.nodes))


@asynccontextmanager
async def open_site(directory: Path, settings: Mapping[str, str] | None = None) -> AsyncIterator[Site]:
    """`settings`: of the nodes. Raises StosError when the cluster does not start. Everything is stopped and removed in
    the end."""
    cluster = SetCluster(directory, {**CAPACITY, **(settings or {})})
    state = await asyncio.to_thread(cluster.up)
    bus = None
    try:
        bus = await Bus.connect(
            Identity.load(cluster.layout.identity(ADMIN)), list(state.nats_urls), name="bench", wait=True
        )
        yield Site(cluster, bus, Command(directory))
    finally:
        if bus is not None:
            await bus.close()
        await asyncio.to_thread(cluster.stop)
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def open_arena(directory: Path, size_bytes: int = GIB) -> AsyncIterator[Arena]:
    """One full volume."""
    async with open_site(directory) as site, site.volume("delta", size_bytes) as arena:
        await arena.fill()
        yield arena
