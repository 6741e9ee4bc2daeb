"""What a frontend's core is told and what it asks for.

Named tuples instead of frozen dataclasses: five of them are made for every request, and a tuple is built in
a third of the time. `token` stands for a payload that only the shell knows (0: none); `cookie` for a
client's request, chosen by the shell, unique while it is unanswered; `session` and `request` are numbers of
the core, from one rising counter, so that neither is ever mistaken for the other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import NamedTuple


class RequestKind(IntEnum):
    READ = 0
    WRITE = 1
    PATCH = 2
    """A part of one block: the block is read, `Merge` makes the whole new block, and from then on it is a WRITE."""
    ZERO = 3
    """Trim and write-zeroes: the range reads as zeros afterwards."""
    FLUSH = 4
    """Has no range (block and count are 0)."""
    STATUS = 5
    """Where data are. In order like a read."""


class RefusedCode(IntEnum):
    """Why a primary (or whoever was taken for it) refused a session or a request."""

    NOT_PRIMARY = 1
    FENCED = 2
    """The volume is attached elsewhere: this frontend is never served again."""
    NOT_READY = 3
    """It is taking over; ask again."""


# ---- events ------------------------------------------------------------------------------------------


class ClientRequest(NamedTuple):
    """A client asked. `token` is the payload of a write or of a patch."""

    cookie: int
    kind: int
    block: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    fua: bool
    token: int


class ClientRequests(NamedTuple):
    """All that one wake-up brought, in order: each a ClientRequest, or the tuple that it is."""

    requests: Sequence[tuple[int, int, int, int, bool, int]]


class ClientReads(NamedTuple):
    """Reads of one size that one wake-up brought: a *run*. It has one cookie, and is answered as one (`AnswerReads`),
    unless the core says that its reads are `Apart`."""

    cookie: int
    blocks: Sequence[int]
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    """Blocks of each."""


class ClientWrites(NamedTuple):
    """Writes of one size that one wake-up brought, as ClientReads; answered as one by `AnswerWrites`."""

    cookie: int
    blocks: Sequence[int]
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    token: int
    """What all of them write, one behind the other. Apart, it is the first one's, and the others' are those behind
    it."""


class ClientGone(NamedTuple):
    """These cookies need no answer any more. What they asked for still happens."""

    cookies: Collection[int]


class LinkUp(NamedTuple):
    """The link to a node is up, or was replaced: whatever was under way on the old one is lost."""

    node: str


class LinkDown(NamedTuple):
    node: str


class Opened(NamedTuple):
    node: str
    session: int
    epoch: int
    size_blocks: int
    takes_many: bool = False
    """The primary knows requests that come together."""


class Refused(NamedTuple):
    """`session` is the number of the session or of the request that was refused."""

    node: str
    session: int
    code: int
    hint: str
    """The node that it takes for the primary, or ""."""
    newest: int = 0
    """The newest session that the primary has seen under this attach epoch, 0 when it does not say."""


class Done(NamedTuple):
    """A request is finished; `errno` 0 is success. A successful read comes as Data instead."""

    node: str
    session: int
    request: int
    epoch: int
    errno: int


class DoneMany(NamedTuple):
    """All of these are finished, without an error."""

    node: str
    session: int
    requests: Sequence[int]
    epoch: int


class Data(NamedTuple):
    """What a read or a status brought, verified by the shell, which keeps it under `token`."""

    node: str
    session: int
    request: int
    epoch: int
    token: int
    kind: int
    """READ or STATUS"""
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    """The blocks that it is about."""


class DataMany(NamedTuple):
    """What several reads brought, as in Data."""

    node: str
    session: int
    epoch: int
    reads: Sequence[tuple[int, int, int]]
    """(request, blocks, token)"""


class DataReads(NamedTuple):
    """What a whole run brought, verified by the shell, which keeps it under `token`; `FrontendCore.is_run` has said
    that these are its reads, all of them and in their order."""

    node: str
    session: int
    request: int
    """of the first of them"""
    epoch: int
    token: int


class ServingHint(NamedTuple):
    """`node` says that it serves the volume in `epoch`."""

    node: str
    epoch: int


class Tick(NamedTuple):
    """Time passed: `next_deadline_ns` is reached."""


class Closing(NamedTuple):
    """The frontend is being closed: everything is answered with ESHUTDOWN, now and from now on."""


Event = (
    ClientRequest
    | ClientRequests
    | ClientReads
    | ClientWrites
    | ClientGone
    | LinkUp
    | LinkDown
    | Opened
    | Refused
    | Done
    | DoneMany
    | Data
    | DataMany
    | DataReads
    | ServingHint
    | Tick
    | Closing
)


# ---- effects -----------------------------------------------------------------------------------------


class SendOpen(NamedTuple):
    node: str
    session: int


class SendRequest(NamedTuple):
    node: str
    session: int
    request: int
    kind: int
    block: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    fua: bool
    token: int


class SendMany(NamedTuple):
    """Several READs, or several WRITEs without FUA, in one message."""

    node: str
    session: int
    kind: int
    asks: tuple[tuple[int, int, int], ...]
    """(request, block, count)"""
    tokens: tuple[int, ...]
    """What they write: of each, or one of all."""


class SendClose(NamedTuple):
    """The session is not used any more (best effort)."""

    node: str
    session: int


class Merge(NamedTuple):
    """Put the patch that `token` stands for into the block `content`, which is forgotten: `token` then stands for the
    whole new block, with its checksum."""

    token: int
    content: int


class Answer(NamedTuple):
    """Reply to the client; `token` is what a read or a status brought, to be forgotten afterwards."""

    cookie: int
    errno: int
    token: int


class AnswerMany(NamedTuple):
    """Reply to the client that all of these are done, without an error."""

    answers: Sequence[tuple[int, int, int]]
    """(cookie, what a read brought or 0, payload of a write or 0), both of these to be forgotten afterwards"""


class Apart(NamedTuple):
    """The requests of this run go on one by one: the first has the run's cookie, the others those behind it."""

    cookie: int


class AnswerReads(NamedTuple):
    """Reply to the client with what a whole run brought, to be forgotten afterwards."""

    cookie: int
    token: int


class AnswerWrites(NamedTuple):
    """Reply to the client that a whole run is done; what it wrote is to be forgotten afterwards."""

    cookie: int
    token: int


class Release(NamedTuple):
    """The payload is not needed any more."""

    token: int


Effect = (
    SendOpen
    | SendRequest
    | SendMany
    | SendClose
    | Merge
    | Apart
    | Answer
    | AnswerMany
    | AnswerReads
    | AnswerWrites
    | Release
)
