"""Two clusters for `tests.support.feed`: a small one with everything that can be seen, and a large one."""

from __future__ import annotations

from itertools import islice

from stoscore.messages import (
    AttachmentModel,
    CatalogueEntry,
    DecisionEvent,
    FrontendStatus,
    NodeStatus,
    RecordModel,
    ReplicaStatus,
    ResyncEstimate,
    ResyncStatus,
    SnapshotView,
    VoterModel,
)
from stoscore.metrics import BY_NAME
from stoscore.process_messages import MetricModel
from stoscore.spans import Link, SpanRecord
from stoscore.units import GIB, MIB, MS, SECOND, TIB
from tests.support.feed import Told

ATTACK = "\x1b[31mred\x1b[0m\r\n[bold]loud[/bold]<b>\u202etxet"
"""Terminal escapes, a new line, markup of two kinds, text that turns its direction."""
START_NS = 1_800_000_000 * SECOND
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def voter(node: str, kind: str = "data") -> VoterModel:
    return VoterModel(node=node, incarnation=f"{sum(node.encode()):016x}", kind=kind)  # type: ignore[arg-type]


def record(number: int, name: str, voters: list[str], **more: object) -> RecordModel:
    members = [voter(node) for node in voters]
    values: dict[str, object] = {
        "volume": f"{number:032x}",
        "name": name,
        "size_bytes": GIB,
        "replicas": len(voters) - 1,
        "generation": 1,
        "epoch": 3,
        "version": 7,
        "voters": members,
        "in_sync": members,
        "primary": members[0],
        "zones": [],
    }
    return RecordModel.model_validate(values | more)


def entry(of: RecordModel, state: str = "ready") -> CatalogueEntry:
    return CatalogueEntry(
        volume=of.volume,
        name=of.name,
        size_bytes=of.size_bytes,
        replicas=of.replicas,
        nodes=[one.node for one in of.voters if one.kind == "data"],
        witness_nodes=[one.node for one in of.voters if one.kind == "witness"],
        labels=of.labels,
        state=state,  # type: ignore[arg-type]
    )


def copy(of: RecordModel, node: str, **more: object) -> ReplicaStatus:
    primary = of.primary is not None and of.primary.node == node
    values: dict[str, object] = {
        "node": node,
        "incarnation": voter(node).incarnation,
        "role": "primary" if primary else "replica",
        "epoch": of.epoch,
        "serving": primary,
        "record": of,
        "allocated_bytes": 300 * MIB,
    }
    return ReplicaStatus.model_validate(values | more)


def snapshot(of: RecordModel, name: str, after_s: int, **more: object) -> SnapshotView:
    values: dict[str, object] = {
        "volume": of.volume,
        "snapshot": name,
        "size_bytes": of.size_bytes,
        "created_ms": START_NS // MS + after_s * 1000,
        "ready": True,
        "holders": tuple(voter.node for voter in of.in_sync),
        "root": f"{sum(name.encode()):016x}",
    }
    return SnapshotView.model_validate(values | more)


def status(node: str, zone: str, replicas: list[ReplicaStatus], **more: object) -> NodeStatus:
    values: dict[str, object] = {
        "node": node,
        "zone": zone,
        "version": "0.1.0",
        "capacity_bytes": TIB,
        "provisioned_bytes": len(replicas) * GIB,
        "used_bytes": len(replicas) * 300 * MIB,
        "replicas": replicas,
    }
    return NodeStatus.model_validate(values | more)


def small() -> tuple[list[Told], list[CatalogueEntry]]:
    """Three nodes with copies and one for the application; a volume that is well, one that catches up, one that
    nobody serves, and names that attack a terminal wherever somebody may choose a text."""
    data = record(1, "data", ["n1", "n2", "n3"], attachment=AttachmentModel(node="app", attach_epoch=2))
    logs = record(2, "logs", ["n2", "n3", "n1"], in_sync=[voter("n2"), voter("n3")], labels={"team": ATTACK})
    lost = record(3, "lost", ["n3"], primary=None)
    estimate = ResyncEstimate(bytes=9 * MIB, bytes_low=6 * MIB, bytes_high=10 * MIB, ms=1200, ms_low=900, ms_high=2000)
    behind = ResyncStatus(
        node="n1",
        phase="copying",
        blocks_left=2560,
        bytes_left=10 * MIB,
        blocks_sent=512,
        bytes_sent=2 * MIB,
        estimate=estimate,
    )
    frontend = FrontendStatus(
        volume=data.volume,
        name="data",
        socket="/run/stos/data.sock",
        connected=True,
        clients=1,
        in_flight=0,
        writes=120,
        reads=80,
        epoch=3,
    )
    taken = (snapshot(data, "monday", 0), snapshot(data, "tuesday", 86_400, ready=False, holders=(), root=""))
    gone = snapshot(logs, "before-upgrade", 3_600, holders=())
    n1 = [copy(data, "n1", writes=120, reads=80, snapshots=taken), copy(logs, "n1", role="catching-up")]
    n2 = [copy(data, "n2"), copy(logs, "n2", resyncs=[behind], rotten_blocks=1, healed_blocks=1, snapshots=(gone,))]
    n3 = [copy(data, "n3"), copy(logs, "n3"), copy(lost, "n3", role="failed", failure=ATTACK)]
    peers = {"n1": {"n2": True, "n3": True}, "n2": {"n1": True, "n3": False}, "n3": {"n1": True, "n2": False}}
    nodes = [
        Told(status("n1", "a", n1, peers=peers["n1"]), [*process(), *volume_samples(data, 0)], spans=spans()[:2]),
        Told(status("n2", "b", n2, peers=peers["n2"], dropped={ATTACK: 2}), process(), spans=spans()[2:]),
        Told(status("n3", "", n3, peers=peers["n3"], broken={f"{9:032x}": ATTACK}), process()),
        Told(status("app", "a", [], capacity_bytes=0, frontends=[frontend]), process()),
    ]
    nodes[0].later = [*process(), *volume_samples(data, 50)]
    nodes[0].decisions = [decision(data)]
    return nodes, [entry(data), entry(logs), entry(lost)]


