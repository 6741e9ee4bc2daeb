"""The frontends of this node: opened on request, remembered on disk, opened again when the service restarts."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from services.replica.nbd.frontend import Frontend
from services.replica.peers import Frame, PeerNetwork
from stoscore.errors import StosError, precondition
from stoscore.messages import FrontendOpened, FrontendStatus, OpenFrontend
from stoscore.telemetry import get_logger

log = get_logger("frontends")
FILE = "frontends.json"


class Frontends:
    """Volume -> its NBD frontend here."""

    def __init__(self, node: str, run_dir: Path, state_dir: Path):
        self._node = node
        self._run_dir = run_dir
        self._file = state_dir / FILE
        self._open: dict[bytes, tuple[OpenFrontend, Frontend]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.network: PeerNetwork
        """Set once by the app: network and frontends need each other."""
        self.on_change: Callable[[], None] = lambda: None

    # ---- requests -------------------------------------------------------------------------------------

    async def open(self, request: OpenFrontend) -> FrontendOpened:
        """Idempotent; a newer attach epoch replaces the frontend, an older one is refused. Raises StosError."""
        raw = bytes.fromhex(request.volume)
        known = self._open.get(raw)
        if known is not None:
            if known[0].attach_epoch > request.attach_epoch:
                raise precondition(
                    f"volume {request.name} is open here with attach epoch {known[0].attach_epoch}",
                    "attach it again and use the epoch of that answer",
                )
            if known[0].attach_epoch == request.attach_epoch:
                return self._opened(known[0])
            await self._close(raw)
        frontend = Frontend(
            request.volume,
            request.name,
            request.size_bytes,
            request.attach_epoch,
            tuple(voter.node for voter in request.voters if voter.kind == "data"),
            self._socket(request.volume),
            self.network.send,
            self.network.connected,
            on_fenced=lambda: self._fenced(raw, request.attach_epoch),
        )
        self._open[raw] = (request, frontend)
        self.on_change()
        try:
            await frontend.start()
        except BaseException:
            del self._open[raw]
            raise
        self._remember()
        return self._opened(request)

    async def close(self, volume: str) -> None:
        """Idempotent."""
        await self._close(bytes.fromhex(volume))
        self._remember()
        self.on_change()

    async def _close(self, raw: bytes) -> None:
        known = self._open.pop(raw, None)
        if known is not None:
            await known[1].close()

    def _fenced(self, raw: bytes, attach_epoch: int) -> None:
        """Its clients have their errors. They are dropped, the socket goes, and nothing is opened again at the next
        start: whoever still wants the volume here has to attach it."""

        async def close() -> None:
            known = self._open.get(raw)
            if known is not None and known[0].attach_epoch == attach_epoch:
                await self.close(known[0].volume)

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def reopen(self) -> None:
        """Open what was open when the process ended."""
        try:
            remembered = json.loads(self._file.read_text())
            requests = [OpenFrontend.model_validate(item) for item in remembered]
        except FileNotFoundError:
            return
        except (ValueError, ValidationError) as error:
            log.error("the list of frontends can't be read, none is opened again: %s", error)
            return
        for request in requests:
            try:
                await self.open(request)
            except StosError as error:
                # The others, and the copies on this node, must not suffer from one socket.
                log.error("frontend is not opened again: %s", error, extra={"volume": request.volume})

    async def stop(self) -> None:
        """The process ends; what is open stays remembered."""
        for _, frontend in self._open.values():
            await frontend.leave()

    # ---- the links' side ------------------------------------------------------------------------------

    def frame(self, peer: str, frame: Frame) -> None:
        known = self._open.get(frame.volume)
        if known is not None:
            known[1].on_frame(peer, frame)

    def link_up(self, peer: str) -> None:
        for _, frontend in self._open.values():
            frontend.on_link_up(peer)

    def link_down(self, peer: str) -> None:
        for _, frontend in self._open.values():
            frontend.on_link_down(peer)

    def peers(self) -> set[str]:
        """The nodes that a frontend here may need."""
        return {voter.node for request, _ in self._open.values() for voter in request.voters if voter.kind == "data"}

    def statuses(self) -> list[FrontendStatus]:
        return [frontend.status() for _, frontend in self._open.values()]

    # ---- small things ---------------------------------------------------------------------------------

    def _socket(self, volume: str) -> Path:
        """Short: a Unix socket's path has room for 107 bytes."""
        return self._run_dir / f"{volume[:16]}.sock"

    def _opened(self, request: OpenFrontend) -> FrontendOpened:
        socket = self._socket(request.volume)
        return FrontendOpened(node=self._node, socket=str(socket), uri=f"nbd+unix:///{request.name}?socket={socket}")

    def _remember(self) -> None:
        body = json.dumps([request.model_dump() for request, _ in self._open.values()])
        temporary = self._file.with_suffix(".new")
        with open(temporary, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._file)
