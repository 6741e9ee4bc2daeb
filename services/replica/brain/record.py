"""The record of a volume: the one small thing that its voters agree on, and the stamp that orders it.

    Slot = Stamp(generation, epoch, version) + Record(members, in-sync set, primary, attachment, ...)

The slot is the whole Raft log (rule A1): the latest accepted record *is* the log, so two slots compare by their
stamps alone. A voter is (node, incarnation): a node that lost its directory comes back as another voter (I1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from stoscore.limits import VOTERS_MAX
from stoscore.units import BLOCK_BYTES

STRICT = ConfigDict(extra="forbid")


class InvalidRecord(ValueError):
    """A record that breaks its own rules: the sender's fault."""


@dataclass(frozen=True, slots=True, order=True)
class Voter:
    """One voter of a volume. A witness votes and holds no data."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    node: str
    incarnation: str
    kind: Literal["data", "witness"] = "data"


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """Orders records; a generation rises only by an operator's override (I4)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    generation: int
    epoch: int
    version: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """The one node whose frontend may do I/O, fenced by its epoch (invariant 5)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    node: str
    attach_epoch: int


@dataclass(frozen=True, slots=True)
class Record:
    """What the voters agree on. Tuples keep the order in which voters were chosen: it is the rank in elections."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    volume: str
    name: str
    size_bytes: int
    replicas: int
    voters: tuple[Voter, ...]
    in_sync: tuple[Voter, ...]
    primary: Voter | None = None
    attachment: Attachment | None = None
    attach_epoch: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    deleted: bool = False

    def validate(self) -> None:
        """Raises InvalidRecord."""
        if not 1 <= len(self.voters) <= VOTERS_MAX or len({voter.node for voter in self.voters}) != len(self.voters):
            raise InvalidRecord("1 to 7 voters, each on a node of its own")
        if not self.in_sync or not set(self.in_sync) <= set(self.voters):
            raise InvalidRecord("the in-sync set is empty or holds a stranger")
        if any(voter.kind != "data" for voter in self.in_sync):
            raise InvalidRecord("a witness holds no data and can't be in sync")
        if self.primary is not None and self.primary not in self.in_sync:
            raise InvalidRecord("the primary is not in sync")
        if self.size_bytes <= 0 or self.size_bytes % BLOCK_BYTES:
            raise InvalidRecord("the size is no positive multiple of 4096 bytes")
        if self.attachment is not None and self.attachment.attach_epoch != self.attach_epoch:
            raise InvalidRecord("the attachment's epoch is not the record's")

    def voter_on(self, node: str) -> Voter | None:
        return next((voter for voter in self.voters if voter.node == node), None)


@dataclass(frozen=True, slots=True)
class Slot:
    """The accepted record with its stamp."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    stamp: Stamp
    record: Record

    def next(self, epoch: int, record: Record) -> Slot:
        return Slot(Stamp(self.stamp.generation, epoch, self.stamp.version + 1), record)


@dataclass(frozen=True, slots=True)
class HardState:
    """What a voter must never forget, durable before any answer that depends on it (invariant 4, A4).

    `lease_max_ns` is the longest lease that this voter may ever have promised: how long it keeps silent after
    a restart (P3)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    me: Voter
    epoch: int
    voted_for: Voter | None
    slot: Slot | None
    lease_max_ns: int

    def encode(self) -> bytes:
        return _HARD_STATE.dump_json(self)

    @classmethod
    def decode(cls, raw: bytes) -> HardState:
        """Raises ValueError on anything that is not a hard state."""
        state = _HARD_STATE.validate_json(raw)
        if state.slot is not None:
            state.slot.record.validate()
        return state

    def with_slot(self, slot: Slot) -> HardState:
        return replace(self, slot=slot)


_HARD_STATE = TypeAdapter(HardState)
