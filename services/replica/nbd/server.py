"""The NBD server on a Unix socket of this node: its rights guard it."""

from __future__ import annotations

import asyncio
import contextlib
import errno as os_errno
import logging
import os
import socket
from pathlib import Path

from services.replica.nbd.client import LOCAL, Client, Door, RequestHandler
from services.replica.nbd.protocol import Export, NbdConnection
from stoscore.errors import Code, StosError, invalid

SOCKET_PATH_BYTES_MAX = 107
_UMASK = 0o177
"""Makes the socket 0600 from its first moment on."""


class NbdServer(Door):
    """Listens on one Unix socket (0600) for one export."""

    def __init__(self, export: Export, path: Path, handler: RequestHandler, logger: logging.Logger):
        super().__init__(export, LOCAL, handler, logger)
        self.path = path
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Raises StosError: the path is too long, in use by a living server, or can't be made."""
        if len(os.fsencode(self.path)) > SOCKET_PATH_BYTES_MAX:
            raise invalid(
                f"the socket path {self.path} is longer than {SOCKET_PATH_BYTES_MAX} bytes",
                "use a shorter data directory",
            )
        _remove_stale(self.path)
        listener = _bind(self.path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: Client(self, NbdConnection(self.export)), sock=listener, backlog=self.limits.clients
        )

    async def close(self) -> None:
        """Stop listening and drop every client after its replies so far. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        self.hang_up()
        await asyncio.sleep(0)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


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
