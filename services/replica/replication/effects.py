"""What the replication cores ask the shell to do, in this order. Frozen; none carries a payload.

What is made for every request is a named tuple: it costs a third of a frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from services.replica.replication.blockmap import Range
from services.replica.replication.estimate import Estimate
from services.replica.replication.messages import Ask, DataMessage
from services.replica.replication.past import Moment


class Tell(NamedTuple):
    """To the named peers' replicas, on our outgoing links."""

    peers: tuple[str, ...]
    message: DataMessage


class Answer(NamedTuple):
    """Back on the link that asked. `link` is the shell's number of it."""

    link: int
    message: DataMessage


class AnswerRead(NamedTuple):
    """Read and answer, if the lease still holds when the answer leaves (P4). `read_failed` when blocks do not match
    their checksum. `heals`: how often it was healed for already."""

    link: int
    session: int
    request: int
    block: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    heals: int = 0


class AnswerReadMany(NamedTuple):
    """As AnswerRead, for each of them; those that can be read are answered together."""

    link: int
    session: int
    asks: tuple[Ask, ...]


@dataclass(frozen=True, slots=True)
class AnswerStatus:
    """Look where data are and answer, under the same condition."""

    link: int
    session: int
    request: int
    block: int
    count: int


@dataclass(frozen=True, slots=True)
class AnswerDigests:
    link: int
    number: int
    level: int
    ranges: tuple[Range, ...]


class StoreWrite(NamedTuple):
    """Note it in the tail, then store it. Consumes the token."""

    seq: int
    block: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls here
    token: int


class StoreWriteMany(NamedTuple):
    """As StoreWrite, range by range under one number."""

    seq: int
    ranges: tuple[Range, ...]
    token: int


@dataclass(frozen=True, slots=True)
class StoreZero:
    seq: int
    block: int
    count: int


@dataclass(frozen=True, slots=True)
class StoreCopy:
    """Note `keep` in the tail under `seq`, then store those blocks of a Copy, which no later write has replaced.
    Consumes the token.

    Noted like a write: a primary that dies in mid-take-over has copied its own unconfirmed writes to some peers, and
    without a note nobody would compare those blocks again."""

    seq: int
    ranges: tuple[Range, ...]
    keep: tuple[Range, ...]
    token: int


@dataclass(frozen=True, slots=True)
class MarkRegions:
    """Durably; answered by `marked`."""

    regions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UnmarkRegions:
    regions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SyncStore:
    """fdatasync; answered by `synced(ticket)`. `settles`: of the checksums too, which unmarking needs (T3). `cleans`:
    likewise, and then clear the unclean mark, durably."""

    ticket: int
    cleans: bool = False
    settles: bool = False


@dataclass(frozen=True, slots=True)
class WriteBack:
    """To the disk: begin with what is stored, it will be synced soon. Nobody waits for it, and it proves nothing."""


class CommitTail(NamedTuple):
    seq: int


@dataclass(frozen=True, slots=True)
class Compare:
    """Compare a peer's digests with our own store, or with what it was at that moment; answered by `compared`. Consumes
    the token."""

    peer: str
    number: int
    level: int
    ranges: tuple[Range, ...]
    token: int
    of: Moment | None = None


@dataclass(frozen=True, slots=True)
class SendCopy:
    """Read the ranges, of our own store or of what it was at that moment, and send them as a Copy. Never waits."""

    peer: str
    number: int
    as_of: int
    ranges: tuple[Range, ...]
    of: Moment | None = None


@dataclass(frozen=True, slots=True)
class AnswerFetch:
    """Send what matches its checksum, and report what does not."""

    link: int
    number: int
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Heal:
    """Heal our own blocks with what a peer holds; answered by `healed`. `settled`: no write of them was under way.
    Consumes the token."""

    number: int
    ranges: tuple[Range, ...]
    token: int
    settled: bool


@dataclass(frozen=True, slots=True)
class Damage:
    """To people: blocks of `node`'s copy were rotten, or differed from ours though they matched their checksums, and
    were replaced by `source`'s; "" when nobody had them."""

    node: str
    kind: Literal["rotten", "differing"]
    blocks: tuple[Range, ...]
    source: str


