"""The volume's user: a frontend on one node (the production core) and an application with several requests open.

Requests are unique writes, reads, zeroes, flushes; a small hot set makes them meet. Overlapping requests are served in
the order in which they were asked (W3), so the register model knows exactly what each read may return.
"""

from __future__ import annotations

import errno as errors
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from services.replica.replication import frontend as fe
from services.replica.replication.messages import Done, DoneMany, Io, Open, Opened, OpenRefused, Request, RequestMany
from stoscore.units import MS

if TYPE_CHECKING:
    from tests.simulation.machine import Machine
    from tests.simulation.volume import SimVolume

IO = {
    fe.RequestKind.READ: Io.READ,
    fe.RequestKind.WRITE: Io.WRITE,
    fe.RequestKind.ZERO: Io.ZERO,
    fe.RequestKind.FLUSH: Io.FLUSH,
}
SESSIONS = 10_000_000
"""Each frontend's numbers begin above those of the one before."""
VALIDATED = 8
"""One step in so many is followed by a look at the whole core: what it finds does not go away by itself."""
HURRY_NS = 2 * MS
TOGETHER_NS = MS
"""What is asked within so long comes in one event, where requests travel together."""


class ReadTogether(NamedTuple):
    """The answer to reads that were asked for together. Their content is its payload, one behind the other."""

    session: int
    asks: tuple[tuple[int, int, int], ...]


@dataclass(slots=True)
class Asked:
    kind: fe.RequestKind
    block: int
    count: int
    contents: tuple[int, ...]
    fua: bool
    asked_ns: int


