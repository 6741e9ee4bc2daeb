"""One connection to NATS, from its TLS handshake to its end; `bus` strings them together.

A connection ends for many reasons: the server restarts, the network breaks, the user credential expires.
Instead of repairing one in place, the bus opens the next and subscribes again; that is also how a renewed
credential is put to use before the old one ends. So the client library (nats-py) serves one connection, with its
own reconnecting off. Around it we keep, all of it seen with version 2.16:

* A PING overtakes what waits to be flushed, so `round_trip` needs two of them.
* A cancelled flush breaks the reading, and a close may wait for a silent server: what it does runs in tasks of
  its own, and nobody waits for them longer than a set time.
* It does not always tell that a connection ended: `_watch`.
* It costs 60 ms to import, with aiohttp 0.25 s: only who opens a connection pays, and for what we use alone.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import random
import re
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stoscore.access import payload_max
from stoscore.errors import Code, StosError, invalid, unavailable
from stoscore.identity import NATS_HOST_NAME, Identity
from stoscore.nkey import sign
from stoscore.spiffe import Peer, role_of
from stoscore.telemetry import get_logger

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.subscription import Subscription

log = get_logger("bus")

CONNECT_TIMEOUT_S = 5
PING_INTERVAL_S = 5
PINGS_OUT_MAX = 2
"""A connection whose pings stay unanswered is given up: a dead server is noticed within 16 s."""
WATCH_INTERVAL_S = 1.0
ROUND_TRIP_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0
"""How long our side waits for an end. The library may go on in the background."""
BACKGROUND_TIMEOUT_S = 40
"""TLS itself gives a silent peer 30 s."""
UNSENT_BYTES_MAX = 16 << 20
"""What may wait for a slow network; beyond it nothing more is accepted."""
SERVER_ROLE = "nats"
STATUS = "Status"
"""Pseudo header with the number that JetStream and "nobody listens" (503) put into the first line."""

Credential = tuple[str, bytes]
"""A user's JWT and the seed of the key that it names."""

_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)
_NO_SUBJECT = re.compile(r"[\x00-\x20\x7f]|\A\Z")
_background: set[asyncio.Task[bool]] = set()

# The library's streams are put under TLS in a way that asyncio warns of at the end of every connection.
logging.getLogger("asyncio").addFilter(lambda record: "returning true from eof_received()" not in str(record.msg))


@dataclass(frozen=True, slots=True)
class Msg:
    """One delivered message."""

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] = field(default_factory=dict)


