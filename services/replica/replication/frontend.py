"""The frontend's core: a client's requests reach the volume's primary, whoever that is at the moment.

```
 clients ──ClientRequest──> order (W3) ──> window ──SendRequest──> primary of the current session
    ^                                                                  │
    └────────Answer────────────────────────────────Done / Data ────────┘
```

A failover is a pause to the client and never an error. When the session is lost (link down, refusal, or a
newer epoch heard of) every voter is asked for a new one, with a rising session number (W2); once a primary
has opened it, everything unanswered is sent again in its original order. Answers of other sessions or of an
epoch below the newest one seen are dropped (W3). Only a fenced frontend, whose volume was attached
elsewhere, answers with an error of its own: ESHUTDOWN, for good.

A part of a block is written as a whole one: the block is read, the shell puts the part into it, and the result is
written. Order keeps every other write to the block away in between, and the result is computed once: after a
failover the whole block is sent again like any other write, and never computed from what it may itself have left.

A flush is passed on as it comes: it covers writes that were answered before it, and those are on every
in-sync replica whatever happens to the session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from services.replica.replication.frontend_events import (
    Answer,
    AnswerMany,
    AnswerReads,
    AnswerWrites,
    Apart,
    ClientGone,
    ClientReads,
    ClientRequest,
    ClientRequests,
    ClientWrites,
    Closing,
    Data,
    DataMany,
    DataReads,
    Done,
    DoneMany,
    Effect,
    Event,
    LinkDown,
    LinkUp,
    Merge,
    Opened,
    Refused,
    RefusedCode,
    Release,
    RequestKind,
    SendClose,
    SendMany,
    SendOpen,
    SendRequest,
    ServingHint,
    Tick,
)
from services.replica.replication.frontend_order import RequestOrder, Run, Unanswered
from services.replica.replication.frontend_search import PrimarySearch
from stoscore.units import MIB, MS

__all__ = [
    "Answer",
    "AnswerMany",
    "AnswerReads",
    "AnswerWrites",
    "Apart",
    "ClientGone",
    "ClientReads",
    "ClientRequest",
    "ClientRequests",
    "ClientWrites",
    "Closing",
    "Data",
    "DataMany",
    "DataReads",
    "Done",
    "DoneMany",
    "Effect",
    "Event",
    "FrontendCore",
    "LinkDown",
    "LinkUp",
    "Merge",
    "Opened",
    "Refused",
    "RefusedCode",
    "Release",
    "RequestKind",
    "SendClose",
    "SendMany",
    "SendOpen",
    "SendRequest",
    "ServingHint",
    "Tick",
]

WINDOW_REQUESTS = 1024
"""Requests at the primary; the rest waits here, where it costs the primary nothing."""
WINDOW_BYTES = 64 * MIB
"""Payload, both ways, of the requests at the primary; a single larger one goes alone."""
SMALL_BLOCKS = 16
MANY = 64
MANY_BLOCKS = 256
"""Reads and writes of at most SMALL_BLOCKS travel together, so many requests and blocks of them at a time: what a
message costs is then shared. It is not for large ones, whose bytes are what costs."""
STALL_NS = 500 * MS
"""A primary that owes answers and gave none for so long may have been replaced unseen: the others are asked
whether they serve, and it is asked to read one block. If it lost the session (it won another epoch and its
announcement went down with a link) it refuses that; if not, the session stays, for it may only be waiting
for a copy, and a new session would hold up the reads that it still answers."""

EIO = 5
ESHUTDOWN = 108

_READ, _WRITE, _PATCH = int(RequestKind.READ), int(RequestKind.WRITE), int(RequestKind.PATCH)


class FrontendCore:
    """One attached volume. `step` takes one event and returns the effects to be performed at once, in order;
    `next_deadline_ns` says when a Tick is due on the clock of `now_ns`.

    `first_session` must lie above every session number that an earlier frontend of the same attach epoch
    used; a primary that knows better says so in its refusal (`Refused.newest`).
    """

    def __init__(self, voters: Sequence[str], *, first_session: int = 1):
        self._next_number = first_session
        self._order = RequestOrder()
        self._ready: deque[Unanswered] = deque()
        """Wait for nobody and are not sent: no session, or no room in the window."""
        self._search = PrimarySearch(voters)
        self._node = ""
        self._session = 0
        """0: no session."""
        self._takes_many = False
        """The session's primary knows SendMany."""
        self._sent = 0
        self._sent_bytes = 0
        self._stall_ns = 0
        self._probe = 0
        """Number of the read that asks a silent primary whether it still knows the session."""
        self._ended = False
        self.epoch = 0
        """The newest epoch seen."""
        self.size_blocks = 0
        self._handlers: dict[type, Callable[[Any, int, list[Effect]], None]] = {
            ClientRequest: self._client_request,
            ClientRequests: self._client_requests,
            ClientReads: self._client_reads,
            ClientWrites: self._client_writes,
            ClientGone: self._client_gone,
            LinkUp: self._link_up,
            LinkDown: self._link_down,
            Opened: self._opened,
            Refused: self._refused,
            Done: self._done,
            DoneMany: self._done_many,
            Data: self._data,
            DataMany: self._data_many,
            DataReads: self._data_reads,
            ServingHint: self._serving_hint,
            Tick: self._tick,
            Closing: self._closing,
        }

    @property
    def primary(self) -> str:
        """The node that serves the current session, or ""."""
        return self._node if self._session else ""

    @property
    def session(self) -> int:
        """Its number, 0: there is none."""
        return self._session

    @property
    def unanswered(self) -> int:
        order = self._order
        return len(order.table) + sum([len(run.blocks) for run in order.runs.values()])

    @property
    def ended(self) -> bool:
        """Fenced or closed: every request is answered with ESHUTDOWN."""
        return self._ended

    def knows(self, node: str) -> bool:
        """It holds the volume, by the word of whoever made this frontend or of a node that holds it."""
        return node in self._search.nodes()

    def nodes(self) -> set[str]:
        return set(self._search.nodes())

    def cookie(self, number: int) -> int | None:
        """Of the client's request that has this number; None when nobody waits for it."""
        request = self._order.table.get(number)
        if request is not None:
            return request.cookie
        run = self._order.run_of(number)
        return None if run is None else run.cookie + number - run.number

    def is_run(self, asks: tuple[tuple[int, int, int], ...]) -> bool:
        """These (request, block, count) are a whole run of reads in its order: what it brought can be told as
        DataReads."""
        run = self._order.runs.get(asks[0][0])
        return run is not None and not run.token and run.asks == asks

    def use(self, nodes: Iterable[str]) -> None:
        """These hold the volume from now on, by the word of the primary that serves us or of who opened us."""
        self._search.use([*nodes, self._node] if self._session else nodes)  # asked in this order

    def step(self, event: Event, now_ns: int) -> list[Effect]:
        effects: list[Effect] = []
        self._handlers[type(event)](event, now_ns, effects)
        return effects

    def next_deadline_ns(self) -> int | None:
        """A Tick is due then; None: nothing to wait for. It may be in the past: due at once."""
        if self._ended:
            return None
        if self._session:
            return self._stall_ns if self._sent else None
        return self._search.next_ns()

    def validate(self) -> None:
        """What must hold between any two steps."""
        self._order.validate()
        sent, sent_bytes, waiting = 0, 0, set()
        for request in self._order.table.values():
            if request.sent:
                sent += 1
                sent_bytes += request.payload_bytes
            elif not request.blockers:
                waiting.add(request.number)
        for run in self._order.runs.values():
            sent += len(run.blocks)
            sent_bytes += run.payload_bytes
        assert sent == self._sent <= WINDOW_REQUESTS
        assert sent_bytes == self._sent_bytes
        assert self._sent_bytes <= WINDOW_BYTES or self._sent == 1
        assert self._session or not sent
        assert waiting == {request.number for request in self._ready}
        assert not (self._ended and self.unanswered)

    # --- clients ---

    def _client_request(self, event: ClientRequest, now_ns: int, effects: list[Effect]) -> None:
        self._client_requests(ClientRequests((event,)), now_ns, effects)

    def _client_requests(self, event: ClientRequests, now_ns: int, effects: list[Effect]) -> None:
        add, ready, runs = self._order.add, self._ready, self._order.runs
        for cookie, kind, block, count, fua, token in event.requests:
            if self._ended:
                effects.append(Answer(cookie, ESHUTDOWN, 0))
                if token:
                    effects.append(Release(token))
                continue
            number = self._next_number
            self._next_number = number + 1
            request = Unanswered(number, cookie, kind, block, count, fua, token)
            if runs:
                for run in self._order.met(request):
                    self._take_apart(run, effects)
            if add(request):
                ready.append(request)
        if ready:
            self._pump(now_ns, effects)

    def _client_reads(self, event: ClientReads, now_ns: int, effects: list[Effect]) -> None:
        cookie, blocks, count = event
        if not self._send_run(Run(self._next_number, cookie, blocks, count), now_ns, effects):
            singles = [(cookie + at, _READ, block, count, False, 0) for at, block in enumerate(blocks)]
            effects.append(Apart(cookie))
            self._client_requests(ClientRequests(singles), now_ns, effects)

    def _client_writes(self, event: ClientWrites, now_ns: int, effects: list[Effect]) -> None:
        cookie, blocks, count, token = event
        if not self._send_run(Run(self._next_number, cookie, blocks, count, token), now_ns, effects):
            singles = [(cookie + at, _WRITE, block, count, False, token + at) for at, block in enumerate(blocks)]
            effects.append(Apart(cookie))
            self._client_requests(ClientRequests(singles), now_ns, effects)

    def _send_run(self, run: Run, now_ns: int, effects: list[Effect]) -> bool:
        """As one while nothing holds any of them up."""
        if not self._session or not self._takes_many or self._ready:
            return False
        if not self._has_room_for(run) or not self._order.add_run(run):
            return False
        if not self._sent:
            self._stall_ns = now_ns + STALL_NS
        together, token = len(run.blocks), run.token
        self._next_number += together
        self._sent += together
        self._sent_bytes += run.payload_bytes
        kind, tokens = (_WRITE, (token,)) if token else (_READ, ())
        effects.append(SendMany(self._node, self._session, kind, run.asks, tokens))
        return True

    def _has_room_for(self, run: Run) -> bool:
        """In one message, and in the window."""
        together, room_bytes = len(run.blocks), WINDOW_BYTES - self._sent_bytes
        small = run.count <= SMALL_BLOCKS and together <= MANY and together * run.count <= MANY_BLOCKS
        return small and self._sent + together <= WINDOW_REQUESTS and run.payload_bytes <= room_bytes

    def _take_apart(self, run: Run, effects: list[Effect]) -> None:
        self._order.take_apart(run)
        effects.append(Apart(run.cookie))

    def _client_gone(self, event: ClientGone, now_ns: int, effects: list[Effect]) -> None:
        for run in list(self._order.runs.values()):
            if run.cookie in event.cookies:
                self._take_apart(run, effects)
        for request in self._order.table.values():
            if request.cookie in event.cookies:
                request.cookie = None

    def _closing(self, event: Closing, now_ns: int, effects: list[Effect]) -> None:
        if self._session:
            effects.append(SendClose(self._node, self._session))
        self._end(effects)

    # --- finding the primary ---

    def _link_up(self, event: LinkUp, now_ns: int, effects: list[Effect]) -> None:
        self._search.link_up(event.node)
        if self._session and event.node == self._node:
            self._lose(now_ns, effects)
        self._ask(now_ns, effects)

    def _link_down(self, event: LinkDown, now_ns: int, effects: list[Effect]) -> None:
        self._search.link_down(event.node)
        if self._session and event.node == self._node:
            self._lose(now_ns, effects)
        self._ask(now_ns, effects)

    def _opened(self, event: Opened, now_ns: int, effects: list[Effect]) -> None:
        if self._ended or not self._search.answered(event.node, event.session, now_ns):
            return
        stale = event.epoch < self.epoch or (self._session and event.epoch == self.epoch)
        if stale:
            effects.append(SendClose(event.node, event.session))
            return
        if self._session:
            effects.append(SendClose(self._node, self._session))
        self._lose_sent(effects)
        self._node, self._session, self.epoch = event.node, event.session, event.epoch
        self.size_blocks = event.size_blocks
        self._takes_many = event.takes_many
        self._pump(now_ns, effects)

    def _refused(self, event: Refused, now_ns: int, effects: list[Effect]) -> None:
        if self._ended:
            return
        if self._search.answered(event.node, event.session, now_ns):
            pass
        elif self._session and event.node == self._node and self._is_of_session(event.session):
            self._lose(now_ns, effects, refused_by=event.node)
        else:
            return
        if event.code == RefusedCode.FENCED:
            self._end(effects)
            return
        self._next_number = max(self._next_number, event.newest + 1)
        self._search.hint(event.hint, now_ns)
        self._ask(now_ns, effects)

    def _serving_hint(self, event: ServingHint, now_ns: int, effects: list[Effect]) -> None:
        if event.epoch < self.epoch or (self._session and event.epoch == self.epoch):
            return
        if event.epoch > self.epoch:
            self.epoch = event.epoch
            if self._session:
                effects.append(SendClose(self._node, self._session))
                self._lose(now_ns, effects)
            self._search.serving(event.node, now_ns)
        else:
            self._search.hint(event.node, now_ns)
        self._ask(now_ns, effects)

    def _tick(self, event: Tick, now_ns: int, effects: list[Effect]) -> None:
        if self._session and not self._ended and self._sent and self._stall_ns <= now_ns:
            self._stall_ns = now_ns + STALL_NS
            self._probe = self._number()
            effects.append(SendRequest(self._node, self._session, self._probe, RequestKind.READ, 0, 1, False, 0))
            self._open(self._search.due(now_ns, besides=self._node), now_ns, effects)
        self._ask(now_ns, effects)

    def _ask(self, now_ns: int, effects: list[Effect]) -> None:
        if not self._session and not self._ended:
            self._open(self._search.due(now_ns), now_ns, effects)

    def _open(self, nodes: list[str], now_ns: int, effects: list[Effect]) -> None:
        for node in nodes:
            session = self._number()
            self._search.asked(node, session, now_ns)
            effects.append(SendOpen(node, session))

    def _is_of_session(self, number: int) -> bool:
        """The number is the current session's, or that of a request that was sent on it."""
        request = self._order.table.get(number)
        is_probe = bool(self._probe) and number == self._probe
        is_sent = request.sent if request is not None else self._order.run_of(number) is not None
        return number == self._session or is_probe or is_sent

    def _lose(self, now_ns: int, effects: list[Effect], refused_by: str = "") -> None:
        self._session = 0
        self._lose_sent(effects)
        self._search.begin(now_ns, refused_by)

    def _lose_sent(self, effects: list[Effect]) -> None:
        """Nobody is going to answer what was sent; all of it is sent again on the next session."""
        for run in list(self._order.runs.values()):
            self._take_apart(run, effects)
        for request in self._order.table.values():
            request.sent = False
        self._sent = self._sent_bytes = self._probe = 0
        self._ready = deque(self._order.sendable())

    # --- requests at the primary ---

    def _done(self, event: Done, now_ns: int, effects: list[Effect]) -> None:
        request = self._answered(event, now_ns, effects)
        if request is not None:
            self._end_of(request, event.errno, effects)
            self._pump(now_ns, effects)

    def _done_many(self, event: DoneMany, now_ns: int, effects: list[Effect]) -> None:
        if not self._is_current(event, now_ns):
            return
        requests, runs = event.requests, self._order.runs
        run = runs.get(requests[0]) if runs and requests else None
        if run is not None and run.token and tuple(requests) == tuple(run.numbers):
            self._leave_run(run)
            effects.append(AnswerWrites(run.cookie, run.token))
            self._pump(now_ns, effects)
            return
        table, answers = self._order.table, list[tuple[int, int, int]]()
        for number in requests:
            request = table.get(number) or self._of_run(number, effects)
            if request is None or not request.sent:
                continue
            if request.reads or request.cookie is None:
                self._end_of(request, 0, effects)
            else:
                self._leave(request)
                answers.append((request.cookie, 0, request.token))
        if answers:
            effects.append(AnswerMany(answers))
        self._pump(now_ns, effects)

    def _end_of(self, request: Unanswered, errno: int, effects: list[Effect]) -> None:
        if not errno and request.reads:
            errno = EIO  # a read without its content
        self._finish(request, errno, 0, effects)

    def _data_many(self, event: DataMany, now_ns: int, effects: list[Effect]) -> None:
        node, session, epoch, reads = event
        current = self._is_current(event, now_ns)
        table, answers = self._order.table, list[tuple[int, int, int]]()
        for number, count, token in reads:
            request = table.get(number) or self._of_run(number, effects) if current else None
            plain = request is not None and request.sent and request.kind == _READ and request.count == count
            if plain and request is not None and request.cookie is not None:
                self._leave(request)
                answers.append((request.cookie, token, 0))
            else:
                self._data(Data(node, session, number, epoch, token, _READ, count), now_ns, effects)
        if answers:
            effects.append(AnswerMany(answers))
            self._pump(now_ns, effects)

    def _data_reads(self, event: DataReads, now_ns: int, effects: list[Effect]) -> None:
        run = self._order.runs.get(event.request) if self._is_current(event, now_ns) else None
        if run is None or run.token:
            effects.append(Release(event.token))
            return
        self._leave_run(run)
        effects.append(AnswerReads(run.cookie, event.token))
        self._pump(now_ns, effects)

    def _data(self, event: Data, now_ns: int, effects: list[Effect]) -> None:
        request = self._answered(event, now_ns, effects)
        if request is None or not request.reads:
            effects.append(Release(event.token))
        elif not _fits(request, event):
            effects.append(Release(event.token))
            self._finish(request, EIO, 0, effects)
            self._pump(now_ns, effects)
        elif request.looks:
            self._finish(request, 0, event.token, effects)
            self._pump(now_ns, effects)
        else:
            effects.append(Merge(request.token, event.token))
            request.becomes_write()
            self._send(request, effects)

    def _answered(self, event: Done | Data, now_ns: int, effects: list[Effect]) -> Unanswered | None:
        """The request that this answers; None when it is not one of the current session."""
        if not self._is_current(event, now_ns):
            return None
        request = self._order.table.get(event.request) or self._of_run(event.request, effects)
        return request if request is not None and request.sent else None

    def _of_run(self, number: int, effects: list[Effect]) -> Unanswered | None:
        """The request with this number, whose run is not answered as one: it is taken apart."""
        run = self._order.run_of(number)
        if run is None:
            return None
        self._take_apart(run, effects)
        return self._order.table[number]

    def _is_current(self, event: Done | DoneMany | Data | DataMany | DataReads, now_ns: int) -> bool:
        """It comes from the primary of the session, and in no epoch before the newest."""
        if event.session != self._session or event.node != self._node or event.epoch < self.epoch:
            return False
        self.epoch = event.epoch
        self._stall_ns = now_ns + STALL_NS
        return True

    def _finish(self, request: Unanswered, errno: int, content: int, effects: list[Effect]) -> None:
        """Whoever calls pumps afterwards."""
        if request.cookie is not None:
            effects.append(Answer(request.cookie, errno, content))
        elif content:
            effects.append(Release(content))
        if request.token:
            effects.append(Release(request.token))
        self._leave(request)

    def _leave(self, request: Unanswered) -> None:
        """It is answered: there is room in the window, and who waited for it may go on."""
        self._sent -= 1
        self._sent_bytes -= request.payload_bytes
        freed = self._order.remove(request)
        if freed:
            self._ready += freed

    def _leave_run(self, run: Run) -> None:
        """As `_leave`, of all its requests. Nobody waited for any of them."""
        self._order.remove_run(run)
        self._sent -= len(run.blocks)
        self._sent_bytes -= run.payload_bytes

    def _pump(self, now_ns: int, effects: list[Effect]) -> None:
        """Send what is ready as far as the window has room: small requests together, where there are several."""
        ready = self._ready
        if not self._session or not ready:
            return
        many: dict[int, list[Unanswered]] = {}
        if self._takes_many and len(ready) > 1:
            many = {_READ: [], _WRITE: []}
        while ready and self._sent < WINDOW_REQUESTS:
            request = ready[0]
            payload_bytes = request.payload_bytes
            if self._sent and self._sent_bytes + payload_bytes > WINDOW_BYTES:
                break
            ready.popleft()
            if not self._sent:
                self._stall_ns = now_ns + STALL_NS
            request.sent = True
            self._sent += 1
            self._sent_bytes += payload_bytes
            if request.kind in many and request.count <= SMALL_BLOCKS and not request.fua:
                many[request.kind].append(request)
            else:
                self._send(request, effects)
        for kind, requests in many.items():
            self._send_together(kind, requests, effects)

    def _send_together(self, kind: int, requests: list[Unanswered], effects: list[Effect]) -> None:
        step = MANY_BLOCKS // max((request.count for request in requests), default=1)
        step = min(step, MANY)
        for first in range(0, len(requests), step):
            together = requests[first : first + step]
            if len(together) == 1:
                self._send(together[0], effects)
                continue
            asks = tuple([(request.number, request.block, request.count) for request in together])
            tokens = tuple([request.token for request in together]) if kind == _WRITE else ()
            effects.append(SendMany(self._node, self._session, kind, asks, tokens))

    def _send(self, request: Unanswered, effects: list[Effect]) -> None:
        kind, fua, token = request.kind, request.fua, request.token
        if kind == _PATCH:
            kind, fua, token = _READ, False, 0
        effects.append(
            SendRequest(self._node, self._session, request.number, kind, request.block, request.count, fua, token)
        )

    def _end(self, effects: list[Effect]) -> None:
        self._ended = True
        self._session = 0
        for run in list(self._order.runs.values()):
            self._take_apart(run, effects)
        for request in self._order.table.values():
            if request.cookie is not None:
                effects.append(Answer(request.cookie, ESHUTDOWN, 0))
            if request.token:
                effects.append(Release(request.token))
        self._order.clear()
        self._ready.clear()
        self._sent = self._sent_bytes = 0

    def _number(self) -> int:
        number = self._next_number
        self._next_number += 1
        return number


def _fits(request: Unanswered, data: Data) -> bool:
    """What came is what was asked for; a status may end early. Anything else would shift a client's stream."""
    if request.kind == RequestKind.STATUS:
        return data.kind == RequestKind.STATUS and 0 < data.count <= request.count
    return data.kind == _READ and data.count == request.count
