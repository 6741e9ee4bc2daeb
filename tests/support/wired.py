"""Whole nodes without a bus, in one process: store, brains, handlers and frontends on real peer links.

What the bus would ask of a node (make a replica, found a volume, attach it) the test asks directly. Everything
between the nodes goes over TLS on loopback, so a test can play a further node, or a voter, with a bare network.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from services.replica.brain import Voter
from services.replica.brain import events as ev
from services.replica.brain.messages import BrainMessage
from services.replica.brain.record import Record
from services.replica.clock import boot_time_ns
from services.replica.driver import Decided, DropHome, FindHome, Node, RecordChanged, Reply, Volume
from services.replica.frontends import Frontends
from services.replica.handlers import Handlers
from services.replica.hosted import Hosted
from services.replica.peers import PeerNetwork
from services.replica.replicas import Replicas
from services.replica.replication import effects as fx
from services.replica.replication.replica import Share
from services.replica.settings import ReplicaSettings
from services.replica.shell import Shell
from services.replica.store import FileStoreFactory
from stoscore.identity import Identity
from stoscore.messages import CreateReplica, FrontendOpened, OpenFrontend, RemoteExport, VoterModel
from stoscore.units import MIB
from tests.support.ca import TestAuthority
from tests.support.peers import PeerNode, Recorder, peer_nodes, until
from tests.support.trail import HeardTrail

SIZE = 48 * MIB
LEASE_MS = 2000
"""Long, because a busy machine must not turn a test into a failover."""


class WiredNode:
    """One node. Implements the shell's `Surroundings`."""

    def __init__(self, name: str, identity: Identity, directory: Path, addresses: dict[str, str]):
        self.name = name
        self.identity = identity
        self.audit = HeardTrail()
        self.by_bus: list[BrainMessage] = []
        """What it would have said by the bus."""
        settings = ReplicaSettings(
            node=name,
            data_dir=directory / "data",
            run_dir=directory / "run",
            lease_ms=LEASE_MS,
            beat_ms=LEASE_MS // 10,
            capacity_bytes=1 << 40,
        )
        settings.run_dir.mkdir(parents=True, mode=0o700)
        settings.data_dir.mkdir(mode=0o700)
        self._addresses = addresses
        self._pool = ThreadPoolExecutor(4)
        self.node = Node(name, settings.timing(), secrets.randbits(63), self._share_of, boot_time_ns())
        self.frontends = Frontends(name, settings.run_dir, settings.data_dir, identity, self.audit)
        self.handlers = Handlers(self.node, self.frontends, self.audit)
        self.network = PeerNetwork(
            identity=identity,
            node=name,
            cluster=identity.cluster,
            version="0.1.0",
            host="127.0.0.1",
            port=0,
            handler=self.handlers,
            audit=self.audit,
            logger=logging.getLogger(f"test.{name}"),
        )
        self.shell = Shell(self.node, self.network, self, asyncio.get_running_loop())
        self.handlers.shell = self.shell
        self.frontends.network = self.network
        self.frontends.on_change = self.dial
        self.replicas = Replicas(settings, identity.cluster, FileStoreFactory(), self.node, self.shell, self._pool)
        self.damages: list[fx.Damage] = []
        self._asked: dict[int, asyncio.Future[None]] = {}

    def _share_of(self, volume: str) -> Share:
        return self.shell.hosted[volume].share()

    async def start(self) -> None:
        await self.replicas.open_all()
        self._addresses[self.name] = await self.network.start()

    async def stop(self) -> None:
        self.shell.stop()
        await self.frontends.stop()
        await self.network.stop()
        await self.replicas.close_all()
        self._pool.shutdown(wait=True)

    def dial(self) -> None:
        wanted = self.node.neighbours.all | self.frontends.peers()
        for peer in sorted(wanted & self._addresses.keys()):
            self.network.dial(peer, self._addresses[peer])

    # ---- Surroundings -----------------------------------------------------------------------------------

    def brain_by_bus(self, message: BrainMessage, encoded: bytes) -> None:
        self.by_bus.append(message)

    def pair_by_bus(self, node: str, encoded: bytes) -> None:
        """There is no bus."""

    def find_home(self, order: FindHome) -> None:
        self.node.ask(order.volume, ev.HomeRefused("there is no bus"), boot_time_ns())

    def drop_home(self, order: DropHome) -> None:
        """None was ever made."""

    def decided(self, order: Decided) -> None:
        pass

    def damaged(self, volume: str, epoch: int, damage: fx.Damage) -> None:
        self.damages.append(damage)

    def record_changed(self, order: RecordChanged) -> None:
        self.dial()

    def replied(self, order: Reply) -> None:
        future = self._asked.pop(order.request)
        if order.code:
            future.set_exception(AssertionError(f"{order.code}: {order.error}"))
        else:
            future.set_result(None)

    def remove(self, hosted: Hosted) -> None:
        pass

    # ---- what the bus would ask -------------------------------------------------------------------------

    async def create(self, volume: str, kind: str = "data") -> Voter:
        request = CreateReplica.model_validate({"volume": volume, "name": "vol", "size_bytes": SIZE, "kind": kind})
        incarnation = await self.replicas.create(request)
        return Voter(self.name, incarnation, "witness" if kind == "witness" else "data")

    def found(self, record: Record) -> None:
        self.node.ask(record.volume, ev.Founded(record), boot_time_ns())
        self.dial()
        self.shell.settle()

    async def ask(self, volume: str, event: Callable[[int], ev.Event]) -> None:
        number = len(self._asked) + 1
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self.node.ask(volume, event(number), boot_time_ns())
        self.shell.settle()
        async with asyncio.timeout(20):
            await future

    def of(self, volume: str) -> Volume:
        return self.node.volumes[volume]

    def content(self, volume: str, block: int, count: int = 1) -> bytes:
        return bytes(self.shell.hosted[volume].blocks.read(block, count)[1])