@cache
def _library() -> Any:
    """The module of the library's client. It imports aiohttp, which only its websockets need and which costs
    four times the rest: it takes a missing one for granted. Its JetStream costs more than all that we use of it, and is
    loaded when it is first asked for: for the names of two headers, when nobody listens."""
    hidden = [name for name in ("aiohttp",) if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    sys.meta_path.insert(0, _Later)
    try:
        from nats.aio import client
    finally:
        sys.meta_path.remove(_Later)
        for name in hidden:
            del sys.modules[name]
    return client


class _Later:
    """Finds the library's JetStream, which runs at its first use."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == "nats.js" else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


class Session:
    """One connected client. `lost` is done, with the reason, when the connection is gone."""

    def __init__(self, client: Client, identity: Identity, inbox: str, on_publish_denied: Callable[[str], None]):
        self.inbox = inbox
        """Answers to this session's requests arrive below this subject."""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.server = ""
        self._client = client
        self._identity = identity
        self._payload_max = payload_max(identity.role)
        self._server_peer: Peer | None = None
        self._on_publish_denied = on_publish_denied
        self._denied: set[str] = set()
        self._error = ""
        self._subscriptions: list[Subscription] = []
        self._unsent: asyncio.Queue[tuple[Callable[[], Coroutine[Any, Any, None]], int]] = asyncio.Queue()
        self._unsent_bytes = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._hanging_up: asyncio.Task[bool] | None = None

    # --- beginning ---

    @classmethod
    async def open(
        cls,
        identity: Identity,
        servers: list[str],
        name: str,
        inbox: str,
        on_publish_denied: Callable[[str], None],
        *,
        credential: Callable[[], Credential] | None = None,
    ) -> Session:
        """Connect to one of the servers, with the identity's credential unless another one is given. Raises
        StosError UNAVAILABLE with the reason of the last server; the subjects that `on_publish_denied` is told are
        in lower case."""
        library = _library()
        reason = "no server is configured"
        for server in random.sample(servers, len(servers)):
            session = cls(library.Client(), identity, inbox, on_publish_denied)
            try:
                await session._open(server, name, credential or (lambda: (identity.nats_jwt(), identity.nats_seed())))
                return session
            except (OSError, TimeoutError, library.errors.Error, StosError) as error:
                reason = session._error or str(error) or "no answer"
        raise unavailable(f"no connection to NATS at {', '.join(servers)}: {reason}")

    async def _open(self, server: str, name: str, credential: Callable[[], Credential]) -> None:
        identity = self._identity
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._client.connect(
                    servers=[server],
                    name=name,
                    allow_reconnect=False,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    max_reconnect_attempts=1,  # 0 would be for ever
                    reconnect_time_wait=0,
                    ping_interval=PING_INTERVAL_S,
                    max_outstanding_pings=PINGS_OUT_MAX,
                    tls=identity.nats_context(),
                    tls_hostname=NATS_HOST_NAME,
                    tls_handshake_first=True,
                    user_jwt_cb=lambda: credential()[0].encode("ascii"),
                    signature_cb=lambda nonce: self._prove(nonce, credential()[1]),
                    inbox_prefix=self.inbox,
                    error_cb=self._complained,
                    closed_cb=self._closed,
                )
        except BaseException:
            self._end("not connected")
            raise
        self.server = self._client.connected_url.netloc
        self._tasks = [asyncio.create_task(self._send_all()), asyncio.create_task(self._watch())]

    def _prove(self, nonce: str, seed: bytes) -> bytes:
        """The server's nonce with our signature. Not for a server that is revoked: with the signature it could pose
        as us before another one."""
        identity, writer = self._identity, self._client._transport._io_writer
        peer = identity.verified_peer(writer.get_extra_info("peercert"))
        if peer.kind != "svc" or role_of(peer.kind, peer.name) != SERVER_ROLE:
            raise StosError(Code.UNAUTHENTICATED, f"{peer} is no NATS server")
        self._server_peer = peer
        return base64.b64encode(sign(seed, nonce.encode()))

    def check_server(self) -> None:
        """Ends the connection when the server has been revoked since."""
        try:
            if self._server_peer is not None:
                self._identity.check_peer(self._server_peer)
        except StosError as error:
            self._end(error.message)

    # --- what the library tells ---

    async def _complained(self, error: Exception) -> None:
        text = str(error).removeprefix("nats: ") or type(error).__name__
        denied = _DENIED.search(text)
        if denied is None:
            self._error = text
            log.debug("NATS: %s", text)
        elif denied[1].lower() == "subscription":
            self._denied.add(denied[2].lower())
            log.error("NATS refused a subscription", extra={"subject": denied[2]})
        else:
            log.warning("NATS refused to publish", extra={"subject": denied[2]})
            self._on_publish_denied(denied[2].lower())

    async def _closed(self) -> None:
        self._end(self._reason())

    def _reason(self) -> str:
        error = str(self._client.last_error or "") or self._error
        return error.removeprefix("nats: ") or "closed by the server"

    # --- the end ---

    @property
    def alive(self) -> bool:
        return not self.lost.done() and bool(self._client.is_connected)

    async def _watch(self) -> None:
        """`_closed` is not called when the library stumbles over a message, or while it closes, and never when its
        last words do not reach a socket that is gone."""
        client = self._client
        reading = client._reading_task
        for task in (reading, client._flusher_task, client._ping_interval_task):
            task.add_done_callback(_take_note)
        while client.is_connected and not reading.done():
            await asyncio.wait([reading], timeout=WATCH_INTERVAL_S)
        self._end("what arrived could not be read" if client.is_connected else self._reason())

    def _end(self, reason: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        for task in self._tasks:
            task.cancel()
        self._hanging_up = _in_background(self._client.close())

    async def drain(self) -> None:
        """End it when all that arrived has been delivered; nothing new arrives meanwhile."""
        try:
            await self.round_trip()
            await self._before_lost(self._unsubscribe(), ROUND_TRIP_TIMEOUT_S)
            await self.round_trip()
        except StosError as error:
            log.debug("draining: %s", error)
        await self.close()

    async def _unsubscribe(self) -> None:
        await asyncio.gather(*(item.drain() for item in self._subscriptions))

    async def close(self) -> None:
        """End it after what was accepted has been sent, within a few seconds."""
        try:
            if self.alive:
                await self._before_lost(self._unsent.join(), CLOSE_TIMEOUT_S)
        finally:
            self._end("closed")
        if self._hanging_up is not None:
            await asyncio.wait([self._hanging_up], timeout=CLOSE_TIMEOUT_S)

    async def _before_lost(self, work: Coroutine[Any, Any, None], timeout_s: float) -> bool:
        """True when the work is done in time and the connection lives. Work that is late is not cut short."""
        task = _in_background(work)
        ends: list[asyncio.Future[Any]] = [task, self.lost]
        await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return task.done() and task.result() and self.alive

    # --- saying ---

    def _say(self, work: Callable[[], Coroutine[Any, Any, Any]], size: int = 0) -> None:
        self._unsent_bytes += size
        self._unsent.put_nowait((work, size))

    async def _send_all(self) -> None:
        """Hand what was said to the library, in order. It waits where the network does not keep up."""
        while self.alive:
            work, size = await self._unsent.get()
            try:
                await work()
            except Exception as error:
                # Whatever it is, it must not keep back what comes next; a broken connection is told elsewhere.
                level = logging.WARNING if self.alive else logging.DEBUG
                log.log(level, "NATS: not sent: %s", str(error) or type(error).__name__)
            finally:
                self._unsent_bytes -= size
                self._unsent.task_done()

    def subscribe(self, subject: str, queue: str, callback: Callable[[Msg], None]) -> None:
        """The callback must not block. Whether the server allows it is known after a `round_trip`."""

        async def arrived(msg: Any) -> None:
            try:
                callback(Msg(msg.subject, msg.reply, msg.data, msg.headers or {}))
            except Exception:
                log.exception("a message was not understood", extra={"subject": msg.subject})

        async def subscribe() -> None:
            self._subscriptions.append(await self._client.subscribe(subject, queue=queue, cb=arrived))

        self._say(subscribe)

    def is_denied(self, subject: str) -> bool:
        return subject.lower() in self._denied

    def publish(self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None) -> bool:
        """False when the connection is gone or does not keep up. Raises StosError INVALID_ARGUMENT for a
        message that can't be sent."""
        if len(data) > self._payload_max:
            raise invalid(f"a message of {len(data)} bytes is too large for the bus ({self._payload_max})")
        for word in (subject, reply or subject):
            if _NO_SUBJECT.search(word):
                raise invalid(f"{word[:80]!r} is no subject")
        if not self.alive or self._unsent_bytes > UNSENT_BYTES_MAX:
            return False
        self._say(partial(self._client.publish, subject, data, reply=reply, headers=headers), len(data))
        return True

    async def round_trip(self) -> None:
        """All that was said before has reached the server, and its complaints have reached us. Raises StosError
        UNAVAILABLE."""
        if not self.alive:
            raise unavailable("the connection to NATS is gone")
        if not await self._before_lost(self._two_pings(), ROUND_TRIP_TIMEOUT_S):
            raise unavailable("NATS does not answer")

    async def _two_pings(self) -> None:
        await self._unsent.join()
        await self._client.flush(BACKGROUND_TIMEOUT_S)
        await self._client.flush(BACKGROUND_TIMEOUT_S)


def _take_note(task: asyncio.Task[None]) -> None:
    """A task of the library that failed: the connection is told to be lost, so asyncio need not complain."""
    if not task.cancelled() and task.exception() is not None:
        log.debug("NATS: %s", task.exception())


def _in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[bool]:
    """A task that ends with whether the work went well, in BACKGROUND_TIMEOUT_S at the latest."""

    async def run() -> bool:
        try:
            async with asyncio.timeout(BACKGROUND_TIMEOUT_S):
                await work
        except Exception as error:
            log.debug("NATS: %s", str(error) or type(error).__name__)
            return False
        return True

    task = asyncio.create_task(run())
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task
