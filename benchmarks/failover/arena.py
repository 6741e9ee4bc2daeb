"""The cluster under test: the embedded one, in a network namespace of its own, every node with a group id of its own.

The namespace has nothing but a loopback, so cutting the network here touches nobody else's. A packet on loopback does
not tell which node sent it; the group id of the process that owns the socket does, and nftables can see it (`meta
skgid`). The member processes are otherwise exactly those of `stos dev up`.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.failover.workload import Workload
from services.dev.cluster import Cluster
from services.dev.demo.tools import Command
from services.dev.demo.watch import Watch
from services.dev.layout import ADMIN, APP
from services.dev.members import Member
from services.dev.nbd_client import NbdClient
from services.dev.readiness import Starting
from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.identity import Identity
from stoscore.messages import ReplicaStatus
from stoscore.volumes import Volumes

VOLUME = "failover"
SIZE_BYTES = 256 << 20
COPIES = 3
_FIRST_GROUP = 7001
_PATIENCE_S = 60.0
_TABLE = "stos_cut"


class GroupedCluster(Cluster):
    """The embedded cluster whose nodes' sockets can be told apart."""

    def group(self, node: str) -> int:
        return _FIRST_GROUP + self.state().nodes.index(node)

    def _spawn(self, member: Member) -> Starting:
        if member.group in self.state().nodes:
            wrapper = ("setpriv", f"--regid={self.group(member.group)}", "--clear-groups")
            member = replace(member, argv=(*wrapper, *member.argv))
        return super()._spawn(member)


class Arena:
    """A volume with three copies, its application, and the means to hurt it."""

    def __init__(self, cluster: GroupedCluster, volumes: Volumes, volume: str, watch: Watch, load: Workload):
        self.cluster = cluster
        self._volumes = volumes
        self._volume = volume
        self.watch = watch
        self.load = load
        self.nodes = cluster.state().nodes

    async def primary(self) -> ReplicaStatus:
        await self.watch.until("a primary", lambda: self.watch.seen[VOLUME].primary is not None, _PATIENCE_S)
        found = self.watch.seen[VOLUME].primary
        assert found is not None
        return found

    async def settled(self) -> ReplicaStatus:
        """All copies in sync, and who leads them."""
        seen = self.watch.seen
        await self.watch.until(
            "all copies in sync", lambda: len(seen[VOLUME].in_sync) == COPIES and self._all_there(), _PATIENCE_S
        )
        return await self.primary()

    def _all_there(self) -> bool:
        return set(self.watch.seen[VOLUME].statuses) == set(self.nodes)

    async def succeeded(self, before: ReplicaStatus) -> ReplicaStatus:
        """A primary of a later epoch serves."""

        def later() -> bool:
            found = self.watch.seen[VOLUME].primary
            return found is not None and found.epoch > before.epoch

        others = [node for node in self.nodes if node != before.node]
        await self.watch.until("a successor", later, _PATIENCE_S, nodes=others)
        return await self.primary()

    def kill(self, node: str, number: signal.Signals = signal.SIGKILL) -> None:
        self.cluster.kill(node, number)

    async def move_primary(self) -> None:
        """What `stos volume move-primary` does, without the start of a program on the cores that the cluster needs."""
        await self._volumes.move_primary(self._volume)

    @contextmanager
    def cut(self, node: str, *, speaks: bool) -> Iterator[None]:
        """One way: the node hears and can't speak, or (`speaks`) speaks and can't hear."""
        _nft(_rules(self.cluster.group(node), speaks=speaks))
        try:
            yield
        finally:
            _nft(f"delete table inet {_TABLE}\n")


def _rules(group: int, *, speaks: bool) -> str:
    """Connections of the node are marked as its packets leave; a packet of such a connection that another group's
    socket sends is one that the node would hear."""
    dropped = "" if speaks else f"meta skgid {group} drop"
    heard = f"meta skgid != {group} ct mark {group} drop" if speaks else ""
    return f"""
table inet {_TABLE} {{
  chain out {{
    type filter hook output priority 0;
    meta skgid {group} ct mark set {group}
    {dropped}
    {heard}
  }}
}}
"""


def _nft(script: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=script, text=True, check=True, capture_output=True)


@asynccontextmanager
async def open_arena(directory: Path) -> AsyncIterator[Arena]:
    """Raises StosError when the cluster does not start. Everything is stopped and removed in the end."""
    cluster = GroupedCluster(directory)
    state = await asyncio.to_thread(cluster.up)
    bus = None
    clients: list[NbdClient] = []
    try:
        bus = await Bus.connect(
            Identity.load(cluster.layout.identity(ADMIN)), list(state.nats_urls), name="bench", wait=True
        )
        command = Command(directory)
        await command.json("volume", "create", VOLUME, "--size", str(SIZE_BYTES), "--replicas", str(COPIES - 1))
        opened = await command.json("volume", "connect", VOLUME, "--node", APP)
        shown = await command.json("volume", "show", VOLUME)
        clients = [await NbdClient.connect(opened["socket"], VOLUME) for _ in range(2)]
        watch = Watch(bus, state.nodes)
        watch.add(VOLUME, shown["volume"])
        yield Arena(cluster, Volumes(bus, Catalogue(bus)), shown["volume"], watch, Workload(*clients))
    finally:
        for client in clients:
            await client.close()
        if bus is not None:
            await bus.close()
        await asyncio.to_thread(cluster.stop)
        shutil.rmtree(directory, ignore_errors=True)
