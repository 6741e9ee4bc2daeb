"""Rule W3: never two unanswered requests on one block when one of them is a write.

After a failover everything unanswered is sent again, and nobody knows what of it was already applied. Were
two writes to one block among it, the old one could be applied after the new one was answered and read. So a
request that overlaps an earlier unanswered one waits for it, unless both only look; it waits for held ones
too, so overlapping requests are served in the order in which they came.

Nearly all requests overlap nothing, and that must cost next to nothing: small requests are found through a
count per block, large ones through a short list. Only a request that does overlap is compared with every
unanswered one, to learn whom it waits for.

Small reads, or small writes, that came together and wait for nobody are one `Run`. One that reads is in no index:
looking its reads up one by one costs more than all else that is done for them here. Whatever has to wait for one of its
requests takes the run apart first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

from services.replica.replication.frontend_events import RequestKind
from stoscore.units import BLOCK_BYTES

SMALL_BLOCKS = 32
"""Up to here a request is indexed block by block (128 KiB, the usual largest request of a filesystem)."""
_WRITER = 1 << 32
"""Added to a block's count by each write; reads add 1."""
_READ, _WRITE, _PATCH = int(RequestKind.READ), int(RequestKind.WRITE), int(RequestKind.PATCH)
_LOOKS = (int(RequestKind.READ), int(RequestKind.STATUS))
"""What changes nothing."""


class Unanswered:
    """One request from its arrival to its answer."""

    __slots__ = (
        "block",
        "blockers",
        "cookie",
        "count",
        "fua",
        "kind",
        "looks",
        "number",
        "payload_bytes",
        "reads",
        "sent",
        "token",
        "waiters",
    )

    def __init__(self, number: int, cookie: int | None, kind: int, block: int, count: int, fua: bool, token: int):
        self.number = number
        self.cookie = cookie
        """None: the client is gone and nobody waits for the answer."""
        self.kind = kind
        self.looks = kind in _LOOKS
        self.reads = self.looks or kind == _PATCH
        """Its answer has content. After that of a patch it is a write."""
        self.payload_bytes = count * BLOCK_BYTES if kind <= _PATCH else 0
        """Of what is read or written."""
        self.block = block
        self.count = count
        self.fua = fua
        self.token = token
        self.sent = False
        """Handed to the current session."""
        self.blockers = 0
        """Earlier overlapping requests that are not answered yet."""
        self.waiters: list[Unanswered] | None = None

    def becomes_write(self) -> None:
        """A patch whose block was read and merged."""
        self.kind = _WRITE
        self.reads = False

    def conflicts(self, other: Unanswered) -> bool:
        return (
            not (self.looks and other.looks)
            and self.block < other.block + other.count
            and other.block < self.block + self.count
        )


class Run:
    """Reads, or writes, of one size, sent to the current session in one message."""

    __slots__ = ("asks", "blocks", "cookie", "count", "number", "numbers", "payload_bytes", "token")

    def __init__(self, number: int, cookie: int, blocks: Sequence[int], count: int, token: int = 0):
        self.number = number
        """Of the first; the others follow."""
        self.numbers = range(number, number + len(blocks))
        self.cookie = cookie
        """As `number`."""
        self.token = token
        """What all of them write; 0: they are reads."""
        self.blocks = blocks
        self.count = count
        self.payload_bytes = len(blocks) * count * BLOCK_BYTES
        self.asks = tuple(zip(self.numbers, blocks, repeat(count)))

    def touched(self) -> Sequence[int]:
        if self.count == 1:
            return self.blocks
        return [block for first in self.blocks for block in range(first, first + self.count)]

    def meets(self, request: Unanswered) -> bool:
        """They have a block in common."""
        if self.count == 1 == request.count:
            return request.block in self.blocks
        first, end = request.block - self.count, request.block + request.count
        return any(first < block < end for block in self.blocks)

    def singles(self) -> list[Unanswered]:
        """Its requests by themselves."""
        cookie, token = self.cookie, self.token
        kind = _WRITE if token else _READ
        singles = [
            Unanswered(number, cookie + at, kind, block, count, False, token + at if token else 0)
            for at, (number, block, count) in enumerate(self.asks)
        ]
        for single in singles:
            single.sent = True
        return singles


