"""`make bench-idle`: what a cluster costs that does nothing, with few volumes and with many.

    python -m benchmarks.idle [--volumes 10 300] [--seconds 60] [--out DIRECTORY]

Beats go between nodes and not between volumes, so the traffic on NATS and on the peer links must not grow with the
number of volumes. It is counted by the kernel, socket by socket (TCP segments with data, bytes), and not by us: from
when what the volumes' creation led to is over, and for as long as a minute, because each process asks certs for the
trust state once in half a minute to a minute, and that is most of what NATS carries.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import track

from benchmarks.contenders import ROOT
from benchmarks.contenders.contract import cpu_us
from benchmarks.running import run
from services.dev.cluster import Cluster
from services.dev.layout import ADMIN
from services.dev.state import ClusterState
from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from stoscore.volumes import Volumes

OUT = ROOT / "benchmarks" / "results"
SIZE_BYTES = 1 << 20
CREATED_AT_ONCE = 8
LOOK_S = 3.0
ALIKE = 0.1
LOOKS_ALIKE = 4
"""So many looks in a row at which the links say the same, within a tenth, and the cluster rests."""
SETTLE_S = 300.0
GROWTH_MAX = 1.5
"""Allowed between few and many: what else goes on (renewals, signs of life) varies from one interval to the next."""
_SOCKET = re.compile(r"^\S+ +\d+ +\d+ +\S+:(?P<here>\d+) +\S+:(?P<there>\d+).*?pid=(?P<pid>\d+)")
_SEGMENTS = re.compile(r"\bdata_segs_out:(\d+)")
_BYTES = re.compile(r"\bbytes_sent:(\d+)")


@dataclass(frozen=True, slots=True)
class Idle:
    """One interval; rates are per second, of the whole cluster. `rss_mib`: of one replica service, on average."""

    volumes: int
    nats_messages: float
    nats_bytes: float
    link_messages: float
    link_bytes: float
    cpu_percent: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Counts:
    segments: int = 0
    bytes: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.segments + other.segments, self.bytes + other.bytes)


def main(arguments: Sequence[str]) -> int:
    """0 when the traffic did not grow with the volumes, else 1."""
    parser = argparse.ArgumentParser(prog="bench-idle", description="What an idle cluster costs.")
    parser.add_argument("--volumes", type=int, nargs=2, default=(10, 300), help="few and many [10 300]")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to count [60]")
    parser.add_argument("--out", type=Path, default=OUT, help="directory for idle.json")
    options = parser.parse_args(arguments)
    return run("bench-idle", lambda directory: _compare(directory, options))


def _compare(directory: Path, options: argparse.Namespace) -> int:
    few, many = asyncio.run(_measure(directory / "cluster", *options.volumes, options.seconds))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "idle.json").write_text(json.dumps([asdict(few), asdict(many)], indent=2) + "\n")
    print(_table(few, many))
    grew = [name for name in ("nats_messages", "link_messages") if _grew(getattr(few, name), getattr(many, name))]
    print(f"grows with the volumes: {', '.join(grew)}" if grew else "the traffic does not grow with the volumes")
    return 1 if grew else 0


def _grew(few: float, many: float) -> bool:
    return many > GROWTH_MAX * few


async def _measure(directory: Path, few: int, many: int, seconds: float) -> tuple[Idle, Idle]:
    cluster = Cluster(directory)
    state = await asyncio.to_thread(cluster.up)
    try:
        await _create(cluster, state, range(few))
        first = await _count(state, few, seconds)
        await _create(cluster, state, range(few, many))
        return first, await _count(state, many, seconds)
    finally:
        await asyncio.to_thread(cluster.stop)


async def _create(cluster: Cluster, state: ClusterState, numbers: range) -> None:
    identity = Identity.load(cluster.layout.identity(ADMIN))
    bus = await Bus.connect(identity, list(state.nats_urls), name="bench", wait=True)
    try:
        volumes = Volumes(bus, Catalogue(bus))
        for at in track(range(0, len(numbers), CREATED_AT_ONCE), "creating volumes", disable=not sys.stdout.isatty()):
            names = [f"idle-{number}" for number in numbers[at : at + CREATED_AT_ONCE]]
            await asyncio.gather(*(volumes.create(name, SIZE_BYTES, timeout_s=60) for name in names))
    finally:
        await bus.close()


async def _count(state: ClusterState, volumes: int, seconds: float) -> Idle:
    nats = _nats_servers({process.pid for process in state.processes.values()})
    replicas = {state.processes[name].pid for name in state.processes if name in state.nodes}
    await _rest(nats, replicas)
    before, cpu_before = _traffic(nats, replicas), sum(map(cpu_us, replicas))
    await asyncio.sleep(seconds)
    after, cpu_after = _traffic(nats, replicas), sum(map(cpu_us, replicas))
    bus, links = ((after[kind].segments - before[kind].segments) / seconds for kind in ("nats", "link"))
    bus_bytes, link_bytes = ((after[kind].bytes - before[kind].bytes) / seconds for kind in ("nats", "link"))
    cpu = (cpu_after - cpu_before) / 1e6 / seconds * 100
    rss = sum(map(_rss_mib, replicas)) / len(replicas)
    return Idle(volumes, bus, bus_bytes, links, link_bytes, cpu, rss)


async def _rest(nats: set[int], replicas: set[int]) -> None:
    """Until the links say the same for a while. Raises StosError."""
    alike, rate, before = 0, 0, _traffic(nats, replicas)["link"].segments
    for _ in range(int(SETTLE_S / LOOK_S)):
        await asyncio.sleep(LOOK_S)
        now = _traffic(nats, replicas)["link"].segments
        alike = alike + 1 if abs(now - before - rate) <= ALIKE * rate else 0
        rate, before = now - before, now
        if alike == LOOKS_ALIKE:
            return
    raise StosError(Code.DEADLINE_EXCEEDED, f"the cluster does not come to rest within {SETTLE_S:.0f} s")


def _traffic(nats: set[int], replicas: set[int]) -> dict[str, Counts]:
    """What all ends of the sockets have sent since they are open: of NATS' server and its clients, and of the links."""
    listed = subprocess.run(["ss", "-tniOpH"], capture_output=True, text=True, check=True).stdout
    totals = {"nats": Counts(), "link": Counts()}
    sockets = []
    for line in listed.splitlines():
        if found := _SOCKET.match(line):
            sockets.append((int(found["pid"]), found["here"], found["there"], _sent(line)))
    nats_ports = {here for pid, here, _, _ in sockets if pid in nats} | {t for pid, _, t, _ in sockets if pid in nats}
    for pid, here, there, sent in sockets:
        if pid in nats or (pid in replicas and (here in nats_ports or there in nats_ports)):
            totals["nats"] += sent
        elif pid in replicas:
            totals["link"] += sent
    return totals


def _sent(line: str) -> Counts:
    segments, sent = _SEGMENTS.search(line), _BYTES.search(line)
    return Counts(int(segments[1]) if segments else 0, int(sent[1]) if sent else 0)


def _nats_servers(parents: set[int]) -> set[int]:
    """The servers that this cluster's `serve nats` started."""
    listed = subprocess.run(["ps", "-C", "nats-server", "-o", "pid=,ppid="], capture_output=True, text=True).stdout
    pairs = (line.split() for line in listed.splitlines())
    return {int(pid) for pid, parent in pairs if int(parent) in parents}


def _rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def _table(few: Idle, many: Idle) -> str:
    lines = [f"{'':24}{'volumes: ' + str(few.volumes):>16}{'volumes: ' + str(many.volumes):>16}"]
    for name, told in (
        ("nats_messages", "NATS, messages a second"),
        ("nats_bytes", "NATS, bytes a second"),
        ("link_messages", "links, messages a second"),
        ("link_bytes", "links, bytes a second"),
        ("cpu_percent", "CPU of the replicas, %"),
        ("rss_mib", "RSS of a replica, MiB"),
    ):
        lines.append(f"{told:24}{getattr(few, name):16.1f}{getattr(many, name):16.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
