"""Keeps the outgoing link to one peer: dials, and dials again, until it is told to stop.

A lost link is dialled again after 50 ms, doubling up to a second; word of life from the peer (its own link to
us) ends the pause, so that a restarted node is linked both ways within milliseconds.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from services.replica.peers.link import Link
from services.replica.tcp import connected_socket
from services.replica.tls_listener import HANDSHAKE_S, SHUTDOWN_S, describe
from stoscore.errors import StosError

CONNECT_S = 2.0
PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 1.0

Failed = Callable[[str, str], None]
"""(peer, reason): called for each attempt that brought no link."""


class Dialer:
    def __init__(
        self,
        peer: str,
        address: str,
        context: Callable[[], ssl.SSLContext],
        new_link: Callable[[str], Link],
        failed: Failed,
    ) -> None:
        self.peer = peer
        self.address = address
        self._context = context
        self._new_link = new_link
        self._failed = failed
        self._link: Link | None = None
        self._was_up = False
        self._lost: asyncio.Future[str] | None = None
        self._hurry = asyncio.Event()
        self._task = asyncio.create_task(self._keep_linked(), name=f"peer-dial-{peer}")

    def stop(self) -> Link | None:
        """Dial no more. Returns the link, if there is one, for the caller to close."""
        self._task.cancel()
        link, self._link = self._link, None
        return link

    def hurry(self) -> None:
        """The peer is alive: end the pause."""
        self._hurry.set()

    def lost(self, link: Link, reason: str, was_up: bool) -> None:
        """The network's word that this dialer's link has ended."""
        if link is self._link and self._lost is not None and not self._lost.done():
            self._was_up = was_up
            self._lost.set_result(reason)

    async def _keep_linked(self) -> None:
        pause_s = PAUSE_S_MIN
        while True:
            self._was_up = False
            self._hurry.clear()
            try:
                reason = await self._attempt()
            except TimeoutError:
                reason = f"no connection within {CONNECT_S:g} s"
            except ssl.SSLError as error:
                reason = describe(error)[1]
            except OSError as error:
                reason = error.strerror or str(error) or "the connection ended in the TLS handshake"
            except StosError as error:
                reason = str(error)
            if self._was_up:
                pause_s = PAUSE_S_MIN
            else:
                self._failed(self.peer, reason)
            await self._pause(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _pause(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def _attempt(self) -> str:
        """One link from its connection to its end. Returns why it ended."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):
            sock = await connected_socket(self.address)
        link = self._link = self._new_link(self.peer)
        lost: asyncio.Future[str] = loop.create_future()
        self._lost = lost
        await loop.create_connection(
            lambda: link,
            sock=sock,
            ssl=self._context(),
            server_hostname=self.peer,
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )
        return await lost
