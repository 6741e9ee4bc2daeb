"""The answering side of the bus: each request is read strictly, worked on once, and always answered."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from stoscore import envelope
from stoscore.envelope import decode_request, encode_error, encode_result
from stoscore.errors import Code, StosError, unavailable
from stoscore.messages import Message
from stoscore.nats_session import Msg, Session
from stoscore.telemetry import get_logger, span, valid_traceparent

M = TypeVar("M", bound=Message)

RUNNING_MAX = 64
"""Requests of one subject that are worked on at a time."""
WAITING_MAX = 1024
"""Requests of one subject that wait beyond that; more are refused as busy."""
REMEMBERED_MAX = 256
"""Requests of one subject whose answers are kept, for those that arrive twice."""
REMEMBERED_BYTES_MAX = 16 * 1024
"""Larger answers are worked out again instead."""
TIMEOUT_S = 5.0
"""When a request does not say how long its sender waits."""
TIMEOUT_MAX_S = 300.0

log = get_logger("bus")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What is known about a request besides its content."""

    subject: str
    request_id: str
    deadline_s: float
    """On the event loop's clock: when the sender stops waiting."""
    sender: str
    """"kind/name" as the reply subject says. The server pins who may listen there, so only the named one can
    read the answer; it is no proof of who asked."""
    traceparent: str

    def left_s(self) -> float:
        """Time until the sender stops waiting, never negative."""
        return max(0.0, self.deadline_s - asyncio.get_running_loop().time())


@dataclass(slots=True)
class Work:
    """One request: where its answer goes, and the answer when there is one."""

    reply: str
    session: Session
    answer: bytes = b""

    def move(self, reply: str, session: Session) -> None:
        """Asked again while it is worked on: the new connection stays open for the answer, the old need not."""
        self.session.working -= 1
        session.working += 1
        self.reply, self.session = reply, session


class Server:
    """Works on the requests of one subject.

    A request arrives twice when two connections overlap, and when its sender got no answer and asks again. It
    is worked on once; the answer goes to where it was asked last.
    """

    def __init__(
        self,
        spawn: Callable[[Awaitable[None]], None],
        subject: str,
        request: type[M],
        handler: Callable[[M, RequestContext], Awaitable[Message]],
    ):
        self._spawn = spawn
        self._subject = subject
        self._request = request
        self._handler: Callable[[Any, RequestContext], Awaitable[Message]] = handler
        self._running = asyncio.Semaphore(RUNNING_MAX)
        self._waiting = 0
        self._known: OrderedDict[str, Work] = OrderedDict()

    def arrived(self, msg: Msg, session: Session) -> None:
        if is_replayed(msg):
            log.warning("refused a replayed message", extra={"subject": msg.subject})
            return
        context = _context(msg)
        key = f"{context.sender} {context.request_id or msg.reply or os.urandom(8).hex()}"
        known = self._known.get(key)
        if known is not None:
            if known.answer:
                known.reply, known.session = msg.reply, session
                _answer(known)
            else:
                known.move(msg.reply, session)
            return
        work = Work(msg.reply, session)
        if self._waiting >= WAITING_MAX:
            work.answer = encode_error(unavailable(f"{self._subject} is busy"))
            _answer(work)
            return
        self._known[key] = work
        self._waiting += 1
        session.working += 1
        self._spawn(self._work(msg.data, key, work, context))

    async def _work(self, data: bytes, key: str, work: Work, context: RequestContext) -> None:
        try:
            async with self._running:
                if context.left_s() <= 0:
                    log.debug("dropped an expired request", extra={"subject": context.subject})
                else:
                    work.answer = await self._result(data, context)
                    _answer(work)
        finally:
            self._waiting -= 1
            work.session.working -= 1
            if not 0 < len(work.answer) <= REMEMBERED_BYTES_MAX:
                del self._known[key]
            self._forget()

    def _forget(self) -> None:
        """The oldest answers, when there are too many."""
        surplus = len(self._known) - self._waiting - REMEMBERED_MAX
        if surplus > 0:
            for key in [key for key, work in self._known.items() if work.answer][:surplus]:
                del self._known[key]

    async def _result(self, data: bytes, context: RequestContext) -> bytes:
        with span(
            f"serve {context.subject}", context.traceparent, subject=context.subject, sender=context.sender
        ) as current:
            try:
                answer = await self._handler(decode_request(self._request, data), context)
            except StosError as error:
                current.fail(error.message)
                log.info(
                    "refused: %s",
                    error.message,
                    extra={"subject": context.subject, "sender": context.sender, "code": error.code.value},
                )
                return encode_error(error)
            except Exception:
                # The shell's edge: a bug in one handler must not end the service.
                current.fail("internal error")
                log.exception("a request failed", extra={"subject": context.subject, "sender": context.sender})
                return encode_error(StosError(Code.INTERNAL, f"internal error in {context.subject}"))
            return encode_result(answer)


def _answer(work: Work) -> None:
    """On the connection that brought the request: the server permits the answer to no other."""
    if not work.reply:
        return
    try:
        work.session.publish(work.reply, work.answer)
    except StosError as error:
        work.session.publish(work.reply, encode_error(StosError(Code.INTERNAL, error.message)))


def is_replayed(msg: Msg) -> bool:
    """Stored and delivered by JetStream instead of published by the one who may."""
    return msg.reply.startswith("$JS.") or "Nats-Stream" in msg.headers


def _context(msg: Msg) -> RequestContext:
    headers = msg.headers
    milliseconds = headers.get(envelope.TIMEOUT_MS, "")
    usable = milliseconds.isascii() and milliseconds.isdigit() and len(milliseconds) <= 9
    timeout_s = min(int(milliseconds) / 1000, TIMEOUT_MAX_S) if usable else TIMEOUT_S
    prefix = msg.reply.partition(".")[0].removeprefix("_INBOX_")
    kind, _, name = prefix.partition("_")
    return RequestContext(
        subject=msg.subject,
        request_id=headers.get(envelope.REQUEST_ID, "")[:64],
        deadline_s=asyncio.get_running_loop().time() + timeout_s,
        sender=f"{kind}/{name}" if kind and name else "",
        traceparent=valid_traceparent(headers.get(envelope.TRACEPARENT, "")),
    )
