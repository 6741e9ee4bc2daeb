"""The NBD server on a Unix socket of this node: its rights guard it."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from services.replica.nbd.client import LOCAL, Client, Door, RequestHandler
from services.replica.nbd.listeners import Listeners, OwnListeners
from services.replica.nbd.protocol import Export, NbdConnection
from stoscore.errors import invalid

SOCKET_PATH_BYTES_MAX = 107


class NbdServer(Door):
    """Listens on one Unix socket (0600) for one export."""

    def __init__(
        self,
        export: Export,
        path: Path,
        handler: RequestHandler,
        logger: logging.Logger,
        listeners: Listeners | None = None,
    ):
        super().__init__(export, LOCAL, handler, logger)
        self.path = path
        self._listeners = listeners or OwnListeners()
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        """Raises StosError: the path is too long, in use by a living server, or can't be made."""
        if len(os.fsencode(self.path)) > SOCKET_PATH_BYTES_MAX:
            raise invalid(
                f"the socket path {self.path} is longer than {SOCKET_PATH_BYTES_MAX} bytes",
                "use a shorter data directory",
            )
        listener = await self._listeners.listen(self.path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: Client(self, NbdConnection(self.export)), sock=listener, backlog=self.limits.clients
        )

    async def close(self) -> None:
        """Stop listening, drop every client after its replies so far, remove the socket. Idempotent."""
        if await self._end():
            await self._listeners.release(self.path)

    async def leave(self) -> None:
        """As `close`, by a process whose successor will serve the same volume. Idempotent."""
        if await self._end():
            await self._listeners.leave(self.path)

    async def _end(self) -> bool:
        """False when it has ended before."""
        server, self._server = self._server, None
        if server is None:
            return False
        server.close()
        self.hang_up()
        await asyncio.sleep(0)
        return True
