"""The NBD frontends of this node: opened on request, remembered on disk, opened again when the service restarts.

A frontend's clients come by its Unix socket, and by TCP with TLS where an operator asked for that (`RemoteExport`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from services.replica.nbd import Frontend, IoFigures, Listeners, OwnListeners, RemoteDoor, RemoteIdentity
from services.replica.peers import Frame, PeerNetwork
from services.replica.trail import Trail
from stoscore.errors import StosError, precondition
from stoscore.files import write_private
from stoscore.messages import FrontendOpened, FrontendStatus, OpenFrontend, RemoteExport, VoterModel
from stoscore.metrics import Sample
from stoscore.telemetry import get_logger

log = get_logger("frontends")
FILE = "frontends.json"


@dataclass(slots=True)
class _Open:
    """One volume that is used here."""

    request: OpenFrontend
    frontend: Frontend
    remote: RemoteDoor | None = None

    def status(self) -> FrontendStatus:
        status = self.frontend.status()
        remote = self.remote.status() if self.remote is not None else None
        return status.model_copy(update={"remote": remote})


class Frontends:
    """Volume -> its NBD frontend here."""

    def __init__(
        self,
        node: str,
        run_dir: Path,
        state_dir: Path,
        identity: RemoteIdentity,
        audit: Trail,
        listeners: Listeners | None = None,
    ):
        self._node = node
        self._run_dir = run_dir
        self._file = state_dir / FILE
        self._identity = identity
        self._audit = audit
        self._listeners = listeners or OwnListeners()
        self._open: dict[bytes, _Open] = {}
        self._changing = asyncio.Lock()
        """Held by each request: the same one may come twice at a time."""
        self._closing: set[asyncio.Task[None]] = set()
        self.network: PeerNetwork
        """Set once by the app: network and frontends need each other."""
        self.on_change: Callable[[], None] = lambda: None

    # ---- requests -------------------------------------------------------------------------------------

    async def open(self, request: OpenFrontend, who: str) -> FrontendOpened:
        """Idempotent; a newer attach epoch replaces the frontend, an older one is refused. `who` asks, for the audit.
        Raises StosError."""
        async with self._changing:
            return await self._open_now(request, who)

    async def _open_now(self, request: OpenFrontend, who: str) -> FrontendOpened:
        raw = bytes.fromhex(request.volume)
        known = self._open.get(raw)
        if known is not None and known.request.attach_epoch > request.attach_epoch:
            raise precondition(
                f"volume {request.name} is open here with attach epoch {known.request.attach_epoch}",
                "attach it again and use the epoch of that answer",
            )
        if known is not None and known.request.attach_epoch < request.attach_epoch:
            await self._close(raw)
            known = None
        if known is None:
            known = await self._begin(raw, request)
        elif known.request.voters != request.voters:
            # Whoever asks again has asked the primary before: its copies may all have moved since.
            known.request = known.request.model_copy(update={"voters": request.voters})
            known.frontend.learn(_copies(request))
        if known.request.size_bytes < request.size_bytes:
            known.request = known.request.model_copy(update={"size_bytes": request.size_bytes})
            known.frontend.grow(request.size_bytes)
            if known.remote is not None:
                known.remote.offer(known.frontend.export)
        if request.remote is not None:
            await self._export(known, request.remote, who)
        self._remember()
        return self._opened(known)

    async def _begin(self, raw: bytes, request: OpenFrontend) -> _Open:
        frontend = Frontend(
            request.volume,
            request.name,
            request.size_bytes,
            request.attach_epoch,
            _copies(request),
            self._socket(request.volume),
            self.network.send,
            self.network.connected,
            on_fenced=lambda: self._fenced(raw, request.attach_epoch),
            listeners=self._listeners,
        )
        frontend.on_node = lambda node: self.on_change()
        frontend.on_copies = lambda copies: self._moved(raw, copies)
        known = self._open[raw] = _Open(request.model_copy(update={"remote": None}), frontend)
        self.on_change()
        try:
            await frontend.start()
        except BaseException:
            del self._open[raw]
            raise
        return known

    async def close(self, volume: str) -> None:
        """Idempotent."""
        async with self._changing:
            await self._close(bytes.fromhex(volume))
            self._remember()
            self.on_change()

    async def _close(self, raw: bytes) -> None:
        known = self._open.pop(raw, None)
        if known is not None:
            await known.frontend.close()
            if known.remote is not None:
                await known.remote.close()

    def _fenced(self, raw: bytes, attach_epoch: int) -> None:
        """Its clients have their errors. They are dropped, the socket goes, and nothing is opened again at the next
        start: whoever still wants the volume here has to attach it."""

        async def close() -> None:
            known = self._open.get(raw)
            if known is not None and known.request.attach_epoch == attach_epoch:
                await self.close(known.request.volume)

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def reopen(self) -> None:
        """Open what was open when the process ended."""
        try:
            remembered = json.loads(self._file.read_text())
            requests = [OpenFrontend.model_validate(item) for item in remembered]
        except FileNotFoundError:
            requests = []
        except (ValueError, ValidationError) as error:
            log.error("the list of frontends can't be read, none is opened again: %s", error)
            return
        for request in requests:
            try:
                known = await self._begin(bytes.fromhex(request.volume), request)
            except StosError as error:
                # The others, and the copies on this node, must not suffer from one socket.
                log.error("frontend is not opened again: %s", error, extra={"volume": request.volume})
                continue
            if request.remote is not None:
                known.remote = self._door(known, request.remote)
                known.request = request
                known.remote.start_when_possible()
        await self._listeners.keep([known.frontend.socket_path for known in self._open.values()])

    async def stop(self) -> None:
        """The process ends; what is open stays remembered."""
        for known in self._open.values():
            await known.frontend.leave()
            if known.remote is not None:
                await known.remote.close()

    # ---- remote clients -------------------------------------------------------------------------------

    async def _export(self, known: _Open, remote: RemoteExport, who: str) -> None:
        """Idempotent; other clients are put in force at once, another address replaces the one before."""
        door = known.remote
        if door is not None and door.listens_on(remote.address):
            door.allow(remote.clients)
        else:
            fresh = self._door(known, remote)
            try:
                await fresh.start()
            except StosError:
                await fresh.close()
                raise
            known.remote = fresh
            if door is not None:
                await door.close()
        assert known.remote is not None
        remote = known.remote.remote
        known.request = known.request.model_copy(update={"remote": remote})
        allowed = f"on {remote.address} for {', '.join(remote.clients)}"
        self._audit.record(who=who, action="nbd.export", outcome="done", target=known.request.name, reason=allowed)

    async def unexport(self, volume: str, who: str) -> None:
        """The Unix socket stays. Idempotent."""
        async with self._changing:
            known = self._open.get(bytes.fromhex(volume))
            if known is None or known.remote is None:
                return
            door, known.remote = known.remote, None
            known.request = known.request.model_copy(update={"remote": None})
            await door.close()
            self._remember()
            self._audit.record(who=who, action="nbd.unexport", outcome="done", target=known.request.name)

    def _door(self, known: _Open, remote: RemoteExport) -> RemoteDoor:
        return RemoteDoor(known.frontend.export, remote, known.frontend, self._identity, self._audit, log)

    # ---- the links' side ------------------------------------------------------------------------------

    def frame(self, peer: str, frame: Frame) -> bool:
        """False when it comes from a node that has nothing to say to this frontend."""
        known = self._open.get(frame.volume)
        if known is None:
            return True  # closed meanwhile
        if not known.frontend.uses(peer):
            return False
        known.frontend.on_frame(peer, frame)
        return True

    def link_up(self, peer: str) -> None:
        """Only for those that use it: a node that is asked for a session learns of the volume."""
        for known in self._open.values():
            if known.frontend.uses(peer):
                known.frontend.on_link_up(peer)

    def link_down(self, peer: str) -> None:
        for known in self._open.values():
            if known.frontend.uses(peer):
                known.frontend.on_link_down(peer)

    def peers(self) -> set[str]:
        """The nodes that a frontend here may need."""
        return {node for known in self._open.values() for node in known.frontend.nodes()}

    def statuses(self) -> list[FrontendStatus]:
        return [known.status() for known in self._open.values()]

    def figures(self) -> Iterator[tuple[IoFigures, Sample]]:
        """What each counts, and how much it has not answered."""
        for known in self._open.values():
            status = known.frontend.status()
            inflight = Sample("stos.volume.io.inflight", status.in_flight, (status.volume, status.name))
            yield known.frontend.figures, inflight

    def rotten_blocks(self) -> int:
        """That did not match their checksums when they arrived here."""
        return sum(known.frontend.figures.rotten for known in self._open.values())

    # ---- small things ---------------------------------------------------------------------------------

    def _socket(self, volume: str) -> Path:
        """Short: a Unix socket's path has room for 107 bytes."""
        return self._run_dir / f"{volume[:16]}.sock"

    def _opened(self, known: _Open) -> FrontendOpened:
        socket = known.frontend.socket_path
        return FrontendOpened(
            node=self._node,
            socket=str(socket),
            uri=f"nbd+unix:///{known.request.name}?socket={socket}",
            remote=known.remote.status() if known.remote is not None else None,
        )

    def _moved(self, raw: bytes, copies: Mapping[str, int]) -> None:
        """Remembered, so that this process finds them when it is started again."""
        known = self._open.get(raw)
        if known is None:
            return
        voters = [VoterModel(node=node, incarnation=f"{number:016x}") for node, number in sorted(copies.items())]
        known.request = known.request.model_copy(update={"voters": voters})
        try:
            self._remember()
        except StosError as error:
            log.error("where the copies are is not remembered: %s", error, extra={"volume": known.request.volume})

    def _remember(self) -> None:
        write_private(self._file, json.dumps([known.request.model_dump() for known in self._open.values()]).encode())


def _copies(request: OpenFrontend) -> dict[str, int]:
    """Node -> incarnation, as frames carry it."""
    return {voter.node: int(voter.incarnation, 16) for voter in request.voters if voter.kind == "data"}
