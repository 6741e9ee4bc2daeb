"""What `stos doctor` looks at, pure: facts of a cluster become findings, each with what to do.

The order of the checks is the order in which somebody experienced would look: is everybody there, do the clocks agree,
do certificates last, are disks and loops fast enough for the leases, and only then: how are the volumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stoscore.certs_messages import AuthorityView
from stoscore.messages import NodeEntry, NodeStatus
from stoscore.metrics import LATENCY_S
from stoscore.process_messages import MetricModel
from stoscore.units import format_size

CLOCK_WARN_S, CLOCK_FAIL_S = 2.0, 60.0
"""Certificates are backdated by ten minutes; logs and traces of clocks seconds apart can't be read together."""
FREE_WARN, FREE_FAIL = 0.10, 0.03
SYNC_WARN_S, SYNC_FAIL_S = 0.1, 0.5
"""Of the slowest in a hundred; a lease is half a second."""
LAG_WARN_S, LAG_FAIL_S = 0.1, 0.25
CERTIFICATE_WARN_S, CERTIFICATE_FAIL_S = 2 * 86_400.0, 86_400.0
"""They live four days and are renewed after one."""
RECONNECTS_PER_HOUR = 6
_LAST = "no other copy of it is left"
_EXPECTED = {"nats": 1, "certs": 1, "placement": 1, "csi": 1}
_WAITS = {
    "nats": "catalogue and events",
    "certs": "renewals",
    "placement": "new copies",
    "csi": "pods with new volumes",
}


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    check: str
    about: str
    """node, volume or process; "" for the cluster"""
    told: str
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Process:
    """One process's own figures, and by how much its clock certainly differs from ours."""

    name: str
    samples: tuple[MetricModel, ...]
    clock_apart_s: float


@dataclass(frozen=True, slots=True)
class Facts:
    nodes: tuple[NodeEntry, ...]
    statuses: Mapping[str, NodeStatus]
    silent: Mapping[str, str]
    """node -> why it did not answer"""
    processes: tuple[Process, ...]
    volumes: tuple[dict[str, Any], ...]
    """as `stos volume ls -o json`"""
    authority: AuthorityView | None
    overdue: tuple[str, ...] = ()
    """identities whose certificate should have been renewed"""
    problems: tuple[str, ...] = field(default=())
    """what could not be asked"""


def examine(facts: Facts) -> list[Finding]:
    """Every check says at least that it is fine."""
    found: list[Finding] = [Finding(Level.FAIL, "reach", "", problem) for problem in facts.problems]
    for name, check in _CHECKS.items():
        findings = list(check(facts))
        found += findings or [Finding(Level.OK, name, "", _FINE[name])]
    return found


def _reach(facts: Facts) -> Iterator[Finding]:
    for node, why in sorted(facts.silent.items()):
        yield Finding(Level.FAIL, "reach", node, f"does not answer: {why}", "is its process running? see its log")
    there = [process.name.partition("/")[0] for process in facts.processes]
    for role, least in _EXPECTED.items():
        if there.count(role) < least:
            yield Finding(Level.FAIL, "reach", role, f"no {role} answers: {_WAITS[role]} wait", f"start {role}")


def _versions(facts: Facts) -> Iterator[Finding]:
    versions: dict[str, list[str]] = {}
    for process in facts.processes:
        for sample in process.samples:
            if sample.name == "stos.build":
                versions.setdefault(sample.attributes[0], []).append(process.name)
    if len(versions) > 1:
        told = "; ".join(f"{version}: {', '.join(sorted(names))}" for version, names in sorted(versions.items()))
        yield Finding(Level.WARN, "versions", "", f"several run: {told}", "finish the upgrade, nodes one after another")


def _clocks(facts: Facts) -> Iterator[Finding]:
    for process in facts.processes:
        apart_s = process.clock_apart_s
        if abs(apart_s) >= CLOCK_WARN_S:
            level = Level.FAIL if abs(apart_s) >= CLOCK_FAIL_S else Level.WARN
            told = f"its clock is {abs(apart_s):.1f} s {'ahead' if apart_s > 0 else 'behind'}"
            yield Finding(level, "clock", process.name, told, "set up time synchronisation (chrony) there")


def _nats(facts: Facts) -> Iterator[Finding]:
    for process in facts.processes:
        hours = max(_value(process, "stos.process.uptime") / 3600, 1.0)
        connections = _value(process, "stos.bus.connections")
        if connections / hours > RECONNECTS_PER_HOUR:
            told = f"connected {connections:.0f} times within {hours:.0f} h"
            yield Finding(Level.WARN, "nats", process.name, told, "look at NATS' log and the network between them")


