"""Takes connections and brings them through TLS; whoever fails is a stranger: closed, counted, one log line.

Each connection's handshake is its own short task, so that one that dawdles holds up nobody. At most
`HANDSHAKES_MAX` are under way: beyond it the oldest gives way, because an honest handshake takes
milliseconds and the oldest is the one that does not move.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from services.replica.peers.link import Link
from services.replica.peers.sockets import join_address, tune

HANDSHAKE_S = 5.0
SHUTDOWN_S = 1.0
HANDSHAKES_MAX = 128
ACCEPT_PAUSE_S = 0.2
"""After accept failed, most likely for want of file descriptors: try again when some may be free."""

Stranger = Callable[[str, str, str], None]
"""(remote address, kind, reason): called for each connection that was turned away."""


class Listener:
    def __init__(
        self,
        sock: socket.socket,
        context: Callable[[], ssl.SSLContext],
        new_link: Callable[[], Link],
        stranger: Stranger,
    ) -> None:
        self._sock = sock
        self._context = context
        self._new_link = new_link
        self._stranger = stranger
        self._handshakes: dict[asyncio.Task[None], str] = {}
        self._accepting = asyncio.create_task(self._accept(), name="peer-accept")

    async def stop(self) -> None:
        tasks = [self._accepting, *self._handshakes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(self._sock)
            except OSError as error:
                self._stranger("", "accept", f"can't accept a connection: {error.strerror}")
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if len(self._handshakes) >= HANDSHAKES_MAX:
                self._give_way()
            remote = join_address(*address[:2])
            task = asyncio.create_task(self._handshake(sock, remote), name="peer-handshake")
            self._handshakes[task] = remote
            task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    def _give_way(self) -> None:
        task, remote = next(iter(self._handshakes.items()))
        del self._handshakes[task]
        task.cancel()
        self._stranger(remote, "timeout", f"gave way: {HANDSHAKES_MAX} handshakes are under way")

    async def _handshake(self, sock: socket.socket, remote: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            tune(sock)
            await loop.connect_accepted_socket(
                self._new_link,
                sock,
                ssl=self._context(),
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
        except OSError as error:
            self._stranger(remote, *describe(error))


def describe(error: OSError) -> tuple[str, str]:
    """(kind, reason) of a failed handshake; kinds: certificate, tls, timeout, closed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate", f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "no TLS").replace("_", " ").lower()
        return ("certificate" if "certificate" in reason else "tls"), reason
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return "timeout", f"no TLS handshake within {HANDSHAKE_S:g} s"
    return "closed", "closed before the TLS handshake was done"