class RequestOrder:
    """All unanswered requests by number, and who waits for whom."""

    def __init__(self) -> None:
        self.table: dict[int, Unanswered] = {}
        self.runs: dict[int, Run] = {}
        """By the number of the first request. No request that changes a block has one in common with any of another
        run, or of the table."""
        self._blocks: dict[int, int] = {}
        self._large: dict[int, Unanswered] = {}

    def add_run(self, run: Run) -> bool:
        """False when one of its requests may have to wait: it is not added."""
        if self._large:
            return False
        blocks, touched = self._blocks, run.touched()
        if run.token:
            changed = set(touched)
            if len(changed) < len(touched) or not changed.isdisjoint(blocks):
                return False
            if not all(changed.isdisjoint(other.touched()) for other in self.runs.values() if not other.token):
                return False
            blocks.update(dict.fromkeys(touched, _WRITER))
        elif not blocks.keys().isdisjoint(touched) and any(blocks.get(block, 0) >= _WRITER for block in touched):
            return False
        self.runs[run.number] = run
        return True

    def remove_run(self, run: Run) -> None:
        """It is answered, or taken apart. Nobody waits for it."""
        del self.runs[run.number]
        if run.token:
            blocks = self._blocks
            for block in run.touched():
                del blocks[block]

    def met(self, request: Unanswered) -> list[Run]:
        """The runs that `request` has to wait for: they are to be taken apart before it is added."""
        looks = request.looks
        return [run for run in self.runs.values() if (run.token or not looks) and run.meets(request)]

    def run_of(self, number: int) -> Run | None:
        """The run that has a request with this number."""
        for run in self.runs.values():
            if number in run.numbers:
                return run
        return None

    def take_apart(self, run: Run) -> None:
        """Its requests are in the table from now on. Nothing in there conflicts with them, so they wait for nobody."""
        self.remove_run(run)
        for single in run.singles():
            self.table[single.number] = single
            self._index(single)

    def add(self, request: Unanswered) -> bool:
        """True when it may be sent at once."""
        if request.count == 1 and not self._large:  # as below, for what nearly all are
            blocks, block = self._blocks, request.block
            before = blocks.get(block, 0)
            if not before or (request.looks and before < _WRITER):
                blocks[block] = before + (1 if request.looks else _WRITER)
                self.table[request.number] = request
                return True
        if not self._is_clear(request):
            for other in self.table.values():
                if other.conflicts(request):
                    if other.waiters is None:
                        other.waiters = []
                    other.waiters.append(request)
                    request.blockers += 1
        self.table[request.number] = request
        self._index(request)
        return not request.blockers

    def remove(self, request: Unanswered) -> Sequence[Unanswered]:
        """The request is answered; returns those that may be sent now, oldest first."""
        del self.table[request.number]
        if request.count == 1:  # as `_unindex`, for what nearly all are
            blocks, block = self._blocks, request.block
            left = blocks[block] - (1 if request.looks else _WRITER)
            if left:
                blocks[block] = left
            else:
                del blocks[block]
        else:
            self._unindex(request)
        if request.waiters is None:
            return ()
        freed = []
        for waiter in request.waiters:
            waiter.blockers -= 1
            if not waiter.blockers:
                freed.append(waiter)
        return freed

    def sendable(self) -> list[Unanswered]:
        """All that wait for nobody, oldest first."""
        return sorted([request for request in self.table.values() if not request.blockers], key=_number)

    def clear(self) -> None:
        self.table.clear()
        self.runs.clear()
        self._blocks.clear()
        self._large.clear()

    def validate(self) -> None:
        """The index and the counts say what the table says."""
        earlier: list[Unanswered] = []
        blocks: dict[int, int] = {}
        for request in self.table.values():
            assert request.blockers == sum([request.conflicts(other) for other in earlier])
            assert not (request.sent and request.blockers), "W3"
            earlier.append(request)
            if request.count <= SMALL_BLOCKS:
                unit = 1 if request.looks else _WRITER
                for block in range(request.block, request.block + request.count):
                    blocks[block] = blocks.get(block, 0) + unit
            else:
                assert self._large[request.number] is request
        for run in self.runs.values():
            assert not any(run.token or not request.looks for request in earlier if run.meets(request)), "W3"
            if run.token:
                assert len(set(run.touched())) == len(run.touched()) and blocks.keys().isdisjoint(run.touched()), "W3"
                blocks |= dict.fromkeys(run.touched(), _WRITER)
        assert blocks == self._blocks
        for run in self.runs.values():
            assert run.token or all(blocks.get(block, 0) < _WRITER for block in run.touched()), "W3"
        assert len(self._large) == sum(request.count > SMALL_BLOCKS for request in earlier)

    def _is_clear(self, request: Unanswered) -> bool:
        if request.count > SMALL_BLOCKS:
            return not any(other.conflicts(request) for other in self.table.values())
        blocks = self._blocks
        if request.looks:
            for block in range(request.block, request.block + request.count):
                if blocks.get(block, 0) >= _WRITER:
                    return False
        else:
            for block in range(request.block, request.block + request.count):
                if block in blocks:
                    return False
        return not (self._large and any(other.conflicts(request) for other in self._large.values()))

    def _index(self, request: Unanswered) -> None:
        if request.count > SMALL_BLOCKS:
            self._large[request.number] = request
            return
        unit = 1 if request.looks else _WRITER
        blocks = self._blocks
        for block in range(request.block, request.block + request.count):
            blocks[block] = blocks.get(block, 0) + unit

    def _unindex(self, request: Unanswered) -> None:
        if request.count > SMALL_BLOCKS:
            del self._large[request.number]
            return
        unit = 1 if request.looks else _WRITER
        blocks = self._blocks
        for block in range(request.block, request.block + request.count):
            left = blocks[block] - unit
            if left:
                blocks[block] = left
            else:
                del blocks[block]


def _number(request: Unanswered) -> int:
    return request.number