def _certificates(facts: Facts) -> Iterator[Finding]:
    for process in facts.processes:
        for sample in process.samples:
            if sample.name == "stos.certificate.remaining" and sample.value < CERTIFICATE_WARN_S:
                level = Level.FAIL if sample.value < CERTIFICATE_FAIL_S else Level.WARN
                told = f"its certificate expires in {sample.value / 3600:.0f} h and was not renewed"
                yield Finding(level, "certificates", process.name, told, "is certs reachable from there? see its log")
    for identity in facts.overdue:
        told = "should have renewed its certificate long ago"
        yield Finding(Level.WARN, "certificates", identity, told, f"start it, or `stos certs revoke {identity}`")
    if facts.authority is not None and not facts.authority.backup_is_current:
        told = "the authority's keys have no current backup"
        yield Finding(Level.WARN, "certificates", "", told, "`stos certs backup FILE`, and keep the file elsewhere")
    trusts = {
        sample.value for process in facts.processes for sample in process.samples if sample.name == "stos.trust.number"
    }
    if len(trusts) > 1:
        told = "processes follow different trust states: a revocation has not reached everybody"
        yield Finding(Level.WARN, "certificates", "", told, "look again in a minute; then see who can't reach NATS")


def _disks(facts: Facts) -> Iterator[Finding]:
    for node, status in sorted(facts.statuses.items()):
        for volume, reason in sorted(status.broken.items()):
            told = f"its copy of {volume} can't be used: {reason}"
            step = "`stos store check` there; another copy is made after a while"
            if _is_last(facts, volume, node):
                step = f"{_LAST}: keep its directory, `stos store check` there, then restart the node's process"
            yield Finding(Level.FAIL, "disks", node, told, step)
        for replica in status.replicas:
            if replica.failure:
                name = replica.record.name if replica.record else "?"
                told = f"the disk of its copy of {name} failed: {replica.failure}"
                step = "look at the disk, then restart the node's process"
                if replica.record is not None and _is_last(facts, replica.record.volume, node):
                    step = f"{_LAST}: erase nothing, make the disk take writes again, then restart the node's process"
                yield Finding(Level.FAIL, "disks", node, told, step)
    for process in facts.processes:
        yield from _space(process)
        slow_s = slowest_percent(process, "stos.store.sync.duration")
        if slow_s > SYNC_WARN_S:
            level = Level.FAIL if slow_s > SYNC_FAIL_S else Level.WARN
            told = f"one fdatasync in a hundred takes more than {slow_s:g} s"
            yield Finding(level, "disks", process.name, told, "use a faster disk, or one that nobody else uses")
        rotten = sum(one.value for one in process.samples if one.name == "stos.checksum.failures")
        if rotten:
            told = f"{rotten:.0f} blocks did not match their checksum"
            yield Finding(
                Level.WARN, "disks", process.name, told, "look at the disk: docs/runbooks/StosChecksumFailures.md"
            )


def _space(process: Process) -> Iterator[Finding]:
    free, offered = _value(process, "stos.node.free"), _value(process, "stos.node.capacity")
    used = _value(process, "stos.node.used")
    whole = min(offered, free + used) if offered else 0
    if whole and free / whole < FREE_WARN:
        level = Level.FAIL if free / whole < FREE_FAIL else Level.WARN
        told = f"{format_size(int(free))} of {format_size(int(whole))} are free"
        yield Finding(
            level, "disks", process.name, told, "add space, or move copies: `stos volume set NAME --replicas N`"
        )


def _loops(facts: Facts) -> Iterator[Finding]:
    for process in facts.processes:
        lag_s = slowest_percent(process, "stos.loop.lag")
        if process.name.startswith("node/") and lag_s > LAG_WARN_S:
            level = Level.FAIL if lag_s > LAG_FAIL_S else Level.WARN
            told = f"one wake-up in a hundred is more than {lag_s:g} s late; a lease lasts half a second"
            yield Finding(level, "loops", process.name, told, "give it CPU of its own (requests = limits), no swap")


def _links(facts: Facts) -> Iterator[Finding]:
    for node, status in sorted(facts.statuses.items()):
        for peer, up in sorted(status.peers.items()):
            if not up and peer in facts.statuses:
                told = f"has no link to {peer}, which answers over NATS"
                yield Finding(Level.FAIL, "links", node, told, "open the peer port (7770) between the nodes")
        if status.dropped:
            told = "; ".join(f"{count} × {why}" for why, count in sorted(status.dropped.items()))
            yield Finding(
                Level.WARN, "links", node, f"refused: {told}", "`stos events --kind audit` says whose they were"
            )


