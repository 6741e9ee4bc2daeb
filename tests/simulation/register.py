"""What every block may hold, as the client knows it: linearizability, checked as it happens.

A block's model is a row of versions, each a set of contents that it may have then; the last one is what a read may
return now. An acknowledged write adds a version, a read that was allowed several contents narrows the last one. That
needs no search, because overlapping requests of one frontend are served in the order in which they were asked (W3) and
an older frontend is never served after a newer one (W2). `history.py` checks the same history without this knowledge.

    versions  {0} {17} {23}      floats {31}      a write whose frontend died: it may still happen, until a newer
              ^flushed                            frontend is served; afterwards it has happened or never will

When every in-sync copy lost power (the only case in which an unclean replica may lead), a block may fall back to any
version from the last flushed one on, and to nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation.history import History
from tests.simulation.store import Disk

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass(slots=True)
class Block:
    versions: list[tuple[int, set[int]]] = field(default_factory=lambda: [(0, {0})])
    """(number, contents); numbers rise over all blocks of a volume."""
    pending: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Request on its way -> (content, frontend)."""
    floats: set[int] = field(default_factory=set)

    @property
    def number(self) -> int:
        return self.versions[-1][0]

    def now(self) -> set[int]:
        return self.versions[-1][1]

    def float(self, owned: Callable[[int], bool]) -> None:
        for request, (content, owner) in list(self.pending.items()):
            if owned(owner):
                del self.pending[request]
                self.floats.add(content)

    def may_hold(self, flushed: int) -> set[int]:
        """After every copy lost power, with every version numbered `flushed` or below known to be durable."""
        versions = self.versions
        first = max((at for at, (number, _) in enumerate(versions) if number <= flushed), default=0)
        allowed = set().union(*(contents for _, contents in versions[first:]))
        return allowed | self.floats | {content for content, _ in self.pending.values()}

    def drop_before(self, flushed: int) -> None:
        """Versions that no power loss can bring back."""
        while len(self.versions) > 1 and self.versions[1][0] <= flushed:
            del self.versions[0]


@dataclass(slots=True)
class VolumeModel:
    history: History = field(default_factory=History)
    blocks: dict[int, Block] = field(default_factory=dict)
    numbers: int = 0
    """Of versions given so far."""
    flushed: int = 0
    """Every version up to this number, in every block, is durable, or overwritten by one that is."""
    fua: dict[int, int] = field(default_factory=dict)
    """Block -> number of a version that its own write made durable."""
    serving: int = 0
    """Number of the newest frontend that was served."""
    relaxed_ns: int = -1
    relaxed_epoch: int = -1
    flushes_asked: dict[int, int] = field(default_factory=dict)
    """The client's flush -> number of the latest version then."""
    flushes_sent: dict[tuple[int, int], int] = field(default_factory=dict)
    """(session, request) -> number of the latest version then."""

    def block(self, block: int) -> Block:
        found = self.blocks.get(block)
        if found is None:
            found = self.blocks[block] = Block()
        return found

    def add(self, block: Block, contents: set[int]) -> int:
        self.numbers += 1
        block.versions.append((self.numbers, contents))
        block.drop_before(self.flushed)
        return self.numbers

    def may_have_happened(self, block: Block, contents: set[int]) -> None:
        """Writes of which nobody will be told any more. One after the other: a read shows the last of them, and a power
        loss may bring back any before it, or one that was undone and not flushed."""
        self.add(block, block.now() | contents)
        self.add(block, set(block.now()))

    def durable(self, block: int) -> int:
        return max(self.flushed, self.fua.get(block, 0))

    def now(self, block: int) -> set[int]:
        """What a read may return."""
        found = self.blocks.get(block)
        return found.now() if found is not None else {0}

    def under_way(self, block: int) -> set[int]:
        """What it may hold any moment."""
        found = self.blocks.get(block)
        return found.floats | {content for content, _ in found.pending.values()} if found is not None else set()

    def may_hold(self, block: int) -> set[int]:
        """What is left of the block may be, were every copy to lose power."""
        found = self.blocks.get(block)
        return found.may_hold(self.durable(block)) if found is not None else {0}


