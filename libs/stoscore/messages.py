"""The control messages: versioned pydantic models, strict about what they do not know.

Every request and answer carries `v`. A message of another version, with an unknown field, or that is no
JSON is answered with a clear error and changes nothing. Sizes are bytes, times nanoseconds.

The annotations here are what they say and no strings: pydantic would evaluate each of them, a quarter of what a command
takes to know its messages.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from stoscore.limits import (
    COPIES_MAX,
    DESCRIBED_MAX,
    FREEZE_MS_MAX,
    GROUP_VOLUMES_MAX,
    HOLD_MS_MAX,
    LABEL_BYTES_MAX,
    LABELS_MAX,
    NAME_BYTES_MAX,
    PAGE_ENTRIES_MAX,
    REASON_BYTES_MAX,
    REPLICAS_MAX,
    VOLUME_BYTES_MAX,
    VOTERS_MAX,
)
from stoscore.units import BLOCK_BYTES

VolumeId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}\Z")]
VolumeName = Annotated[
    str, Field(max_length=NAME_BYTES_MAX, pattern=r"^[A-Za-z0-9]((\.?[-_A-Za-z0-9])*\.?[A-Za-z0-9])?\Z")
]
"""As `limits.valid_volume_name`: whoever reads one, a key of the catalogue or a person, reads the same."""
GroupId = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}\.[0-9a-f]{16}\Z")]
"""<name>.<attempt>"""
SnapshotName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}\Z")]
NodeId = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")]
Root = Annotated[str, Field(pattern=r"^[0-9a-f]{16}\Z")]
"""Of the hash tree over a snapshot's checksums: equal for equal content."""
Incarnation = Annotated[str, Field(pattern=r"^[0-9a-f]{16}\Z")]
"""A replica's random 64-bit birth number, hex."""
SizeBytes = Annotated[int, Field(ge=0, le=VOLUME_BYTES_MAX)]
ClientIdentity = Annotated[str, Field(pattern=r"^(user|node|svc)/[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")]
"""Whom a certificate names, without the cluster."""
Labels = Annotated[
    dict[Annotated[str, Field(max_length=LABEL_BYTES_MAX)], Annotated[str, Field(max_length=LABEL_BYTES_MAX)]],
    Field(max_length=LABELS_MAX),
]
FailureMode = Literal["hard", "soft", "alwayson"] | Annotated[int, Field(ge=1, le=COPIES_MAX)]
"""How many in-sync copies a write needs: every copy asked for, a majority of them, one, or that many."""
OnUnavailable = Literal["suspend", "error"]
"""What becomes of a write while there are fewer: it waits, or it fails."""
Apart = Literal["", "zone", "node"]
"""What copies may not share: a zone, whatever it costs; a node only; or as the placement service is set."""
FS_LABEL = "stos.dev/fs-type"
"""The volume's label that says which file system it was made for."""
APART_LABEL = "stos.dev/apart"
"""The volume's label that says so, for whoever places a copy of it later."""


class Message(BaseModel):
    """The base of all messages; instances never change. What checks one is built at its first use: a process uses a few
    of them, and building all took a third of a command's start."""

    model_config = ConfigDict(extra="forbid", frozen=True, regex_engine="python-re", defer_build=True)
    v: Literal[1] = 1


class Empty(Message):
    """An answer without content, or a request without arguments."""


class VoterModel(Message):
    """One voter of a volume: a data replica, or a witness that votes and holds no data."""

    node: NodeId
    incarnation: Incarnation
    kind: Literal["data", "witness"] = "data"


class AttachmentModel(Message):
    node: NodeId
    attach_epoch: int = Field(ge=1)


class StampModel(Message):
    """Orders the records of one volume."""

    generation: int = Field(ge=0)
    epoch: int = Field(ge=0)
    version: int = Field(ge=0)


