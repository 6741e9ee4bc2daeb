"""What a brain is told (past tense), and what it asks for (imperative). All frozen; `cause` is the W3C
traceparent of the request that led to it, carried into every effect that explains itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.replica.brain.messages import BrainMessage
from services.replica.brain.record import HardState, Record, Slot, Voter

# ---- events -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Founded:
    """The first record arrived (found request)."""

    record: Record
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    message: BrainMessage


@dataclass(frozen=True, slots=True)
class PeerUp:
    node: str


@dataclass(frozen=True, slots=True)
class PeerDown:
    """The link ended or the node stayed silent."""

    node: str


@dataclass(frozen=True, slots=True)
class ClaimLost:
    """The node no longer claims to lead this volume."""

    node: str


@dataclass(frozen=True, slots=True)
class MemberFailed:
    """Replication: an in-sync member did not confirm."""

    member: Voter
    reason: str


@dataclass(frozen=True, slots=True)
class MemberCaughtUp:
    """Replication: the member holds every acknowledged write, synced (S4), and confirms every new one."""

    member: Voter


@dataclass(frozen=True, slots=True)
class StoreChanged:
    """The store's `unclean` mark (S3) as it is now, or that its disk failed for good."""

    unclean: bool
    failed: bool = False


@dataclass(frozen=True, slots=True)
class AttachAsked:
    request: int
    node: str
    cause: str = ""


@dataclass(frozen=True, slots=True)
class DetachAsked:
    request: int
    node: str | None
    cause: str = ""


@dataclass(frozen=True, slots=True)
class DeleteAsked:
    request: int
    cause: str = ""


@dataclass(frozen=True, slots=True)
class DataErased:
    """The store gave the space back after a committed tombstone."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """The process ends in order: whoever leads lets go, so that another is elected at once."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    pass


Event = (
    Founded
    | Received
    | PeerUp
    | PeerDown
    | ClaimLost
    | MemberFailed
    | MemberCaughtUp
    | StoreChanged
    | AttachAsked
    | DetachAsked
    | DeleteAsked
    | DataErased
    | Stopping
    | TimePassed
)

# ---- effects ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """To another voter, or to this one itself: a message to oneself is delivered like any other, so that
    one's own vote counts when it is durable and not before."""

    message: BrainMessage


@dataclass(frozen=True, slots=True)
class RaiseEpoch:
    """Refuse data below this epoch and withdraw promises of lower ones, at once."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Claim:
    """We won `epoch`: ask the other voters to promise."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Lead:
    """The record is committed under our own epoch: take over, then serve."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class StopLeading:
    reason: str


@dataclass(frozen=True, slots=True)
class Require:
    """Who must confirm a write has changed: `Brain.required` tells, as it is when this is performed (S1)."""


@dataclass(frozen=True, slots=True)
class RecordCommitted:
    """This voter knows that the slot is committed."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to AttachAsked, DetachAsked or DeleteAsked. `error`: "" or the reason; `code` for programs."""

    request: int
    code: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class EraseData:
    """The tombstone is committed."""


@dataclass(frozen=True, slots=True)
class ForgetVolume:
    """Nobody needs the tombstone any more: remove the directory."""


@dataclass(frozen=True, slots=True)
class Explain:
    """One decision: what it rested on, what came of it, what was turned down."""

    kind: str
    outcome: str
    inputs: tuple[tuple[str, str], ...] = ()
    alternatives: tuple[str, ...] = ()
    epoch: int = 0
    version: int = 0
    cause: str = ""


Effect = (
    Send
    | RaiseEpoch
    | Claim
    | Lead
    | StopLeading
    | Require
    | RecordCommitted
    | Reply
    | EraseData
    | ForgetVolume
    | Explain
)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step asks for: do `now` at once; make `durable` durable (None: nothing changed); only then
    perform `after`."""

    now: tuple[Effect, ...] = ()
    durable: HardState | None = None
    after: tuple[Effect, ...] = field(default=())
