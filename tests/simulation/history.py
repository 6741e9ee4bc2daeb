"""Is what the clients saw linearizable? One register per block, judged by calls and answers alone.

    calls      |--- write 17 ---|      |-- read -> 17 --|
                        |---- write 23, never answered ...

There must be one moment for each answered request, between its call and its answer, so that every read returns what was
written last before it. A write without an answer may have such a moment or none. The search is Lowe's just-in-time
linearization (Testing for Linearizability, 2017): a write gets its moment only when an answer demands it, so the states
to be kept are as few as the writes that were open at the same time. Reads change nothing and get theirs at once.

A power loss of all copies is an event of its own, after which the block holds any of the contents that it names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

State = tuple[int, frozenset[int]]
"""(what the block holds, which open requests have had their moment)"""
CALL_WRITE, CALL_READ, ANSWER, FALL_BACK = range(4)
FOREVER_NS = 1 << 62


@dataclass(slots=True)
class BlockHistory:
    """Calls and answers of one block, in the order in which they happened."""

    events: list[tuple[int, int, int, object]] = field(default_factory=list)
    """(kind, request, moment, content or contents)"""

    def contradiction(self) -> str:
        """The first answer that no order of what was asked explains, or ""."""
        answers = {request: content for kind, request, _, content in self.events if kind == ANSWER}
        was_read = {content for content in answers.values() if content is not None}
        if not was_read:
            return ""  # any order explains writes that nobody looked at
        search = _Search()
        before = search.states
        for kind, request, now_ns, content in self.events:
            if kind == CALL_WRITE:
                if request in answers:
                    search.writes[request] = content  # type: ignore[assignment]
                elif content in was_read:
                    search.call_unanswered(request, content)  # type: ignore[arg-type]
            elif kind == CALL_READ:
                if request in answers:
                    search.call_read(request, answers[request])  # type: ignore[arg-type]
            elif kind == ANSWER:
                search.answer(request)
            else:
                search.fall_back(content)  # type: ignore[arg-type]
            if not search.states:
                held = sorted({value for value, _ in before})
                what = f"read {content}" if content is not None else "was told that it is written"
                return f"request {request} {what} at {now_ns} ns, and may only find {held}"
            before = search.states
        return ""


class _Search:
    def __init__(self) -> None:
        self.states: set[State] = {(0, frozenset())}
        self.writes: dict[int, int] = {}
        """Open writes: request -> content."""
        self.zeroes = False
        """One of the writes without an answer writes zeros, as many others do: it may happen any number of times."""
        self.reads: dict[int, int] = {}
        """Open reads that will be answered: request -> content."""

    def call_unanswered(self, request: int, content: int) -> None:
        """It may have its moment at any time. One whose content nobody read needs none, or there would be no end of
        states after a few deaths of frontends."""
        if content:
            self.writes[request] = content
        else:
            self.zeroes = True

    def call_read(self, request: int, content: int) -> None:
        self.reads[request] = content
        self.states = {self._read(state) for state in self.states}

    def answer(self, request: int) -> None:
        if (
            len(self.states) == 1
            and not (self.reads or self.zeroes)
            and len(self.writes) == 1
            and request in self.writes
        ):
            # Nothing else is open, which is most of the time: it has had its moment, or has it now.
            ((value, had),) = self.states
            self.states = {(value if request in had else self.writes[request], frozenset())}
            self.writes.clear()
            return
        known = {state for state in self.states if request in state[1]}
        if len(known) < len(self.states):
            known |= {state for state in self._reachable(self.states - known) if request in state[1]}
        self.states = {(value, had - {request}) for value, had in known}
        self.writes.pop(request, None)
        self.reads.pop(request, None)

    def fall_back(self, contents: Iterable[int]) -> None:
        allowed = sorted(contents)
        hads = {had for _, had in self._reachable(self.states)}
        self.states = {self._read((content, had)) for had in hads for content in allowed}

    def _read(self, state: State) -> State:
        """Every open read that returns what the block holds has its moment now."""
        value, had = state
        now = {request for request, content in self.reads.items() if content == value}
        return (value, had | now) if now else state

    def _reachable(self, states: set[State]) -> set[State]:
        """What may be after any number of open writes."""
        seen = set(states)
        todo = list(states)
        while todo:
            _, had = todo.pop()
            after = [(content, had | {request}) for request, content in self.writes.items() if request not in had]
            if self.zeroes:
                after.append((0, had))
            for state in map(self._read, after):
                if state not in seen:
                    seen.add(state)
                    todo.append(state)
        return seen


def _times(events: list[tuple[int, int, int, object]], content: int) -> list[tuple[int, int]]:
    """When the block may have held this content: from the call of a write of it, or a power loss that brought it back,
    until the answer to a write of something else that was asked for after the former was answered."""
    called = {request: (now_ns, value) for kind, request, now_ns, value in events if kind == CALL_WRITE}
    answered = {request: now_ns for kind, request, now_ns, _ in events if kind == ANSWER and request in called}
    others = [(called[r][0], now_ns) for r, now_ns in answered.items() if called[r][1] != content]

    def end_ns(since_ns: int) -> int:
        return min((end_ns for call_ns, end_ns in others if call_ns > since_ns), default=FOREVER_NS)

    times = [(0, end_ns(-1))] if content == 0 else []
    times += [
        (call_ns, end_ns(answered[r]) if r in answered else FOREVER_NS)
        for r, (call_ns, value) in called.items()
        if value == content
    ]
    back = [at for kind, _, at, held in events if kind == FALL_BACK and content in held]  # type: ignore[operator]
    return _merged(times + [(at_ns, end_ns(at_ns)) for at_ns in back])


def _merged(times: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Without overlaps, or the common part of many blocks would be a product of them."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(times):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


class History:
    """All blocks of one volume."""

    def __init__(self) -> None:
        self.blocks: dict[int, BlockHistory] = {}

    def _block(self, block: int) -> list[tuple[int, int, int, object]]:
        found = self.blocks.get(block)
        if found is None:
            found = self.blocks[block] = BlockHistory()
        return found.events

    def write_asked(self, block: int, request: int, content: int, now_ns: int) -> None:
        self._block(block).append((CALL_WRITE, request, now_ns, content))

    def read_asked(self, block: int, request: int, now_ns: int) -> None:
        self._block(block).append((CALL_READ, request, now_ns, None))

    def answered(self, block: int, request: int, now_ns: int, content: int | None = None) -> None:
        self._block(block).append((ANSWER, request, now_ns, content))

    def fell_back(self, block: int, contents: Iterable[int], now_ns: int) -> None:
        self._block(block).append((FALL_BACK, 0, now_ns, frozenset(contents)))

    def torn(self, contents: Mapping[int, int], size_blocks: int, from_ns: int, until_ns: int) -> str:
        """Is there one moment at which every block held this? By calls and answers alone: a write that was answered
        before another one was asked for comes before it, whatever block they touch. "" or the block that shows it."""
        moments = [(from_ns, until_ns)]
        for block in sorted(self.blocks.keys() | contents.keys()):
            if block >= size_blocks:
                continue
            times = _times(self.blocks[block].events if block in self.blocks else [], contents.get(block, 0))
            left = [(max(a, c), min(b, d)) for a, b in moments for c, d in times if max(a, c) <= min(b, d)]
            if not left:
                return f"block {block} held {contents.get(block, 0)} at {times}, and the others at {moments}"
            moments = left
        return ""

    def contradiction(self) -> str:
        """The first answer that no order explains, or ""."""
        for block in sorted(self.blocks):
            wrong = self.blocks[block].contradiction()
            if wrong:
                return f"block {block}: {wrong}"
        return ""
