"""The replica service: one per node. Composes store, links, brains and frontends; everything else is in a room."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version

from services.replica.abandoned import Abandoned
from services.replica.addresses import Addresses
from services.replica.api import Api
from services.replica.brain.messages import BrainMessage
from services.replica.by_bus import ByBus
from services.replica.clock import boot_time_ns
from services.replica.data_dir import DataDir
from services.replica.decided import Decisions
from services.replica.driver import Decided, DropHome, FindHome, Node, RecordChanged, Reply
from services.replica.figures import Figures
from services.replica.frontends import Frontends
from services.replica.guests import Guests
from services.replica.handlers import Handlers
from services.replica.homes import Homes
from services.replica.hosted import Hosted
from services.replica.nbd import HeldListeners
from services.replica.peers import PeerNetwork
from services.replica.replicas import Replicas
from services.replica.replication import effects as fx
from services.replica.replication.replica import Share
from services.replica.scrubber import Scrubber
from services.replica.settings import ReplicaSettings
from services.replica.shell import Shell
from services.replica.unfounded import Unfounded
from stoscore import metrics, subjects
from stoscore.catalogue import Catalogue
from stoscore.errors import StosError, invalid
from stoscore.files import socket_directory
from stoscore.host import HostContext, keep_for_good
from stoscore.messages import NodeEntry
from stoscore.plugins import load as load_plugin
from stoscore.settings import load
from stoscore.telemetry import get_logger
from stoscore.volumes.primary import Replicas as Statuses

log = get_logger("replica")


class ReplicaService:
    """The plugin `replica` of group `stos.services`."""

    name = "replica"

    async def run(self, context: HostContext) -> None:
        settings = load(ReplicaSettings, self.name)
        identity = context.identity
        if (identity.kind, identity.name) != ("node", settings.node):
            raise invalid(
                f"STOS_REPLICA_NODE is {settings.node!r} and the identity is {identity.kind}/{identity.name}",
                "give this process the identity of its own node",
            )
        data_dir = DataDir(settings.data_dir)
        data_dir.claim(identity.cluster, settings.node)
        pool = ThreadPoolExecutor(settings.disk_threads, thread_name_prefix="disk")
        try:
            await _Replica(settings, context, pool).run()
        finally:
            pool.shutdown(wait=True)
            data_dir.release()


class _Replica:
    """One running node. Implements the shell's `Surroundings`."""

    def __init__(self, settings: ReplicaSettings, context: HostContext, pool: ThreadPoolExecutor):
        self._settings = settings
        self._context = context
        self._bus = context.bus
        self._catalogue = Catalogue(context.bus)
        self._decisions = Decisions(settings.node, context.bus)
        self._version = version("stos")
        self._tasks: set[asyncio.Task[object]] = set()
        cluster = context.identity.cluster
        nonce = secrets.randbits(63)
        self._node = Node(settings.node, settings.timing(), nonce, self._share_of, boot_time_ns(), settings.recovery())
        identity, audit = context.identity, context.bus.audit
        listeners = HeldListeners(settings.holder, get_logger("frontends")) if settings.holder else None
        self._frontends = Frontends(settings.node, settings.run_dir, settings.data_dir, identity, audit, listeners)
        self._handlers = Handlers(self._node, self._frontends, audit)
        host, _, port = settings.listen.rpartition(":")
        self._network = PeerNetwork(
            identity=identity,
            node=settings.node,
            cluster=cluster,
            version=self._version,
            host=host,
            port=int(port),
            handler=self._handlers,
            audit=audit,
            logger=get_logger("peers"),
        )
        self._shell = Shell(self._node, self._network, self, asyncio.get_running_loop())
        self._handlers.shell = self._shell
        self._shell.on_resynced = self._resynced
        self._shell.on_resync = self._resync_begins
        self._by_bus = ByBus(
            settings.node, self._handlers, self._shell, boot_time_ns, asyncio.get_running_loop().call_soon
        )
        self._frontends.network = self._network
        factory = load_plugin("stos.block_stores", "file")()
        self._replicas = Replicas(settings, cluster, factory, self._node, self._shell, pool)
        self._scrubber = Scrubber(self._shell, settings.scrub_pace(), pool, settings.data_dir)
        self._homes = Homes(self._node, context.bus, self._shell.settle)
        self._unfounded = Unfounded(self._node, self._replicas, context.bus, self._catalogue)
        self._figures = Figures(
            self._node,
            self._shell.hosted,
            self._shell.counted,
            self._replicas,
            self._frontends,
            self._handlers,
            self._decisions.counted,
        )
        self._addresses = Addresses(settings.data_dir)
        self._api: Api | None = None
        self._scrubbing: asyncio.Task[None] | None = None

    def _share_of(self, volume: str) -> Share:
        return self._shell.hosted[volume].share()

    async def run(self) -> None:
        settings = self._settings
        await self._replicas.open_all()
        keep_for_good()  # from here on there are links, and other nodes wait for answers
        metrics.register(self._figures.samples)
        for volume, reason in self._replicas.broken.items():
            self._decisions.tell_lost(volume, reason, boot_time_ns())
        socket_directory(settings.run_dir)
        address = await self._network.start()
        advertised = settings.advertise or address
        self._addresses.load()
        self._addresses.on_change = self._dial
        self._frontends.on_change = self._dial
        self._addresses.learn(NodeEntry(node=settings.node, zone=settings.zone, address=advertised))
        self._dial()
        try:
            await self._frontends.reopen()
            self._api = Api(
                settings,
                self._version,
                self._node,
                self._shell,
                self._replicas,
                self._frontends,
                advertised,
                self._dial,
                self._handlers.dropped,
                Guests(self._node, self._replicas, self._catalogue, Statuses(self._bus, self._catalogue)),
                self._scrubber,
            )
            await self._join_bus(self._api, advertised)
            self._spawn(self._unfounded.run())
            self._spawn(Abandoned(self._node, self._catalogue, self._api.ask_led).run())
            self._scrubbing = asyncio.create_task(self._scrubber.run())
            self._shell.settle()
            self._context.ready()
            await self._context.stopping.wait()
        finally:
            await self._stop()

    async def _join_bus(self, api: Api, address: str) -> None:
        await api.start(self._bus)
        # Every node hears all brains: one that holds no voter of a volume any more is asked as well, and has to say so
        # (I3). What is said here is said only where a link is down, so there is little of it.
        await self._bus.subscribe(subjects.brain("*", "*"), self._brain_from_bus)
        await self._bus.subscribe(subjects.pair(self._settings.node, "*"), self._pair_from_bus)
        entry = NodeEntry(node=self._settings.node, zone=self._settings.zone, address=address)

        self._bus.whenever_connected(lambda: self._catalogue.put_node(entry))
        await self._catalogue.watch_nodes(self._addresses.learn)

    async def _stop(self) -> None:
        metrics.unregister(self._figures.samples)
        await self._shell.hand_over()
        self._shell.stop()
        self._homes.stop()
        if self._scrubbing is not None:
            self._scrubbing.cancel()
        self._network.flush_all()
        await self._frontends.stop()
        await self._network.stop()
        await self._replicas.close_all()
        for task in list(self._tasks):
            task.cancel()

    # ---- links ----------------------------------------------------------------------------------------

    def _dial(self) -> None:
        """Keep links to everybody that shares a volume with this node, or whose volume is used here, or that
        uses a volume led here."""
        wanted = self._node.neighbours.all | self._frontends.peers()
        for peer in sorted(wanted):
            address = self._addresses.of(peer)
            if address is not None:
                self._network.dial(peer, address)

    # ---- Surroundings ---------------------------------------------------------------------------------

    def brain_by_bus(self, message: BrainMessage, encoded: bytes) -> None:
        subject = subjects.brain(message.volume, self._settings.node)
        self._spawn(self._bus.publish(subject, encoded))

    def _brain_from_bus(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        volume, _, sender = subject.split(".")[-3:]
        if sender != self._settings.node:
            self._by_bus.brain(sender, volume, data)

    def pair_by_bus(self, node: str, encoded: bytes) -> None:
        try:
            self._bus.send(subjects.pair(node, self._settings.node), encoded)
        except StosError as error:
            log.warning("beats and promises can't go over the bus: %s", error, extra={"peer": node})

    def _pair_from_bus(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        sender = subject.rpartition(".")[2]
        if sender != self._settings.node:
            self._by_bus.pair(sender, data)

    def replied(self, order: Reply) -> None:
        if self._api is not None:
            self._api.replied(order)

    def record_changed(self, order: RecordChanged) -> None:
        self._dial()

    def remove(self, hosted: Hosted) -> None:
        self._spawn(self._replicas.remove(hosted))

    def find_home(self, order: FindHome) -> None:
        self._homes.find(order)

    def drop_home(self, order: DropHome) -> None:
        self._homes.drop(order)

    def decided(self, order: Decided) -> None:
        volume = self._node.volumes.get(order.volume)
        record = volume.brain.record if volume is not None else None
        causes, explain = self._handlers.causes, order.explain
        kind = explain.kind
        if not explain.cause:
            explain = replace(explain, cause=causes.parent(kind, order.volume))
        links = causes.of(kind, order.volume, (voter.node for voter in record.voters) if record else ())
        told = self._decisions.tell(order.volume, self._name(order.volume), explain, boot_time_ns(), links)
        causes.decided(kind, order.volume, told)

    def damaged(self, volume: str, epoch: int, damage: fx.Damage) -> None:
        self._decisions.tell_damage(volume, self._name(volume), epoch, damage, boot_time_ns())

    def _name(self, volume_id: str) -> str:
        volume = self._node.volumes.get(volume_id)
        record = volume.brain.record if volume is not None else None
        return record.name if record is not None else ""

    def _resynced(self, volume: str, done: fx.ResyncDone) -> None:
        self._handlers.causes.resynced(volume, done)
        if done.estimate is not None:
            self._decisions.tell_resynced(volume, self._name(volume), done, boot_time_ns())

    def _resync_begins(self, volume: str, begins: fx.ResyncBegins) -> None:
        self._decisions.tell_resync(volume, self._name(volume), begins, boot_time_ns())

    def _spawn(self, work: object) -> None:
        async def run() -> None:
            try:
                await work  # type: ignore[misc]
            except (StosError, OSError) as error:
                log.warning("%s", error)

        task: asyncio.Task[object] = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


service = ReplicaService()
