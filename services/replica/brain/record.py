"""The record of a volume: the one small thing that its voters agree on, and the stamp that orders it.

    Slot = Stamp(generation, epoch, version) + Record(members, in-sync set, primary, attachment, ...)

The slot is the whole Raft log (rule A1): the latest accepted record *is* the log, so two slots compare by their
stamps alone. A voter is (node, incarnation): a node that lost its directory comes back as another voter (I1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from stoscore.limits import (
    REPLICAS_MAX,
    SNAPSHOTS_MAX,
    VOTERS_MAX,
    valid_group_id,
    valid_node_name,
    valid_snapshot_name,
)
from stoscore.units import BLOCK_BYTES

STRICT = ConfigDict(extra="forbid")
FailureMode = Literal["hard", "soft", "alwayson"] | int
"""How many in-sync copies a write needs: every one asked for, a majority of them, one, or that many."""
OnUnavailable = Literal["suspend", "error"]
"""What becomes of a write while there are fewer: it waits, or it fails."""
EPOCH_MAX = (1 << 24) - 1
"""A sequence number has 24 bits for its epoch: at ten elections a second, enough for nineteen days of nothing else."""
VERSION_MAX = (1 << 53) - 1
GENERATION_MAX = (1 << 32) - 1
ATTACH_EPOCH_MAX = (1 << 32) - 1
SEAL_MAX = (1 << 64) - 1
_INCARNATION = re.compile(r"[0-9a-f]{1,16}", re.ASCII)
_ROOT = re.compile(r"[0-9a-f]{16}", re.ASCII)


class InvalidRecord(ValueError):
    """A record that breaks its own rules: the sender's fault."""


@dataclass(frozen=True, slots=True, order=True)
class Voter:
    """One voter of a volume. A witness votes and holds no data."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    node: str
    incarnation: str
    """16 hex digits"""
    kind: Literal["data", "witness"] = "data"

    def validate(self) -> None:
        """Raises InvalidRecord: frames carry the incarnation as a 64-bit number."""
        if not valid_node_name(self.node) or not _INCARNATION.fullmatch(self.incarnation):
            raise InvalidRecord(f"{self.node[:64]!r} with incarnation {self.incarnation[:32]!r} is no voter")


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """Orders records; a generation rises only by an operator's override (I4)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    generation: int
    epoch: int
    version: int

    def validate(self) -> None:
        """Raises InvalidRecord."""
        if not (0 <= self.generation <= GENERATION_MAX and 0 <= self.epoch <= EPOCH_MAX):
            raise InvalidRecord(f"generation {self.generation}, epoch {self.epoch} is impossible")
        if not 1 <= self.version <= VERSION_MAX:
            raise InvalidRecord(f"version {self.version} is impossible")


@dataclass(frozen=True, slots=True)
class Attachment:
    """The one node whose frontend may do I/O, fenced by its epoch (invariant 5)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    node: str
    attach_epoch: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the volume was at one moment, under a name: asked for (`pending`), then sealed and agreed on (`ready`).

    A seal is a step of the order of writes and is named by its sequence number (K4): the layer that a deposed primary
    had sealed under the same name, with fewer writes or more, is another layer."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    name: str
    size_bytes: int
    created_ms: int
    """The primary's wall clock when it was asked for, for people."""
    asked: int = 0
    """The version of the record that it was asked of: tells it from an earlier snapshot of that name."""
    state: Literal["pending", "ready"] = "pending"
    seal: int = 0
    """The sequence number of the step that sealed it; 0 while pending."""
    root: str = ""
    """Of the hash tree over the sealed checksums, 16 hex digits; "" while pending."""
    holders: tuple[str, ...] = ()
    """Incarnations of the members that have the sealed layer; none left: the snapshot is lost."""
    group: Annotated[str, Field(exclude_if=lambda group: not group)] = ""
    """Of volumes whose snapshots are of one moment; not written where there is none."""

    @property
    def layer(self) -> str:
        """The name of the sealed layer in a holder's directory."""
        return layer_name(self.name, self.seal)

    @property
    def is_lost(self) -> bool:
        """No member is left that has the sealed layer."""
        return self.state == "ready" and not self.holders

    def validate(self) -> None:
        """Raises InvalidRecord."""
        if not valid_snapshot_name(self.name):
            raise InvalidRecord(f"{self.name[:80]!r} is no name for a snapshot: 1 to 64 of a-z, 0-9 and -")
        if self.size_bytes <= 0 or self.size_bytes % BLOCK_BYTES or self.created_ms < 0:
            raise InvalidRecord(f"snapshot {self.name} of {self.size_bytes} bytes at {self.created_ms} is impossible")
        if not 0 <= self.asked <= VERSION_MAX:
            raise InvalidRecord(f"snapshot {self.name} was asked of an impossible version")
        if self.group and not valid_group_id(self.group):
            raise InvalidRecord(f"snapshot {self.name} is of a group that can't be: {self.group[:100]!r}")
        if self.state == "pending":
            if self.seal or self.root or self.holders:
                raise InvalidRecord(f"snapshot {self.name} is pending and sealed")
        elif not 0 < self.seal <= SEAL_MAX or not _ROOT.fullmatch(self.root):
            raise InvalidRecord(f"snapshot {self.name} is ready without a seal and a root hash")
        if len(self.holders) > VOTERS_MAX or len(set(self.holders)) != len(self.holders):
            raise InvalidRecord(f"snapshot {self.name} has impossible holders")