class RecordModel(Message):
    """The record of a volume as its voters agreed on it, with its stamp (generation, epoch, version)."""

    volume: VolumeId
    name: VolumeName
    size_bytes: SizeBytes
    replicas: int = Field(ge=0, le=REPLICAS_MAX)
    generation: int = Field(ge=0)
    epoch: int = Field(ge=0)
    version: int = Field(ge=0)
    voters: list[VoterModel] = Field(max_length=VOTERS_MAX)
    in_sync: list[VoterModel] = Field(max_length=VOTERS_MAX)
    primary: VoterModel | None = None
    attachment: AttachmentModel | None = None
    attach_epoch: int = Field(default=0, ge=0)
    labels: Labels = {}
    deleted: bool = False
    joining: list[VoterModel] = Field(default=[], max_length=VOTERS_MAX)
    """Members made to become voters: they get the record and the data and have no vote yet."""
    failure_mode: FailureMode = "alwayson"
    on_unavailable: OnUnavailable = "suspend"
    zones: list[str] = []
    """Where its copies may be; empty: anywhere."""


# ---- node verbs -------------------------------------------------------------------------------------


class SnapshotSource(Message):
    """A snapshot that a node holds, as its volume's record names it."""

    volume: VolumeId
    snapshot: SnapshotName
    size_bytes: SizeBytes
    root: Root


class CreateReplica(Message):
    """node.<n>.create: make an empty replica (or a witness). Repeating it returns the same incarnation.

    `joins`: it is to join a volume that exists; a node that holds an earlier member of it refuses. `source`: it begins
    as that snapshot, which this node holds, and shares its files."""

    volume: VolumeId
    name: VolumeName
    size_bytes: SizeBytes
    kind: Literal["data", "witness"] = "data"
    joins: bool = False
    source: SnapshotSource | None = None


class ReplicaCreated(Message):
    node: NodeId
    incarnation: Incarnation
    root: str = ""
    """of the snapshot that it began as; "": it began empty"""


class FoundVolume(Message):
    """node.<n>.found: the first record, given to every first voter. A voter that has one keeps its own."""

    record: RecordModel


class RemoveReplica(Message):
    """node.<n>.remove: drop a replica that was made but never founded (a create that was given up)."""

    volume: VolumeId
    incarnation: Incarnation


class DescribeReplica(Message):
    """node.<n>.describe"""

    volume: VolumeId


class DescribeReplicas(Message):
    """node.<n>.describe-all -> ReplicaStatuses: of those volumes whatever the node has a voter of, without labels and
    zones, so that many fit into one answer."""

    volumes: list[VolumeId] = Field(max_length=DESCRIBED_MAX)
    serving: bool = False
    """only those that it serves"""


class CountAttached(Message):
    """node.<n>.attached -> AttachedCount: how many of the volumes that this node leads are attached to `node`."""

    node: NodeId


class AttachedCount(Message):
    volumes: int = Field(ge=0)


class ResyncEstimate(Message):
    """What catching up will cost: the best guess, and what it most likely lies between."""

    bytes: int
    bytes_low: int
    bytes_high: int
    ms: int
    ms_low: int
    ms_high: int


class ResyncStatus(Message):
    """The catching-up of one peer, as its source sees it."""

    node: NodeId
    phase: str
    blocks_left: int
    bytes_left: int
    blocks_sent: int
    bytes_sent: int
    estimate: ResyncEstimate | None = None
    """of what is left; None: not enough was compared yet, or nothing is left to copy"""
    foretold: ResyncEstimate | None = None
    """the estimate from before the first copy, which the truth is compared with"""
    elapsed_ms: int = 0


class SnapshotView(Message):
    """One snapshot of a volume, by its record."""

    volume: VolumeId
    snapshot: SnapshotName
    size_bytes: SizeBytes
    created_ms: int = Field(ge=0)
    """the primary's wall clock when it was asked for"""
    ready: bool
    """sealed on its holders, with one content, and agreed on"""
    holders: tuple[NodeId, ...] = ()
    """nodes whose copy has it; none of a ready one: it is lost"""
    root: str = ""
    """of the hash tree over its checksums, 16 hex digits: equal for equal content"""
    group: GroupId | Literal[""] = ""
    """of volumes whose snapshots are of one moment"""


