"""The socket holder: listening sockets that outlive the node's service.

A client of a volume that finds its socket gone waits longer and longer between its tries: qemu's comes back three
seconds after a service that was away for one. So the sockets on which the NBD frontends listen belong to this process.
It binds them, hands out what listens (SCM_RIGHTS, unix(7)), and does nothing else. While the service is away, whoever
connects waits in the socket's queue, and is served as soon as the next service has asked for it.

    "listen PATH"        -> "ok" and a descriptor; the same socket each time
    "release PATH"       -> "ok"; the socket is gone
    "keep PATH PATH …"   -> "ok"; all others are gone: nobody remembers them

One request a connection, on a SOCK_SEQPACKET socket that only its own user may open; sockets lie beside it and nowhere
else. It keeps no state: what it holds is what it was asked for. When it dies, the service goes on with what it has,
and a new holder binds anew when it is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from stoscore.errors import StosError, invalid, precondition
from stoscore.files import socket_directory
from stoscore.host import BootstrapContext
from stoscore.settings import ServiceSettings, load
from stoscore.telemetry import get_logger

REQUEST_BYTES_MAX = 1 << 17
BACKLOG = 64
ANSWER_S = 2.0
"""How long one client may take for its request: there is one at a time."""
_UMASK = 0o177
"""Makes a socket 0600 from its first moment on."""

log = get_logger("holder")


class HolderSettings(ServiceSettings):
    """Environment STOS_HOLDER_*, or the table [holder]."""

    socket: Path = Field(
        default=Path("/run/stos/node/holder.sock"),
        description="Unix socket of the holder; the sockets that it holds lie in the same directory",
    )


class Holder:
    """The sockets of one directory."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._held: dict[str, tuple[socket.socket, int]] = {}
        """Path -> what listens there, and the inode of its name."""

    def answer(self, request: bytes) -> tuple[str, socket.socket | None]:
        """What to say, and what to hand out. Raises StosError for what is not done."""
        verb, *paths = request.decode("utf-8", "surrogateescape").split("\0")
        for path in paths:
            if os.path.dirname(path) != str(self._directory):
                raise invalid(f"{path!r} does not lie in {self._directory}")
        match verb, paths:
            case "listen", [path]:
                return "ok", self._listen(path)
            case "release", [path]:
                self._release(path)
                return "ok", None
            case "keep", _:
                for path in set(self._held) - set(paths):
                    self._release(path)
                return "ok", None
        raise invalid(f"unknown request {verb[:32]!r}")

    def _listen(self, path: str) -> socket.socket:
        held = self._held.get(path)
        if held is not None and _inode(path) == held[1]:
            return held[0]
        if held is not None:
            self._release(path)  # somebody removed its name
        listener = bind(Path(path))
        listener.listen(BACKLOG)
        self._held[path] = (listener, _inode(path))
        return listener

    def _release(self, path: str) -> None:
        listener, inode = self._held.pop(path, (None, 0))
        if listener is not None:
            listener.close()
            if _inode(path) == inode:
                os.unlink(path)

    def close(self) -> None:
        """The process ends. The names stay: who holds a descriptor goes on, and the next holder takes them over."""
        for listener, _ in self._held.values():
            listener.close()


def bind(path: Path) -> socket.socket:
    """A bound socket in the place of one that a killed process left. Raises StosError while somebody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
            raise precondition(f"another process listens on {path}", "stop it, or use another directory")
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
        except OSError as error:
            raise precondition(f"can't listen on {path}: {error.strerror}") from None
    return _bound(path, socket.SOCK_STREAM)


def _bound(path: Path, kind: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
    before = os.umask(_UMASK)
    try:
        listener.bind(os.fspath(path))
    except OSError as error:
        listener.close()
        raise precondition(f"can't listen on {path}: {error.strerror}", "check the directory and its rights") from None
    finally:
        os.umask(before)
    return listener


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


def serve_one(door: socket.socket, holder: Holder) -> None:
    """One client, from its connection to its answer. Never raises: the holder is to outlive everything."""
    try:
        connection, _ = door.accept()
    except OSError as error:
        log.warning("a client was lost: %s", error)
        return
    with connection:
        connection.settimeout(ANSWER_S)
        try:
            said, handed = holder.answer(connection.recv(REQUEST_BYTES_MAX))
        except (StosError, OSError) as error:
            log.warning("a request was refused: %s", error)
            said, handed = str(error), None
        with contextlib.suppress(OSError):
            socket.send_fds(connection, [said.encode()], [] if handed is None else [handed.fileno()])


class HolderService:
    """The plugin that `stos serve holder` runs. It has no identity and no bus."""

    name = "holder"
    bootstrap: Literal[True] = True

    async def run(self, context: BootstrapContext) -> None:
        path = load(HolderSettings, self.name).socket.absolute()
        socket_directory(path.parent)
        path.unlink(missing_ok=True)  # two holders of one directory: the younger answers
        holder, door = Holder(path.parent), _bound(path, socket.SOCK_SEQPACKET)
        loop = asyncio.get_running_loop()
        door.listen(BACKLOG)
        handle: Callable[[], None] = lambda: serve_one(door, holder)  # noqa: E731
        loop.add_reader(door, handle)
        try:
            context.ready()
            await context.stopping.wait()
        finally:
            loop.remove_reader(door)
            door.close()
            holder.close()


service = HolderService()
