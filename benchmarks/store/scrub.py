"""What a scrub at its full rate does to the application: pairs of rounds, without and with it, on the same volume.

The nodes are started again for each round, one after another, with another period: within a second it is always
behind, and reads at its largest rate without an end; within a week it reads next to nothing.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path
from statistics import median

from benchmarks import fio
from benchmarks.store.cluster import SetCluster
from benchmarks.store.figure import Figure
from services.dev.cluster import Cluster
from services.dev.demo.tools import Command
from services.dev.demo.watch import Watch
from services.dev.layout import ADMIN, APP
from stoscore.bus import Bus
from stoscore.identity import Identity
from stoscore.units import GIB

SIZE_BYTES = GIB
JOB = fio.Job("randrw-4k-q4", "randrw", "4k", 4, reads_percent=70)
SECONDS = 8
RATIO_MAX = 1.5
_FILL = fio.Job("fill", "write", "128k", 4)
_PATIENCE_S = 60.0
_VOLUME = "scrubbed"
_SETTING = "STOS_REPLICA_SCRUB_PERIOD_S"
WITHOUT, WITH = {_SETTING: "604800"}, {_SETTING: "1"}


async def measure(directory: Path, pairs: int) -> list[Figure]:
    """Raises StosError, RuntimeError, TimeoutError."""
    cluster = SetCluster(directory, WITHOUT)
    state = await asyncio.to_thread(cluster.up)
    bus = None
    try:
        bus = await Bus.connect(
            Identity.load(cluster.layout.identity(ADMIN)), list(state.nats_urls), name="bench", wait=True
        )
        command = Command(directory)
        await command.json("volume", "create", _VOLUME, "--size", str(SIZE_BYTES))
        uri = (await command.json("volume", "connect", _VOLUME, "--node", APP))["uri"]
        watch = Watch(bus, state.nodes)
        watch.add(_VOLUME, (await command.json("volume", "show", _VOLUME))["volume"])
        await asyncio.to_thread(fio.run, _FILL, uri, SIZE_BYTES, seconds=None)
        ratios = []
        for _ in range(pairs):
            p99_us = []
            for cluster.settings in (WITHOUT, WITH):
                await _restart(cluster, watch)
                p99_us.append((await asyncio.to_thread(fio.run, JOB, uri, SIZE_BYTES, seconds=SECONDS)).p99_us)
            ratios.append(p99_us[1] / p99_us[0])
            print(f"p99 without a scrub {p99_us[0]:.0f} us, with one {p99_us[1]:.0f} us")
        return [Figure("p99 with a scrub, of that without", median(ratios), "x", RATIO_MAX)]
    finally:
        if bus is not None:
            await bus.close()
        await asyncio.to_thread(cluster.stop)
        shutil.rmtree(directory, ignore_errors=True)


async def _restart(cluster: Cluster, watch: Watch) -> None:
    nodes = cluster.state().nodes
    for node in nodes:
        await asyncio.to_thread(cluster.kill, node, signal.SIGKILL)
        await asyncio.to_thread(cluster.start, node)
        await watch.until(
            "all copies in sync",
            lambda: watch.seen[_VOLUME].in_sync == set(nodes) == set(watch.seen[_VOLUME].statuses),
            _PATIENCE_S,
        )
