"""The bus: requests, answers and events over NATS, strict at both ends.

Control only; block data never passes here. A message may be lost, doubled, delayed or reordered, and every
caller must live with that. What the bus adds to NATS:

* it connects for ever, and says at once when it is not connected instead of letting a caller wait;
* a credential is renewed by opening a second connection before the first one ends;
* who asks and who answers is part of the subject, where the server proves it (`stoscore.access`);
* requests carry an id, a time limit and the trace; answers are results or `StosError`s;
* what can't be understood is answered with an error and changes nothing;
* a server whose certificate is revoked is left for another one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from stoscore import envelope
from stoscore.access import BY, KIND, Caller, addressed, signed_by
from stoscore.audit import Audit
from stoscore.bus_answering import TIMEOUT_S, Desk, RequestContext, Server, is_replayed
from stoscore.bus_asking import Pending
from stoscore.envelope import decode_answer, encode_request
from stoscore.errors import Code, StosError, unavailable
from stoscore.identity import Identity
from stoscore.messages import Message
from stoscore.nats_session import Msg, Session
from stoscore.telemetry import current_traceparent, get_logger, span
from stoscore.turns import Shares

A = TypeVar("A", bound=Message)
M = TypeVar("M", bound=Message)
RawCallback = Callable[[str, bytes, dict[str, str]], None]

RECONNECT_WAIT_S = 0.25
HOOK_WAIT_MAX_S = 4.0
CANCEL_WAIT_S = 0.5
CANCELS_MAX = 10
RESEND_S, RESEND_MAX_S = 1.0, 4.0
"""An unanswered request is sent again, with the same id, so that a lost message or answer costs a second and not
the whole time limit."""

log = get_logger("bus")


@dataclass(frozen=True, slots=True)
class _Subscription:
    subject: str
    queue: str
    callback: Callable[[Msg], None]


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel until they have ended. More than once, because the client library swallows cancellations here and
    there; not for ever, because an ending process must end."""
    for _ in range(CANCELS_MAX):
        for task in tasks:
            task.cancel()
        if tasks:
            _, tasks = await asyncio.wait(tasks, timeout=CANCEL_WAIT_S)
        if not tasks:
            return
    log.error("%d tasks of the bus do not end", len(tasks))