class Frontend:
    """One attached volume at one node, as long as its process lives."""

    def __init__(self, machine: Machine, volume: SimVolume, attach_epoch: int, number: int, copies: Mapping[str, int]):
        """`copies`: node -> incarnation, of the data replicas as the record has them."""
        self.machine = machine
        self.world = machine.world
        self.owner = volume
        self.volume = volume.id
        self.attach_epoch = attach_epoch
        self.number = number
        self.alive = True
        self.replaced = False
        """Attached elsewhere since: it may be fenced."""
        self.epoch = 0
        self.open: dict[int, Asked] = {}
        self.answered = 0
        self._steps = 0
        self._cookie = number * SESSIONS
        self._tokens: dict[int, tuple[int, ...]] = {}
        self._runs: dict[int, tuple[int, int]] = {}
        """Requests that are answered together: the first one's cookie -> how many they are, and what they write."""
        self._timer_ns: int | None = None
        self._due_ns: list[int] = []
        """When the next requests are asked, where they travel together."""
        self._copies = dict(copies)
        self.core = fe.FrontendCore(list(copies), first_session=number * SESSIONS)
        machine.frontends[self.volume] = self
        machine.log("frontend", number, "for", self.volume, "attach epoch", attach_epoch)
        self._step(fe.LinkUp(machine.name))
        for peer in sorted(machine.wires.out):
            self._step(fe.LinkUp(peer))
        for _ in range(volume.plan.depth):
            self._next()

    # ---- facts ----------------------------------------------------------------------------------------

    def link_up(self, node: str) -> None:
        self._step(fe.LinkUp(node))

    def link_down(self, node: str) -> None:
        self._step(fe.LinkDown(node))

    def uses(self, node: str) -> bool:
        return self.core.knows(node)

    def serving(self, node: str, epoch: int, copies: Mapping[str, int]) -> None:
        """The volume's copies move while it is used. Who they are counts from the primary that serves us only."""
        self._step(fe.ServingHint(node, epoch))
        if copies and copies != self._copies and self.core.primary == node:
            new = copies.keys() - self.core.nodes()
            self._copies = dict(copies)
            self.core.use(copies)
            for known in sorted(new):
                self._look(known)

    def _look(self, node: str) -> None:
        """It was not known before, and there may be a link."""
        if node == self.machine.name or node in self.machine.wires.out:
            self._step(fe.LinkUp(node))

    def answer(self, node: str, epoch: int, message: Any, payload: tuple[int, ...]) -> None:
        self.epoch = epoch
        match message:
            case Done(session, request, errno):
                if payload:
                    token, count = self._keep(payload), len(payload)
                    if self.world.plan.together:
                        self._step(fe.DataMany(node, session, epoch, [(request, count, token)]))
                    else:
                        self._step(fe.Data(node, session, request, epoch, token, fe.RequestKind.READ, count))
                else:
                    self._step(fe.Done(node, session, request, epoch, errno))
            case ReadTogether(session, asks):
                self._read_together(node, epoch, session, asks, payload)
            case DoneMany(session, requests):
                self._step(fe.DoneMany(node, session, requests, epoch))
            case Opened(session):
                self._step(fe.Opened(node, session, epoch, self.owner.size_blocks, self.world.plan.together))
            case OpenRefused(session, code, hint, newest):
                new = not self.core.knows(hint)
                self._step(fe.Refused(node, session, int(code), hint, newest))
                if new and self.core.knows(hint):
                    self._look(hint)
            case _:
                raise AssertionError(message)

    def _read_together(
        self, node: str, epoch: int, session: int, asks: tuple[tuple[int, int, int], ...], payload: tuple[int, ...]
    ) -> None:
        if self.core.is_run(asks):
            self._step(fe.DataReads(node, session, asks[0][0], epoch, self._keep(payload)))
            return
        reads, at = [], 0
        for request, _, count in asks:
            reads.append((request, count, self._keep(payload[at : at + count])))
            at += count
        self._step(fe.DataMany(node, session, epoch, reads))

    def died(self) -> None:
        self.alive = False
        self.world.registers.gone(self.volume, self.number)

    def _keep(self, contents: tuple[int, ...]) -> int:
        token = len(self._tokens) + self._cookie
        while token in self._tokens:
            token += 1
        self._tokens[token] = contents
        return token

    def _step(self, event: fe.Event) -> None:
        for effect in self.core.step(event, self.machine.clock_ns()):
            match effect:
                case fe.SendRequest():
                    self._send(effect)
                case fe.SendMany():
                    self._send_many(effect)
                case fe.Answer(cookie, errno, token):
                    self._answered(cookie, errno, self._tokens.pop(token) if token else ())
                case fe.AnswerMany(answers):
                    for cookie, content, payload in answers:
                        if payload:
                            del self._tokens[payload]
                        self._answered(cookie, 0, self._tokens.pop(content) if content else ())
                case fe.Apart(cookie):
                    self._apart(cookie)
                case fe.AnswerWrites(cookie, token):
                    together, _ = self._runs.pop(cookie)
                    for at in range(together):
                        del self._tokens[token + at]
                        self._answered(cookie + at, 0, ())
                case fe.AnswerReads(cookie, token):
                    self._answered_together(cookie, self._tokens.pop(token))
                case fe.SendOpen(node, session):
                    target = self._copies.get(node, 0)
                    self.machine.wires.send(node, ("open", self.volume, target, self.attach_epoch, Open(session)))
                case fe.Release(token):
                    del self._tokens[token]
                case fe.SendClose():
                    pass
        self._steps += 1
        if not self._steps % VALIDATED:
            self.core.validate()
        self._arm()

    def _send(self, effect: fe.SendRequest) -> None:
        node, session, request, kind, block, count, fua, token = effect
        payload = self._tokens[token] if token else ()
        message = Request(session, request, IO[fe.RequestKind(kind)], block, count, fua, int(bool(token)))
        if kind == fe.RequestKind.FLUSH:
            self.world.registers.flush_sent(self.volume, session, request)
        target = self._copies.get(node, 0)
        self.machine.wires.send(node, ("request", self.volume, target, self.attach_epoch, message, payload))

    def _send_many(self, effect: fe.SendMany) -> None:
        node, session, kind, asks, tokens = effect
        payload = tuple(content for token in tokens for content in self._tokens[token])
        message = RequestMany(session, IO[fe.RequestKind(kind)], asks, int(bool(tokens)))
        target = self._copies.get(node, 0)
        self.machine.wires.send(node, ("request", self.volume, target, self.attach_epoch, message, payload))

    def _arm(self) -> None:
        due = self.core.next_deadline_ns()
        if due is None:
            return
        now = self.machine.clock_ns()
        if self._timer_ns is not None and now <= self._timer_ns <= due:
            return
        self._timer_ns = due
        self.machine.later(max(MS, due - now), lambda: self._tick(due))

    def _tick(self, due_ns: int) -> None:
        if self.alive and self._timer_ns == due_ns:
            self._timer_ns = None
            self._step(fe.Tick())

    # ---- the application ------------------------------------------------------------------------------

    def _next(self) -> None:
        """One more request, after a moment."""
        self._ask_later(self._pause_ns())

    def _ask_later(self, pause_ns: int) -> None:
        if self.world.plan.together:
            self._due_ns.append(self.world.now_ns + pause_ns)
        self.machine.later(pause_ns, self._ask)

    def _pause_ns(self) -> int:
        owner = self.owner
        if not self.world.faulty:
            return owner.dice.randint(0, HURRY_NS)
        if owner.plan.burst > 1 and self.answered % owner.plan.burst:
            return MS // 10
        return owner.dice.randint(0, 2 * owner.plan.think_ns * owner.plan.burst)

    def _ask(self) -> None:
        if not self.alive or self.core.ended:
            return
        if not self.world.plan.together:
            asked = self._one_more()
            if asked is not None:
                self._step(asked)
            return
        soon_ns = self.world.now_ns + TOGETHER_NS
        due, self._due_ns = len(self._due_ns), [due_ns for due_ns in self._due_ns if due_ns > soon_ns]
        together = [self._one_more() for _ in range(due - len(self._due_ns))]
        asked = [one for one in together if one is not None]
        run = _leading_run(asked)
        if run:
            self._step(self._run(run))
        self._step(fe.ClientRequests(asked[len(run) :]))

    def _run(self, run: Sequence[fe.ClientRequest]) -> fe.ClientReads | fe.ClientWrites:
        """Tokens of writes follow each other, so that what all of them write may be cut apart again."""
        first, blocks = run[0], [one.block for one in run]
        if first.kind is fe.RequestKind.READ:
            self._runs[first.cookie] = (len(run), 0)
            return fe.ClientReads(first.cookie, blocks, first.count)
        contents = [self._tokens.pop(one.token) for one in run]  # each by a token of its own until now
        token = max((self._cookie, *self._tokens)) + 1
        self._runs[first.cookie] = (len(run), token)
        self._tokens |= dict.fromkeys(range(token, token + len(run)), ())
        self._tokens[token] = tuple(content for each in contents for content in each)
        return fe.ClientWrites(first.cookie, blocks, first.count, token)

    def _apart(self, cookie: int) -> None:
        together, token = self._runs.pop(cookie)
        if token:
            contents = self._tokens.pop(token)
            count = len(contents) // together
            for at in range(together):
                self._tokens[token + at] = contents[at * count : (at + 1) * count]

    def _one_more(self) -> fe.ClientRequest | None:
        if not self.owner.wants_more():
            self._ask_later(20 * MS)
            return None
        kind, block, count, fua = self.owner.next_request()
        self._cookie += 1
        contents: tuple[int, ...] = ()
        token = 0
        if kind is fe.RequestKind.WRITE:
            contents = self.world.contents(count)
            token = self._keep(contents)
        elif kind is fe.RequestKind.ZERO:
            contents = (0,) * count
        self.open[self._cookie] = Asked(kind, block, count, contents, fua, self.world.now_ns)
        if contents:
            self.world.registers.submitted(self.volume, self.number, self._cookie, block, contents)
        elif kind is fe.RequestKind.FLUSH:
            self.world.registers.flush_asked(self.volume, self._cookie)
        else:
            self.world.registers.read_asked(self.volume, self._cookie, block, count)
        return fe.ClientRequest(self._cookie, kind, block, count, fua, token)

    def _answered_together(self, cookie: int, contents: tuple[int, ...]) -> None:
        together, _ = self._runs.pop(cookie)
        count = len(contents) // together
        for at in range(together):
            self._answered(cookie + at, 0, contents[at * count : (at + 1) * count])

    def _answered(self, cookie: int, errno: int, contents: tuple[int, ...]) -> None:
        asked = self.open.pop(cookie)
        registers = self.world.registers
        self.answered += 1
        self.world.log(
            self.machine.name, "client", self.number, asked.kind.name, self.volume, asked.block, asked.count,
            asked.contents or contents, f"errno {errno}" if errno else "",
        )  # fmt: skip
        if errno:
            self._refused(cookie, asked, errno)
            return
        match asked.kind:
            case fe.RequestKind.READ:
                registers.read(self.volume, self.number, self.epoch, cookie, asked.block, contents, asked.asked_ns)
            case fe.RequestKind.FLUSH:
                registers.flush_done(self.volume, self.number, self.epoch, cookie)
            case _:
                registers.written(
                    self.volume, self.number, self.epoch, cookie, asked.block, asked.contents, fua=asked.fua
                )
        self._next()

    def _refused(self, cookie: int, asked: Asked, errno: int) -> None:
        """ESHUTDOWN when it was replaced; EIO when a block that was read is rotten, or when the policy says that what
        can't be stored in enough copies fails; nothing else is allowed."""
        if self.replaced and errno == errors.ESHUTDOWN:
            self.world.registers.gone(self.volume, self.number)
            return
        if asked.kind is fe.RequestKind.READ:
            allowed = self.world.may_be_rotten(self.volume, asked.block, asked.count)
        else:
            allowed = self.owner.may_fail
            if asked.contents:
                self.world.registers.failed(self.volume, self.number, cookie, asked.block, asked.count)
        if errno != errors.EIO or not allowed:
            self.world.violated(f"frontend {self.number} answers {asked} with {errno}")
        self._next()


def _leading_run(asked: Sequence[fe.ClientRequest]) -> list[fe.ClientRequest]:
    """The reads, or writes, of one size with which the list begins, if there are several."""
    if not asked or asked[0].kind not in (fe.RequestKind.READ, fe.RequestKind.WRITE):
        return []
    alike = (asked[0].kind, asked[0].count, False)
    run = list(takewhile(lambda one: (one.kind, one.count, one.fua) == alike, asked))
    return run if len(run) > 1 else []
