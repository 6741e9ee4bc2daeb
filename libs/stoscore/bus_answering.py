"""The answering side of the bus: each request is read strictly, worked on once, and always answered.

Who asks is known from the subject, which the NATS server has proved. All the same it is looked up once more in the
table whether he may: a mistake in the server's permissions must not be enough. What changes something, and what is
refused, becomes an audit event.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from stoscore import envelope
from stoscore.access import Caller, Rule, addressed, rule_for, signed_by
from stoscore.audit import Audit, Outcome
from stoscore.envelope import decode_request, encode_error, encode_result
from stoscore.errors import Code, StosError, precondition
from stoscore.messages import Message
from stoscore.nats_session import Msg
from stoscore.telemetry import get_logger, span, valid_traceparent
from stoscore.turns import Shares, Turns

M = TypeVar("M", bound=Message)

REMEMBERED_MAX = 256
"""Requests of one subject whose answers are kept, for those that arrive twice."""
REMEMBERED_BYTES_MAX = 16 * 1024
"""Larger answers are worked out again instead."""
TIMEOUT_S = 5.0
"""When a request does not say how long its sender waits."""
TIMEOUT_MAX_S = 300.0
INBOX_WORDS = 5
"""_INBOX.<kind>.<name>.<session>.<token>"""
REFUSALS = (Code.PERMISSION_DENIED, Code.UNAUTHENTICATED)

log = get_logger("bus")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What is known about a request besides its content."""

    subject: str
    """without the caller's name"""
    request_id: str
    deadline_s: float
    """On the event loop's clock: when the sender stops waiting."""
    caller: Caller
    """who asks, proven by the server"""
    traceparent: str

    def left_s(self) -> float:
        """Time until the sender stops waiting, never negative."""
        return max(0.0, self.deadline_s - asyncio.get_running_loop().time())


@dataclass(frozen=True, slots=True)
class Desk:
    """What a server needs of the bus it works for."""

    spawn: Callable[[Awaitable[None]], None]
    publish: Callable[[str, bytes], bool]
    me: Caller
    audit: Audit


@dataclass(slots=True)
class Work:
    """One request: where its answer goes, and the answer when there is one."""

    key: str
    """the same when it is asked again"""
    context: RequestContext
    data: bytes
    reply: str
    answer: bytes = b""