class Bus:
    """One identity's connection to the bus. Made by `connect`."""

    def __init__(self, identity: Identity, servers: list[str], name: str):
        self.identity = identity
        self._servers = servers
        self._name = name
        self._session: Session | None = None
        self._subscriptions: list[_Subscription] = []
        self._pending: dict[str, Pending] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._supervisor: asyncio.Task[None] | None = None
        self._first = asyncio.Event()
        self._closing = False
        self.me = Caller(identity.role, identity.name)
        """How the server knows us."""
        if KIND.get(identity.role) != identity.kind:
            raise StosError(
                Code.UNAUTHENTICATED,
                f"{identity.uri} has no role on the bus ({identity.role!r})",
                next_step="enrol again with a token of `stos certs token`",
            )
        self.audit = Audit(self, identity)
        """What this process has to report."""
        identity.on_trust_change.append(self._check_server)
        self.on_connected: list[Callable[[], Awaitable[None]]] = []
        """Called after every new connection, when all subscriptions are back. One that fails with StosError is called
        again and again while that connection lasts: what it asks may come up a moment after the server does."""

    # --- life ---

    @classmethod
    async def connect(cls, identity: Identity, servers: list[str], *, name: str, wait: bool = False) -> Bus:
        """A bus that connects in the background, and again whenever the connection is lost. With `wait` it
        returns only when it is connected for the first time."""
        bus = cls(identity, servers, name)
        bus._supervisor = asyncio.create_task(bus._supervise(), name="bus")
        if wait:
            await bus.first_connected()
        return bus

    async def first_connected(self) -> None:
        """There is, or was, a connection, with all subscriptions made before it in place."""
        await self._first.wait()

    @property
    def connected(self) -> bool:
        return self._session is not None and self._session.alive

    @property
    def subscriptions(self) -> int:
        """Subjects that are listened to. None is ever given up: a number that grows with use is a leak."""
        return len(self._subscriptions)

    async def wait_connected(self, timeout_s: float) -> bool:
        """True as soon as there is a connection, False when there is none in that time."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while not self.connected and loop.time() < end:
            await asyncio.sleep(0.02)
        return self.connected

    async def _supervise(self) -> None:
        reported = ""
        while not self._closing:
            session = self._session
            if session is None:
                try:
                    session = await self._open()
                except StosError as error:
                    if error.message != reported:
                        log.warning("%s; trying on", error.message)
                        reported = error.message
                    await asyncio.sleep(RECONNECT_WAIT_S)
                    continue
                reported = ""
                if self._closing:
                    # The client library swallowed our cancellation while it connected.
                    await session.close()
                    return
                self._use(session)
            reason = await asyncio.shield(session.lost)
            self._fail_pending(session, reason)
            if self._session is session:
                log.warning("connection to NATS lost: %s", reason)
                self._session = None

    async def _open(self) -> Session:
        """A connected session with all subscriptions in place, those included that are made while it begins: it has to
        be used before anything else happens."""
        inbox = f"{self.identity.inbox_prefix}.{os.urandom(9).hex()}"
        session = await Session.open(self.identity, self._servers, self._name, inbox, self._publish_denied)
        session.subscribe(f"{inbox}.>", "", self._on_answer)
        placed = 0
        try:
            while True:
                for item in self._subscriptions[placed:]:
                    self._add(session, item)
                placed = len(self._subscriptions)
                await session.round_trip()
                if placed == len(self._subscriptions):
                    return session
        except (StosError, asyncio.CancelledError):
            await session.close()
            raise

    @staticmethod
    def _add(session: Session, item: _Subscription) -> None:
        session.subscribe(item.subject, item.queue, item.callback)

    def _use(self, session: Session) -> None:
        self._session = session
        self._first.set()
        log.info("connected to NATS", extra={"server": session.server})
        for hook in self.on_connected:
            self._spawn(self._until_done(hook, session))

    def whenever_connected(self, hook: Callable[[], Awaitable[None]]) -> None:
        """As `on_connected`, and now, if there is a connection."""
        self.on_connected.append(hook)
        if self._session is not None:
            self._spawn(self._until_done(hook, self._session))

    async def _until_done(self, hook: Callable[[], Awaitable[None]], session: Session) -> None:
        wait_s, reported = RECONNECT_WAIT_S, ""
        while session is self._session:
            try:
                await hook()
                return
            except StosError as error:
                if error.message != reported:
                    log.warning("%s; trying on", error)
                    reported = error.message
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, HOOK_WAIT_MAX_S)

    async def renew(self) -> None:
        """Go over to a new connection with the credential that is on disk now: first the new one with all
        subscriptions, then the old one ends when it has nothing left to do. Raises StosError UNAVAILABLE."""
        new = await self._open()
        old, self._session = self._session, None
        self._use(new)
        if old is not None:
            # What was asked on the old connection is answered there.
            waiting = [item.done for item in self._pending.values() if item.session is old]
            if waiting:
                await asyncio.wait(waiting, timeout=TIMEOUT_S)
            await old.drain()

    def _check_server(self) -> None:
        """After a change of trust: a server that is revoked by now is left."""
        if self._session is not None:
            self._session.check_server()

    async def close(self) -> None:
        self._closing = True
        if self._check_server in self.identity.on_trust_change:
            self.identity.on_trust_change.remove(self._check_server)
        await self.audit.close()
        await _end({self._supervisor} if self._supervisor is not None else set())
        await _end(set(self._tasks))
        session, self._session = self._session, None
        if session is not None:
            self._fail_pending(session, "the bus is closed")
            await session.close()

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except StosError as error:
                log.warning("%s", error)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- asking ---

    async def request(
        self,
        subject: str,
        message: Message,
        answer: type[A],
        *,
        timeout_s: float = TIMEOUT_S,
        headers: dict[str, str] | None = None,
    ) -> A:
        """Ask and wait for the one answer. Raises the StosError that was answered; UNAVAILABLE when there is
        no connection, nobody listens there, or the connection breaks; PERMISSION_DENIED when this identity
        may not ask that; DEADLINE_EXCEEDED."""
        with span(f"request {subject}", span_kind="client", messaging_system="nats", subject=subject) as asked:
            payload = encode_request(message)
            pending = await self._ask(self.addressed(subject), payload, timeout_s, headers, enough=1)
            try:
                return decode_answer(answer, _first(pending, timeout_s).data)
            except StosError as error:
                asked.refuse(error)
                raise

    async def scatter(
        self,
        subject: str,
        message: Message,
        answer: type[A],
        *,
        timeout_s: float,
        enough: int | None = None,
        valid: Callable[[A, Caller], bool] = lambda answer, caller: True,
    ) -> list[A]:
        """Ask everyone who listens and gather the good answers, one of each, until the time is over or there are
        `enough`. `valid` may look at who says what. Nobody listening gives []. Raises StosError as `request` does
        for what is on our side."""
        with span(f"scatter {subject}", span_kind="client", messaging_system="nats", subject=subject):
            try:
                payload = encode_request(message)
                pending = await self._ask(self.addressed(subject), payload, timeout_s, None, enough=enough)
            except StosError as error:
                if error.details.get("no_responders"):
                    return []
                raise
            answers = []
            for sender, msg in pending.answers.items():
                try:
                    decoded = decode_answer(answer, msg.data)
                except StosError as error:
                    log.debug("a bad answer: %s", error, extra={"subject": subject})
                    continue
                if sender is not None and valid(decoded, sender):
                    answers.append(decoded)
                else:
                    log.warning("dropped an answer in another's name", extra={"subject": subject})
            return answers

    async def call(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout_s: float = TIMEOUT_S,
        headers: dict[str, str] | None = None,
    ) -> Msg:
        """Ask a service that does not speak our envelope (JetStream): the raw answer. Raises as `request`. The
        subject is published to as it is; one of ours has to be `addressed`."""
        pending = await self._ask(subject, payload, timeout_s, headers, enough=1, again=False)
        return _first(pending, timeout_s)

    def addressed(self, subject: str) -> str:
        """Where this identity publishes a request for that subject."""
        return addressed(subject, self.me)

    async def _ask(
        self,
        subject: str,
        payload: bytes,
        timeout_s: float,
        headers: dict[str, str] | None,
        *,
        enough: int | None,
        again: bool = True,
    ) -> Pending:
        session = self._session
        if session is None or not session.alive:
            raise unavailable("not connected to NATS")
        token = os.urandom(9).hex()
        asked_headers = self._headers(timeout_s, headers)
        pending = Pending(signed_by(subject)[0], enough, session)
        self._pending[token] = pending
        try:
            self._say(pending, subject, token, payload, asked_headers)
            # Only our own services know a request again by its id; anything else is asked once.
            resend_s = RESEND_S if enough == 1 and again else timeout_s
            loop = asyncio.get_running_loop()
            end = loop.time() + timeout_s
            while not pending.done.done() and (left_s := end - loop.time()) > 0:
                await asyncio.wait([pending.done], timeout=min(resend_s, left_s))
                if not pending.done.done() and loop.time() < end:
                    self._say(pending, subject, token, payload, asked_headers)
                    resend_s = min(resend_s * 2, RESEND_MAX_S)
        finally:
            del self._pending[token]
        if pending.failure is not None:
            raise pending.failure
        return pending

    def _say(self, pending: Pending, subject: str, token: str, payload: bytes, headers: dict[str, str]) -> None:
        """Send a request, on the connection of the moment."""
        session = self._session
        if session is None or not session.publish(subject, payload, f"{session.inbox}.{token}", headers):
            raise unavailable("the connection to NATS is gone")
        pending.session = session

    def _headers(self, timeout_s: float, more: dict[str, str] | None) -> dict[str, str]:
        headers = {
            envelope.REQUEST_ID: os.urandom(8).hex(),
            envelope.TIMEOUT_MS: str(int(timeout_s * 1000)),
        }
        traceparent = current_traceparent()
        if traceparent:
            headers[envelope.TRACEPARENT] = traceparent
        return headers | (more or {})

    def _on_answer(self, msg: Msg) -> None:
        where, sender = signed_by(msg.subject)
        pending = self._pending.get(where.rpartition(".")[2])
        if pending is not None:
            pending.arrived(msg, sender)

    def _publish_denied(self, subject: str) -> None:
        """The subject is in lower case."""
        asked = signed_by(subject)[0]
        error = StosError(Code.PERMISSION_DENIED, f"{self.me} may not publish to {asked}")
        for pending in self._pending.values():
            if pending.subject.lower() == asked:
                pending.fail(error)

    def _fail_pending(self, session: Session, reason: str) -> None:
        for pending in self._pending.values():
            if pending.session is session:
                pending.fail(unavailable(f"the connection to NATS broke: {reason}"))

    # --- telling ---

    def send(self, subject: str, payload: bytes | Message, headers: Mapping[str, str] | None = None) -> bool:
        """Tell whoever listens, best effort, without waiting. False when it surely did not leave."""
        session = self._session
        if session is None:
            return False
        data = payload if isinstance(payload, bytes) else encode_request(payload)
        traceparent = current_traceparent()
        traced = {envelope.TRACEPARENT: traceparent} if traceparent else {}
        return session.publish(subject, data, "", {**traced, **(headers or {})} or None)

    async def publish(self, subject: str, payload: bytes | Message) -> bool:
        """As `send`."""
        return self.send(subject, payload)

    async def flush(self) -> None:
        """What was said before has reached the server. Raises StosError UNAVAILABLE."""
        session = self._session
        if session is None:
            raise unavailable("not connected to NATS")
        await session.round_trip()

    # --- answering ---

    async def serve(
        self,
        subject: str,
        request: type[M],
        handler: Callable[[M, RequestContext], Awaitable[Message]],
        *,
        queue: str = "",
        shares: Shares = Shares(),
    ) -> None:
        """Answer requests to a subject (wildcards allowed). The handler returns the result or raises
        StosError; anything else that it raises is logged and answered with INTERNAL, and the service lives
        on. Raises PERMISSION_DENIED when the server refuses the subscription, FAILED_PRECONDITION for a subject
        that is not in the table of who may ask what."""
        desk = Desk(self._spawn, self.send, self.me, self.audit)
        server = Server(desk, subject, request, handler, shares)
        await self._subscribe(_Subscription(f"{subject}.{BY}.*.*", queue, server.arrived))

    async def subscribe(self, subject: str, callback: RawCallback) -> None:
        """Hear what is published to a subject: callback(subject, data, headers), in order, must not block.
        Raises PERMISSION_DENIED when the server refuses the subscription."""

        def arrived(msg: Msg) -> None:
            if is_replayed(msg):
                log.warning("refused a replayed message", extra={"subject": msg.subject})
                return
            try:
                callback(msg.subject, msg.data, msg.headers)
            except Exception:
                # The shell's edge: one bad message must not end the subscription.
                log.exception("a subscriber failed", extra={"subject": msg.subject})

        await self._subscribe(_Subscription(subject, "", arrived))

    async def _subscribe(self, item: _Subscription) -> None:
        self._subscriptions.append(item)
        session = self._session
        if session is None or not session.alive:
            return
        self._add(session, item)
        try:
            await session.round_trip()
        except StosError as error:
            log.info("not confirmed yet that %s is listened to: %s", item.subject, error)
            return
        if session.is_denied(item.subject):
            raise StosError(Code.PERMISSION_DENIED, f"{self.me} may not listen to {item.subject}")


def _first(pending: Pending, timeout_s: float) -> Msg:
    if not pending.answers:
        raise StosError(Code.DEADLINE_EXCEEDED, f"no answer from {pending.subject} within {timeout_s:g} s")
    return pending.first()


__all__ = ["Bus", "RequestContext"]
