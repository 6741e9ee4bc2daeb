"""The replica directories of this node: made, found again at start, removed; and the space that they may take."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

from services.replica.brain import HardState, Timing, Voter
from services.replica.clock import boot_time_ns
from services.replica.cloning import source_of
from services.replica.driver import Node
from services.replica.hosted import Hosted
from services.replica.kernel_sync import KernelSync
from services.replica.opening import Found, LostVoter, open_voter
from services.replica.settings import ReplicaSettings
from services.replica.shell import Shell
from services.replica.store import (
    BlockStore,
    Format,
    FormatError,
    NoSnapshot,
    StoreError,
    StoreFactory,
    Unproved,
    WitnessStore,
    clear_leftovers,
)
from stoscore.errors import Code, StosError, precondition, unavailable
from stoscore.messages import CreateReplica
from stoscore.telemetry import get_logger
from stoscore.units import BLOCK_BYTES, format_size

log = get_logger("replicas")
T = TypeVar("T")


class Replicas:
    """Every voter that this node keeps."""

    def __init__(
        self, settings: ReplicaSettings, cluster: str, factory: StoreFactory, node: Node, shell: Shell, pool: Executor
    ):
        self._settings = settings
        self._cluster = cluster
        self._factory = factory
        self._node = node
        self._shell = shell
        self._pool = pool
        self._syncs: KernelSync | None = None
        self._timing: Timing = settings.timing()
        self._boot_id = ""
        self._making: dict[str, asyncio.Future[str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._directory = settings.data_dir / "replicas"
        self.broken: dict[str, str] = {}
        """Directories that could not be opened, with the reason: lost voters, never fresh ones (I1)."""
        self.capacity_bytes = 0

    # ---- start and end --------------------------------------------------------------------------------

    async def open_all(self) -> None:
        """Raises StosError when the data directory is another's, in use, or can't be used at all."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._boot_id = self._settings.boot_id_file.read_text().strip()
        except OSError as error:
            raise precondition(f"the data directory can't be used: {error}", "check STOS_REPLICA_DATA_DIR") from error
        self._syncs = KernelSync.open(asyncio.get_running_loop())
        await self._in_pool(lambda: clear_leftovers(self._directory))
        self.capacity_bytes = self._settings.capacity(self.free_disk_bytes())
        paths = [path for path in sorted(self._directory.iterdir()) if path.is_dir() and len(path.name) == 32]
        # Hosted when all are open, because a voter's silence (P3) begins there, and only after that there are links.
        # *A hundred were opened one by one in a second. Most had been silent for long enough before anybody could tell
        # them who leads: the node stood for all of them at once, and was refused by all the others.*
        for path, found in zip(paths, await asyncio.gather(*map(self._open, paths)), strict=True):
            if found is not None:
                self._host(path.name, found.me.incarnation, found.store, found.state, fresh=False)

    async def _open(self, path: Path) -> Found | None:
        """None: a lost voter."""
        volume = path.name
        try:
            return await self._in_pool(lambda: self._open_voter(path))
        except LostVoter as error:
            self._lose(volume, str(error))
        except Exception as error:
            # The edge: whatever one directory holds, the others and their volumes must not suffer.
            log.exception("a replica's directory can't be opened", extra={"volume": volume})
            self._lose(volume, f"{type(error).__name__}: {error}")
        return None

    def _open_voter(self, path: Path) -> Found:
        return open_voter(
            path,
            cluster=self._cluster,
            node=self._settings.node,
            boot_id=self._boot_id,
            lease_ns=self._timing.lease_ns,
            factory=self._factory,
        )

    def _lose(self, volume: str, reason: str) -> None:
        self.broken[volume] = reason
        self._node.lost.add(volume)
        log.error("this voter is lost and keeps silent: %s", reason, extra={"volume": volume})

    async def close_all(self) -> None:
        results = await asyncio.gather(
            *(hosted.close(clean=True) for hosted in self._shell.hosted.values()), return_exceptions=True
        )
        for hosted, result in zip(self._shell.hosted.values(), results, strict=True):
            if isinstance(result, BaseException):
                log.error("closing failed: %s", result, extra={"volume": hosted.volume})
        if self._syncs is not None:
            self._syncs.close()

    # ---- requests -------------------------------------------------------------------------------------

    async def create(self, request: CreateReplica) -> str:
        """The incarnation of this node's voter; a repeated request gets the same. Raises StosError."""
        hosted = self._shell.hosted.get(request.volume)
        if hosted is not None:
            await self._check_same(request, hosted)
            return hosted.incarnation
        if request.volume in self.broken:
            raise StosError(Code.DATA_LOSS, f"this node's copy is broken: {self.broken[request.volume]}")
        making = self._making.get(request.volume)
        if making is not None:
            return await asyncio.shield(making)
        if (self._directory / request.volume).exists():
            # What was asked of its disk is answered first: none of that may be taken for the new member's.
            raise unavailable(
                "an earlier member of the volume is not yet removed here",
                "ask again in a moment; if it stays so, the node's log says why",
            )
        self._check_room(request)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._making[request.volume] = future
        # A task of its own: a request that is given up must not leave a directory that nobody hosts.
        self._tasks.add(task := asyncio.create_task(self._make_and_tell(request, future)))
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(future)

    async def _make_and_tell(self, request: CreateReplica, future: asyncio.Future[str]) -> None:
        try:
            future.set_result(await self._make(request))
        except StosError as error:
            future.set_exception(error)
            future.exception()  # whoever waits gets it; nobody waiting is no complaint
        finally:
            del self._making[request.volume]

    async def _check_same(self, request: CreateReplica, hosted: Hosted) -> None:
        """An earlier member of the volume can't join it again: a record may exclude it already (I3). One that began as
        something else may not be founded; founded, it is what its record says."""
        if request.joins and self._node.volumes[request.volume].brain.record is not None:
            raise precondition(f"this node has member {hosted.incarnation} of the volume already")
        if (hosted.store is None) != (request.kind == "witness"):
            raise precondition(f"this node's member {hosted.incarnation} of the volume is no {request.kind} member")
        if hosted.store is None or self._node.volumes[request.volume].brain.record is not None:
            return
        source = request.source
        wanted, size_bytes = (source.root, source.size_bytes) if source is not None else ("", 0)
        try:
            root = await hosted.origin_root(size_bytes // BLOCK_BYTES)
        except StoreError as error:
            raise StosError(Code.DATA_LOSS, f"this node's member of the volume can't be read: {error}") from error
        if root != wanted:
            raise precondition(f"this node's member {hosted.incarnation} of the volume began as something else")

    def _check_room(self, request: CreateReplica) -> None:
        if request.kind == "witness":
            return
        if not self._settings.accepts_copies:
            raise precondition(f"node {self._settings.node} takes no copies")
        if request.size_bytes <= 0 or request.size_bytes % BLOCK_BYTES:
            raise StosError(Code.INVALID_ARGUMENT, f"{request.size_bytes} bytes are no positive multiple of 4096")
        left = self.capacity_bytes - self.provisioned_bytes()
        if request.size_bytes > left:
            raise StosError(
                Code.RESOURCE_EXHAUSTED,
                f"node {self._settings.node} has room for {format_size(max(left, 0))} more",
                next_step="choose a smaller size, delete volumes or add disks",
            )

    async def _make(self, request: CreateReplica) -> str:
        incarnation = secrets.token_hex(8)
        path = self._directory / request.volume
        size_blocks = 0 if request.kind == "witness" else request.size_bytes // BLOCK_BYTES
        format = Format(self._cluster, request.volume, request.name, incarnation, request.kind, size_blocks)
        state = self._first_state(incarnation, request.kind)
        source = None
        if request.source is not None:
            source = source_of(request, request.source, self._node, self._shell.hosted)

        def make() -> BlockStore | WitnessStore:
            store: BlockStore | WitnessStore
            if request.kind == "witness":
                store = WitnessStore.create(path, format)
            elif source is not None:
                store = source.clone(path, format, self._boot_id, self._factory)
            else:
                store = self._factory.create(path, format, self._boot_id)
            store.save_state(state.encode())
            return store

        try:
            store = await self._in_pool(make)
        except NoSnapshot as error:
            raise unavailable(f"the replica can't be made: {error}", "see `stos snapshot ls`") from error
        except Unproved as error:
            raise StosError(Code.DATA_LOSS, f"this node's copy of the snapshot can't be trusted: {error}") from error
        except (FormatError, StoreError) as error:
            raise StosError(Code.RESOURCE_EXHAUSTED, f"the replica can't be made: {error}") from error
        self._host(request.volume, incarnation, store, state, fresh=True)
        return incarnation

    def _first_state(self, incarnation: str, kind: str) -> HardState:
        me = Voter(self._settings.node, incarnation, "witness" if kind == "witness" else "data")
        return HardState(me, 0, None, None, self._timing.lease_ns)

    def _host(
        self, volume: str, incarnation: str, store: BlockStore | WitnessStore, state: HardState, *, fresh: bool
    ) -> None:
        loop, health = asyncio.get_running_loop(), self._settings.health()
        hosted = Hosted(volume, incarnation, store, loop, self._pool, health, self._syncs)
        self._shell.add(hosted)
        marked = frozenset() if isinstance(store, WitnessStore) else frozenset(store.marked)
        unclean = False if isinstance(store, WitnessStore) else store.unclean
        self._node.open(volume, state, boot_time_ns(), marked=marked, unclean=unclean, fresh=fresh)

    async def drop(self, volume: str, incarnation: str) -> None:
        """Remove a voter that was made and never founded (a create that was given up). Raises StosError."""
        hosted = self._shell.hosted.get(volume)
        if hosted is None:
            return
        if hosted.incarnation != incarnation:
            raise precondition(f"this node's voter of the volume is incarnation {hosted.incarnation}")
        if self._node.volumes[volume].brain.record is not None:
            raise precondition("the volume was founded: delete it through its primary")
        self._node.forget(volume)
        self._shell.hosted.pop(volume)
        self._shell.by_raw.pop(hosted.raw, None)
        await self.remove(hosted)

    async def remove(self, hosted: Hosted) -> None:
        """The directory of a voter that the node has forgotten."""
        await hosted.close(clean=False)
        path = self._directory / hosted.volume
        try:
            await self._in_pool(lambda: self._factory.remove(path))
        except StoreError as error:
            log.error("a removed replica's directory stays: %s", error, extra={"volume": hosted.volume})

    # ---- space ----------------------------------------------------------------------------------------

    def provisioned_bytes(self) -> int:
        return sum(
            hosted.store.size_blocks * BLOCK_BYTES
            for hosted in self._shell.hosted.values()
            if hosted.store is not None and not hosted.erased and not self._is_tombstone(hosted.volume)
        )

    def _is_tombstone(self, volume_id: str) -> bool:
        volume = self._node.volumes.get(volume_id)
        return volume is not None and volume.brain.record is not None and volume.brain.record.deleted

    def used_bytes(self) -> int:
        return sum(h.store.allocated_bytes() for h in self._shell.hosted.values() if h.store is not None)

    def free_disk_bytes(self) -> int:
        stat = os.statvfs(self._directory)
        return stat.f_bavail * stat.f_frsize

    async def _in_pool(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)
