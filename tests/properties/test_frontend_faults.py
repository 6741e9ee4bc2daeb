"""The frontend's core against a model of the volume: links break, primaries come and go, frames are late.

The model primary keeps the protocol's side of the bargain and no more: it serves in one epoch, settles or
drops what an older session had in hand before it opens a newer one, and applies requests of one session in
any order (nothing but rule W3 keeps overlapping writes apart). Then the faults stop, and everything must be
answered exactly once, and every read must have seen a state that the order of overlapping requests allows.

A block has two halves, so that it can be patched: a patch that is lost, or computed from a block that was not the
last one, leaves a half that no order allows.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from services.replica.replication.frontend import (
    Answer,
    AnswerMany,
    AnswerReads,
    AnswerWrites,
    Apart,
    ClientGone,
    ClientReads,
    ClientRequest,
    ClientWrites,
    Data,
    DataMany,
    DataReads,
    Done,
    DoneMany,
    Effect,
    Event,
    FrontendCore,
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
from stoscore.units import MS

NODES = ("n1", "n2", "n3")
BLOCKS = 12
Block = tuple[int, int]
"""Who wrote its halves."""
READ, WRITE, PATCH, ZERO, FLUSH, STATUS = (int(kind) for kind in RequestKind)


@dataclass(frozen=True)
class ReadTogether:
    """The answer to reads that were asked for together."""

    node: str
    session: int
    epoch: int
    asks: tuple[tuple[int, int, int], ...]
    contents: list[tuple[Block, ...]]


class Volume:
    """Three nodes, one content (replication itself is not in question here), one core, and two queues a
    link: what is under way to the node and back. Each queue keeps its order; a broken link loses both."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.core = FrontendCore(NODES)
        self.now_ns = 0
        self.up: set[str] = set()
        self.to: dict[str, list[Effect]] = {node: [] for node in NODES}
        self.back: dict[str, list[Event | ReadTogether]] = {node: [] for node in NODES}
        self.epoch = 0
        self.primary = ""
        self.believers: dict[str, int] = {}
        """Who thinks that it serves, and in which epoch: a deposed one may go on thinking so."""
        self.session: dict[str, int] = {}
        self.in_hand: dict[str, list[SendRequest | SendMany]] = {node: [] for node in NODES}
        self.content: list[Block] = [(0, 0)] * BLOCKS
        self.newest_session = 0
        self.next_number = 1
        self.asked: dict[int, ClientRequest] = {}
        self.answered: dict[int, int] = {}
        self.runs: dict[int, int] = {}
        """Requests that are answered together: the first one's cookie -> how many they are."""
        self.answered_together = {READ: 0, WRITE: 0}
        self.gone: set[int] = set()
        """Cookies of clients that are."""
        self.kept: set[int] = set()
        """Tokens that the shell holds: payloads of writes and contents of reads."""
        self.payloads: dict[int, list[Block]] = {}
        self.reads: dict[int, tuple[Block, ...]] = {}
        self.last_write: list[Block] = [(0, 0)] * BLOCKS
        """Per block what the requests so far leave there."""
        self.expected: dict[int, tuple[Block, ...]] = {}
        """Per read, status and patch what the requests before it leave on its blocks."""

    # --- the shell ---

    def step(self, event: Event) -> None:
        for effect in self.core.step(event, self.now_ns):
            self.perform(effect)
        self.core.validate()

    def perform(self, effect: Effect) -> None:
        if isinstance(effect, Answer):
            assert effect.cookie not in self.answered, "answered twice"
            assert effect.cookie not in self.gone, "nobody waits for it"
            assert effect.errno == 0, "a failover is no error"
            assert not any(run <= effect.cookie < run + size for run, size in self.runs.items()), "of a whole run"
            self.answered[effect.cookie] = effect.errno
            if self.asked[effect.cookie].kind in (READ, STATUS):
                self.kept.remove(effect.token)
                assert self.reads[effect.token] == self.expected[effect.cookie]
        elif isinstance(effect, AnswerMany):
            for cookie, content, payload in effect.answers:
                self.perform(Answer(cookie, 0, content))
                if payload:
                    self.perform(Release(payload))
        elif isinstance(effect, Apart):
            together = self.runs.pop(effect.cookie)
            first = self.asked[effect.cookie]
            if first.kind == WRITE:
                assert first.token in self.kept
                self.kept.update(range(first.token, first.token + together))
        elif isinstance(effect, AnswerWrites):
            together = self.runs.pop(effect.cookie)
            self.answered_together[WRITE] += 1
            self.kept.remove(effect.token)
            cookies = range(effect.cookie, effect.cookie + together)
            assert not self.answered.keys() & set(cookies), "answered twice"
            self.answered.update(dict.fromkeys(cookies, 0))
        elif isinstance(effect, AnswerReads):
            together = self.runs.pop(effect.cookie)
            self.answered_together[READ] += 1
            self.kept.remove(effect.token)
            cookies = range(effect.cookie, effect.cookie + together)
            assert not self.answered.keys() & set(cookies), "answered twice"
            self.answered.update(dict.fromkeys(cookies, 0))
            expected = [block for cookie in cookies for block in self.expected[cookie]]
            assert self.reads[effect.token] == tuple(expected)
        elif isinstance(effect, Merge):
            self.kept.remove(effect.content)
            (block,) = self.reads[effect.content]
            assert (block,) == self.expected[effect.token], "merged with what nobody left there"
            assert effect.token not in self.payloads, "merged twice"
            self.payloads[effect.token] = [patched(block, effect.token)]
        elif isinstance(effect, Release):
            self.kept.remove(effect.token)
        else:
            if isinstance(effect, SendOpen):
                assert effect.session > self.newest_session, "W2"
                self.newest_session = effect.session
            if isinstance(effect, SendRequest):
                assert effect.kind != PATCH
                assert effect.kind != WRITE or effect.token in self.kept & self.payloads.keys(), "its payload is gone"
            if isinstance(effect, SendMany):
                assert self.kept.issuperset(effect.tokens), "a payload is gone"
                effect = _with_tokens(effect)
            if effect.node in self.up:
                self.to[effect.node].append(effect)

    def ask_together(self) -> None:
        first, together, count = self.next_number, self.rng.randint(2, 5), self.rng.choice([1, 1, 2])
        blocks = [self.rng.randrange(BLOCKS - count + 1) for _ in range(together)]
        for cookie, block in enumerate(blocks, first):
            self.asked[cookie] = ClientRequest(cookie, READ, block, count, False, 0)
            self.expected[cookie] = tuple(self.last_write[block : block + count])
        self.next_number += together
        self.runs[first] = together
        self.step(ClientReads(first, blocks, count))

    def write_together(self) -> None:
        first, together, count = self.next_number, self.rng.randint(2, 5), self.rng.choice([1, 1, 2])
        blocks = [self.rng.randrange(BLOCKS - count + 1) for _ in range(together)]
        if self.rng.random() < 0.7:  # none of them overlaps another one
            blocks = self.rng.sample(range(0, BLOCKS, count), together)
        for cookie, block in enumerate(blocks, first):
            self.asked[cookie] = ClientRequest(cookie, WRITE, block, count, False, cookie)
            self.last_write[block : block + count] = [(cookie, cookie)] * count
        self.next_number += together
        self.runs[first] = together
        self.kept.add(first)
        self.payloads |= {cookie: [(cookie, cookie)] * count for cookie in range(first, first + together)}
        self.step(ClientWrites(first, blocks, count, first))

    def hang_up(self) -> None:
        """The client of the latest requests has gone; what it asked for still happens."""
        latest = sorted(self.asked.keys() - self.answered.keys())[-3:]
        first = next((run for run, size in self.runs.items() if latest and run <= latest[0] < run + size), None)
        gone = {*latest, *(range(first, first + self.runs[first]) if first is not None else ())}
        self.step(ClientGone(gone))
        self.gone |= gone
        self.answered.update(dict.fromkeys(gone, 0))

    def ask(self) -> None:
        number = self.next_number
        self.next_number += 1
        kind = self.rng.choice([READ, READ, STATUS, WRITE, WRITE, PATCH, PATCH, ZERO, FLUSH])
        count = {FLUSH: 0, PATCH: 1}.get(kind, self.rng.choice([1, 1, 2, 4]))
        block = 0 if kind == FLUSH else self.rng.randrange(BLOCKS - count + 1)
        request = ClientRequest(number, kind, block, count, False, number if kind in (WRITE, PATCH) else 0)
        self.asked[number] = request
        if kind in (READ, STATUS, PATCH):
            self.expected[number] = tuple(self.last_write[block : block + count])
        if kind == PATCH:
            self.last_write[block] = patched(self.last_write[block], number)
        elif kind in (WRITE, ZERO):
            self.last_write[block : block + count] = [(number, number) if kind == WRITE else (0, 0)] * count
        if kind in (WRITE, PATCH):
            self.kept.add(number)
        if kind == WRITE:
            self.payloads[number] = [(number, number)] * count
        self.step(request)

    # --- the nodes ---

    def serve(self, node: str) -> None:
        """A node takes one message, or does one of the things that it has in hand."""
        in_hand = self.in_hand[node]
        if in_hand and self.rng.random() < 0.6:
            self.finish(node, in_hand.pop(self.rng.randrange(len(in_hand))))
            return
        if not self.to[node]:
            return
        message = self.to[node].pop(0)
        epoch = self.believers.get(node)
        if isinstance(message, SendOpen):
            self.open(node, message.session, epoch)
        elif isinstance(message, SendRequest):
            if epoch is None or self.session.get(node) != message.session:
                self.reply(node, Refused(node, message.request, RefusedCode.NOT_PRIMARY, self.primary))
            else:
                in_hand.append(message)
        elif isinstance(message, SendMany):
            if epoch is None or self.session.get(node) != message.session:
                self.reply(node, Refused(node, message.session, RefusedCode.NOT_PRIMARY, self.primary))
            elif self.rng.random() < 0.7:
                in_hand.append(message)
            else:
                in_hand += _one_by_one(message)
        else:
            assert isinstance(message, SendClose)

    def open(self, node: str, session: int, epoch: int | None) -> None:
        if epoch is None:
            hint = self.rng.choice(["", self.primary, *NODES])
            self.reply(node, Refused(node, session, RefusedCode.NOT_PRIMARY, hint))
        elif self.rng.random() < 0.1:
            self.reply(node, Refused(node, session, RefusedCode.NOT_READY, ""))
        else:
            while self.in_hand[node]:  # W2: settle or drop everything older first
                self.finish(node, self.in_hand[node].pop())
            self.session[node] = session
            self.reply(node, Opened(node, session, epoch, BLOCKS, self.rng.random() < 0.8))

    def finish(self, node: str, request: SendRequest | SendMany) -> None:
        """Apply and answer; a deposed primary can do neither."""
        epoch = self.believers.get(node)
        if epoch != self.epoch or request.session != self.session.get(node):
            return
        if isinstance(request, SendMany) and request.kind == WRITE:
            for (_, block, count), token in zip(request.asks, request.tokens, strict=True):
                self.content[block : block + count] = self.payloads[token]
            self.reply(node, DoneMany(node, request.session, [number for number, _, _ in request.asks], epoch))
            return
        if isinstance(request, SendMany):
            contents = [tuple(self.content[block : block + count]) for _, block, count in request.asks]
            self.reply(node, ReadTogether(node, request.session, epoch, request.asks, contents))
            return
        blocks = slice(request.block, request.block + request.count)
        if request.kind in (READ, STATUS):
            token = -self.next_number
            self.next_number += 1
            self.reads[token] = tuple(self.content[blocks])
            if request.kind == READ and self.rng.random() < 0.5:
                self.reply(node, DataMany(node, request.session, epoch, [(request.request, request.count, token)]))
                return
            self.reply(node, Data(node, request.session, request.request, epoch, token, request.kind, request.count))
            return
        if request.kind != FLUSH:
            self.content[blocks] = self.payloads[request.token] if request.kind == WRITE else [(0, 0)] * request.count
        if self.rng.random() < 0.5:
            self.reply(node, DoneMany(node, request.session, [request.request], epoch))
        else:
            self.reply(node, Done(node, request.session, request.request, epoch, 0))

    def reply(self, node: str, event: Event | ReadTogether) -> None:
        if node in self.up:
            self.back[node].append(event)

    def hear(self, node: str) -> None:
        if self.back[node]:
            event = self.back[node].pop(0)
            if isinstance(event, ReadTogether):
                event = self.brought(event)
            if isinstance(event, Data | DataReads):
                self.kept.add(event.token)
            elif isinstance(event, DataMany):
                self.kept.update(token for _, _, token in event.reads)
            self.step(event)

    def brought(self, answer: ReadTogether) -> DataReads | DataMany:
        node, session, epoch, asks = answer.node, answer.session, answer.epoch, answer.asks
        first = -self.next_number
        self.next_number += len(asks)
        if self.core.is_run(asks):
            self.reads[first] = tuple(block for content in answer.contents for block in content)
            return DataReads(node, session, asks[0][0], epoch, first)
        tokens = [first - at for at in range(len(asks))]
        self.reads.update(zip(tokens, answer.contents, strict=True))
        reads = [(request, count, token) for (request, _, count), token in zip(asks, tokens, strict=True)]
        return DataMany(node, session, epoch, reads)

    # --- faults ---

    def link(self, node: str, up: bool) -> None:
        self.to[node].clear()
        self.back[node].clear()
        (self.up.add if up else self.up.discard)(node)
        self.step(LinkUp(node) if up else LinkDown(node))

    def elect(self, node: str) -> None:
        """A newer epoch. The old primary may not know; what the new one had in hand as an older one is lost."""
        self.epoch += 1
        if self.primary and self.rng.random() < 0.5:
            self.believers.pop(self.primary, None)
        self.primary = node
        self.believers[node] = self.epoch
        self.session.pop(node, None)
        self.in_hand[node].clear()
        if self.rng.random() < 0.5:
            self.reply(node, ServingHint(node, self.epoch))

    def fault(self) -> None:
        node = self.rng.choice(NODES)
        what = self.rng.random()
        if what < 0.35:
            self.link(node, node not in self.up or self.rng.random() < 0.2)
        elif what < 0.6:
            self.elect(node)
        else:
            self.believers.pop(node, None)

    def tick(self) -> None:
        deadline_ns = self.core.next_deadline_ns()
        self.now_ns += self.rng.randint(0, 20) * MS
        if deadline_ns is not None and (deadline_ns <= self.now_ns or self.rng.random() < 0.05):
            self.step(Tick())

    def run(self, steps: int, faults: float, depth: int = 30) -> None:
        """`depth`: unanswered requests, at which no more are asked; few of them seldom meet."""
        for _ in range(steps):
            chance = self.rng.random()
            if chance < faults:
                self.fault()
            elif chance < 0.3 and len(self.asked) - len(self.answered) < depth and faults:
                self.rng.choice([self.ask, self.ask, self.ask_together, self.write_together])()
            elif 0.3 <= chance < 0.302 and faults:
                self.hang_up()
            elif chance < 0.4:
                self.tick()
            else:
                self.rng.choice([self.serve, self.hear])(self.rng.choice(NODES))

    def heal(self) -> None:
        for node in NODES:
            if node not in self.up:
                self.link(node, True)
        self.believers.clear()
        self.elect(self.rng.choice(NODES))


