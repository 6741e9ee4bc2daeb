"""A model of nodes that hold volumes: the answers to all node and volume verbs, without disks or elections.

It keeps the promises that clients rely on (idempotent verbs, incarnations drawn once, a first record that is
kept, a primary as soon as a majority is founded) and can be told to fail. `Switchboard` is a bus on which
these nodes and a simple placement answer; the integration tests put the same nodes on a real bus.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from stoscore import subjects
from stoscore.catalogue import Entries, check_claim, updated
from stoscore.errors import Code, StosError, invalid, not_found, precondition
from stoscore.messages import (
    Attached,
    AttachedCount,
    AttachmentModel,
    CatalogueEntry,
    Choice,
    Empty,
    FrontendOpened,
    GroupClaim,
    Message,
    NodeEntry,
    NodeStatus,
    PolicySet,
    Ranking,
    RankRequest,
    RecordModel,
    Refusal,
    RemoteStatus,
    ReplicaStatus,
    ReplicaStatuses,
    SnapshotSource,
    SnapshotStep,
    SnapshotView,
    VolumeExpanded,
)

Answer = Callable[[Any], Awaitable[Message]]


@dataclass
class Held:
    """One replica on one node."""

    incarnation: str
    kind: str
    record: RecordModel | None = None
    content: int = 0
    """what it holds, as one number; 0: nothing but zeros"""


@dataclass
class Taken:
    view: SnapshotView
    content: int


@dataclass
class Node:
    name: str
    replicas: dict[str, Held] = field(default_factory=dict)
    frontends: dict[str, int] = field(default_factory=dict)
    exports: dict[str, RemoteStatus] = field(default_factory=dict)
    up: bool = True


class ModelCluster:
    """The nodes and their volumes. The errors in `refuse[node, verb]` are raised first, one per request."""

    def __init__(self, *names: str):
        self.nodes = {name: Node(name) for name in names}
        self.refuse: dict[tuple[str, str], list[StosError]] = {}
        self.asked: list[tuple[str, str]] = []
        self.described: list[ReplicaStatus] = []
        """What `describe-all` was answered with."""
        self.snapshots: dict[str, dict[str, Taken]] = {}
        self._moments = int(time.time() * 1000)

    # --- node verbs ---

    async def answer(self, node: str, verb: str, message: Any) -> Message:
        self.asked.append((node, verb))
        if not self.nodes[node].up:
            raise StosError(Code.UNAVAILABLE, f"nobody answers {node}")
        errors = self.refuse.get((node, verb))
        if errors:
            raise errors.pop(0)
        method: Callable[[Node, Any], Message] = getattr(self, f"_{verb.replace('-', '_')}")
        return method(self.nodes[node], message)

    def _create(self, node: Node, message: Any) -> Message:
        from stoscore.messages import ReplicaCreated

        source = message.source
        held = node.replicas.get(message.volume)
        if held is None:
            held = Held(secrets.token_hex(8), message.kind, content=self._begins_as(node, source) if source else 0)
            node.replicas[message.volume] = held
        elif held.record is None and held.content != (int(source.root, 16) if source else 0):
            raise precondition(f"{node.name}'s member began as something else")
        return ReplicaCreated(node=node.name, incarnation=held.incarnation, root=source.root if source else "")

    def _begins_as(self, node: Node, source: SnapshotSource) -> int:
        taken = self.snapshots.get(source.volume, {}).get(source.snapshot)
        if taken is None or node.name not in taken.view.holders or source.volume not in node.replicas:
            raise StosError(Code.UNAVAILABLE, f"{node.name} does not hold {source.snapshot}")
        if taken.view.root != source.root:
            raise precondition("it is another snapshot by now")
        return taken.content

    def _found(self, node: Node, message: Any) -> Message:
        held = self._held(node, message.record.volume)
        if held.record is None and message.record.epoch:
            raise invalid("a first record has epoch 0")
        held.record = held.record or message.record
        return Empty()

    def _remove(self, node: Node, message: Any) -> Message:
        held = node.replicas.get(message.volume)
        if held is not None and held.incarnation == message.incarnation:
            if held.record is not None:
                raise precondition("the replica is founded")
            del node.replicas[message.volume]
        return Empty()

    def _describe(self, node: Node, message: Any) -> Message:
        return self._status_of(node, message.volume)

    def _describe_all(self, node: Node, message: Any) -> Message:
        here = [self._status_of(node, volume) for volume in message.volumes if volume in node.replicas]
        told = [status for status in here if status.serving or not message.serving]
        self.described += told
        return ReplicaStatuses(statuses=told)

    def _attached(self, node: Node, message: Any) -> Message:
        led = [
            held.record for held in node.replicas.values() if held.record and self.primary(held.record.volume) is node
        ]
        return AttachedCount(volumes=sum(bool(r.attachment and r.attachment.node == message.node) for r in led))

    def _status(self, node: Node, message: Any) -> Message:
        return NodeStatus(
            node=node.name,
            zone="",
            version="0",
            capacity_bytes=1,
            provisioned_bytes=0,
            used_bytes=0,
            replicas=[self._status_of(node, volume) for volume in node.replicas],
        )

    def _open(self, node: Node, message: Any) -> Message:
        node.frontends[message.volume] = message.attach_epoch
        socket = f"/run/{node.name}/{message.volume}.sock"
        if message.remote is not None:
            node.exports[message.volume] = RemoteStatus(**message.remote.model_dump())
        return FrontendOpened(
            node=node.name,
            socket=socket,
            uri=f"nbd+unix:///{message.name}?socket={socket}",
            remote=node.exports.get(message.volume),
        )

    def _close(self, node: Node, message: Any) -> Message:
        node.exports.pop(message.volume, None)
        if not message.remote_only:
            node.frontends.pop(message.volume, None)
        return Empty()

    # --- volume verbs ---

    async def answer_volume(self, node: str, volume: str, verb: str, message: Any) -> Message:
        self.asked.append((node, verb))
        if not self.nodes[node].up:
            raise StosError(Code.UNAVAILABLE, f"nobody answers {node}")
        errors = self.refuse.get((node, verb))
        if errors:
            raise errors.pop(0)
        primary = self.primary(volume)
        if primary is None or primary.name != node:
            hint = primary.name if primary else None
            raise StosError(Code.NOT_PRIMARY, f"{node} is not primary", details={"hint": hint})
        record = self.record(volume)
        if verb == "attach":
            if record.attachment and record.attachment.node != message.node:
                raise precondition(f"attached to {record.attachment.node}")
            if record.attachment is None:
                epoch = record.attach_epoch + 1
                attachment = AttachmentModel(node=message.node, attach_epoch=epoch)
                record = self._commit(record, attachment=attachment, attach_epoch=epoch)
            return Attached(record=record, attach_epoch=record.attach_epoch)
        if verb == "detach":
            if record.attachment and message.node in (None, record.attachment.node):
                self._commit(record, attachment=None)
            return Empty()
        if verb == "policy":
            named = {name: value for name, value in message.model_dump(exclude={"v"}).items() if value is not None}
            return PolicySet(record=self._commit(record, **named))
        if verb == "expand":
            return VolumeExpanded(record=self._commit(record, size_bytes=max(record.size_bytes, message.size_bytes)))
        if verb == "snapshot":
            return self._take(record, message.snapshot)
        if verb == "step":
            if message.step == "prepare":
                self._take(record, message.snapshot, message.group)
            elif message.snapshot not in self.snapshots.get(volume, {}):
                raise StosError(Code.ABORTED, "it is not being taken")
            return SnapshotStep(node=node, epoch=record.epoch, asked=record.version)
        if verb == "unsnapshot":
            taken = self.snapshots.get(volume, {}).get(message.snapshot)
            if taken is not None and message.created_ms in (None, taken.view.created_ms):
                del self.snapshots[volume][message.snapshot]
            return Empty()
        assert verb == "delete", verb
        if record.attachment:
            raise precondition(f"attached to {record.attachment.node}")
        if any(not name.startswith("-") for name in self.snapshots.get(volume, ())):
            raise precondition("it has snapshots")
        for voter in record.voters:
            if self.nodes[voter.node].up:
                del self.nodes[voter.node].replicas[volume]
        return Empty()

    def _take(self, record: RecordModel, name: str, group: str = "") -> SnapshotView:
        there = self.snapshots.setdefault(record.volume, {})
        if name not in there:
            self._moments += 1
            content = self.content(record.volume)
            view = SnapshotView(
                volume=record.volume,
                snapshot=name,
                size_bytes=record.size_bytes,
                created_ms=self._moments,
                ready=True,
                holders=tuple(voter.node for voter in record.in_sync),
                root=f"{content:016x}",
                group=group,
            )
            there[name] = Taken(view, content)
        return there[name].view

    # --- the model ---

    def write(self, volume: str, content: int) -> None:
        """The volume holds that from now on."""
        for voter in self.record(volume).in_sync:
            self.nodes[voter.node].replicas[volume].content = content

    def content(self, volume: str) -> int:
        """What the volume holds: all copies in sync the same."""
        held = [self.nodes[voter.node].replicas[volume] for voter in self.record(volume).in_sync]
        assert len({replica.content for replica in held}) == 1
        return held[0].content

    def primary(self, volume: str) -> Node | None:
        """The first data voter that is up, when a majority of the voters is up and founded."""
        founded = [
            node for node in self.nodes.values() if node.up and volume in node.replicas and node.replicas[volume].record
        ]
        if not founded:
            return None
        record = founded[0].replicas[volume].record
        assert record is not None
        if len(founded) <= len(record.voters) // 2:
            return None
        up = {node.name for node in founded}
        return next((self.nodes[v.node] for v in record.in_sync if v.node in up), None)

    def record(self, volume: str) -> RecordModel:
        records = [n.replicas[volume].record for n in self.nodes.values() if volume in n.replicas]
        return next(record for record in records if record is not None)

    def _commit(self, record: RecordModel, **changes: object) -> RecordModel:
        changed = record.model_copy(update=changes | {"version": record.version + 1})
        for node in self.nodes.values():
            if record.volume in node.replicas:
                node.replicas[record.volume].record = changed
        return changed

    def _held(self, node: Node, volume: str) -> Held:
        if volume not in node.replicas:
            raise not_found(f"{node.name} holds no replica of {volume}")
        return node.replicas[volume]

    def _status_of(self, node: Node, volume: str) -> ReplicaStatus:
        held = self._held(node, volume)
        primary = self.primary(volume)
        serves = primary is node
        role = "primary" if serves else "witness" if held.kind == "witness" else "replica"
        return ReplicaStatus(
            node=node.name,
            incarnation=held.incarnation,
            role=role,
            epoch=1 if primary else 0,
            serving=serves,
            primary_hint=primary.name if primary else None,
            record=held.record,
            snapshots=tuple(taken.view for taken in self.snapshots.get(volume, {}).values()),
        )


class Switchboard:
    """A bus in memory. Placement takes the nodes in order, copies first."""

    def __init__(self, cluster: ModelCluster):
        self.cluster = cluster
        self.rank_errors: list[StosError] = []
        self.ranked: list[RankRequest] = []

    async def request(self, subject: str, message: Message, answer: type, *, timeout_s: float = 5.0) -> Any:
        if subject == subjects.placement("rank"):
            assert isinstance(message, RankRequest)
            self.ranked.append(message)
            return self._rank(message)
        words = subject.removeprefix(f"{subjects.PREFIX}.node.").split(".")
        if words[0] not in self.cluster.nodes:
            raise StosError(Code.UNAVAILABLE, f"nobody answers {subject}")
        if len(words) == 2:
            result = await self.cluster.answer(words[0], words[1], message)
        else:
            result = await self.cluster.answer_volume(words[0], words[2], words[3], message)
        return answer.model_validate_json(result.model_dump_json())

    def _rank(self, request: RankRequest) -> Ranking:
        if self.rank_errors:
            raise self.rank_errors.pop(0)
        taken = {*request.beside, *request.exclude}
        free = [name for name in self.cluster.nodes if name not in taken and name in (request.among or [name])]
        names = free[: request.copies + request.witnesses]
        kinds = ["data"] * request.copies + ["witness"] * request.witnesses
        if len(names) < len(kinds):
            raise StosError(Code.RESOURCE_EXHAUSTED, "too few nodes")
        chosen = [
            Choice(node=name, zone="", kind=kind, score=1, reasons=["model"])
            for name, kind in zip(names, kinds, strict=True)
        ]
        refused = [Refusal(node=name, reason="not needed") for name in free[len(names) :]]
        return Ranking(instance="model", chosen=chosen, refused=refused, bids=len(self.cluster.nodes))


class ModelCatalogue:
    """The catalogue as a dictionary."""

    def __init__(self, *nodes: str):
        self.entries: dict[str, CatalogueEntry] = {}
        self.known_nodes = [NodeEntry(node=node, zone="", address="127.0.0.1:1") for node in nodes]
        self.states: list[str] = []
        self.groups: dict[str, GroupClaim] = {}

    async def group(self, name: str) -> GroupClaim | None:
        return self.groups.get(name)

    async def claim_group(self, claim: GroupClaim) -> GroupClaim | None:
        known = self.groups.get(claim.name)
        try:
            if known != claim:
                check_claim(known, claim)
        except StosError as error:
            if error.code is not Code.ALREADY_EXISTS:
                raise
            return known
        self.groups[claim.name] = claim
        return None

    async def release_group(self, claim: GroupClaim) -> None:
        known = self.groups.get(claim.name)
        if known is not None and known.attempt == claim.attempt and known.stage != "ready":
            del self.groups[claim.name]

    async def create(self, entry: CatalogueEntry) -> CatalogueEntry:
        if entry.name in self.entries:
            raise StosError(Code.ALREADY_EXISTS, "taken")
        self.entries[entry.name] = entry
        return entry

    async def update(self, entry: CatalogueEntry) -> None:
        existing = await self.by_name(entry.name)
        if existing.volume != entry.volume:
            raise not_found("another volume")
        self.entries[entry.name] = updated(existing, entry)
        self.states.append(entry.state)

    async def remove(self, entry: CatalogueEntry) -> None:
        if entry.name in self.entries and self.entries[entry.name].volume == entry.volume:
            del self.entries[entry.name]

    async def by_name(self, name: str) -> CatalogueEntry:
        if name not in self.entries:
            raise not_found(f"there is no volume {name!r}")
        return self.entries[name]

    async def by_id(self, volume: str) -> CatalogueEntry:
        for entry in self.entries.values():
            if entry.volume == volume:
                return entry
        raise not_found(f"there is no volume {volume!r}")

    async def list(self) -> Entries:
        return sorted(self.entries.values(), key=lambda entry: entry.name)

    async def page(self, after: str, limit: int) -> tuple[Entries, str]:
        rest = [entry for entry in await self.list() if entry.name > after]
        return rest[:limit], rest[limit - 1].name if len(rest) > limit else ""

    async def nodes(self) -> list[NodeEntry]:
        return self.known_nodes
