"""The volume's user: a frontend on one node (the production core) and an application with several requests open.

Requests are unique writes, reads, zeroes, flushes; a small hot set makes them meet. Overlapping requests are served in
the order in which they were asked (W3), so the model knows exactly what each read may return.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.replica.replication import frontend as fe
from services.replica.replication.messages import Done, Io, Open, Opened, OpenRefused, Request
from stoscore.units import MS

if TYPE_CHECKING:
    from tests.simulation.machine import Machine

IO = {
    fe.RequestKind.READ: Io.READ,
    fe.RequestKind.WRITE: Io.WRITE,
    fe.RequestKind.ZERO: Io.ZERO,
    fe.RequestKind.FLUSH: Io.FLUSH,
}
SESSIONS = 10_000_000
"""Each frontend's numbers begin above those of the one before."""


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

    def __init__(self, machine: Machine, volume: str, attach_epoch: int, number: int, depth: int):
        self.machine = machine
        self.world = machine.world
        self.volume = volume
        self.attach_epoch = attach_epoch
        self.number = number
        self.depth = depth
        self.alive = True
        self.replaced = False
        """Attached elsewhere since: it may be fenced."""
        self.paused = False
        """The application asks for nothing new."""
        self.epoch = 0
        self.open: dict[int, Asked] = {}
        self.answered = 0
        self.waiting = 0
        self.cookie = number * SESSIONS
        self.tokens: dict[int, tuple[int, ...]] = {}
        self.timer_ns: int | None = None
        self.core = fe.FrontendCore(self.world.voters(volume), first_session=number * SESSIONS)
        machine.frontends[volume] = self
        machine.log("frontend", number, "for", volume, "attach epoch", attach_epoch)
        self._step(fe.LinkUp(machine.name))
        for peer in sorted(machine.out):
            self._step(fe.LinkUp(peer))
        for _ in range(depth):
            self._next()

    # ---- facts ----------------------------------------------------------------------------------------

    def link_up(self, node: str) -> None:
        self._step(fe.LinkUp(node))

    def link_down(self, node: str) -> None:
        self._step(fe.LinkDown(node))

    def serving(self, node: str, epoch: int) -> None:
        self._step(fe.ServingHint(node, epoch))

    def answer(self, node: str, epoch: int, message: Any, payload: tuple[int, ...]) -> None:
        self.epoch = epoch
        match message:
            case Opened(session):
                self._step(fe.Opened(node, session, epoch, self.world.size_blocks(self.volume)))
            case OpenRefused(session, code, hint, newest):
                self._step(fe.Refused(node, session, int(code), hint, newest))
            case Done(session, request, errno):
                if payload:
                    self._step(fe.Data(node, session, request, epoch, self._keep(payload)))
                else:
                    self._step(fe.Done(node, session, request, epoch, errno))
            case _:
                raise AssertionError(message)

    def died(self) -> None:
        self.alive = False
        self.world.checker.gone(self.volume, self.number)

    def _keep(self, contents: tuple[int, ...]) -> int:
        token = self.machine.next_token
        self.machine.next_token += 1
        self.tokens[token] = contents
        return token

    def _step(self, event: fe.Event) -> None:
        for effect in self.core.step(event, self.machine.clock_ns()):
            match effect:
                case fe.SendOpen(node, session):
                    self.machine.to_frontend_link(node, ("open", self.volume, self.attach_epoch, Open(session)))
                case fe.SendRequest(node, session, request, kind, block, count, fua, token):
                    payload = self.tokens[token] if token else ()
                    message = Request(session, request, IO[fe.RequestKind(kind)], block, count, fua, int(bool(token)))
                    if kind == fe.RequestKind.FLUSH:
                        self.world.checker.flush_sent(self.volume, session, request)
                    self.machine.to_frontend_link(node, ("request", self.volume, message, payload))
                case fe.SendClose():
                    pass
                case fe.Answer(cookie, errno, token):
                    self._answered(cookie, errno, self.tokens.pop(token) if token else ())
                case fe.Release(token):
                    del self.tokens[token]
        self.core.validate()
        self._arm()

    def _arm(self) -> None:
        due = self.core.next_deadline_ns()
        if due is None:
            return
        now = self.machine.clock_ns()
        if self.timer_ns is not None and now <= self.timer_ns <= due:
            return
        self.timer_ns = due

        def tick() -> None:
            if not self.alive or self.timer_ns != due:
                return
            self.timer_ns = None
            self._step(fe.Tick())

        self.machine.later(max(MS, due - now), tick)

    # ---- the application ------------------------------------------------------------------------------

    def _next(self) -> None:
        """One more request, after a moment."""
        self.waiting += 1

        def ask() -> None:
            self.waiting -= 1
            if not self.alive or self.core.ended:
                return
            if self.paused or self.world.draining:
                self.waiting += 1
                self.machine.later(20 * MS, ask)
                return
            self._ask()

        self.machine.later(self.world.rng.randint(0, self.world.think_ns), ask)

    def _ask(self) -> None:
        rng, world = self.world.rng, self.world
        kind, block, count = world.workload(self.volume)
        self.cookie += 1
        fua = kind in (fe.RequestKind.WRITE, fe.RequestKind.ZERO) and rng.random() < 0.08
        contents: tuple[int, ...] = ()
        token = 0
        if kind is fe.RequestKind.WRITE:
            contents = tuple(world.content() for _ in range(count))
            token = self._keep(contents)
        elif kind is fe.RequestKind.ZERO:
            contents = (0,) * count
        self.open[self.cookie] = Asked(kind, block, count, contents, fua, world.now_ns)
        if contents:
            world.checker.submitted(self.volume, self.number, self.cookie, block, contents)
        elif kind is fe.RequestKind.FLUSH:
            world.checker.flush_asked(self.volume, self.cookie)
        self._step(fe.ClientRequest(self.cookie, kind, block, count, fua, token))

    def _answered(self, cookie: int, errno: int, contents: tuple[int, ...]) -> None:
        asked = self.open.pop(cookie)
        checker = self.world.checker
        self.answered += 1
        if errno:
            if not self.replaced:
                self.world.violated(f"frontend {self.number} answers {asked} with {errno}")
            if asked.contents:
                checker.gone(self.volume, self.number)
            return
        self.world.log(
            self.machine.name, "client", self.number, asked.kind.name, asked.block, asked.contents or contents
        )
        match asked.kind:
            case fe.RequestKind.READ:
                checker.read(self.volume, self.number, self.epoch, asked.block, contents, asked.asked_ns)
            case fe.RequestKind.FLUSH:
                checker.flush_done(self.volume, self.number, self.epoch, cookie)
            case _:
                checker.written(
                    self.volume, self.number, self.epoch, cookie, asked.block, asked.contents, fua=asked.fua
                )
        self._next()
