"""Snapshots at the leader: asked for, sealed by the primary, agreed on; and who waits for one (rule K4).

    asked for --> record: pending --> SealSnapshot --> (replication: every copy in sync seals the same step)
                                            |
                      record: ready <-- SnapshotSealed        SealFailed --> the record forgets it

What is pending is so by the record, so a leader that dies in the middle leaves it to the next one, which has it sealed
again under a number of its own. That is a later moment than the first seal's, and still one before the answer: whoever
asked either waits or asks again. A snapshot that was given up is sealed all the same, and found under its name; to
drop it instead would make every failover lose what somebody may still be waiting for.

Whoever has none of a snapshot's layer when it is sealed is given it while it catches up (`replication/past.py`), and is
one of its holders from the record on that says so.

A name that several volumes compete for (`services/csi/snapshot_names.py`) needs more: once its deletion is answered, no
request of before may bring it back, however late. So a deletion can set a *fence*, the stamp of the record that it came
upon, and who asks for a snapshot says which record he had seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeGuard

from services.replica.brain import events as ev
from services.replica.brain.decisions import Verdict, recorded
from services.replica.brain.in_step import InStep
from services.replica.brain.local import Local
from services.replica.brain.record import Record, Snapshot, Stamp, Voter
from stoscore.limits import SNAPSHOTS_MAX
from stoscore.units import format_size

SnapshotChange = ev.TakeAsked | ev.DropAsked | ev.SnapshotSealed | ev.SnapshotGiven | ev.SealFailed


class Refused(Exception):
    """The snapshot can't be asked for."""

    def __init__(self, code: str, error: str):
        super().__init__(error)
        self.code = code


def changed(change: SnapshotChange, record: Record, stamp: Stamp) -> tuple[Record, Verdict] | None:
    """The record, of that stamp, with this change; None when it is so already. Raises Refused."""
    known = record.snapshot(change.name)
    match change:
        case ev.TakeAsked():
            if known is not None and known.is_lost:
                raise Refused("DATA_LOSS", f"snapshot {known.name} of {record.name} is lost: its last holder is gone")
            if known is not None and change.group not in ("", known.group):
                raise Refused("ALREADY_EXISTS", f"snapshot {known.name} of {record.name} is none of {change.group}")
            return _taken(change, record, stamp.version) if known is None else None
        case ev.DropAsked():
            return _dropped(change, record, known, stamp)
        case ev.SnapshotSealed():
            return _ready(change, record, known) if _is_of(known, change) else None
        case ev.SnapshotGiven(_, seal, member):
            return _held(record, known, member) if known is not None and known.seal == seal else None
        case ev.SealFailed(name, _, reason, _):
            verdict = Verdict("unsnapshot", f"snapshot {name} can't be taken: {reason}")
            return (_without(record, name), verdict) if _is_of(known, change) else None


def _is_of(known: Snapshot | None, report: ev.SnapshotSealed | ev.SealFailed) -> TypeGuard[Snapshot]:
    """*Dropped while it was sealed, and asked for again: the older layer lacks what was written between.*"""
    return known is not None and known.state == "pending" and known.asked == report.asked


def _taken(asked: ev.TakeAsked, record: Record, version: int) -> tuple[Record, Verdict]:
    if record.deleted:
        raise Refused("NOT_FOUND", f"volume {record.name} is being deleted")
    if asked.since is not None and record.fence is not None and asked.since <= record.fence:
        raise Refused("ABORTED", "a snapshot was deleted since it was asked for, and its name may be another's now")
    if len(record.snapshots) >= SNAPSHOTS_MAX:
        raise Refused(
            "RESOURCE_EXHAUSTED", f"volume {record.name} has {SNAPSHOTS_MAX} snapshots, the most there may be"
        )
    other = next((it for it in record.snapshots if it.state == "pending" and it.group), None) if asked.group else None
    if other is not None:  # not one after the other: two groups could wait for each other's volumes
        raise Refused("ABORTED", f"a snapshot of the group {other.group} is being taken of volume {record.name}")
    pending = Snapshot(asked.name, record.size_bytes, asked.created_ms, version, group=asked.group)
    nodes = ", ".join(voter.node for voter in record.in_sync)
    taken = replace(record, snapshots=(*record.snapshots, pending))
    return taken, Verdict("snapshot", f"snapshot {asked.name} is asked for, and to be sealed on {nodes}")


def _dropped(
    asked: ev.DropAsked, record: Record, known: Snapshot | None, stamp: Stamp
) -> tuple[Record, Verdict] | None:
    fenced = replace(record, fence=stamp) if asked.fence else record
    if known is None or asked.created_ms not in (None, known.created_ms):
        verdict = Verdict("unsnapshot", f"no snapshot is taken for who saw no later record than {stamp.version}")
        return (fenced, verdict) if asked.fence else None
    verdict = Verdict("unsnapshot", f"snapshot {asked.name} is dropped; its space comes back in the background")
    return _without(fenced, asked.name), verdict


