"""What the brains of one volume say to each other. Idempotent; each may be lost, doubled, delayed, reordered.

Both ends are named with their incarnations; a message for another incarnation is not answered (I1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from services.replica.brain.record import STRICT, InvalidRecord, Slot, Stamp, Voter


class BadMessage(ValueError):
    """The bytes are no brain message of this version, or the message breaks its own rules: the sender's fault."""


@dataclass(frozen=True, slots=True)
class PreVote:
    """Would you vote for me in `epoch`? Changes nothing at the voter, so a returning node disturbs nobody."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    volume: str
    sender: Voter
    target: Voter
    epoch: int
    stamp: Stamp
    unclean: bool = False
    kind: Literal["pre-vote"] = "pre-vote"


@dataclass(frozen=True, slots=True)
class PreVoteAnswer:
    """A refusal carries the refuser's epoch and, when it is newer, its record (A3). `stamp` and `in_sync`: of the
    answerer's record, so that an unclean candidate learns whether its own was ever committed, and if not, whom an
    older one may name (S3)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    volume: str
    sender: Voter
    target: Voter
    asked: int
    granted: bool
    epoch: int
    reason: str = ""
    slot: Slot | None = None
    unclean: bool = False
    stamp: Stamp | None = None
    in_sync: tuple[Voter, ...] = ()
    kind: Literal["pre-vote-answer"] = "pre-vote-answer"


@dataclass(frozen=True, slots=True)
class Vote:
    """Vote for me in `epoch`; my accepted record has this stamp."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    volume: str
    sender: Voter
    target: Voter
    epoch: int
    stamp: Stamp
    unclean: bool = False
    kind: Literal["vote"] = "vote"


@dataclass(frozen=True, slots=True)
class VoteAnswer:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    volume: str
    sender: Voter
    target: Voter
    asked: int
    granted: bool
    epoch: int
    reason: str = ""
    slot: Slot | None = None
    unclean: bool = False
    kind: Literal["vote-answer"] = "vote-answer"


@dataclass(frozen=True, slots=True)
class Propose:
    """Store this record in the leader's epoch. `committed`: the latest stamp that the leader knows committed."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    volume: str
    sender: Voter
    target: Voter
    epoch: int
    slot: Slot
    committed: Stamp | None = None
    kind: Literal["propose"] = "propose"


@dataclass(frozen=True, slots=True)
class Accepted:
    """Stored durably, in answer to the leader of `epoch`."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    volume: str
    sender: Voter
    target: Voter
    epoch: int
    stamp: Stamp
    kind: Literal["accepted"] = "accepted"


@dataclass(frozen=True, slots=True)
class Refused:
    """Not stored: the refuser knows a higher epoch."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    volume: str
    sender: Voter
    target: Voter
    epoch: int
    slot: Slot | None = None
    kind: Literal["refused"] = "refused"


@dataclass(frozen=True, slots=True)
class Committed:
    """A majority stored the record with this stamp."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    volume: str
    sender: Voter
    target: Voter
    epoch: int
    stamp: Stamp
    kind: Literal["committed"] = "committed"


@dataclass(frozen=True, slots=True)
class Erased:
    """The sender gave its data back after a committed tombstone (I3)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    volume: str
    sender: Voter
    target: Voter
    epoch: int
    kind: Literal["erased"] = "erased"


@dataclass(frozen=True, slots=True)
class Unknown:
    """The sender's node has no voter of this volume (any more)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    volume: str
    sender: Voter
    target: Voter
    epoch: int = 0
    kind: Literal["unknown"] = "unknown"


@dataclass(frozen=True, slots=True)
class Forget:
    """Every voter erased its data: the tombstone itself may go."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    volume: str
    sender: Voter
    target: Voter
    epoch: int
    kind: Literal["forget"] = "forget"


BrainMessage = (
    PreVote | PreVoteAnswer | Vote | VoteAnswer | Propose | Accepted | Refused | Committed | Erased | Unknown | Forget
)
_CODEC: TypeAdapter[BrainMessage] = TypeAdapter(Annotated[BrainMessage, Field(discriminator="kind")])


def encode(message: BrainMessage) -> bytes:
    return _CODEC.dump_json(message)


def decode(raw: bytes | bytearray | memoryview) -> BrainMessage:
    """Raises BadMessage."""
    try:
        message = _CODEC.validate_json(bytes(raw))
        slot = getattr(message, "slot", None)
        if slot is not None:
            slot.record.validate()
            if slot.record.volume != message.volume:
                raise BadMessage("the record is another volume's")
    except (ValidationError, InvalidRecord) as error:
        raise BadMessage(str(error).splitlines()[0]) from error
    return message