def decision(of: RecordModel) -> DecisionEvent:
    return DecisionEvent(
        volume=of.volume,
        name=of.name,
        node="n1",
        kind="lead",
        epoch=3,
        version=7,
        inputs={"votes": ["n1", "n2"], "why": ATTACK},
        outcome="n1 leads data in epoch 3",
        cause=f"00-{TRACE}-{1:016x}-01",
    )


def spans() -> list[SpanRecord]:
    return [
        SpanRecord(TRACE, f"{1:016x}", "", "csi.CreateVolume", START_NS, 40 * MS, "server"),
        SpanRecord(TRACE, f"{2:016x}", f"{1:016x}", "volume.create", START_NS + 2 * MS, 36 * MS),
        SpanRecord(
            TRACE,
            f"{3:016x}",
            f"{2:016x}",
            "brain lead",
            START_NS + 20 * MS,
            5 * MS,
            error=ATTACK,
            attributes={"stos.volume": "data", "stos.told": ATTACK},
            links=(Link("5" * 32, "6" * 16, "missed beats"),),
        ),
        SpanRecord(TRACE, f"{4:016x}", "f" * 16, ATTACK, START_NS + 30 * MS, 2 * MS),
    ]


def process() -> list[MetricModel]:
    """What every node's process counts."""
    values = {"process.memory.usage": 90 * MIB, "stos.node.free": 700 * GIB, "process.cpu.time": 12.5}
    build = MetricModel(name="stos.build", value=1, attributes=["0.1.0"])
    return [build, *(MetricModel(name=name, value=value) for name, value in values.items())]


def volume_samples(of: RecordModel, operations: int) -> list[MetricModel]:
    """What the primary counts of its volume."""
    about = [of.volume, of.name]
    values = {"serving": 1, "in_sync": len(of.in_sync), "copies": of.replicas + 1, "epoch": of.epoch, "io.inflight": 1}
    told = [MetricModel(name=f"stos.volume.{name}", value=value, attributes=about) for name, value in values.items()]
    for kind in ("read", "write"):
        told.append(MetricModel(name="stos.volume.io.operations", value=operations, attributes=[*about, kind]))
        told.append(MetricModel(name="stos.volume.io.bytes", value=operations * 4096, attributes=[*about, kind]))
    bounds = len(BY_NAME["stos.volume.io.duration"].bounds)
    counts = [operations, *[0] * bounds]
    for kind in ("read", "write"):
        duration = MetricModel(name="stos.volume.io.duration", value=0, attributes=[*about, kind], counts=counts)
        told.append(duration)
    return told


def large(nodes: int = 50, volumes: int = 1000) -> tuple[list[Told], list[CatalogueEntry]]:
    """That many volumes with three copies each, spread evenly."""
    names = [f"node-{number:02d}" for number in range(nodes)]
    copies: dict[str, list[ReplicaStatus]] = {name: [] for name in names}
    samples: dict[str, list[MetricModel]] = {name: process() for name in names}
    entries = []
    for number in range(volumes):
        voters = [names[(number * 7 + step * 11) % nodes] for step in range(3)]
        of = record(number + 1, f"pvc-{number:05d}", voters)
        entries.append(entry(of))
        samples[voters[0]] += volume_samples(of, number)
        for node in voters:
            copies[node].append(copy(of, node))
    told = [Told(status(name, "abc"[number % 3], copies[name]), samples[name]) for number, name in enumerate(names)]
    return told, list(islice(entries, volumes))