@dataclass(frozen=True, slots=True)
class PrepareSeal:
    """Make the next layer and sync, beside everything else; answered by `seal_prepared`. A store that can't is as good
    as before."""

    number: int


@dataclass(frozen=True, slots=True)
class SealStore:
    """Durably: what is stored now is the layer of this snapshot and step. Answered by `sealed`; no write until then."""

    seq: int
    size_blocks: int
    snapshot: str


@dataclass(frozen=True, slots=True)
class HashSeal:
    """The root hash of that layer; answered by `hashed`."""

    seq: int
    size_blocks: int
    snapshot: str


@dataclass(frozen=True, slots=True)
class Release:
    """The payload is not needed any more."""

    token: int


@dataclass(frozen=True, slots=True)
class ReportFailed:
    """To the brain: this member does not confirm."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReportFollows:
    """To the brain: this member has joined us and is being brought up to date."""

    node: str


@dataclass(frozen=True, slots=True)
class ReportSettled:
    """To the brain: we take nothing new, and nothing is under way any more."""


@dataclass(frozen=True, slots=True)
class ReportCaughtUp:
    """To the brain: this member holds everything, synced (S4), and confirms every new write."""

    node: str


@dataclass(frozen=True, slots=True)
class ReportSealed:
    """To the brain: these nodes' copies hold the layer that the step `seq` sealed, all with this root hash."""

    name: str
    asked: int
    seq: int
    size_blocks: int
    root: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReportStep:
    """To the brain: how far the snapshot of a group has come. `sealed`: writes go on."""

    name: str
    asked: int
    step: Literal["prepared", "held", "sealed"]


@dataclass(frozen=True, slots=True)
class ReportNotSealed:
    """To the brain: our own store can't make a layer, or its layer can't be what the others' are judged by."""

    name: str
    asked: int
    reason: str
    lapsed: bool = False
    """Nothing is wrong with the store: it was taken in step, and the moment is over."""


@dataclass(frozen=True, slots=True)
class ReportGiven:
    """To the brain: this member has sealed what the volume was then, durably, with the root hash of all holders."""

    node: str
    moment: Moment


@dataclass(frozen=True, slots=True)
class NotGiven:
    """To people: this member goes on without the snapshot, until it comes back the next time."""

    node: str
    snapshot: str
    reason: str


@dataclass(frozen=True, slots=True)
class WritesHeld:
    """A seal is done: how long new writes waited for it, and how many."""

    snapshot: str
    held_ns: int
    requests: int


@dataclass(frozen=True, slots=True)
class StartedServing:
    """The take-over is complete."""

    compared_blocks: int
    copied_blocks: int


@dataclass(frozen=True, slots=True)
class ResyncBegins:
    """Nothing has been copied to this peer yet, and this is what it will cost."""

    node: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class ResyncDone:
    """A peer was brought up to date: how much that took, and what was foretold. A peer that catches up has synced as
    well; one that was compared in a take-over was never behind, and nothing was foretold."""

    node: str
    blocks_compared: int
    blocks_sent: int
    bytes_sent: int = 0
    """of content and of comparisons, as they were foretold"""
    took_ns: int = 0
    """since it was foretold, or since the peer joined where nothing was"""
    estimate: Estimate | None = None
    bytes_spared: int = 0
    """of `bytes_sent`: they did not have to cross the wire. Only who packs the copies knows"""


Effect = (
    Tell
    | Answer
    | AnswerRead
    | AnswerReadMany
    | AnswerStatus
    | AnswerDigests
    | AnswerFetch
    | StoreWrite
    | StoreWriteMany
    | StoreZero
    | StoreCopy
    | MarkRegions
    | UnmarkRegions
    | SyncStore
    | WriteBack
    | CommitTail
    | Compare
    | SendCopy
    | Heal
    | Damage
    | PrepareSeal
    | SealStore
    | HashSeal
    | Release
    | ReportFailed
    | ReportFollows
    | ReportCaughtUp
    | ReportSettled
    | ReportSealed
    | ReportNotSealed
    | ReportStep
    | ReportGiven
    | NotGiven
    | WritesHeld
    | StartedServing
    | ResyncBegins
    | ResyncDone
)
