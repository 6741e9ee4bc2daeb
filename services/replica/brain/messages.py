"""What the brains of one volume say to each other. Idempotent; each may be lost, doubled, delayed, reordered.

Both ends are named with their incarnations; a message for another incarnation is not answered (I1). On the wire a
message is `{"v": 1, "message": {...}}`. Nodes of two versions meet in every upgrade: the older one answers what it does
not know with NOT_UNDERSTOOD, so that the newer one can say why nobody votes for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from services.replica.brain.record import EPOCH_MAX, GENERATION_MAX, STRICT, InvalidRecord, Slot, Stamp, Voter

VERSION: Literal[1] = 1
"""Rises with every change that an older brain must not ignore; messages of another version are not acted on."""
VOLUME_CHARS_MAX = 32


class BadMessage(ValueError):
    """The bytes are no brain message, or the message breaks its own rules: the sender's fault."""


class Newer(BadMessage):
    """A message of another version, of an unknown kind or with an unknown field, from a sender that can be told."""

    def __init__(self, answer: NotUnderstood):
        super().__init__(f"{answer.what} is not understood: this node speaks version {answer.speaks}")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class OfGeneration:
    """What every message says first: of which generation it speaks (I4). Not written while that is the first one, which
    every version understands."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    generation: Annotated[int, Field(exclude_if=lambda generation: not generation)] = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class PreVote(OfGeneration):
    """Would you vote for me in `epoch`? Changes nothing at the voter, so a returning node disturbs nobody."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int
    stamp: Stamp
    unclean: bool = False
    released: int = 0
    """The epoch whose leader named the sender its successor (P5); 0: none did."""
    began_ns: int = 0
    """When the process that asks began, by its own clock."""
    kind: Literal["pre-vote"] = "pre-vote"


@dataclass(frozen=True, slots=True)
class PreVoteAnswer(OfGeneration):
    """A refusal carries the refuser's epoch and, when it is newer, its record (A3). `stamp` and `in_sync`: of the
    answerer's record, so that an unclean candidate learns whether its own was ever committed, and if not, whom an
    older one may name (S3)."""

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
    began_ns: int = 0
    """As it was asked: what another process asked, before this one lost power, tells nothing about now (S3)."""
    kind: Literal["pre-vote-answer"] = "pre-vote-answer"


@dataclass(frozen=True, slots=True)
class Vote(OfGeneration):
    """Vote for me in `epoch`; my accepted record has this stamp. `released` as in PreVote."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int
    stamp: Stamp
    unclean: bool = False
    released: int = 0
    kind: Literal["vote"] = "vote"


@dataclass(frozen=True, slots=True)
class VoteAnswer(OfGeneration):
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
class Propose(OfGeneration):
    """Store this record in the leader's epoch. `committed`: the latest stamp that the leader knows committed."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int
    slot: Slot
    committed: Stamp | None = None
    kind: Literal["propose"] = "propose"


@dataclass(frozen=True, slots=True)
class Accepted(OfGeneration):
    """Stored durably, in answer to the leader of `epoch`."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int
    stamp: Stamp
    kind: Literal["accepted"] = "accepted"


@dataclass(frozen=True, slots=True)
class Refused(OfGeneration):
    """Not stored: the refuser knows a higher epoch."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int
    slot: Slot | None = None
    kind: Literal["refused"] = "refused"


@dataclass(frozen=True, slots=True)
class Committed(OfGeneration):
    """A majority stored the record with this stamp."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int
    stamp: Stamp
    kind: Literal["committed"] = "committed"


@dataclass(frozen=True, slots=True)
class Erased(OfGeneration):
    """The sender gave its data back after a committed tombstone (I3)."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int
    kind: Literal["erased"] = "erased"


@dataclass(frozen=True, slots=True)
class Unknown(OfGeneration):
    """The sender's node has no voter of this volume (any more)."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int = 0
    kind: Literal["unknown"] = "unknown"


@dataclass(frozen=True, slots=True)
class Forget(OfGeneration):
    """Every voter erased its data: the tombstone itself may go."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int
    kind: Literal["forget"] = "forget"


@dataclass(frozen=True, slots=True)
class Enquire(OfGeneration):
    """No leader has claimed us for a while: do we still belong? `stamp` is that of our record."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int
    stamp: Stamp
    kind: Literal["enquire"] = "enquire"


@dataclass(frozen=True, slots=True)
class Excluded(OfGeneration):
    """The target is no member any more: `slot` is the committed record that excludes it (I3)."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int
    slot: Slot
    kind: Literal["excluded"] = "excluded"


@dataclass(frozen=True, slots=True)
class HandOver(OfGeneration):
    """The leader of `epoch` has ended its service in it for good and names the target its successor (P5). `slot`: the
    record, committed."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int
    slot: Slot
    kind: Literal["hand-over"] = "hand-over"


@dataclass(frozen=True, slots=True)
class Released(OfGeneration):
    """The same, said to the other voters: their promise to the sender in `epoch`, and only that one, is lifted."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int
    successor: Voter
    kind: Literal["released"] = "released"


