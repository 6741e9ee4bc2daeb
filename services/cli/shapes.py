"""What `-o json` and `-o yaml` give, command by command: names and types that stay.

Programs are written against this, so a field is added and never renamed. Tests hold what the commands print against
these models, and the reference is made from them. Where a command tells what a node said, the shape is the message's.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, JsonValue, RootModel

from services.cli import shapes_administration
from services.cli.shapes_administration import Shape
from stoscore.messages import DecisionEvent, FrontendStatus, ReplicaStatus, ResyncStatus, ScrubStatus


class Voter(Shape):
    node: str
    kind: Literal["data", "witness"]


class VolumeRow(Shape):
    """A volume of `stos volume ls`."""

    volume: str
    name: str
    size_bytes: int
    replicas: int
    failure_mode: str | int
    on_unavailable: str
    copies: int
    state: Literal["creating", "ready", "deleting"]
    health: Literal["creating", "deleting", "unavailable", "damaged", "degraded", "healthy"]
    lost_blocks: int
    primary: str | None
    generation: int | None
    epoch: int | None
    voters: list[Voter]
    in_sync: list[str]
    joining: list[str]
    attached: str | None
    attach_epoch: int | None
    labels: dict[str, str]


class Failure(Shape):
    code: str
    message: str
    next_step: str
    details: dict[str, JsonValue]


class Silent(Shape):
    """A node that did not answer about a volume."""

    node: str
    error: Failure


class ToldCopy(ReplicaStatus):
    """A node's own word on its copy. `over`: an operator has ended its generation, and no client believes that it
    serves."""

    generation: int | None
    over: bool


class VolumeView(VolumeRow):
    nodes: list[ToldCopy | Silent]


class HeldCopy(ReplicaStatus):
    """A copy as its node's status has it."""

    node: str = ""
    volume: str | None
    name: str | None


class NodeDown(Shape):
    node: str
    zone: str
    address: str
    up: Literal[False]
    error: Failure


class NodeUp(Shape):
    node: str
    zone: str
    address: str
    up: Literal[True]
    version: str
    capacity_bytes: int
    provisioned_bytes: int
    used_bytes: int
    peers: dict[str, bool]
    broken: dict[str, str]
    frontends: list[FrontendStatus]
    strangers: dict[str, int]
    dropped: dict[str, int]
    scrub: ScrubStatus
    replicas: list[HeldCopy]


class ResyncRow(ResyncStatus):
    name: str
    volume: str
    primary: str


class VolumeExpanded(Shape):
    name: str
    volume: str
    size_bytes: int


class PolicySet(Shape):
    name: str
    volume: str
    replicas: int
    failure_mode: str | int
    on_unavailable: str


class PrimaryMoved(Shape):
    name: str
    primary: str
    epoch: int


class VolumeRemoved(Shape):
    """`removed`: False where there was nothing to remove."""

    name: str
    removed: bool


class Connected(Shape):
    volume: str
    name: str
    node: str
    socket: str
    uri: str
    attach_epoch: int


class Disconnected(Shape):
    """`node`: where it was in use; null when it was not."""

    name: str
    node: str | None
    disconnected: bool


class Exported(Shape):
    """`uri` and `qemu`: how libnbd and qemu name it."""

    name: str
    node: str
    address: str
    host_name: str
    clients: list[str]
    uri: str
    qemu: str


class Unexported(Shape):
    """`node`: where the volume is used; null when it is used nowhere."""

    name: str
    node: str | None


class Overridden(Shape):
    name: str
    primary: str
    generation: int
    given_up: list[str]


class ClientFiles(Shape):
    directory: str


class SnapshotRemoved(Shape):
    name: str
    volume_name: str
    removed: bool


class SnapshotRow(Shape):
    name: str
    volume: str
    volume_name: str
    size_bytes: int
    created_unix_ms: int
    state: Literal["pending", "ready", "lost"]
    held_by: list[str]
    copies: int
    root: str
    group: str
    """the group snapshot that it is part of; empty for none"""


class GroupMember(Shape):
    volume: str
    name: str
    held_by: list[str]


class GroupRow(Shape):
    name: str
    created_unix_ms: int
    snapshots: list[GroupMember]


class GroupRemoved(Shape):
    name: str
    removed: bool


class TraceRow(Shape):
    trace_id: str
    name: str
    start_unix_ns: int
    duration_ns: int
    spans: int
    errors: int
    processes: int


class SpanLink(Shape):
    trace_id: str
    span_id: str
    why: str


class SpanView(Shape):
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    process: str
    kind: Literal["internal", "server", "client"]
    start_unix_ns: int
    duration_ns: int
    error: str
    attributes: dict[str, str | int | float | bool]
    links: list[SpanLink]


class Decision(DecisionEvent):
    """An event of kind decision."""

    decision: str
    reporter: str
    at_unix_ms: int


class Chapter(DecisionEvent):
    """A decision of `stos volume why`."""

    volume: str = ""
    name: str = ""
    about_epoch: int
    text: str
    times: int


class BusyVolume(Shape):
    name: str
    volume: str
    in_sync: int | None
    copies: int | None
    primary: str | None
    epoch: int | None
    reads_per_s: float
    writes_per_s: float
    bytes_per_s: float
    in_flight: int
    resync_bytes: int
    p99_s: float | None


class BusyNode(Shape):
    node: str
    cpu: float = 0
    memory_bytes: int = 0
    lag_p99_s: float | None = None
    free_bytes: int = 0
    copies: int = 0


class Busy(Shape):
    volumes: list[BusyVolume]
    nodes: list[BusyNode]


class Found(Shape):
    level: Literal["ok", "warn", "fail"]
    check: str
    about: str
    told: str
    next_step: str


class Refused(Shape):
    """On stderr, of any command that fails."""

    error: Failure


SHAPES: dict[str, type[BaseModel]] = {
    "volume ls": RootModel[list[VolumeRow]],
    "volume show": VolumeView,
    "volume create": VolumeRow,
    "volume expand": VolumeExpanded,
    "volume set": PolicySet,
    "volume move-primary": PrimaryMoved,
    "volume connect": Connected,
    "volume disconnect": Disconnected,
    "volume rm": VolumeRemoved,
    "volume why": RootModel[list[Chapter]],
    "volume override": Overridden,
    "volume export": Exported,
    "volume unexport": Unexported,
    "volume client-files": ClientFiles,
    "node ls": RootModel[list[NodeUp | NodeDown]],
    "node show": RootModel[NodeUp | NodeDown],
    "snapshot create": SnapshotRow,
    "snapshot ls": RootModel[list[SnapshotRow]],
    "snapshot show": SnapshotRow,
    "snapshot rm": SnapshotRemoved,
    "snapshot group create": GroupRow,
    "snapshot group show": GroupRow,
    "snapshot group rm": GroupRemoved,
    "resync ls": RootModel[list[ResyncRow]],
    "trace ls": RootModel[list[TraceRow]],
    "trace show": RootModel[list[SpanView]],
    "events": RootModel[list[Decision]],
    "top": Busy,
    "doctor": RootModel[list[Found]],
    **shapes_administration.SHAPES,
}


def schema(command: str) -> dict[str, Any]:
    """JSON Schema of what `stos COMMAND -o json` prints."""
    return {"title": f"stos {command} -o json", **SHAPES[command].model_json_schema()}
