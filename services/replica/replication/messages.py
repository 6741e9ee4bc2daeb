"""What primary, replicas and frontends say about blocks. The payload stays outside: `token` names it.

The sequence number is a u64 whose high bits are the epoch that assigned it, so one number orders the writes of
all epochs and a commit point of a later epoch lies above every write of an earlier one.

What is made for every request is a named tuple: it costs a third of a frozen dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from services.replica.replication.blockmap import Range

SEQ_BITS = 40


def first_seq(epoch: int) -> int:
    """The commit point of an epoch that has written nothing: above every earlier epoch's writes."""
    return epoch << SEQ_BITS


@dataclass(frozen=True, slots=True)
class Join:
    """Primary: follow me in this epoch, and say what you may hold unconfirmed."""

    number: int


@dataclass(frozen=True, slots=True)
class Joined:
    """`share`: the blocks of every write above the replica's own commit point, or its marked regions when it
    can't tell (D1, T2)."""

    number: int
    last_seq: int
    commit: int
    share: tuple[Range, ...]
    unclean: bool
    takes_many: bool = True
    """It knows WriteMany; a replica of an older version does not."""
    takes_packed: bool = True
    """It reads copies that are packed; a replica of an older version does not."""
    takes_past: bool = True
    """It seals what was, under a number of an epoch before; a replica of an older version does not."""
    takes_levels: bool = True
    """It knows all levels of the hash tree (`replication/tree.py`); a replica of an older version does not."""


class Write(NamedTuple):
    seq: int
    commit: int
    block: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    token: int


class WriteMany(NamedTuple):
    """What one wake-up brought of small writes, as one: it has one number, waits for its marks as one and is confirmed
    as one. Its ranges are stored in their order."""

    seq: int
    commit: int
    ranges: tuple[Range, ...]
    token: int


@dataclass(frozen=True, slots=True)
class Zero:
    """Trim and write-zeroes: sequenced like a write (W1)."""

    seq: int
    commit: int
    block: int
    count: int


class Ack(NamedTuple):
    seqs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Flush:
    """fdatasync everything that came before; `cleans`: it ends a sync that covered the marked regions (S3), and no
    write of before has a number above `settled` (T3)."""

    ticket: int
    commit: int
    cleans: bool = False
    settled: int = 0


@dataclass(frozen=True, slots=True)
class Flushed:
    ticket: int


@dataclass(frozen=True, slots=True)
class CommitPoint:
    """Everything at or below is confirmed everywhere; sent when no write carries it."""

    commit: int


@dataclass(frozen=True, slots=True)
class Digest:
    """Ask for hash-tree nodes: ranges count nodes of that level."""

    number: int
    level: int
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Digests:
    number: int
    level: int
    token: int
    """u64 little-endian, one per node asked for"""


@dataclass(frozen=True, slots=True)
class Copy:
    """Blocks as the primary holds them after every write at or below `as_of` (T4)."""

    number: int
    as_of: int
    ranges: tuple[Range, ...]
    token: int


@dataclass(frozen=True, slots=True)
class Copied:
    number: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Primary: blocks of mine do not match their checksum; what do you hold?"""

    number: int
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was asked for, without the blocks that are rotten there too."""

    number: int
    ranges: tuple[Range, ...]
    token: int


@dataclass(frozen=True, slots=True)
class Rotten:
    """Blocks of this replica do not match their checksum: the primary's copy of them is wanted."""

    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The replica could not store or sync: it counts for nothing until it has been brought up to date again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Prepare:
    """Primary: make your next layer, beside the writes; a Seal will follow (K4)."""

    number: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """`ready` False: no layer can be made here, and nothing else is wrong."""

    number: int
    ready: bool


@dataclass(frozen=True, slots=True)
class Seal:
    """A step of the order of writes (K4): all below `seq` and nothing above it is in the layer. No write is on its
    way."""

    seq: int
    commit: int
    size_blocks: int
    snapshot: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """The layer is durable, and the next one takes writes."""

    seq: int


@dataclass(frozen=True, slots=True)
class Rooted:
    """The top node of the hash tree over the layer's checksums; None when they are not proved."""

    seq: int
    root: int | None


ToReplica = Join | Write | WriteMany | Zero | Flush | CommitPoint | Digest | Copy | Fetch | Prepare | Seal
ToPrimary = Joined | Ack | Flushed | Digests | Copied | Fetched | Rotten | Failed | Prepared | Sealed | Rooted


class Refusal(IntEnum):
    """Why a primary does not serve a frontend."""

    NOT_PRIMARY = 1
    FENCED = 2
    NOT_READY = 3


@dataclass(frozen=True, slots=True)
class Open:
    session: int


@dataclass(frozen=True, slots=True)
class Opened:
    session: int


@dataclass(frozen=True, slots=True)
class OpenRefused:
    """`newest`: the newest session that the primary knows, so that the next one is above it."""

    session: int
    code: Refusal
    hint: str = ""
    newest: int = 0


class Io(IntEnum):
    """What a frontend asks for."""

    WRITE = 1
    READ = 2
    ZERO = 3
    FLUSH = 4
    STATUS = 5
    """Where data are and where zeros."""


class Request(NamedTuple):
    """One request of a frontend. `token` only with WRITE."""

    session: int
    request: int
    io: Io
    block: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    fua: bool = False
    token: int = 0


Ask = tuple[int, int, int]
"""(request, block, count): one of many that came together."""


class RequestMany(NamedTuple):
    """Small reads, or small writes without FUA, that come together. `token` only with WRITE: the payloads of all of
    them, in their order."""

    session: int
    io: Io
    asks: tuple[Ask, ...]
    token: int = 0


class Done(NamedTuple):
    session: int
    request: int
    errno: int


class DoneMany(NamedTuple):
    """All of these succeeded. Only to a frontend that asked for many."""

    session: int
    requests: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Serving:
    """The primary serves: said to the attached frontend's node as soon as it is true."""


ToFrontend = Opened | OpenRefused | Done | DoneMany | Serving
DataMessage = ToReplica | ToPrimary | Open | Request | RequestMany | ToFrontend
