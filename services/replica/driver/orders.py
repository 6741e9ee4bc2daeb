"""What a node asks its shell to do: frozen, performed in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.replica.brain import HardState, PairMessage, Slot, Voter
from services.replica.brain import events as ev
from services.replica.brain.messages import BrainMessage
from services.replica.replication import effects as fx
from services.replica.replication.messages import Serving

REPLICA_OWNER = 0
"""Owner of a sync asked for by the follower's side; a primary's is its epoch."""


class ToPeer(NamedTuple):
    """On our outgoing link to that node, or over the bus. A tuple, because every beat makes some."""

    node: str
    message: PairMessage
    by_bus: bool = False


@dataclass(frozen=True, slots=True)
class ToBrain:
    """To another voter's brain: by its link, over NATS when the link is down."""

    message: BrainMessage


@dataclass(frozen=True, slots=True)
class Save:
    """Make the hard state durable, then call `saved(volume, ticket)`. In order."""

    volume: str
    ticket: int
    state: HardState


class Data(NamedTuple):
    """Effects of a replication core, in order. `epoch` is the epoch that their messages carry. A tuple, because every
    request makes some."""

    volume: str
    epoch: int
    effects: Sequence[fx.Effect]
    owner: int = REPLICA_OWNER


@dataclass(frozen=True, slots=True)
class Reply:
    request: int
    code: str
    error: str


@dataclass(frozen=True, slots=True)
class Erase:
    """Give the volume's space back, then call `erased`."""

    volume: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the replica's directory."""

    volume: str


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision with its reasons, for the trace and the event stream."""

    volume: str
    explain: ev.Explain


@dataclass(frozen=True, slots=True)
class RecordChanged:
    """This node knows a newer committed record: links to dial may have changed."""

    volume: str
    slot: Slot


@dataclass(frozen=True, slots=True)
class TellServing:
    """Say to the attached frontend's node that this primary serves."""

    volume: str
    node: str
    epoch: int
    message: Serving


@dataclass(frozen=True, slots=True)
class HangUp:
    """The peer is silent though its link stands: end the link."""

    node: str


@dataclass(frozen=True, slots=True)
class FindHome:
    """Ask placement for a node and have it make a member; then report HomeFound or HomeRefused with `ask`."""

    volume: str
    asked: ev.AskHome


@dataclass(frozen=True, slots=True)
class DropHome:
    """The member that was made there is not needed. Its node removes it unless a record names it by now."""

    volume: str
    home: Voter


Order = (
    ToPeer
    | ToBrain
    | Save
    | Data
    | Reply
    | Erase
    | Remove
    | Decided
    | RecordChanged
    | TellServing
    | HangUp
    | FindHome
    | DropHome
)