@dataclass(frozen=True, slots=True)
class Offer(OfGeneration):
    """To a leader whose link to us is down: we are in sync and reach a majority by links. If you do not, hand over.
    `sought`: to a leader with a link: the frontend asks us for a session. If it has no link with you, hand over."""

    volume: str
    sender: Voter
    target: Voter
    epoch: int
    sought: bool = False
    kind: Literal["offer"] = "offer"


@dataclass(frozen=True, slots=True)
class NotUnderstood(OfGeneration):
    """We can't read what you said: `what` names it, `speaks` is our version."""

    volume: str
    sender: Voter
    target: Voter
    what: str
    speaks: int
    epoch: int = 0
    kind: Literal["not-understood"] = "not-understood"


BrainMessage = (
    PreVote
    | PreVoteAnswer
    | Vote
    | VoteAnswer
    | Propose
    | Accepted
    | Refused
    | Committed
    | Erased
    | Unknown
    | Forget
    | Enquire
    | Excluded
    | HandOver
    | Released
    | Offer
    | NotUnderstood
)


def said_in(message: BrainMessage, generation: int) -> BrainMessage:
    """An exclusion has it in its record's stamp, and says no more: a version from before generations believes that."""
    return message if isinstance(message, Excluded) else replace(message, generation=generation)


def generation_of(message: BrainMessage) -> int:
    return message.slot.stamp.generation if isinstance(message, Excluded) else message.generation


@dataclass(frozen=True, slots=True)
class _Said:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    v: Literal[1]
    message: Annotated[BrainMessage, Field(discriminator="kind")]


_CODEC: TypeAdapter[_Said] = TypeAdapter(_Said)
_VOTER: TypeAdapter[Voter] = TypeAdapter(Voter)
_FROM_THE_FUTURE = frozenset({"unexpected_keyword_argument", "union_tag_invalid"})
"""What pydantic calls a field or a kind that this version does not know."""


def encode(message: BrainMessage) -> bytes:
    return _CODEC.dump_json(_Said(VERSION, message))


def decode(raw: bytes | bytearray | memoryview) -> BrainMessage:
    """Raises BadMessage, and Newer where the sender can be answered."""
    raw = bytes(raw)
    try:
        message = _CODEC.validate_json(raw).message
        _check(message)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        answer = _not_understood(raw)
        if answer is not None and any(it["type"] in _FROM_THE_FUTURE or it["loc"] == ("v",) for it in problems):
            raise Newer(answer) from None
        where, what = ".".join(str(part) for part in problems[0]["loc"]), problems[0]["msg"]
        raise BadMessage(f"{where[:80]}: {what[:80]}") from None
    except InvalidRecord as error:
        raise BadMessage(str(error)) from None
    return message


def _check(message: BrainMessage) -> None:
    """Numbers that no brain says: believed once and stored, they could be neither counted up nor put on the wire."""
    if not 0 <= message.generation <= GENERATION_MAX:
        raise BadMessage(f"generation {message.generation} is impossible")
    if not 0 <= message.epoch <= EPOCH_MAX:
        raise BadMessage(f"epoch {message.epoch} is impossible")
    for name in ("asked", "released"):
        if not 0 <= getattr(message, name, 0) <= EPOCH_MAX:
            raise BadMessage(f"epoch {getattr(message, name)} is impossible")
    slot: Slot | None = getattr(message, "slot", None)
    stamps: list[Stamp | None] = [getattr(message, "stamp", None), getattr(message, "committed", None)]
    voters = [message.sender, message.target, *getattr(message, "in_sync", ())]
    if slot is not None:
        slot.record.validate()
        if slot.record.volume != message.volume:
            raise BadMessage("the record is another volume's")
        stamps.append(slot.stamp)
        voters += slot.record.members
    for stamp in stamps:
        if stamp is not None:
            stamp.validate()
    for voter in voters:
        voter.validate()
    if len(message.volume) > VOLUME_CHARS_MAX:
        raise BadMessage(f"a volume id has no more than {VOLUME_CHARS_MAX} characters")


def _not_understood(raw: bytes) -> NotUnderstood | None:
    """The answer to a message of which only the ends can be read; None when not even those."""
    try:
        said: Any = json.loads(raw)
        message = said["message"]
        sender, target = (_VOTER.validate_python(message[end]) for end in ("sender", "target"))
        volume, kind, version = message["volume"], message["kind"], said["v"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(volume, str) or not isinstance(kind, str) or type(version) is not int:
        return None
    if kind == "not-understood" or len(volume) > VOLUME_CHARS_MAX:
        return None  # answered, two versions could go on like this for ever
    return NotUnderstood(volume, target, sender, f"{kind[:32]} of version {version}", VERSION)
