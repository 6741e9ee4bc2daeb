"""One connection to NATS, from its TLS handshake to its end; `bus` strings them together.

A connection ends for many reasons: the server restarts, the network breaks, the user credential expires.
Instead of repairing one in place, the bus opens the next and subscribes again; that is also how a renewed
credential is put to use before the old one ends. So the client library's own reconnecting is off.
"""

from __future__ import annotations

import asyncio
import base64
import re
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from stoscore.errors import unavailable
from stoscore.identity import NATS_HOST_NAME, Identity
from stoscore.telemetry import get_logger

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

log = get_logger("bus")

CONNECT_TIMEOUT_S = 5
PING_INTERVAL_S = 5
"""A connection whose two pings in a row stay unanswered is given up: a dead server is noticed in 15 s."""
FLUSH_TIMEOUT_S = 5
DRAIN_TIMEOUT_S = 5
PENDING_MESSAGES_MAX = 8192
PENDING_BYTES_MAX = 32 * 1024 * 1024

_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)


def _client_class() -> type[Client]:
    """The library's client. It imports aiohttp, which only its websocket transport needs and which costs more
    than a third of a service's start-up time: it takes a missing one for granted."""
    hidden = [name for name in ("aiohttp",) if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        from nats.aio import client
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
    found: type[Client] = client.Client
    return found


class Session:
    """One connected client. `lost` is done when the connection is gone, for whatever reason."""

    def __init__(self, client: Client, on_publish_denied: Callable[[str], None]):
        self.client = client
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.denied: set[str] = set()
        """Subjects (lower case) whose subscription the server refused."""
        self.inbox = ""
        self._on_publish_denied = on_publish_denied
        self._last_error = ""

    @classmethod
    async def open(
        cls, identity: Identity, servers: list[str], name: str, on_publish_denied: Callable[[str], None]
    ) -> Session:
        """Connect to one of the servers. Raises StosError UNAVAILABLE with the reason."""
        from nats import errors
        from nkeys import NkeysError

        session = cls(_client_class()(), on_publish_denied)

        def sign(nonce: str) -> bytes:
            from stoscore.nkey import sign as sign_with

            return base64.b64encode(sign_with(identity.nats_seed(), nonce.encode()))

        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await session.client.connect(
                    servers=list(servers),
                    name=name,
                    allow_reconnect=False,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,  # the bus waits between attempts
                    ping_interval=PING_INTERVAL_S,
                    drain_timeout=DRAIN_TIMEOUT_S,
                    tls=identity.nats_context(),
                    tls_hostname=NATS_HOST_NAME,
                    tls_handshake_first=True,
                    user_jwt_cb=lambda: bytearray(identity.nats_jwt().encode("ascii")),
                    signature_cb=sign,
                    inbox_prefix=identity.inbox_prefix,
                    error_cb=session._on_error,
                    closed_cb=session._on_closed,
                )
        except (OSError, errors.Error, TimeoutError, NkeysError) as error:
            reason = session._last_error or str(error) or type(error).__name__
            raise unavailable(f"no connection to NATS at {', '.join(servers)}: {reason}") from None
        session.inbox = session.client.new_inbox()
        return session

    async def _on_error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        denied = _DENIED.search(text)
        if denied is None:
            self._last_error = text
            log.debug("NATS: %s", text)
        elif denied[1].lower() == "subscription":
            self.denied.add(denied[2].lower())
            log.error("NATS refused a subscription", extra={"subject": denied[2]})
        else:
            log.warning("NATS refused to publish", extra={"subject": denied[2]})
            self._on_publish_denied(denied[2])

    async def _on_closed(self) -> None:
        if not self.lost.done():
            self.lost.set_result(self._last_error or str(self.client.last_error or "connection closed"))

    @property
    def alive(self) -> bool:
        return not self.lost.done() and bool(self.client.is_connected)

    async def subscribe(self, subject: str, queue: str, callback: Callable[[Msg], Awaitable[None]]) -> None:
        """Raises StosError UNAVAILABLE when the connection ended meanwhile."""
        from nats import errors

        try:
            await self.client.subscribe(
                subject,
                queue=queue,
                cb=callback,
                pending_msgs_limit=PENDING_MESSAGES_MAX,
                pending_bytes_limit=PENDING_BYTES_MAX,
            )
        except errors.Error as error:
            raise unavailable(f"can't subscribe to {subject}: {error}") from None

    def is_denied(self, subject: str) -> bool:
        return subject.lower() in self.denied

    async def publish(self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None) -> bool:
        """False when the connection is gone or the message too large for it."""
        from nats import errors

        try:
            await self.client.publish(subject, data, reply=reply, headers=headers)
        except (errors.Error, OSError) as error:
            log.debug("not published: %s", error, extra={"subject": subject})
            return False
        return True

    async def round_trip(self) -> None:
        """All that was sent before has reached the server, and its complaints have reached us."""
        from nats import errors

        try:
            await self.client.flush(timeout=FLUSH_TIMEOUT_S)
        except (errors.Error, OSError, TimeoutError) as error:
            raise unavailable(f"NATS does not answer: {error}") from None

    async def close(self, *, drain: bool) -> None:
        """With `drain` what has arrived is still worked on."""
        from nats import errors

        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await (self.client.drain() if drain else self.client.close())
        except (errors.Error, OSError, TimeoutError) as error:
            log.debug("closing the NATS connection: %s", error)

    def describe(self) -> dict[str, Any]:
        url = self.client.connected_url
        return {"server": url.netloc if url else "", "client_id": self.client.client_id}