class Server:
    """Works on the requests of one subject.

    A request arrives twice when two connections overlap, and when its sender got no answer and asks again. It
    is worked on once; the answer goes to where it was asked last.
    """

    def __init__(
        self,
        desk: Desk,
        subject: str,
        request: type[M],
        handler: Callable[[M, RequestContext], Awaitable[Message]],
        shares: Shares,
    ):
        rule = rule_for(subject)
        if rule is None:
            raise precondition(f"nobody may ask on {subject}", "add a row to stoscore.access.RULES")
        self._desk = desk
        self._rule = rule
        self._request = request
        self._handler: Callable[[Any, RequestContext], Awaitable[Message]] = handler
        self._turns: Turns[Work] = Turns(shares)
        self._known: OrderedDict[str, Work] = OrderedDict()

    def arrived(self, msg: Msg) -> None:
        subject, caller = signed_by(msg.subject)
        if caller is None or is_replayed(msg) or not _is_own_inbox(msg.reply, caller):
            # Our own bus sends no such thing: it is a client of another make, or the server was talked into it.
            self._audit(f"unproven {caller or subject}", subject, "refused", "it names no reply subject of its own")
            return
        if caller.role not in self._rule.roles:
            self._audit(str(caller), subject, "refused", f"the role {caller.role} may not do that")
            self._tell(msg.reply, _error(Code.PERMISSION_DENIED, f"{caller} may not ask {subject}"))
            return
        context = _context(subject, caller, msg)
        key = f"{caller} {subject} {context.request_id or msg.reply}"
        known = self._known.get(key)
        if known is None:
            self._accept(Work(key, context, msg.data, msg.reply))
            return
        known.reply = msg.reply
        if known.answer:
            self._tell(known.reply, known.answer)

    def _accept(self, work: Work) -> None:
        caller = str(work.context.caller)
        if not self._turns.offer(caller, work):
            self._audit(caller, work.context.subject, "refused", "it asks faster than it can be answered")
            self._tell(work.reply, _error(Code.RESOURCE_EXHAUSTED, f"too many requests of {caller} wait"))
            return
        self._known[work.key] = work
        self._begin()

    def _begin(self) -> None:
        """Start whatever may be worked on now."""
        while (turn := self._turns.take()) is not None:
            self._desk.spawn(self._work(*turn))

    async def _work(self, caller: str, work: Work) -> None:
        try:
            if work.context.left_s() <= 0:
                log.debug("dropped an expired request", extra={"subject": work.context.subject})
            else:
                work.answer = await self._result(work)
                self._tell(work.reply, work.answer)
        finally:
            self._turns.done(caller)
            if not 0 < len(work.answer) <= REMEMBERED_BYTES_MAX:
                del self._known[work.key]
            self._forget()
            self._begin()

    def _forget(self) -> None:
        """The oldest answers, when there are too many."""
        surplus = len(self._known) - len(self._turns) - REMEMBERED_MAX
        if surplus > 0:
            for key in [key for key, work in self._known.items() if work.answer][:surplus]:
                del self._known[key]

    async def _result(self, work: Work) -> bytes:
        context = work.context
        fields: dict[str, Any] = {"subject": context.subject, "caller": str(context.caller)}
        title = f"serve {context.subject}"
        with span(title, context.traceparent, span_kind="server", messaging_system="nats", **fields) as current:
            target = context.subject
            try:
                request = decode_request(self._request, work.data)
                target = _target(self._rule, context.subject, request)
                answer = encode_result(await self._handler(request, context))
            except StosError as error:
                current.refuse(error)
                log.info("refused: %s", error.message, extra={**fields, "code": error.code.value})
                self._audit_failure(context.caller, target, error)
                return encode_error(error)
            except Exception:
                # The shell's edge: a bug in one handler must not end the service.
                current.fail("internal error", Code.INTERNAL.value)
                log.exception("a request failed", extra=fields)
                failure = StosError(Code.INTERNAL, f"internal error in {context.subject}")
                self._audit_failure(context.caller, target, failure)
                return encode_error(failure)
            if self._rule.privileged:
                self._audit(str(context.caller), target, "done", "")
            return answer

    def _audit_failure(self, caller: Caller, target: str, error: StosError) -> None:
        """Who asks a node that is not the primary has done nothing: he is told whom to ask."""
        if error.code in REFUSALS:
            self._audit(str(caller), target, "refused", error.message)
        elif self._rule.privileged and error.code is not Code.NOT_PRIMARY:
            self._audit(str(caller), target, "failed", error.message)

    def _audit(self, who: str, target: str, outcome: Outcome, reason: str) -> None:
        self._desk.audit.record(who=who, action=self._rule.action, target=target, outcome=outcome, reason=reason)

    def _tell(self, reply: str, answer: bytes) -> None:
        """Lost when there is no connection: the asker asks again, and is told then."""
        where = addressed(reply, self._desk.me)
        try:
            self._desk.publish(where, answer)
        except StosError as error:
            self._desk.publish(where, _error(Code.INTERNAL, error.message))


def _error(code: Code, message: str) -> bytes:
    return encode_error(StosError(code, message))


def is_replayed(msg: Msg) -> bool:
    """Stored and delivered by JetStream instead of published by the one who may."""
    return msg.reply.startswith("$JS.") or "Nats-Stream" in msg.headers


def _is_own_inbox(reply: str, caller: Caller) -> bool:
    """What the server itself is talked into sending (a stored message, an answer of JetStream) has no reply subject
    that the sender could choose."""
    return reply.startswith(f"{caller.inbox}.") and reply.count(".") == INBOX_WORDS - 1


def _target(rule: Rule, subject: str, request: Message) -> str:
    """The names in the subject, and the volume in the request: n1/0123…"""
    pairs = zip(rule.subject.split("."), subject.split("."), strict=True)
    names = [word for expected, word in pairs if expected == "*"]
    record = getattr(request, "record", request)
    names += [str(value) for field in ("volume", "name") if (value := getattr(record, field, None))]
    return "/".join(names)


def _context(subject: str, caller: Caller, msg: Msg) -> RequestContext:
    headers = msg.headers
    milliseconds = headers.get(envelope.TIMEOUT_MS, "")
    usable = milliseconds.isascii() and milliseconds.isdigit() and len(milliseconds) <= 9
    timeout_s = min(int(milliseconds) / 1000, TIMEOUT_MAX_S) if usable else TIMEOUT_S
    return RequestContext(
        subject=subject,
        request_id=headers.get(envelope.REQUEST_ID, "")[:64],
        deadline_s=asyncio.get_running_loop().time() + timeout_s,
        caller=caller,
        traceparent=valid_traceparent(headers.get(envelope.TRACEPARENT, "")),
    )
