"""What is under way through a frontend: who waits for what, what is written, and what reads brought.

    cookie ──> who waits: a client, or a split request, or a run of them
    token  ──> the bytes, which the core never sees: a write's until it is answered, a read's until it is passed on

Cookies and tokens are numbers of one row, so that a write's token may be its cookie.
"""

from __future__ import annotations

from services.replica.nbd.client import Client
from services.replica.nbd.pieces import cut_read, pieces
from services.replica.nbd.protocol import NbdRequest
from services.replica.nbd.runs import Reads, Writes
from services.replica.nbd.wire import CommandFlag
from services.replica.replication.frontend import Apart, Merge, Release, RequestKind
from services.replica.store.sums import block_sums
from stoscore.units import BLOCK_BYTES, SUM_BYTES


class Split:
    """A request that became several pieces: its client has one answer, when all of them have theirs."""

    __slots__ = ("_contents", "_first", "_left", "client", "errno", "span")

    def __init__(self, client: Client, first: int, pieces: int):
        """`first`: the first piece's cookie; the others follow."""
        self.client = client
        self._first = first
        self._left = pieces
        self._contents: list[bytes | memoryview] = [b""] * pieces
        self.errno = 0
        self.span = ""
        """Promised to those who follow one of the pieces."""

    def answer(self, cookie: int, request: NbdRequest, errno: int, content: bytes | memoryview) -> bool:
        """True when this was the last one."""
        self._left -= 1
        self.errno = self.errno or errno
        self._contents[cookie - self._first] = content
        if not self._left:
            blocks = b"".join(self._contents)
            self.client.answer(request, self.errno, cut_read(request, blocks) if blocks else blocks)
        return not self._left


class InFlight:
    """Of one volume."""

    __slots__ = ("asked", "contents", "extents", "next_number", "patches", "runs", "traced", "writes")

    def __init__(self) -> None:
        self.next_number = 1
        self.asked: dict[int, tuple[Client | Split, NbdRequest, int]] = {}
        """By cookie: who waits for what, and since when."""
        self.runs: dict[int, tuple[Client, Reads | Writes, int]] = {}
        """As `asked`, of requests that are answered together."""
        self.writes: dict[int, tuple[bytes, bytes]] = {}
        """By token: checksums and data of unanswered writes. A run's are under its cookie."""
        self.patches: dict[int, tuple[int, bytes]] = {}
        """By token: where in its block a patch goes, and what; until it is merged."""
        self.contents: dict[int, bytes | memoryview] = {}
        """By token: what a read brought, until it is passed on."""
        self.extents: dict[int, list[tuple[int, bool]]] = {}
        """By token: what a status brought."""
        self.traced: dict[int, str] = {}
        """By cookie: the span that was promised to the nodes which follow the request."""

    def token(self) -> int:
        token = self.next_number
        self.next_number = token + 1
        return token

    def split(
        self, client: Client, request: NbdRequest, payload: memoryview, now_ns: int
    ) -> list[tuple[int, int, int, int, bool, int]]:
        """What the core is asked for where a request becomes pieces: all of them before anything else is heard, so
        that two requests overlap in one order everywhere."""
        parts = pieces(request, payload)
        if not parts:
            client.answer(request, 0)
            return []
        first = self.next_number
        self.next_number = first + len(parts)
        owner = Split(client, first, len(parts)) if len(parts) > 1 else client
        fua = bool(request.flags & CommandFlag.FUA)
        asked = []
        for number, part in enumerate(parts, first):
            self.asked[number] = (owner, request, now_ns)
            data = bytes(part.payload)
            if part.kind == RequestKind.PATCH:
                self.patches[number] = (part.skip, data)
            elif data:
                self.writes[number] = (block_sums(data), data)
            token = number if data else 0
            asked.append((number, part.kind, part.block, part.count, fua, token))
        return asked

    def of(self, client: Client) -> set[int]:
        """The cookies of what it waits for."""

        def owned(owner: Client | Split) -> bool:
            return owner is client or (isinstance(owner, Split) and owner.client is client)

        cookies = {cookie for cookie, (owner, _, _) in self.asked.items() if owned(owner)}
        for first, (owner, run, _) in self.runs.items():
            if owner is client:
                cookies.update(range(first, first + len(run.handles)))
        return cookies

    def forget(self, cookies: set[int]) -> None:
        """Nobody waits for these any more."""
        for cookie in cookies:
            del self.asked[cookie]
            self.traced.pop(cookie, None)

    # --- effects ---

    def release(self, release: Release) -> None:
        for held in (self.writes, self.contents, self.patches, self.extents):
            if held.pop(release.token, None) is not None:
                break

    def merge(self, merge: Merge) -> None:
        skip, part = self.patches.pop(merge.token)
        block = self.contents.pop(merge.content)
        data = b"".join((block[:skip], part, block[skip + len(part) :]))
        self.writes[merge.token] = (block_sums(data), data)

    def apart(self, apart: Apart) -> None:
        """A run is taken apart: its requests are answered one by one from now on."""
        client, run, asked_ns = self.runs.pop(apart.cookie)
        for cookie, request in enumerate(run.requests(), apart.cookie):
            self.asked[cookie] = (client, request, asked_ns)
        if isinstance(run, Writes):
            sums, data = self.writes.pop(apart.cookie)
            length, sums_length = run.length, run.length // BLOCK_BYTES * SUM_BYTES
            for at in range(len(run.handles)):
                written = sums[at * sums_length : (at + 1) * sums_length], data[at * length : (at + 1) * length]
                self.writes[apart.cookie + at] = written