class ReplicaStatus(Message):
    """What one voter knows. `role`: primary, taking-over, replica, catching-up, candidate, witness, failed, removed."""

    node: NodeId
    incarnation: Incarnation
    role: str
    epoch: int
    serving: bool
    primary_hint: NodeId | None = None
    record: RecordModel | None = None
    allocated_bytes: int = 0
    unclean: bool = False
    failure: str = ""
    """Why this copy counts for nothing until its process is started again: its disk failed."""
    writes: int = 0
    reads: int = 0
    resyncs: list[ResyncStatus] = []
    write_state: Literal["open", "suspended", "failing"] = "open"
    """what the record's in-sync set and failure mode make of a write"""
    rotten_blocks: int = 0
    """found in this copy since its process was started"""
    healed_blocks: int = 0
    """of these, healed from another copy"""
    lost_blocks: int = 0
    """of these, nobody has the content: reading them fails"""
    scrubbed_unix_ms: int = 0
    """when this copy was last read and verified to its end; 0: it has not been yet"""
    snapshots: tuple[SnapshotView, ...] = ()
    """oldest first"""


class ReplicaStatuses(Message):
    statuses: list[ReplicaStatus]


class ScrubStatus(Message):
    """How far a node is with reading everything again."""

    done_bytes: int = 0
    total_bytes: int = 0
    ended_unix_ms: int = 0
    """when it last came to the end; 0: it has not yet"""


class NodeStatusRequest(Message):
    """node.<n>.status -> NodeStatus"""

    after: VolumeId | None = None
    """the last volume of the page before"""
    resyncing: bool = False
    """only copies that bring another one up to date"""


class RemoteExport(Message):
    """A volume offered over TCP as well: NBD with TLS 1.3, to named clients only."""

    address: str = Field(min_length=1, max_length=280)
    """host:port to listen on; port 0 takes a free one"""
    clients: list[ClientIdentity] = Field(min_length=1, max_length=64)


class RemoteStatus(Message):
    address: str
    """host:port with the port that was taken"""
    clients: list[ClientIdentity]
    connected: list[ClientIdentity] = []
    """whoever uses it at this moment, once for each connection"""
    error: str = ""
    """why nobody listens there; it is tried again"""


class FrontendStatus(Message):
    volume: VolumeId
    name: VolumeName
    socket: str
    connected: bool
    clients: int
    in_flight: int
    writes: int
    reads: int
    epoch: int
    remote: RemoteStatus | None = None


class NodeStatus(Message):
    node: NodeId
    zone: str
    version: str
    capacity_bytes: int
    provisioned_bytes: int
    used_bytes: int
    peers: dict[str, bool] = {}
    broken: dict[str, str] = {}
    """Volumes whose voter here can't be used and keeps silent, with the reason."""
    replicas: list[ReplicaStatus] = []
    """in the order of their volumes' ids, as many as fit into one message"""
    next: VolumeId | None = None
    """what to ask `after` for the rest; None: there is none"""
    frontends: list[FrontendStatus] = []
    """on the first page"""
    strangers: dict[str, int] = {}
    """connections to the peer link that were turned away since the process began, by kind"""
    dropped: dict[str, int] = {}
    """frames and brain messages that were not believed, by reason"""
    scrub: ScrubStatus = Field(default_factory=ScrubStatus)


class OpenFrontend(Message):
    """node.<n>.open: serve the volume over NBD on this node. Repeating it returns the same socket."""

    volume: VolumeId
    name: VolumeName
    size_bytes: SizeBytes
    attach_epoch: int = Field(ge=1)
    voters: list[VoterModel]
    remote: RemoteExport | None = None
    """None leaves it as it is"""


class FrontendOpened(Message):
    node: NodeId
    socket: str
    """Path of the Unix socket on that node."""
    uri: str
    """NBD URI: nbd+unix:///NAME?socket=PATH"""
    remote: RemoteStatus | None = None


class CloseFrontend(Message):
    """node.<n>.close: idempotent."""

    volume: VolumeId
    remote_only: bool = False
    """only what `OpenFrontend.remote` began; the Unix socket stays"""


# ---- volume verbs (primary only) ---------------------------------------------------------------------


class DescribeVolume(Message):
    """vol.<v>.describe -> ReplicaStatus of the primary"""


class AttachVolume(Message):
    """vol.<v>.attach: the one frontend node. The same node again is answered with the same attach epoch. Another one is
    refused while the attached node lives, unless an operator says with `force`, for the record, why to fence it."""

    node: NodeId
    force: str = Field(default="", max_length=REASON_BYTES_MAX)


class Attached(Message):
    record: RecordModel
    attach_epoch: int


