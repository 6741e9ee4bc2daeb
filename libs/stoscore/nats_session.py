"""One connection to NATS, from its TLS handshake to its end; `bus` strings them together.

A connection ends for many reasons: the server restarts, the network breaks, the user credential expires.
Instead of repairing one in place, the bus opens the next and subscribes again; that is also how a renewed
credential is put to use before the old one ends.
"""

from __future__ import annotations

import asyncio
import base64
import random
import re
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from stoscore import nats_wire as wire
from stoscore.errors import StosError, invalid, unavailable
from stoscore.identity import NATS_HOST_NAME, Identity
from stoscore.nats_wire import Msg
from stoscore.nkey import sign
from stoscore.telemetry import get_logger

log = get_logger("bus")

CONNECT_TIMEOUT_S = 5.0
PING_INTERVAL_S = 5.0
PINGS_OUT_MAX = 2
"""A connection whose pings stay unanswered is given up: a dead server is noticed within 15 s."""
ROUND_TRIP_TIMEOUT_S = 5.0
DRAIN_TIMEOUT_S = 30.0
UNSENT_BYTES_MAX = 16 << 20
"""What may wait for a slow network; beyond it nothing more is accepted."""
DEFAULT_PORT = 4222

_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)


class Session(asyncio.Protocol):
    """One connected client. `lost` is done, with the reason, when the connection is gone."""

    def __init__(self, inbox: str, on_publish_denied: Callable[[str], None]):
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.inbox = inbox
        """Answers to this session's requests arrive below this subject."""
        self.lost: asyncio.Future[str] = loop.create_future()
        self.working = 0
        """Requests that arrived here and are not answered: only this connection may answer them."""
        self.server = ""
        self.payload_bytes_max = 1 << 20
        self._on_publish_denied = on_publish_denied
        self._denied: set[str] = set()
        self._callbacks: dict[int, Callable[[Msg], None]] = {}
        self._next_sid = 1
        self._parser = wire.Parser()
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._info: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._pongs: deque[asyncio.Future[None]] = deque()
        self._keepalive: asyncio.TimerHandle | None = None
        self._error = ""

    # --- beginning ---

    @classmethod
    async def open(
        cls,
        identity: Identity,
        servers: list[str],
        name: str,
        inbox: str,
        on_publish_denied: Callable[[str], None],
    ) -> Session:
        """Connect to one of the servers. Raises StosError UNAVAILABLE with the reason of the last one."""
        reason = "no server is configured"
        for server in random.sample(servers, len(servers)):
            session = cls(inbox, on_publish_denied)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await session._open(identity, server, name)
                return session
            except (OSError, TimeoutError, StosError) as error:
                reason = session._error or str(error) or "no answer"
                session.abort(reason)
            except asyncio.CancelledError:
                session.abort("cancelled")
                raise
        raise unavailable(f"no connection to NATS at {', '.join(servers)}: {reason}")

    async def _open(self, identity: Identity, server: str, name: str) -> None:
        host, port = _address(server)
        await self._loop.create_connection(
            lambda: self, host, port, ssl=identity.nats_context(), server_hostname=NATS_HOST_NAME
        )
        info = await self._info
        nonce = str(info.get("nonce", "")).encode()
        self.server = str(info.get("server_name", server))
        self.payload_bytes_max = int(info.get("max_payload", self.payload_bytes_max))
        signature = base64.urlsafe_b64encode(sign(identity.nats_seed(), nonce)).decode().rstrip("=")
        options = {
            "name": name,
            "lang": "python",
            "version": "1",
            "protocol": 1,
            "verbose": False,
            "pedantic": False,
            "tls_required": True,
            "headers": True,
            "no_responders": True,
            "jwt": identity.nats_jwt(),
            "sig": signature,
        }
        self._send(wire.connect(options))
        await self.round_trip()
        self._keepalive = self._loop.call_later(PING_INTERVAL_S, self._ping)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            for operation in self._parser.feed(data):
                self._handle(operation)
        except wire.WireError as error:
            self.abort(f"the server does not speak NATS: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(self._error or (str(exc) if exc else "") or "closed by the server")

    def _handle(self, operation: wire.Operation) -> None:
        match operation:
            case Msg(sid=sid):
                callback = self._callbacks.get(sid)
                if callback is not None:
                    callback(operation)
            case wire.Ping():
                self._send(wire.PONG)
            case wire.Pong():
                if self._pongs:
                    waiting = self._pongs.popleft()
                    if not waiting.done():
                        waiting.set_result(None)
            case wire.Info(fields=fields):
                if not self._info.done():
                    self._info.set_result(fields)
            case wire.Err(text=text):
                self._complained(text)

    def _complained(self, text: str) -> None:
        denied = _DENIED.search(text)
        if denied is None:
            self._error = text  # the server closes the connection after it
            return
        subject = denied[2]
        if denied[1].lower() == "subscription":
            self._denied.add(subject)
            log.error("NATS refused a subscription", extra={"subject": subject})
        else:
            log.warning("NATS refused to publish", extra={"subject": subject})
            self._on_publish_denied(subject)

    # --- the end ---

    @property
    def alive(self) -> bool:
        return not self.lost.done()

    def abort(self, reason: str) -> None:
        """End it at once."""
        self._error = self._error or reason
        if self._transport is not None:
            self._transport.abort()
        self._end(self._error)

    def _end(self, reason: str) -> None:
        if self._keepalive is not None:
            self._keepalive.cancel()
        if not self.lost.done():
            self.lost.set_result(reason)
        error = unavailable(f"the connection to NATS broke: {reason}")
        waiters: list[asyncio.Future[Any]] = [self._info, *self._pongs]
        for waiting in waiters:
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # whoever waits is told; nobody has to
        self._callbacks.clear()

    async def drain(self) -> None:
        """End it when all that arrived has been answered; nothing new arrives meanwhile."""
        for sid in list(self._callbacks):
            self._send(wire.unsubscribe(sid))
        end = self._loop.time() + DRAIN_TIMEOUT_S
        try:
            await self.round_trip()
            while self.working and self.alive and self._loop.time() < end:
                await asyncio.sleep(0.02)
            await self.round_trip()
        except StosError as error:
            log.debug("draining: %s", error)
        self.close()

    def close(self) -> None:
        """End it after what was accepted has been sent."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
        self._end("closed")

    # --- saying ---

    def _send(self, data: bytes) -> None:
        """All that one turn of the loop says goes out with one write."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)

    def _flush(self) -> None:
        if self._unsent and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def subscribe(self, subject: str, queue: str, callback: Callable[[Msg], None]) -> None:
        """The callback must not block. Whether the server allows it is known after a `round_trip`."""
        sid, self._next_sid = self._next_sid, self._next_sid + 1
        self._callbacks[sid] = callback
        self._send(wire.subscribe(subject, queue, sid))

    def is_denied(self, subject: str) -> bool:
        return subject in self._denied

    def publish(self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None) -> bool:
        """False when the connection is gone or does not keep up. Raises StosError INVALID_ARGUMENT for a
        message that can't be sent."""
        if len(data) > self.payload_bytes_max:
            raise invalid(f"a message of {len(data)} bytes is too large for the bus ({self.payload_bytes_max})")
        transport = self._transport
        if not self.alive or transport is None or transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            return False
        try:
            self._send(wire.publish(subject, reply, headers, data))
        except ValueError as error:
            raise invalid(str(error)) from None
        return True

    async def round_trip(self) -> None:
        """All that was said before has reached the server, and its complaints have reached us. Raises StosError
        UNAVAILABLE."""
        if not self.alive:
            raise unavailable("the connection to NATS is gone")
        waiting: asyncio.Future[None] = self._loop.create_future()
        self._pongs.append(waiting)
        self._send(wire.PING)
        try:
            await asyncio.wait_for(asyncio.shield(waiting), ROUND_TRIP_TIMEOUT_S)
        except TimeoutError:
            raise unavailable("NATS does not answer") from None

    def _ping(self) -> None:
        if len(self._pongs) >= PINGS_OUT_MAX:
            self.abort("the server stopped answering")
            return
        self._pongs.append(self._loop.create_future())
        self._send(wire.PING)
        self._keepalive = self._loop.call_later(PING_INTERVAL_S, self._ping)


def _address(server: str) -> tuple[str, int]:
    """Raises StosError INVALID_ARGUMENT."""
    try:
        parts = urlsplit(server if "://" in server else f"tls://{server}")
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        host, port = None, 0
    if not host:
        raise invalid(f"{server!r} is no NATS address", "write tls://host:port")
    return host, port