def _ready(sealed: ev.SnapshotSealed, record: Record, pending: Snapshot) -> tuple[Record, Verdict]:
    holders = tuple(voter for voter in record.members if voter in sealed.holders)
    ready = replace(
        pending,
        state="ready",
        seal=sealed.seal,
        size_bytes=sealed.size_bytes,
        root=sealed.root,
        holders=tuple(holder.incarnation for holder in holders),
    )
    snapshots = tuple(ready if known.name == ready.name else known for known in record.snapshots)
    nodes = ", ".join(holder.node for holder in holders)
    told = f"snapshot {ready.name}, {format_size(ready.size_bytes)} with root hash {ready.root}, is sealed on {nodes}"
    return replace(record, snapshots=snapshots), Verdict("snapshot", told)


def _held(record: Record, ready: Snapshot, member: Voter) -> tuple[Record, Verdict] | None:
    """One that was dropped and taken again under its name has another seal."""
    copies = [voter for voter in record.members if voter.kind == "data"]
    if ready.state != "ready" or member not in copies or member.incarnation in ready.holders:
        return None
    holders = {*ready.holders, member.incarnation}
    held = replace(ready, holders=tuple(voter.incarnation for voter in copies if voter.incarnation in holders))
    snapshots = tuple(held if known.name == held.name else known for known in record.snapshots)
    told = f"{member.node} was given snapshot {held.name}: {len(held.holders)} of {len(copies)} copies have it"
    return replace(record, snapshots=snapshots), Verdict("snapshot", told)


def _without(record: Record, name: str) -> Record:
    return replace(record, snapshots=tuple(known for known in record.snapshots if known.name != name))


def held_by_members(record: Record) -> Record:
    """Whoever is no member any more holds nothing that counts: his directory goes."""
    copies = {member.incarnation for member in record.members if member.kind == "data"}
    if all(copies.issuperset(snapshot.holders) for snapshot in record.snapshots):
        return record
    snapshots = tuple(
        replace(snapshot, holders=tuple(holder for holder in snapshot.holders if holder in copies))
        for snapshot in record.snapshots
    )
    return replace(record, snapshots=snapshots)


def only_asked(before: Record, record: Record) -> bool:
    """It differs by a snapshot that is asked for, and by nothing else."""
    return record.snapshots[:-1] == before.snapshots and record == replace(before, snapshots=record.snapshots)


