"""What a brain is told (past tense), and what it asks for (imperative). All frozen; `cause` is the W3C
traceparent of the request that led to it, carried into every effect that explains itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from services.replica.brain.messages import BrainMessage
from services.replica.brain.record import FailureMode, HardState, OnUnavailable, Record, Slot, Stamp, Voter

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
class HeardOnBus:
    """Our link to the node is down and its beats reach us over the bus."""

    node: str


@dataclass(frozen=True, slots=True)
class SilentOnBus:
    """They do not any more."""

    node: str


@dataclass(frozen=True, slots=True)
class ClaimLost:
    """The node no longer claims to lead this volume."""

    node: str


@dataclass(frozen=True, slots=True)
class PromiseEnded:
    """The node is there and promises us nothing any more, or not in the epoch in which we lead."""

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
class MemberFollows:
    """Replication: the member that was away has joined the primary and is being brought up to date."""

    member: Voter


@dataclass(frozen=True, slots=True)
class HomeFound:
    """In answer to AskHome: an empty member was made there, with the incarnation that its node drew. `others`: what
    placement says of the nodes that it did not choose."""

    home: Voter
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HomeRefused:
    """In answer to AskHome: there is none (`full`), or nobody to ask, or the node that was chosen can't."""

    reason: str
    full: bool = False


@dataclass(frozen=True, slots=True)
class StoreChanged:
    """The store's `unclean` mark (S3) as it is now; `failure`: why its disk counts for nothing until the process ends;
    `votes`: the hard state can be stored all the same."""

    unclean: bool
    failure: str = ""
    votes: bool = True


@dataclass(frozen=True, slots=True)
class AttachAsked:
    """`force`: an operator's reason to fence the node that holds the attachment, whether it is dead or not."""

    request: int
    node: str
    cause: str = ""
    force: str = ""


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
class MoveAsked:
    """Somebody wants another primary: the node `wanted`, or "" for whoever can. `request` 0: nobody waits for an
    answer."""

    request: int
    wanted: str = ""
    reason: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class OverrideAsked:
    """The majority is lost for good, says an operator: go on with this copy alone (I4). `lost`: the nodes of all voters
    that are gone, and fenced. `accept_loss`: also when this copy is known to lack acknowledged writes."""

    request: int
    lost: tuple[str, ...]
    reason: str
    accept_loss: bool = False
    above: int = 0
    """A generation that is known to have begun: the new one is above it."""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """Replication: after `Settle`, everything under way in this epoch is confirmed everywhere."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SessionRefused:
    """That node's frontend, of that attach epoch, asked us for a session, and we do not lead."""

    node: str
    attach_epoch: int


@dataclass(frozen=True, slots=True)
class PolicyAsked:
    """None: as it is."""

    request: int
    replicas: int | None = None
    failure_mode: FailureMode | None = None
    on_unavailable: OnUnavailable | None = None
    cause: str = ""


@dataclass(frozen=True, slots=True)
class ExpandAsked:
    """The volume is to have at least that many bytes. It never shrinks."""

    request: int
    size_bytes: int
    cause: str = ""


@dataclass(frozen=True, slots=True)
class TakeAsked:
    """Keep what the volume holds now under that name; answered when it is ready. `created_ms`: the wall clock here.
    `since`: of the record that the asker had seen; refused if a fence was set since."""

    request: int
    name: str
    created_ms: int
    cause: str = ""
    since: Stamp | None = None
    in_step: bool = False
    """Answered when it is prepared; it goes on by `StepAsked`."""
    group: str = ""
    """In step with the snapshots of other volumes."""


@dataclass(frozen=True, slots=True)
class StepAsked:
    """Of a snapshot that is taken in step: answered when the step is taken. `epoch`, `asked`: the reign and the
    snapshot that are meant. `hold_ns`: how long writes may wait."""

    request: int
    name: str
    step: Literal["held", "sealed", "ready"]
    epoch: int
    asked: int
    hold_ns: int = 0


@dataclass(frozen=True, slots=True)
class StepReached:
    """Replication: a snapshot that is taken in step has come so far."""

    asked: int
    step: Literal["prepared", "held", "sealed"]


@dataclass(frozen=True, slots=True)
class DropAsked:
    """Forget a snapshot, ready or not. `created_ms`: only the one that was asked for at that moment. `fence`: and
    refuse from here on who asks for any by what he saw of the record before."""

    request: int
    name: str
    cause: str = ""
    created_ms: int | None = None
    fence: bool = False


@dataclass(frozen=True, slots=True)
class SnapshotSealed:
    """Replication: these members hold the layer that the step `seal` sealed, with this root hash, durably."""

    name: str
    asked: int
    seal: int
    size_bytes: int
    root: str
    holders: tuple[Voter, ...]