class MoveVolume(Message):
    """vol.<v>.move: an orderly hand-over of the primary to the node `to`, or to whoever can. `away_from`: who led when
    it was asked for; asked again after an answer got lost, it does not move twice."""

    to: NodeId | None = None
    away_from: NodeId | None = None
    reason: str = Field(default="", max_length=REASON_BYTES_MAX)


class Moved(Message):
    """The node that leads now."""

    node: NodeId
    epoch: int


class OverrideVolume(Message):
    """vol.<v>.override: the majority of its voters is lost for good; that node's copy goes on alone, in a new
    generation. `lost`: the nodes of all other voters, which the operator says are fenced. `accept_loss`: also when that
    copy is known to lack acknowledged writes. FAILED_PRECONDITION says what stands against it."""

    lost: list[NodeId] = Field(max_length=VOTERS_MAX)
    reason: str = Field(min_length=1, max_length=REASON_BYTES_MAX)
    accept_loss: bool = False
    above: int = Field(default=0, ge=0)
    """A generation that is known to have begun, perhaps elsewhere: the new one is above it."""


class Overridden(Message):
    """The first record of the new generation."""

    record: RecordModel


class DetachVolume(Message):
    """vol.<v>.detach: idempotent. A node that is not the attached one is ignored."""

    node: NodeId | None = None


class DeleteVolume(Message):
    """vol.<v>.delete: commits the tombstone, then every voter gives its space back."""


class SetPolicy(Message):
    """vol.<v>.policy -> PolicySet: what is not named stays. Answered when it is committed; copies are made and removed
    afterwards, while the volume is in use."""

    replicas: int | None = Field(default=None, ge=0, le=REPLICAS_MAX)
    failure_mode: FailureMode | None = None
    on_unavailable: OnUnavailable | None = None


class ExpandVolume(Message):
    """vol.<v>.expand -> VolumeExpanded: at least that many bytes. Answered when it is committed; idempotent."""

    size_bytes: int = Field(ge=BLOCK_BYTES, le=VOLUME_BYTES_MAX, multiple_of=BLOCK_BYTES)


class VolumeExpanded(Message):
    record: RecordModel


class PolicySet(Message):
    record: RecordModel


class TakeSnapshot(Message):
    """vol.<v>.snapshot -> SnapshotView: what the volume holds at one moment between this request and its answer, every
    write that was acknowledged before it included. Answered when it is ready. The same name again is the same snapshot.

    `since`: of the newest record that the caller has seen. ABORTED when a deletion set a fence at that record or a
    later one, so that a request that comes late brings nothing back."""

    volume: VolumeId
    snapshot: SnapshotName
    since: StampModel | None = None


class StepSnapshot(Message):
    """vol.<v>.step -> SnapshotStep, when the step is taken: a snapshot of a moment that the caller chooses, at which
    all volumes of a group hold their writes, or a file system is frozen. `prepare` asks for it; `hold`, `seal`
    (answered when writes go on) and `wait` (until it is ready) quote the answer to that. ABORTED when it is not being
    taken any more: it ends by itself when nobody goes on, and one of a group with the primary."""

    volume: VolumeId
    snapshot: SnapshotName
    group: GroupId | Literal[""] = ""
    since: StampModel | None = None
    """as with TakeSnapshot"""
    step: Literal["prepare", "hold", "seal", "wait"]
    epoch: int = Field(default=0, ge=0)
    asked: int = Field(default=0, ge=0)
    hold_ms: int = Field(default=0, ge=0, le=HOLD_MS_MAX)
    """new writes wait so long at most"""


class SnapshotStep(Message):
    """Which reign, and which snapshot of it. Steps are asked of this node."""

    node: NodeId
    epoch: int = Field(ge=0)
    asked: int = Field(ge=0)


class FreezeVolume(Message):
    """csi.<node>.freeze -> Frozen: the volume's file system stands still on that node, if it is mounted there."""

    volume: VolumeId
    limit_ms: int = Field(gt=0, le=FREEZE_MS_MAX)
    """then it thaws by itself"""


class Frozen(Message):
    """Without a token it moves on, for that reason."""

    token: str = Field(default="", max_length=32)
    reason: str = Field(default="", max_length=REASON_BYTES_MAX)


class ThawVolume(Message):
    """csi.<node>.thaw -> Thawed"""

    volume: VolumeId
    token: str = Field(max_length=32)


