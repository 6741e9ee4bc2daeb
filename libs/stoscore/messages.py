"""The control messages: versioned pydantic models, strict about what they do not know.

Every request and answer carries `v`. A message of another version, with an unknown field, or that is no
JSON is answered with a clear error and changes nothing. Sizes are bytes, times nanoseconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from stoscore.limits import (
    COPIES_MAX,
    LABEL_BYTES_MAX,
    LABELS_MAX,
    NAME_BYTES_MAX,
    REASON_BYTES_MAX,
    REPLICAS_MAX,
    VOLUME_BYTES_MAX,
    VOTERS_MAX,
)

VolumeId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}\Z")]
VolumeName = Annotated[str, Field(min_length=1, max_length=NAME_BYTES_MAX, pattern=r"^[A-Za-z0-9][-_.A-Za-z0-9]*\Z")]
NodeId = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")]
Incarnation = Annotated[str, Field(pattern=r"^[0-9a-f]{16}\Z")]
"""A replica's random 64-bit birth number, hex."""
SizeBytes = Annotated[int, Field(ge=0, le=VOLUME_BYTES_MAX)]
Labels = Annotated[
    dict[Annotated[str, Field(max_length=LABEL_BYTES_MAX)], Annotated[str, Field(max_length=LABEL_BYTES_MAX)]],
    Field(max_length=LABELS_MAX),
]
FailureMode = Literal["hard", "soft", "alwayson"] | Annotated[int, Field(ge=1, le=COPIES_MAX)]
"""How many in-sync copies a write needs: every copy asked for, a majority of them, one, or that many."""
OnUnavailable = Literal["suspend", "error"]
"""What becomes of a write while there are fewer: it waits, or it fails."""


class Message(BaseModel):
    """The base of all messages; instances never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, regex_engine="python-re")
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


class CreateReplica(Message):
    """node.<n>.create: make an empty replica (or a witness). Repeating it returns the same incarnation.

    `joins`: it is to join a volume that exists; a node that holds an earlier member of it refuses."""

    volume: VolumeId
    name: VolumeName
    size_bytes: SizeBytes
    kind: Literal["data", "witness"] = "data"
    joins: bool = False


class ReplicaCreated(Message):
    node: NodeId
    incarnation: Incarnation


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


class ResyncStatus(Message):
    """The catching-up of one peer, as its source sees it."""

    node: NodeId
    phase: str
    blocks_left: int
    bytes_left: int
    blocks_sent: int
    bytes_sent: int


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


class NodeStatusRequest(Message):
    """node.<n>.status"""


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
    frontends: list[FrontendStatus] = []


class OpenFrontend(Message):
    """node.<n>.open: serve the volume over NBD on this node. Repeating it returns the same socket."""

    volume: VolumeId
    name: VolumeName
    size_bytes: SizeBytes
    attach_epoch: int = Field(ge=1)
    voters: list[VoterModel]


class FrontendOpened(Message):
    node: NodeId
    socket: str
    """Path of the Unix socket on that node."""
    uri: str
    """NBD URI: nbd+unix:///NAME?socket=PATH"""


class CloseFrontend(Message):
    """node.<n>.close: idempotent."""

    volume: VolumeId


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


class PolicySet(Message):
    record: RecordModel


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
    zones: list[str] = []
    """When not empty: only nodes in these zones."""


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


class NodeEntry(Message):
    """Catalogue key node.<node>: where the node's peer link listens; every node keeps the last known ones
    on its own disk as well, so that links come up without NATS."""

    node: NodeId
    zone: str
    address: str
    """host:port"""


# ---- certs -------------------------------------------------------------------------------------------


class RenewRequest(Message):
    """certs.renew: a new certificate for the identity that asks, proved by its still valid certificate:
    `proof` signs the CSR with the current key."""

    csr_pem: str = Field(max_length=16_384)
    certificate_pem: str = Field(max_length=16_384)
    proof: str = Field(max_length=1024)
    """base64 of the signature by the current certificate's key over csr_pem"""
    nats_public_key: str = Field(default="", max_length=128)


class Credentials(Message):
    """What an enrolment or a renewal hands out. No private key ever travels: keys are made by their owner."""

    certificate_pem: str
    """leaf first, then the issuing CA"""
    trust_pem: str
    """the root certificates to trust"""
    nats_jwt: str = ""
    """user JWT for the NATS user key that came with the request"""
    nats_servers: list[str] = []
    renew_after_s: int = 86_400


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