class Registers:
    def __init__(self, world: World):
        self._world = world
        self.volumes: dict[str, VolumeModel] = {}
        self.writes = 0
        self.reads = 0
        self.flushes = 0

    def volume(self, volume: str) -> VolumeModel:
        found = self.volumes.get(volume)
        if found is None:
            found = self.volumes[volume] = VolumeModel()
        return found

    # ---- what the client asks -------------------------------------------------------------------------

    def submitted(self, volume: str, frontend: int, request: int, block: int, contents: Iterable[int]) -> None:
        model, now = self.volume(volume), self._world.now_ns
        fenced = frontend < model.serving  # then it must never happen
        for at, content in enumerate(contents, block):
            model.history.write_asked(at, request, content, now)
            if not fenced:
                model.block(at).pending[request] = content, frontend

    def read_asked(self, volume: str, request: int, block: int, count: int) -> None:
        model, now = self.volume(volume), self._world.now_ns
        for at in range(block, block + count):
            model.history.read_asked(at, request, now)

    def flush_asked(self, volume: str, request: int) -> None:
        model = self.volume(volume)
        model.flushes_asked[request] = model.numbers

    def flush_sent(self, volume: str, session: int, request: int) -> None:
        model = self.volume(volume)
        model.flushes_sent[session, request] = model.numbers

    # ---- what it is answered --------------------------------------------------------------------------

    def _served(self, model: VolumeModel, frontend: int) -> bool:
        """False: an answer to a frontend that was replaced. The first answer to a newer one ends the floats."""
        if frontend < model.serving:
            return False
        if frontend > model.serving:
            model.serving = frontend
            for block in model.blocks.values():
                block.float(lambda owner: owner < frontend)
                if block.floats:
                    model.may_have_happened(block, block.floats)
                    block.floats = set()
        return True

    def written(
        self, volume: str, frontend: int, epoch: int, request: int, block: int, contents: Iterable[int], *, fua: bool
    ) -> None:
        model = self.volume(volume)
        if not self._served(model, frontend):
            return
        self.writes += 1
        for at, content in enumerate(contents, block):
            model.history.answered(at, request, self._world.now_ns)
            state = model.block(at)
            state.pending.pop(request, None)
            if epoch < model.relaxed_epoch:
                state.now().add(content)
                continue
            number = model.add(state, {content})
            if fua:
                model.fua[at] = number
                state.drop_before(number)

    def failed(self, volume: str, frontend: int, request: int, block: int, count: int) -> None:
        """The client was told that its write failed: it happened before it was told so, or never will (W4)."""
        model = self.volume(volume)
        if not self._served(model, frontend):
            return
        for at in range(block, block + count):
            state = model.block(at)
            if request in state.pending:
                content, _ = state.pending.pop(request)
                model.may_have_happened(state, {content})

    def read(
        self, volume: str, frontend: int, epoch: int, request: int, block: int, contents: Iterable[int], asked_ns: int
    ) -> None:
        model = self.volume(volume)
        if not self._served(model, frontend):
            return
        for at, content in enumerate(contents, block):
            self.reads += 1
            model.history.answered(at, request, self._world.now_ns, content)
            allowed = model.now(at)
            if content not in allowed:
                self._world.violated(f"frontend {frontend} read {content} in block {at}, which may only hold {allowed}")
            if len(allowed) > 1 and asked_ns > model.relaxed_ns:
                state = model.blocks[at]
                state.versions[-1] = (state.number, {content})

    def flush_done(self, volume: str, frontend: int, epoch: int, request: int) -> None:
        model = self.volume(volume)
        number = model.flushes_asked.pop(request, 0)
        if not self._served(model, frontend) or epoch < model.relaxed_epoch:
            return
        self.flushes += 1
        model.flushed = max(model.flushed, number)

    def gone(self, volume: str, frontend: int) -> None:
        """The frontend died: what it had not been told may happen, until another one is served."""
        for block in self.volume(volume).blocks.values():
            block.float(lambda owner: owner == frontend)

    # ---- power ----------------------------------------------------------------------------------------

    def relax(self, volume: str, epoch: int) -> None:
        """Every in-sync copy lost power, and one of them leads again in `epoch`."""
        model = self.volume(volume)
        model.relaxed_ns, model.relaxed_epoch = self._world.now_ns, epoch
        for at, block in model.blocks.items():
            allowed = block.may_hold(model.durable(at))
            model.history.fell_back(at, allowed, self._world.now_ns)
            block.versions = [(model.numbers, allowed)]
        model.flushed = model.numbers
        model.fua.clear()

    def check_flush(self, volume: str, disk: Disk, epoch: int, session: int, request: int) -> str:
        """A flush is about to be answered: is every write acknowledged before it durable on this member?"""
        model = self.volume(volume)
        mark = model.flushes_sent.get((session, request))
        if mark is None or epoch < model.relaxed_epoch:
            return ""
        for block, contents in disk.dirty.items():
            state = model.blocks.get(block)
            if state is None or state.number > mark or state.pending or state.floats or len(state.now()) > 1:
                continue
            (content,) = state.now()
            if any(kept != content for kept in contents):
                return f"block {block} of {disk.me.node} may be any of {contents} after a power loss, not {content}"
        return ""

    def check_lost(self, volume: str, disk: Disk, epoch: int, session: int, request: int) -> str:
        """A flush is about to be answered: has this member, which lost power, every write acknowledged before it?"""
        model = self.volume(volume)
        mark = model.flushes_sent.get((session, request))
        if mark is None or epoch < model.relaxed_epoch:
            return ""
        for block, state in model.blocks.items():
            if state.number > mark or state.pending or state.floats or len(state.now()) > 1:
                continue
            (content,) = state.now()
            if disk.cache.get(block, 0) != content:
                return f"{disk.me.node} has lost {content} in block {block} and counts"
        return ""

    def check_durable(self, volume: str, disk: Disk) -> str:
        """Were every copy to lose power now and this one to lead: would what was flushed be there?"""
        model = self.volume(volume)
        for block, contents in disk.dirty.items():
            allowed = model.may_hold(block)
            if not allowed.issuperset(contents):
                return f"block {block} of {disk.me.node} may be any of {contents} after a power loss, not {allowed}"
        return ""

    def check_current(self, volume: str, disk: Disk) -> str:
        """Were this copy to lead now: would every acknowledged write be there?"""
        for block, state in self.volume(volume).blocks.items():
            content = disk.cache.get(block, 0)
            allowed = state.now()
            if content not in allowed and content not in self.volume(volume).under_way(block):
                return f"block {block} of {disk.me.node} holds {content}, not {allowed}"
        return ""