class Thawed(Message):
    """`lasted`: it had not thawed by itself before."""

    lasted: bool = False
    frozen_ms: int = 0


class DropSnapshot(Message):
    """vol.<v>.unsnapshot -> Empty, when the record has forgotten it: one that is not there as well. Its space comes
    back afterwards, in the background."""

    volume: VolumeId
    snapshot: SnapshotName
    created_ms: int | None = Field(default=None, ge=0)
    """only the one of that moment: a late or doubled request leaves one that was taken again since under the name"""
    fence: bool = False
    """and from here on refuse a `TakeSnapshot` of any name whose `since` is no later record than the one it finds"""


# ---- placement ---------------------------------------------------------------------------------------


class BidRequest(Message):
    """bid: every node that takes copies answers."""

    size_bytes: SizeBytes


class Bid(Message):
    node: NodeId
    zone: str
    address: str
    """host:port of the peer link"""
    accepts_copies: bool
    capacity_bytes: int
    provisioned_bytes: int
    used_bytes: int
    free_disk_bytes: int
    replicas: int
    primaries: int


class RankRequest(Message):
    """placement.rank"""

    volume: VolumeId
    name: VolumeName
    size_bytes: SizeBytes
    copies: int = Field(ge=0, le=REPLICAS_MAX + 1)
    witnesses: int = Field(default=0, ge=0, le=1)
    exclude: list[NodeId] = []
    beside: list[NodeId] = []
    """Nodes that have a member of the volume already: excluded, and their zones count as taken."""
    among: list[NodeId] = []
    """When not empty: only these nodes take data copies, because they hold what the volume begins as."""
    zones: list[str] = []
    """When not empty: only nodes in these zones."""
    apart: Apart = ""
    near: NodeId | None = None
    """The first data copy is wanted there, if that node can take it."""


class CapacityRequest(Message):
    """placement.capacity -> Capacity: how much room there is for volumes of that many copies."""

    copies: int = Field(ge=1, le=COPIES_MAX)
    witnesses: int = Field(default=0, ge=0, le=1)
    zones: list[str] = []
    apart: Apart = ""


class Capacity(Message):
    """What a volume of that kind could have now. Volumes are thin: this is what may be promised, by the policies."""

    largest_bytes: int = Field(ge=0)
    """the largest volume that would be placed"""
    available_bytes: int = Field(ge=0)
    """what many volumes could have together"""
    bids: int


class Choice(Message):
    node: NodeId
    zone: str
    kind: Literal["data", "witness"]
    score: float
    reasons: list[str]


class Refusal(Message):
    node: NodeId
    reason: str


class Ranking(Message):
    """The chosen nodes, best first, and why the others were not."""

    instance: str
    chosen: list[Choice]
    refused: list[Refusal]
    bids: int


# ---- catalogue ---------------------------------------------------------------------------------------


class Origin(Message):
    """What a volume begins as: a snapshot, and the nodes whose copies of it the first copies share files with. A clone
    of a volume has a snapshot of its own (`stoscore.volumes.origin`), which goes when it is ready."""

    volume: VolumeId
    snapshot: SnapshotName
    size_bytes: SizeBytes
    root: Root
    nodes: list[NodeId] = Field(min_length=1, max_length=COPIES_MAX)


class CatalogueEntry(Message):
    """name -> id, spec and first voters' nodes, by compare-and-set before any replica is made (rule I2)."""

    volume: VolumeId
    name: VolumeName
    size_bytes: SizeBytes
    replicas: int = Field(ge=0, le=REPLICAS_MAX)
    nodes: list[NodeId]
    witness_nodes: list[NodeId] = []
    labels: Labels = {}
    failure_mode: FailureMode = "alwayson"
    on_unavailable: OnUnavailable = "suspend"
    zones: list[str] = []
    state: Literal["creating", "ready", "deleting"] = "creating"
    origin: Origin | None = None
    """None: it began empty"""
    generation: int = Field(default=0, ge=0, exclude_if=lambda generation: not generation)
    """The newest that is known to have begun (I4): who serves in an older one is not believed. Not written while there
    was no override: a version from before generations reads the entry."""


