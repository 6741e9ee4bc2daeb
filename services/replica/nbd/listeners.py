"""Where an NBD server's listening socket comes from: bound here, or held by the holder across a restart."""

from __future__ import annotations

import asyncio
import contextlib
import errno as os_errno
import logging
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from stoscore.errors import Code, StosError

ANSWER_S = 5.0
ANSWER_BYTES_MAX = 4096
_UMASK = 0o177
"""Makes the socket 0600 from its first moment on."""


class Listeners(Protocol):
    """Bound sockets by path."""

    async def listen(self, path: Path) -> socket.socket:
        """Raises StosError."""

    async def release(self, path: Path) -> None:
        """The volume is not used here any more: the socket goes. Idempotent."""

    async def leave(self, path: Path) -> None:
        """This process ends, and its successor will want the path."""

    async def keep(self, paths: Iterable[Path]) -> None:
        """Nobody remembers any others."""


class OwnListeners:
    """Bound by this process: gone with it."""

    async def listen(self, path: Path) -> socket.socket:
        _remove_stale(path)
        return _bind(path)

    async def release(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

    async def leave(self, path: Path) -> None:
        await self.release(path)

    async def keep(self, paths: Iterable[Path]) -> None:
        """What a killed process left is replaced when it is asked for."""


class HeldListeners:
    """Asked of the holder (`services.replica.holder`). A holder that does not answer is no reason not to serve: the
    sockets are then our own, and a restart is a longer pause."""

    def __init__(self, holder: Path, logger: logging.Logger):
        self._holder = holder
        self._own = OwnListeners()
        self._log = logger

    async def listen(self, path: Path) -> socket.socket:
        try:
            _, descriptors = await self._ask("listen", path)
            return socket.socket(fileno=descriptors[0])
        except (OSError, IndexError) as error:
            self._log.warning("the holder gives no socket, this process binds its own: %s", error)
            return await self._own.listen(path)

    async def release(self, path: Path) -> None:
        try:
            await self._ask("release", path)
        except OSError as error:
            self._log.warning("the holder releases no socket: %s", error)
        await self._own.release(path)

    async def leave(self, path: Path) -> None:
        """It is the holder's."""

    async def keep(self, paths: Iterable[Path]) -> None:
        try:
            await self._ask("keep", *paths)
        except OSError as error:
            self._log.warning("the holder keeps what nobody needs: %s", error)

    async def _ask(self, verb: str, *paths: Path) -> tuple[str, list[int]]:
        """Raises OSError when it does not answer or refuses."""
        return await asyncio.to_thread(self._asked, verb, paths)

    def _asked(self, verb: str, paths: tuple[Path, ...]) -> tuple[str, list[int]]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(os.fspath(self._holder))
            connection.send(b"\0".join([verb.encode(), *(os.fsencode(path) for path in paths)]))
            said, descriptors, _, _ = socket.recv_fds(connection, ANSWER_BYTES_MAX, 1)
        if said != b"ok":
            for descriptor in descriptors:
                os.close(descriptor)
            raise OSError(said.decode("utf-8", "replace") or "no answer")
        return "ok", list(descriptors)


def _remove_stale(path: Path) -> None:
    """A socket that a killed process left behind goes; one that somebody listens on stays."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        probe.connect(os.fspath(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        return
    except BlockingIOError:
        pass  # its backlog is full: it lives
    except OSError as error:
        raise _cannot_listen(path, error) from error
    finally:
        probe.close()
    raise StosError(
        Code.FAILED_PRECONDITION,
        f"another process serves NBD on {path}",
        next_step="stop it, or use another directory",
    )


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(_UMASK)
    try:
        listener.bind(os.fspath(path))
    except OSError as error:
        listener.close()
        raise _cannot_listen(path, error) from error
    finally:
        os.umask(before)
    return listener


def _cannot_listen(path: Path, error: OSError) -> StosError:
    code = Code.PERMISSION_DENIED if error.errno == os_errno.EACCES else Code.FAILED_PRECONDITION
    return StosError(code, f"can't listen on {path}: {error.strerror}", next_step="check the directory and its rights")
