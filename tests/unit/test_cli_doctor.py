"""`stos doctor`: each thing that can be wrong is found, told of whom it is, with what to do; nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.cli.checks import Facts, Finding, Level, Process, examine, slowest_percent
from stoscore.certs_messages import AuthorityView
from stoscore.messages import NodeEntry, NodeStatus, RecordModel, ReplicaStatus, VoterModel
from stoscore.metrics import LATENCY_S
from stoscore.process_messages import MetricModel
from stoscore.units import GIB

VOLUME = "0" * 31 + "1"


def metric(name: str, value: float = 0, *attributes: str, counts: list[int] | None = None) -> MetricModel:
    return MetricModel(name=name, value=value, attributes=list(attributes), counts=counts or [])


def process(name: str, *more: MetricModel, apart_s: float = 0.0) -> Process:
    usual = (
        metric("stos.build", 1, "1.0"),
        metric("stos.process.uptime", 7200),
        metric("stos.bus.connections", 2, name),
        metric("stos.certificate.remaining", 3.5 * 86_400, name),
        metric("stos.trust.number", 7, name),
    )
    named = {(one.name, tuple(one.attributes)): one for one in (*usual, *more)}
    return Process(name, tuple(named.values()), apart_s)


def status(node: str, **more: Any) -> NodeStatus:
    numbers = {"capacity_bytes": 100 * GIB, "provisioned_bytes": 0, "used_bytes": 0}
    return NodeStatus(**{"node": node, "zone": f"z-{node}", "version": "1.0", **numbers, **more})


def volume(**more: Any) -> dict[str, Any]:
    voters = [{"node": node, "kind": "data"} for node in ("n1", "n2")]
    usual = {
        "volume": VOLUME,
        "name": "data",
        "health": "healthy",
        "in_sync": ["n1", "n2"],
        "copies": 2,
        "voters": voters,
    }
    return {**usual, **more}


@pytest.fixture
def healthy() -> Facts:
    nodes = ("n1", "n2", "n3")
    services = ("certs/certs-1", "csi/csi-node", "nats/nats", "placement/placement-1")
    authority = AuthorityView(
        cluster="c",
        instance="certs-1",
        addresses=[],
        trust_number=7,
        roots=[],
        issuer="i",
        issuer_ends_unix_s=0,
        open_tokens=0,
        denied=0,
        backup_is_current=True,
    )
    return Facts(
        nodes=tuple(NodeEntry(node=node, zone=f"z-{node}", address=f"{node}:1") for node in nodes),
        statuses={node: status(node, peers={other: True for other in nodes if other != node}) for node in nodes},
        silent={},
        processes=tuple(process(name) for name in (*services, *(f"node/{node}" for node in nodes))),
        volumes=(volume(),),
        authority=authority,
    )


def with_process(facts: Facts, changed: Process) -> Facts:
    return replace(facts, processes=tuple(changed if one.name == changed.name else one for one in facts.processes))


def bad(facts: Facts) -> list[Finding]:
    found = [finding for finding in examine(facts) if finding.level is not Level.OK]
    assert all(finding.next_step for finding in found), "each says what to do"
    return found


def test_a_healthy_cluster_has_nothing_to_say(healthy: Facts) -> None:
    assert bad(healthy) == []
    assert len(examine(healthy)) == 10


def slow(name: str, bucket: int) -> MetricModel:
    counts = [0] * (len(LATENCY_S) + 1)
    counts[0], counts[bucket] = 95, 5
    return metric(name, 1.0, counts=counts)


@pytest.mark.parametrize(
    "changed,level,check",
    [
        (process("node/n1", metric("stos.build", 1, "0.9")), Level.WARN, "versions"),
        (process("node/n1", apart_s=-5), Level.WARN, "clock"),
        (process("node/n1", apart_s=3600), Level.FAIL, "clock"),
        (process("node/n1", metric("stos.bus.connections", 500, "node/n1")), Level.WARN, "nats"),
        (process("node/n1", metric("stos.certificate.remaining", 3600, "node/n1")), Level.FAIL, "certificates"),
        (process("node/n1", metric("stos.certificate.remaining", 1.5 * 86400, "node/n1")), Level.WARN, "certificates"),
        (process("node/n1", metric("stos.trust.number", 6, "node/n1")), Level.WARN, "certificates"),
        (process("node/n1", slow("stos.store.sync.duration", 11)), Level.WARN, "disks"),
        (process("node/n1", slow("stos.store.sync.duration", 16)), Level.FAIL, "disks"),
        (process("node/n1", slow("stos.loop.lag", 12)), Level.FAIL, "loops"),
        (process("node/n1", metric("stos.checksum.failures", 3, "store")), Level.WARN, "disks"),
        (process("node/n1", metric("stos.node.free", GIB), metric("stos.node.capacity", 20 * GIB)), Level.OK, "disks"),
        (
            process(
                "node/n1",
                metric("stos.node.free", GIB),
                metric("stos.node.used", 19 * GIB),
                metric("stos.node.capacity", 100 * GIB),
            ),
            Level.WARN,
            "disks",
        ),
    ],
)
def test_a_process_that_is_not_well(healthy: Facts, changed: Process, level: Level, check: str) -> None:
    found = bad(with_process(healthy, changed))
    assert [(finding.level, finding.check) for finding in found] == ([(level, check)] if level is not Level.OK else [])


@pytest.mark.parametrize("role", ["nats", "certs", "placement", "csi"])
def test_a_service_that_is_gone(healthy: Facts, role: str) -> None:
    left = tuple(one for one in healthy.processes if not one.name.startswith(f"{role}/"))
    (finding,) = bad(replace(healthy, processes=left))
    assert (finding.level, finding.check, finding.about) == (Level.FAIL, "reach", role)


def test_a_node_that_is_silent_and_what_lacks_it(healthy: Facts) -> None:
    statuses = {node: one for node, one in healthy.statuses.items() if node != "n2"}
    degraded = volume(health="degraded", in_sync=["n1"])
    found = bad(replace(healthy, statuses=statuses, silent={"n2": "nobody answers"}, volumes=(degraded,)))
    assert [(one.level, one.check, one.about) for one in found] == [
        (Level.FAIL, "reach", "n2"),
        (Level.WARN, "volumes", "data"),
    ]
    assert "1 of 2 copies" in found[1].told
    assert "missing: n2" in found[1].told


@pytest.mark.parametrize(
    "view,level",
    [
        (volume(health="unavailable"), Level.FAIL),
        (volume(health="creating"), Level.WARN),
        (volume(name="<b>\x1b[1m", health="degraded", in_sync=[]), Level.WARN),
    ],
)
def test_a_volume_that_is_not_well(healthy: Facts, view: dict[str, Any], level: Level) -> None:
    (finding,) = bad(replace(healthy, volumes=(view,)))
    assert (finding.level, finding.check) == (level, "volumes")


def test_all_copies_in_one_zone(healthy: Facts) -> None:
    nodes = tuple(entry.model_copy(update={"zone": "b" if entry.node == "n3" else "a"}) for entry in healthy.nodes)
    (finding,) = bad(replace(healthy, nodes=nodes))
    assert "zone a" in finding.told


def test_a_link_that_is_down_a_broken_copy_and_refusals(healthy: Facts) -> None:
    ill = status("n1", peers={"n2": False, "gone": False}, broken={"0" * 32: "torn"}, dropped={"a stranger's frame": 3})
    found = bad(replace(healthy, statuses={**healthy.statuses, "n1": ill}))
    assert [(one.level, one.check) for one in found] == [
        (Level.FAIL, "disks"),
        (Level.FAIL, "links"),
        (Level.WARN, "links"),
    ]


def failed_copy(node: str, *, broken: bool) -> NodeStatus:
    if broken:
        return status(node, broken={VOLUME: "torn"})
    member = VoterModel(node=node, incarnation="0" * 16)
    record = RecordModel(
        volume=VOLUME,
        name="data",
        size_bytes=GIB,
        replicas=0,
        generation=1,
        epoch=1,
        version=1,
        voters=[member],
        in_sync=[member],
    )
    copy = ReplicaStatus(
        node=node, incarnation="0" * 16, role="failed", epoch=1, serving=False, record=record, failure="no space left"
    )
    return status(node, replicas=[copy])


@pytest.mark.parametrize("broken", [True, False])
def test_the_only_copy_failed_and_its_node_answers(healthy: Facts, broken: bool) -> None:
    """No other copy can be made of it, and its node is there already."""
    alone = volume(health="unavailable", copies=1, in_sync=["n1"], voters=[{"node": "n1", "kind": "data"}])
    statuses = {**healthy.statuses, "n1": failed_copy("n1", broken=broken)}
    disk, unserved = bad(replace(healthy, statuses=statuses, volumes=(alone,)))
    assert (disk.check, disk.about, unserved.check) == ("disks", "n1", "volumes")
    assert "no other copy of it is left" in disk.next_step
    assert "another copy is made" not in disk.next_step
    assert unserved.told == "nobody serves it; failed: n1"
    assert unserved.next_step == "see the disk of n1; `stos volume why data`"


@pytest.mark.parametrize("broken", [True, False])
def test_one_copy_of_two_failed(healthy: Facts, broken: bool) -> None:
    statuses = {**healthy.statuses, "n1": failed_copy("n1", broken=broken)}
    degraded = volume(health="degraded", in_sync=["n2"])
    disk, lacking = bad(replace(healthy, statuses=statuses, volumes=(degraded,)))
    assert "no other copy" not in disk.next_step
    assert lacking.check == "volumes"


def test_one_copy_failed_and_the_other_is_silent(healthy: Facts) -> None:
    statuses = {"n1": failed_copy("n1", broken=False), "n3": healthy.statuses["n3"]}
    facts = replace(
        healthy, statuses=statuses, silent={"n2": "nobody answers"}, volumes=(volume(health="unavailable"),)
    )
    _, disk, unserved = bad(facts)
    assert "no other copy of it is left" in disk.next_step
    assert unserved.told == "nobody serves it; silent: n2; failed: n1"
    assert unserved.next_step == "bring n2 back; see the disk of n1; `stos volume why data`"


def test_identities_and_backup(healthy: Facts) -> None:
    assert healthy.authority is not None
    authority = healthy.authority.model_copy(update={"backup_is_current": False})
    found = bad(replace(healthy, authority=authority, overdue=("node/n9",)))
    assert [one.about for one in found] == ["node/n9", ""]


def test_a_node_that_can_attach_nothing_and_one_that_has_mounted_badly(healthy: Facts) -> None:
    usable = metric("stos.attacher.usable", 1, "fuse"), metric("stos.attacher.usable", 0, "kernel-nbd")
    assert bad(with_process(healthy, process("csi/csi-node", *usable))) == [], "one way is enough"
    without = [metric("stos.attacher.usable", 0, name) for name in ("fuse", "kernel-nbd")]
    mounted = metric("stos.mount.unsafe", 2, "nobarrier")
    found = bad(with_process(healthy, process("csi/csi-node", *without, mounted)))
    assert [(one.check, one.level, one.about) for one in found] == [
        ("mounts", Level.WARN, "csi/csi-node"),
        ("mounts", Level.FAIL, "csi/csi-node"),
    ]
    assert "modprobe nbd" in found[0].next_step and "nobarrier" in found[1].told


def test_a_hundredth_needs_a_hundred() -> None:
    counts = [0] * 17
    counts[16] = 50
    assert slowest_percent(process("node/x", metric("stos.loop.lag", 1, counts=counts)), "stos.loop.lag") == 0