class SnapshotClaim(Message):
    """catalogue.claim-snapshot, .release-snapshot: the name that CSI knows a snapshot by belongs to one volume, by
    compare-and-set before the snapshot is taken. `stage`: "dropping" while it is being deleted."""

    snapshot: SnapshotName
    volume: VolumeId
    stage: Literal["held", "dropping"] = "held"
    deletion: str = Field(default="", max_length=32)
    """Which one, drawn by lot: a release that comes late does not end the next."""


class GroupClaim(Message):
    """catalogue.claim-group, .release-group: a snapshot of several volumes, under a name, by compare-and-set. `taking`:
    by this attempt, which another one may replace; `ready`: it is what that attempt took; `dropping`."""

    name: SnapshotName
    attempt: str = Field(pattern=r"^[0-9a-f]{16}\Z")
    volumes: tuple[VolumeId, ...] = Field(min_length=1, max_length=GROUP_VOLUMES_MAX)
    stage: Literal["taking", "ready", "dropping"] = "taking"
    created_ms: int = Field(default=0, ge=0)


class GroupByName(Message):
    """catalogue.group -> GroupClaim"""

    name: SnapshotName


class SnapshotByName(Message):
    """catalogue.snapshot -> SnapshotClaim"""

    snapshot: SnapshotName


class NodeEntry(Message):
    """Catalogue key node.<node>: where the node's peer link listens; every node keeps the last known ones
    on its own disk as well, so that links come up without NATS."""

    node: NodeId
    zone: str
    address: str
    """host:port"""


# ---- events ------------------------------------------------------------------------------------------


class DecisionEvent(Message):
    """One decision of a volume's brain with what it was based on (subject events.<node>.decision)."""

    volume: VolumeId
    name: str
    node: NodeId
    kind: str
    epoch: int
    version: int
    inputs: dict[str, JsonValue] = {}
    """Everything that it rested on; the brain judges these inputs the same way again."""
    outcome: str = ""
    alternatives: list[str] = []
    cause: str = ""
    """traceparent of what caused it"""
    at_ns: int = 0
    """the deciding node's CLOCK_BOOTTIME; never compared across nodes"""


# ---- the catalogue, as svc/nats answers for it -------------------------------------------------------


class VolumeByName(Message):
    """catalogue.by-name -> CatalogueEntry"""

    name: VolumeName


class VolumeById(Message):
    """catalogue.by-id -> CatalogueEntry"""

    volume: VolumeId


class PageRequest(Message):
    """catalogue.list -> CataloguePage, catalogue.nodes -> NodePage: what comes after a name, in order."""

    after: str = Field(default="", max_length=NAME_BYTES_MAX)
    limit: int = Field(default=PAGE_ENTRIES_MAX, ge=1, le=PAGE_ENTRIES_MAX)


class CataloguePage(Message):
    entries: list[CatalogueEntry]
    next: str
    """what to ask after for the next page; "" at the end"""


class NodePage(Message):
    entries: list[NodeEntry]
    next: str


# ---- audit -------------------------------------------------------------------------------------------


class AuditEvent(Message):
    """A privileged act, or a refusal: who did what to what, how it ended and why (subject events.<reporter>.audit)."""

    who: str = Field(max_length=128)
    """role/name as the server proved it; the remote address of a stranger"""
    action: str = Field(max_length=64)
    target: str = Field(default="", max_length=256)
    outcome: Literal["done", "refused", "failed"]
    reason: str = Field(default="", max_length=512)
    count: int = Field(default=1, ge=1)
    """how many alike within a second were folded into this one"""
    at_unix_ms: int = Field(ge=0)
    reporter: str = Field(max_length=80)
    """who says so: a node's name, or svc:<name>"""


class HistoryRequest(Message):
    """history.read -> HistoryPage: kept events of one kind, oldest first."""

    kind: Literal["audit", "decision"]
    reporter: str = Field(default="", max_length=80, pattern=r"^[-:a-z0-9]*\Z")
    """only this one's; "" for everybody's"""
    since_unix_ms: int = Field(default=0, ge=0)
    after: int = Field(default=0, ge=0)
    """only what was kept after the event with this number"""


class KeptEvent(Message):
    number: int
    at_unix_ms: int
    """when the server kept it"""
    reporter: str
    """by its subject, so the server has proved it"""
    body: str
    """JSON of the event's own message"""


class HistoryPage(Message):
    events: list[KeptEvent]
    next: int
    """what to ask after for the next page; 0 at the end"""