def _with_tokens(many: SendMany) -> SendMany:
    """Of each write, where what all of them write has one."""
    first, together = many.tokens[:1], len(many.asks)
    return many._replace(tokens=tuple(range(first[0], first[0] + together))) if len(many.tokens) == 1 else many


def _one_by_one(many: SendMany) -> list[SendRequest]:
    tokens = many.tokens or (0,) * len(many.asks)
    return [
        SendRequest(many.node, many.session, number, many.kind, block, count, False, token)
        for (number, block, count), token in zip(many.asks, tokens, strict=True)
    ]


def patched(block: Block, number: int) -> Block:
    """Odd numbers patch the second half."""
    return (block[0], number) if number % 2 else (number, block[1])


@pytest.mark.parametrize("seed", range(60))
def test_every_request_is_answered_once_and_in_order_whatever_fails(seed: int) -> None:
    volume = Volume(seed)
    volume.elect("n1")
    for node in NODES:
        volume.link(node, True)
    volume.run(600, faults=0.02, depth=30 if seed % 2 else 4)
    volume.heal()
    for _ in range(100):
        if len(volume.answered) == len(volume.asked) and not volume.core.unanswered:
            break
        volume.run(100, faults=0)
    assert volume.answered.keys() == volume.asked.keys()
    assert not volume.kept, "every payload is given back"
    assert volume.content == volume.last_write
    assert not volume.runs


def test_what_comes_together_is_answered_together_now_and_then() -> None:
    together = {READ: 0, WRITE: 0}
    for seed in range(30):
        volume = Volume(seed)
        volume.elect("n1")
        for node in NODES:
            volume.link(node, True)
        volume.run(1000, faults=0.005, depth=2)
        for kind, times in volume.answered_together.items():
            together[kind] += times
    assert min(together.values()) > 20


def test_without_the_order_of_overlaps_the_model_would_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The net has no hole: with rule W3 switched off some seed fails."""
    from services.replica.replication.frontend_order import RequestOrder

    monkeypatch.setattr(RequestOrder, "_is_clear", lambda self, request: True)
    monkeypatch.setattr(FrontendCore, "validate", lambda self: None)
    caught = 0
    for seed in range(8):
        volume = Volume(seed)
        volume.elect("n1")
        for node in NODES:
            volume.link(node, True)
        try:
            volume.run(600, faults=0.02)
            volume.heal()
            volume.run(3000, faults=0)
            assert volume.content == volume.last_write
        except AssertionError:
            caught += 1
    assert caught