def _volumes(facts: Facts) -> Iterator[Finding]:
    zones = {entry.node: entry.zone for entry in facts.nodes}
    alive = {node for node, status in facts.statuses.items() if status.capacity_bytes}
    for view in facts.volumes:
        name = str(view["name"])
        look = f"`stos volume why {name}`"
        data = _data(view)
        if view["health"] == "unavailable":
            yield _unserved(facts, view, look)
        elif view["health"] == "degraded":
            behind = [node for node in data if node not in view["in_sync"]]
            told = f"{len(view['in_sync'])} of {view['copies']} copies are in sync; missing: {', '.join(behind) or '-'}"
            more = "" if len(alive) >= view["copies"] else "; there are fewer nodes than copies"
            yield Finding(Level.WARN, "volumes", name, told + more, f"{look}; `stos resync ls`")
        elif view["health"] in ("creating", "deleting"):
            told = f"{view['health']} has not ended"
            yield Finding(Level.WARN, "volumes", name, told, "the same command again goes on with it")
        used = {zones.get(node) for node in data}
        if len(data) > 1 and len(used) == 1 and len(set(zones.values())) > 1:
            told = f"all copies are in zone {next(iter(used))}"
            yield Finding(
                Level.WARN, "volumes", name, told, "let it move: `stos volume set` with one more copy, then back"
            )


def _unserved(facts: Facts, view: Mapping[str, Any], look: str) -> Finding:
    """A copy whose node answers is not brought back by bringing back its node."""
    out = _out(facts, view)
    told, steps = ["nobody serves it"], []
    for why, step in (("silent", "bring {} back"), ("failed", "see the disk of {}")):
        if nodes := ", ".join(node for node, reason in out.items() if reason == why):
            told.append(f"{why}: {nodes}")
            steps.append(step.format(nodes))
    if not steps:
        told, steps = [*told, "all of its nodes answer"], ["look again in a moment"]
    return Finding(Level.FAIL, "volumes", str(view["name"]), "; ".join(told), "; ".join([*steps, look]))


def _out(facts: Facts, view: Mapping[str, Any]) -> dict[str, str]:
    """Node -> why its copy can't serve, of those of which that is known."""
    out: dict[str, str] = {}
    for node in _data(view):
        status = facts.statuses.get(node)
        if status is None:
            out[node] = "silent"
        elif view["volume"] in status.broken or any(
            replica.failure and replica.record is not None and replica.record.volume == view["volume"]
            for replica in status.replicas
        ):
            out[node] = "failed"
    return out


def _is_last(facts: Facts, volume: str, node: str) -> bool:
    """No other node has a copy from which this one could be made anew."""
    for view in facts.volumes:
        if view["volume"] == volume:
            return not set(_data(view)) - _out(facts, view).keys() - {node}
    return False


def _data(view: Mapping[str, Any]) -> list[str]:
    return [voter["node"] for voter in view["voters"] if voter["kind"] == "data"]


def _mounts(facts: Facts) -> Iterator[Finding]:
    for process in facts.processes:
        usable = {one.attributes[0]: one.value for one in process.samples if one.name == "stos.attacher.usable"}
        if usable and not any(usable.values()):
            told = f"its node can make no device of a volume: neither by {' nor by '.join(sorted(usable))}"
            step = "`modprobe nbd` there; or install qemu-system-common and fuse3; its log says what is missing"
            yield Finding(Level.WARN, "mounts", process.name, told, step)
        for sample in process.samples:
            if sample.name == "stos.mount.unsafe" and sample.value:
                told = f"{sample.value:.0f} mounted with {sample.attributes[0]}, by which a crash may cost data"
                step = "take the option out of the StorageClass or the volume, and mount again"
                yield Finding(Level.FAIL, "mounts", process.name, told, step)


def slowest_percent(process: Process, name: str) -> float:
    """The end of the bucket in which the slowest hundredth begins; 0 where there are fewer than a hundred values."""
    for sample in process.samples:
        if sample.name == name and sum(sample.counts) >= 100:
            rest = sum(sample.counts) / 100
            for number in range(len(sample.counts) - 1, -1, -1):
                rest -= sample.counts[number]
                if rest < 0:
                    return LATENCY_S[number - 1] if number else 0.0
    return 0.0


def _value(process: Process, name: str) -> float:
    return sum(sample.value for sample in process.samples if sample.name == name)


_CHECKS = {
    "reach": _reach,
    "versions": _versions,
    "clock": _clocks,
    "nats": _nats,
    "certificates": _certificates,
    "disks": _disks,
    "loops": _loops,
    "links": _links,
    "volumes": _volumes,
    "mounts": _mounts,
}
_FINE = {
    "reach": "every node and every service answers",
    "versions": "one version runs everywhere",
    "clock": "the clocks agree",
    "nats": "connections to NATS last",
    "certificates": "certificates are renewed, the keys are backed up",
    "disks": "disks have room, answer in time and return what was written",
    "loops": "the nodes' event loops are on time",
    "links": "the nodes reach each other directly",
    "volumes": "every volume is served, with all its copies",
    "mounts": "nodes can attach volumes, and have them mounted as they should be",
}