def layer_name(snapshot: str, seal: int) -> str:
    return f"{snapshot}-{seal:016x}"


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
    joining: tuple[Voter, ...] = ()
    """Members made to become voters: they get the record and the data, have no vote and count for nothing yet."""
    failure_mode: FailureMode = "alwayson"
    on_unavailable: OnUnavailable = "suspend"
    zones: tuple[str, ...] = ()
    """Where its copies may be; empty: anywhere."""
    snapshots: Annotated[tuple[Snapshot, ...], Field(exclude_if=lambda snapshots: not snapshots)] = ()
    """Oldest first. Not written while there are none: a node of before snapshots understands the volume."""
    fence: Annotated[Stamp | None, Field(exclude_if=lambda fence: fence is None)] = None
    """Who asks for a snapshot by what he saw of this record or an earlier one is refused: a deletion came between."""

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
        if len(self.joining) > VOTERS_MAX or len({member.node for member in self.members}) != len(self.members):
            raise InvalidRecord("a node has one member of a volume at most, and no more than 7 are joining")
        if not 0 <= self.replicas <= REPLICAS_MAX:
            raise InvalidRecord(f"{self.replicas} copies besides the primary one are not possible")
        if isinstance(self.failure_mode, int) and not 1 <= self.failure_mode <= self.copies:
            raise InvalidRecord(f"a write can't need {self.failure_mode} of {self.copies} copies")
        if self.snapshots:
            self._validate_snapshots()
        if self.fence is not None:
            self.fence.validate()

    def _validate_snapshots(self) -> None:
        if len(self.snapshots) > SNAPSHOTS_MAX or len({it.name for it in self.snapshots}) != len(self.snapshots):
            raise InvalidRecord(f"a volume has {SNAPSHOTS_MAX} snapshots at most, each with a name of its own")
        copies = {member.incarnation for member in self.members if member.kind == "data"}
        for snapshot in self.snapshots:
            snapshot.validate()
            if not copies.issuperset(snapshot.holders):
                raise InvalidRecord(f"snapshot {snapshot.name} is held by a stranger")

    @property
    def copies(self) -> int:
        """Data copies asked for."""
        return self.replicas + 1

    @property
    def members(self) -> tuple[Voter, ...]:
        """Voters and those who are to become some: whoever the leader tells the record."""
        return self.voters + self.joining if self.joining else self.voters

    def others(self, me: Voter) -> tuple[Voter, ...]:
        """The voters but one."""
        return tuple(voter for voter in self.voters if voter != me)

    def snapshot(self, name: str) -> Snapshot | None:
        return next((snapshot for snapshot in self.snapshots if snapshot.name == name), None)

    def holders(self, snapshot: Snapshot) -> tuple[Voter, ...]:
        return tuple(member for member in self.members if member.incarnation in snapshot.holders)

    def member_on(self, node: str) -> Voter | None:
        return next((member for member in self.members if member.node == node), None)


@dataclass(frozen=True, slots=True)
class Slot:
    """The accepted record with its stamp."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    stamp: Stamp
    record: Record

    def next(self, epoch: int, record: Record) -> Slot:
        return Slot(Stamp(self.stamp.generation, epoch, self.stamp.version + 1), record)


def newer(slot: Slot | None, stamp: Stamp) -> Slot | None:
    """Our slot, for whoever comes with an older record (A3)."""
    return slot if slot is not None and slot.stamp > stamp else None


@dataclass(frozen=True, slots=True)
class HardState:
    """What a voter must never forget, durable before any answer that depends on it (invariant 4, A4).

    `lease_max_ns` is the longest lease that this voter may ever have promised: how long it keeps silent after
    a restart (P3).

    `erased`: of a deleted volume the data are given back, and who heard that may have forgotten the tombstone (I3).
    *Two said so and were started again before the last word; the leader had forgotten the volume. Neither knew any more
    that it had nothing left, so neither told the other, and both kept the tombstone for ever.* Not written before: an
    older version understands the state."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    me: Voter
    epoch: int
    voted_for: Voter | None
    slot: Slot | None
    lease_max_ns: int
    erased: Annotated[bool, Field(exclude_if=lambda erased: not erased)] = False

    def encode(self) -> bytes:
        return _HARD_STATE.dump_json(self)

    @classmethod
    def decode(cls, raw: bytes) -> HardState:
        """Raises ValueError on anything that is not a hard state."""
        state = _HARD_STATE.validate_json(raw)
        if not 0 <= state.epoch <= EPOCH_MAX or state.lease_max_ns < 0:
            raise InvalidRecord(f"epoch {state.epoch} or lease {state.lease_max_ns} is impossible")
        if state.slot is not None:
            state.slot.stamp.validate()
            state.slot.record.validate()
            if state.slot.stamp.epoch > state.epoch:
                raise InvalidRecord(f"a record of epoch {state.slot.stamp.epoch} above the stored epoch {state.epoch}")
        return state

    def with_slot(self, slot: Slot) -> HardState:
        return replace(self, slot=slot)


_HARD_STATE = TypeAdapter(HardState)
