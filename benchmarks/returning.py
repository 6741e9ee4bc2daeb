"""What the return of a copy costs the processors, with its data as they are and packed: whole nodes in one process.

    python -m benchmarks.returning [--rounds N] [--dir DIRECTORY]

Three nodes with copies, real links with TLS, real stores on a RAM disk. One is cut off, 64 MiB are stored on the other
two, and it comes back; time runs until it is in sync. CPU is that of the whole process, so of both ends. `never`:
nothing is packed, as with a copy of an older version. `decided`: as it is. `slow link`: what it would decide did the
kernel say that the link carries 100 Mbit/s. A link that really is slow can be had with

    unshare --net sh -c 'ip link set lo up; tc qdisc add dev lo root tbf rate 500mbit burst 256kb limit 1mb; ...'
"""

from __future__ import annotations

import random
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvloop

from benchmarks.inprocess import options, scratch
from services.replica.driver import Volume
from services.replica.peers import Link
from services.replica.replication.blockmap import BlockMap
from services.replica.replication.packing import Packing
from services.replica.store import block_sums
from stoscore.units import BLOCK_BYTES, MIB
from tests.support import wired as wiring
from tests.support.peers import until
from tests.support.wired import Wired, wired

MISSED = 64 * MIB
WAYS = ("never", "decided", "slow link")
SLOW_BYTES_PER_US = 12.5


def text() -> bytes:
    """The sources of Python's library, one after another."""
    found = bytearray()
    sources = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    while len(found) < MISSED:
        for source in sources:
            found += source.read_bytes()
    return bytes(found[:MISSED])


def _carried_slowly(link: Link) -> tuple[int, int, int]:
    busy_us = time.monotonic_ns() // 1000
    return int(busy_us * SLOW_BYTES_PER_US), busy_us, 0


@contextmanager
def deciding(way: str) -> Iterator[None]:
    tries, delivery = Packing.tries, Link.delivery
    if way == "never":
        Packing.tries = lambda packing, wire: False  # type: ignore[method-assign]
    elif way == "slow link":
        Link.delivery = _carried_slowly  # type: ignore[method-assign]
    try:
        yield
    finally:
        Packing.tries, Link.delivery = tries, delivery  # type: ignore[method-assign]


async def returned(nodes: Wired, volume: str, content: bytes) -> tuple[float, float, int]:
    """(seconds, seconds of CPU, bytes that the primary's link carried)."""
    leader = nodes.leader(volume)
    away = next(name for name in sorted(nodes.nodes) if name != leader.name)
    others = [name for name in nodes.nodes if name != away]
    address = nodes.addresses.pop(away)
    for name in others:
        nodes.nodes[name].network.hang_up(away)
        nodes.nodes[away].network.hang_up(name)
    peer = _primary(leader.of(volume)).peers[away]
    await until(lambda: peer.phase == "away" and away not in _in_sync(leader.of(volume)), within_s=60)
    sums = block_sums(content)
    for name in others:
        nodes.nodes[name].shell.hosted[volume].blocks.write(0, sums, content)
    peer.missed.update(BlockMap([(0, len(content) // BLOCK_BYTES)]))
    nodes.addresses[away] = address
    began, cpu = time.monotonic(), time.process_time()
    for name in (*others, away):
        nodes.nodes[name].dial()
    await until(lambda: away in _in_sync(leader.of(volume)) and peer.phase == "live", within_s=300)
    took = time.monotonic() - began, time.process_time() - cpu
    assert nodes.nodes[away].content(volume, 0, len(content) // BLOCK_BYTES) == content
    link = leader.network.outgoing(away)
    return *took, link.wire_bytes()[0] if link is not None else 0


def _primary(volume: Volume):  # type: ignore[no-untyped-def]
    assert volume.primary is not None
    return volume.primary


def _in_sync(volume: Volume) -> list[str]:
    record = volume.brain.record
    return [voter.node for voter in record.in_sync] if record is not None else []


async def measure(parent: Path | None, rounds: int) -> dict[tuple[str, str], list[tuple[float, float, int]]]:
    wiring.SIZE = MISSED
    kinds = {"random": random.Random(1).randbytes(MISSED), "text": text()}
    found: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
    async with scratch(parent) as directory, wired(directory, "n1", "n2", "n3") as nodes:
        volume = await nodes.volume("n1", "n2", "n3")
        runs = [(kind, way) for _ in range(rounds) for kind in kinds for way in WAYS]
        for number, (kind, way) in enumerate(runs, 1):
            at = number * BLOCK_BYTES  # no block is what it was before
            with deciding(way):
                again = await returned(nodes, volume, kinds[kind][at:] + kinds[kind][:at])
            found.setdefault((kind, way), []).append(again)
    return found


def main(arguments: Sequence[str]) -> int:
    given = options("CPU of the return of a copy that missed 64 MiB.", arguments, rounds=3)
    figures = uvloop.run(measure(given.dir, given.rounds))
    print(f"{'64 MiB':8}{'packed':12}{'s':>8}{'CPU s':>8}{'MiB on the link':>18}")
    for (kind, way), runs in figures.items():
        seconds, cpu, carried = (min(column) for column in zip(*runs, strict=True))
        print(f"{kind:8}{way:12}{seconds:8.2f}{cpu:8.2f}{carried / MIB:18.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