@dataclass(slots=True)
class Wired:
    """Nodes that run and nodes that a test plays."""

    authority: TestAuthority
    directory: Path
    nodes: dict[str, WiredNode]
    addresses: dict[str, str]
    played: dict[str, PeerNode]
    _stack: AsyncExitStack
    _make: Callable[..., object]

    async def start(self, name: str) -> WiredNode:
        node = WiredNode(name, self.authority.issue(self.directory, name), self.directory / name, self.addresses)
        await node.start()
        self._stack.push_async_callback(node.stop)
        self.nodes[name] = node
        return node

    async def play(self, name: str, handler: Recorder | None = None) -> PeerNode:
        """A node of which the test decides what it says: a bare network with that node's own certificate. It takes
        the place of an earlier one of that name, as a process that was started again."""
        before = self.played.pop(name, None)
        if before is not None:
            await before.network.stop()
        peer: PeerNode = await self._make(name, handler=handler)  # type: ignore[misc]
        self.addresses[name] = peer.address
        self.played[name] = peer
        return peer

    async def volume(self, *voters: str, played: tuple[str, ...] = (), witness: str = "") -> str:
        """A volume that is led and serves, and unless some are played, from all its copies; played voters have
        incarnations and nothing else."""
        volume = secrets.token_hex(16)
        kinds = {name: "witness" if name == witness else "data" for name in (*voters, *played)}
        members = [
            await self.nodes[name].create(volume, kind)
            if name in self.nodes
            else Voter(name, secrets.token_hex(8), "witness" if kind == "witness" else "data")
            for name, kind in kinds.items()
        ]
        data = tuple(voter for voter in members if voter.kind == "data")
        record = Record(volume, "vol", SIZE, len(data) - 1, tuple(members), data)
        for name in voters:
            self.nodes[name].found(record)
        await until(lambda: self._serving(volume), within_s=60)
        if not played:
            # Who was elected before a link was up began without that copy.
            await until(lambda: self._serving(volume) and set(self.record(volume).in_sync) == set(data), within_s=60)
        return volume

    def _serving(self, volume: str) -> list[WiredNode]:
        held = [node for node in self.nodes.values() if volume in node.node.volumes]
        return [node for node in held if (primary := node.of(volume).primary) is not None and primary.serving]

    def leader(self, volume: str) -> WiredNode:
        (found,) = self._serving(volume)
        return found

    def followers(self, volume: str) -> list[WiredNode]:
        return [node for node in self.nodes.values() if volume in node.node.volumes and node is not self.leader(volume)]

    def record(self, volume: str) -> Record:
        """As its leader has it."""
        record = self.leader(volume).of(volume).brain.record
        assert record is not None
        return record

    async def attach(self, volume: str, node: str) -> int:
        await self.leader(volume).ask(volume, lambda number: ev.AttachAsked(number, node))
        return self.record(volume).attach_epoch

    async def detach(self, volume: str) -> None:
        await self.leader(volume).ask(volume, lambda number: ev.DetachAsked(number, None))

    async def open(self, volume: str, node: str, *, remote: RemoteExport | None = None) -> FrontendOpened:
        """Attach and open a frontend on a running node."""
        attach_epoch = await self.attach(volume, node)
        record = self.record(volume)
        voters = [VoterModel(node=v.node, incarnation=v.incarnation, kind=v.kind) for v in record.voters]
        request = OpenFrontend(
            volume=volume, name="vol", size_bytes=SIZE, attach_epoch=attach_epoch, voters=voters, remote=remote
        )
        return await self.nodes[node].frontends.open(request, "admin/ann")


@asynccontextmanager
async def wired(directory: Path, *names: str) -> AsyncIterator[Wired]:
    authority = TestAuthority()
    async with AsyncExitStack() as stack:
        make = await stack.enter_async_context(peer_nodes(authority, directory))
        found = Wired(authority, directory, {}, {}, {}, stack, make)
        for name in names:
            await found.start(name)
        yield found