@dataclass(frozen=True, slots=True)
class SnapshotGiven:
    """Replication: this member, which lacked the snapshot, holds the layer of that seal, with its root hash,
    durably."""

    name: str
    seal: int
    member: Voter


@dataclass(frozen=True, slots=True)
class SealFailed:
    """Replication: the primary's own store can't make the layer, or its layer can't be what the others' are judged by;
    the volume is none the worse for it. `lapsed`: it was taken in step, and the moment is over."""

    name: str
    asked: int
    reason: str
    lapsed: bool = False


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
    | HeardOnBus
    | SilentOnBus
    | ClaimLost
    | PromiseEnded
    | MemberFailed
    | MemberCaughtUp
    | MemberFollows
    | HomeFound
    | HomeRefused
    | StoreChanged
    | AttachAsked
    | DetachAsked
    | DeleteAsked
    | PolicyAsked
    | ExpandAsked
    | TakeAsked
    | StepAsked
    | StepReached
    | DropAsked
    | SnapshotSealed
    | SnapshotGiven
    | SealFailed
    | MoveAsked
    | OverrideAsked
    | Settled
    | SessionRefused
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
class LiftPromise:
    """The leader on that node released what we promised it in this epoch, and nothing else (P5)."""

    node: str
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
    """`successor`: the node that we named, where a frontend should look first."""

    reason: str
    successor: str = ""


@dataclass(frozen=True, slots=True)
class Settle:
    """Take nothing new, and report `Settled` when what is under way is confirmed everywhere."""


@dataclass(frozen=True, slots=True)
class GoOn:
    """The move did not happen: serve as before."""


@dataclass(frozen=True, slots=True)
class Require:
    """Who must confirm a write has changed: `Brain.required` tells, as it is when this is performed (S1)."""


@dataclass(frozen=True, slots=True)
class SealSnapshot:
    """Have the copies on these nodes, and our own, seal what the volume holds (K4); then report `SnapshotSealed` or
    `SealFailed`."""

    name: str
    asked: int
    nodes: tuple[str, ...]
    in_step: bool = False
    """Report `StepReached`, and hold and seal when told to."""


@dataclass(frozen=True, slots=True)
class HoldWrites:
    """Of the snapshot that was asked of that version: new writes wait, until then at the latest."""

    asked: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class SealHeld:
    """All volumes of its group hold."""

    asked: int


@dataclass(frozen=True, slots=True)
class SnapshotsTold:
    """Members on these nodes have stored the committed record with its snapshots: they keep what they hold of them."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecordCommitted:
    """This voter knows that the slot is committed."""

    slot: Slot


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to what was asked with a request number. `error`: "" or the reason; `code` for programs."""

    request: int
    code: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class AskHome:
    """Ask placement for a node, have it make an empty member of that kind, and report HomeFound or HomeRefused; one
    of them always. `exclude`: nodes that have a member; the zones of the others among them should be spared. `zones`:
    where copies may be, empty for anywhere."""

    kind: Literal["data", "witness"]
    name: str
    size_bytes: int
    exclude: tuple[str, ...]
    zones: tuple[str, ...]
    cause: str = ""


@dataclass(frozen=True, slots=True)
class DropHome:
    """The member that was made is not needed: remove it, unless a record names it by now."""

    home: Voter


@dataclass(frozen=True, slots=True)
class EraseData:
    """The tombstone is committed."""


@dataclass(frozen=True, slots=True)
class ForgetVolume:
    """Nobody needs the tombstone any more, or a committed record excludes us (I3): remove the directory."""


@dataclass(frozen=True, slots=True)
class Explain:
    """One decision: what it rested on, what came of it, what was turned down."""

    kind: str
    outcome: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """The question as JSON: `decisions.replay` judges it again."""
    alternatives: tuple[str, ...] = ()
    epoch: int = 0
    version: int = 0
    cause: str = ""


Effect = (
    Send
    | RaiseEpoch
    | LiftPromise
    | Claim
    | Lead
    | StopLeading
    | Settle
    | GoOn
    | Require
    | SealSnapshot
    | HoldWrites
    | SealHeld
    | SnapshotsTold
    | RecordCommitted
    | Reply
    | AskHome
    | DropHome
    | EraseData
    | ForgetVolume
    | Explain
)


class Batch(NamedTuple):
    """What one step asks for: do `now` at once; make `durable` durable (None: nothing changed); only then
    perform `after`."""

    now: tuple[Effect, ...] = ()
    durable: HardState | None = None
    after: tuple[Effect, ...] = ()