@recorded
@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record with snapshots that are not taken yet is not understood by one of its members."""

    node: str
    snapshots: tuple[str, ...]

    @property
    def reason(self) -> str:
        return f"node {self.node} runs a version that does not know snapshots: upgrade it first"

    def judge(self) -> Verdict:
        if not self.snapshots:
            return Verdict("", "")
        waiting = f"to wait for {self.node}: what it can't store it can't help to agree on, now or under another leader"
        return Verdict("refuse", f"{', '.join(self.snapshots)} can't be taken: {self.reason}", (waiting,))


@recorded
@dataclass(frozen=True, slots=True)
class LastHolder:
    """Who held a snapshot in the record before, and who does in this one."""

    snapshot: str
    before: tuple[str, ...]
    now: tuple[str, ...]

    def judge(self) -> Verdict:
        if not self.before or self.now:
            return Verdict("", "")
        nodes = ", ".join(self.before)
        return Verdict(
            "snapshot", f"snapshot {self.snapshot} is lost: only {nodes} had it, no member of the volume now"
        )


class Snapshots:
    """What one voter, while it leads, has ordered to be sealed, and who waits for it."""

    def __init__(self, local: Local):
        self._local = local
        self._in_step = InStep(local)
        self._waiting: dict[str, list[int]] = {}
        """Name -> requests that are answered when it is ready."""
        self._failed: dict[str, tuple[str, str]] = {}
        """Name -> code and reason why it can't be taken, until its record is committed."""
        self._ordered: int | None = None
        """The version that the snapshot was asked of which is being sealed."""
        self._pending_ns: dict[int, int] = {}
        """The same -> since when it is committed as pending, as far as we saw."""
        self._told: set[tuple[int, Voter]] = set()
        """(seal, member that has stored a record with that snapshot): said to replication."""

    def begin(self) -> None:
        self._ordered, self._pending_ns, self._told = None, {}, set()
        self._in_step.begin()

    def drop(self) -> None:
        """We stopped leading: whoever waits asks the next leader, which has the same snapshot sealed."""
        waiting = [request for requests in self._waiting.values() for request in requests]
        for request in [*waiting, *self._in_step.drop()]:
            self._local.at_once(ev.Reply(request, "NOT_PRIMARY", "it stopped being the primary"))
        self._waiting, self._failed = {}, {}

    # ---- who waits ------------------------------------------------------------------------------------

    def wait(self, asked: ev.TakeAsked) -> None:
        if asked.in_step:
            self._in_step.taken(asked)
        else:
            self._waiting.setdefault(asked.name, []).append(asked.request)

    def step(self, asked: ev.StepAsked, record: Record | None) -> None:
        """`record`: the committed one, if it is ours."""
        self._in_step.asked(asked, record)

    def reached(self, report: ev.StepReached) -> None:
        self._in_step.reached(report)

    def orphans(self, record: Record) -> list[ev.SealFailed]:
        return self._in_step.orphans(record)

    def fails(self, failed: ev.SealFailed) -> None:
        code = "ABORTED" if failed.lapsed else "RESOURCE_EXHAUSTED"
        self._failed.setdefault(failed.name, (code, failed.reason))

    def unreadable(self, node: str, record: Record) -> list[ev.SealFailed]:
        """A member can't store that record: what is pending in it has to go."""
        pending = [known for known in record.snapshots if known.state == "pending"]
        found = Unreadable(node, tuple(known.name for known in pending))
        self._local.tell_once(found, found.judge())
        self._failed |= {known.name: ("FAILED_PRECONDITION", found.reason) for known in pending}
        return [ev.SealFailed(known.name, known.asked, found.reason) for known in pending]

    def answer(self, record: Record) -> None:
        """By the committed record: what is ready is answered, what is gone too. Not while another one is on its way,
        for what that one asks for is not there yet. *A step of one snapshot was taken meanwhile, and whoever waited for
        the other was told that it had been dropped.*"""
        for name in [name for name in self._waiting if not _is_pending(record, name)]:
            for request in self._waiting.pop(name):
                self._local.when_durable(self._reply(record, name, request))
        for name, request in self._in_step.answered(record):
            self._local.when_durable(self._reply(record, name, request))
        self._failed = {name: why for name, why in self._failed.items() if _is_pending(record, name)}

    def _reply(self, record: Record, name: str, request: int) -> ev.Reply:
        if record.snapshot(name) is not None:
            return ev.Reply(request)
        if name in self._failed:
            code, why = self._failed[name]
            return ev.Reply(request, code, f"snapshot {name} can't be taken: {why}")
        return ev.Reply(request, "ABORTED", f"snapshot {name} was dropped before it was taken")

    # ---- what is sealed -------------------------------------------------------------------------------

    def committed(self, before: Record | None, record: Record) -> None:
        self.answer(record)
        for snapshot in record.snapshots:
            known = before.snapshot(snapshot.name) if before is not None else None
            if before is not None and known is not None:
                held = tuple(holder.node for holder in before.holders(known))
                self._local.decide(
                    LastHolder(snapshot.name, held, tuple(holder.node for holder in record.holders(snapshot)))
                )

    def is_sealing(self, record: Record) -> bool:
        """By the committed record what we ordered is still wanted, and not ready."""
        return any(known.state == "pending" and known.asked == self._ordered for known in record.snapshots)

    def order(self, record: Record, has_stored: Callable[[Voter], bool]) -> None:
        """The oldest that is pending, one at a time, by the committed record. Members that have not stored it are
        given a lease: they may not know yet what is asked of them, or never, being of a version without snapshots."""
        local = self._local
        self._tell(record, has_stored)
        pending = [known for known in record.snapshots if known.state == "pending" and not record.deleted]
        self._pending_ns = {known.asked: self._pending_ns.get(known.asked, local.now_ns) for known in pending}
        if self._ordered not in self._pending_ns:
            self._ordered = None
        if not pending or self._ordered is not None:
            return
        first, copies = pending[0], [voter for voter in record.members if voter.kind == "data" and voter != local.me]
        # One that is not in sync by the record may be so by the next, and hold everything by now.
        knowing = [voter.node for voter in copies if has_stored(voter)]
        others = [voter for voter in copies if voter in record.in_sync]
        unknowing = [voter for voter in others if local.reaches(voter.node) and not has_stored(voter)]
        if unknowing and local.now_ns < self._pending_ns[first.asked] + local.timing.lease_ns:
            return
        self._ordered = first.asked
        local.when_durable(
            ev.SealSnapshot(first.name, first.asked, tuple(sorted(knowing)), self._in_step.has(first.name))
        )

    def _tell(self, record: Record, has_stored: Callable[[Voter], bool]) -> None:
        """Who has stored that these are ready. A copy drops a layer that no record of its own lists."""
        ready = [known.seal for known in record.snapshots if known.state == "ready"]
        copies = [voter for voter in record.members if voter.kind == "data" and has_stored(voter)]
        told = {(seal, voter) for seal in ready for voter in copies if voter != self._local.me}
        nodes = sorted({voter.node for _, voter in told - self._told})
        self._told = told | {pair for pair in self._told if pair[0] in ready}
        if nodes:
            self._local.when_durable(ev.SnapshotsTold(tuple(nodes)))

    def next_deadline_ns(self) -> int | None:
        """When members that have not stored the record are waited for no more."""
        if self._ordered is not None or not self._pending_ns:
            return None
        return next(iter(self._pending_ns.values())) + self._local.timing.lease_ns


def _is_pending(record: Record, name: str) -> bool:
    snapshot = record.snapshot(name)
    return snapshot is not None and snapshot.state == "pending"
