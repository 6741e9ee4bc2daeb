"""Takes TCP connections and brings them through TLS 1.3; whoever fails is a stranger: closed, counted, told.

    accept ──> prelude (what the protocol says in the clear, if anything) ──> TLS, both sides ──> the protocol

Each connection's way to there is its own short task, so that one that dawdles holds up nobody. What strangers may
cost is bounded (`Crowd`), because a handshake costs a millisecond of the loop that also keeps leases.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.replica.allowance import Allowance
from services.replica.tcp import tune

HANDSHAKE_S = 5.0
"""For prelude and handshake together."""
SHUTDOWN_S = 1.0
ADDRESSES_MAX = 1024
"""Addresses whose pace is remembered; the one that was silent longest is forgotten."""
ACCEPT_PAUSE_S = 0.2
"""After accept failed, most likely for want of file descriptors: try again when some may be free."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many strangers there may be at a door."""

    handshakes: int
    """Under way at a time. Beyond it the oldest gives way: an honest one takes milliseconds, and the oldest is the
    one that does not move."""
    handshakes_per_address: int
    """Of one address; beyond it the oldest of that address gives way. A stranger with many connections pushes out his
    own and not those of others."""
    per_s: int
    """Connections a second of one address; what comes faster is closed before it has cost anything."""
    burst: int


PEERS = Crowd(handshakes=128, handshakes_per_address=48, per_s=100, burst=256)
"""A whole cluster may dial at once, and in the embedded one everybody has the same address."""
CLIENTS = Crowd(handshakes=16, handshakes_per_address=4, per_s=10, burst=32)

Stranger = Callable[[str, str, str], None]
"""(its address without the port, kind, reason): called for each connection that was turned away. Kinds are few
words, for counting: certificate, tls, timeout, closed, pace, accept."""
NewProtocol = Callable[[], asyncio.BaseProtocol]
Prelude = Callable[[socket.socket], Awaitable[NewProtocol]]
"""Says to the bare socket what has to be said before TLS, and returns what makes the protocol behind it. May raise
OSError or TurnedAway."""


class TurnedAway(Exception):
    """This connection does not get as far as TLS."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class TlsListener:
    """One listening socket. `context` is asked for at every connection, so that a renewed certificate and a changed
    trust are used at once."""

    def __init__(
        self,
        sock: socket.socket,
        context: Callable[[], ssl.SSLContext],
        prelude: Prelude,
        stranger: Stranger,
        *,
        crowd: Crowd,
    ) -> None:
        self._sock = sock
        self._context = context
        self._stranger = stranger
        self._crowd = crowd
        self._prelude = prelude
        self._handshakes: dict[asyncio.Task[None], str] = {}
        """Oldest first -> the other side's host."""
        self._paces: OrderedDict[str, Allowance] = OrderedDict()
        self._accepting = asyncio.create_task(self._accept(), name="tls-accept")

    @property
    def handshakes(self) -> int:
        """How many are under way."""
        return len(self._handshakes)

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
            host = str(address[0])
            if self._too_fast(host):
                sock.close()
                self._stranger(host, "pace", f"more than {self._crowd.per_s} connections a second")
                continue
            self._make_room(host)
            task = asyncio.create_task(self._bring_in(sock, host), name="tls-handshake")
            self._handshakes[task] = host
            task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    def _too_fast(self, host: str) -> bool:
        now_ns = time.monotonic_ns()
        pace = self._paces.get(host)
        if pace is None:
            pace = self._paces[host] = Allowance(self._crowd.per_s, self._crowd.burst, now_ns)
            if len(self._paces) > ADDRESSES_MAX:
                self._paces.popitem(last=False)
        self._paces.move_to_end(host)
        return not pace.take_if_room(1, now_ns)

    def _make_room(self, host: str) -> None:
        crowd = self._crowd
        own = [task for task, other in self._handshakes.items() if other == host]
        if len(own) >= crowd.handshakes_per_address:
            self._give_way(own[0], f"{len(own)} handshakes of its address are under way")
        elif len(self._handshakes) >= crowd.handshakes:
            self._give_way(next(iter(self._handshakes)), f"{len(self._handshakes)} handshakes are under way")

    def _give_way(self, task: asyncio.Task[None], why: str) -> None:
        host = self._handshakes.pop(task)
        task.cancel()
        self._stranger(host, "timeout", f"gave way: {why}")

    async def _bring_in(self, sock: socket.socket, host: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            tune(sock)
            async with asyncio.timeout(HANDSHAKE_S):
                new_protocol = await self._prelude(sock)
            await loop.connect_accepted_socket(
                new_protocol,
                sock,
                ssl=self._context(),
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
        except TurnedAway as away:
            sock.close()
            self._stranger(host, away.kind, away.reason)
        except OSError as error:
            sock.close()
            self._stranger(host, *describe(error))
        except asyncio.CancelledError:
            sock.close()
            raise


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
