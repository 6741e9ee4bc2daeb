"""What volumes cost in memory: 100 GiB each, sparse, 1 GiB written, one after another on the same three nodes.

Every node holds a copy of each, and the third one's figures are told as well as the worst's: RSS as the kernel counts
it, the pages of mapped files included.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

from rich.progress import track

from benchmarks import fio
from benchmarks.store.cluster import SetCluster
from benchmarks.store.figure import Figure
from services.dev.demo.tools import Command
from services.dev.layout import APP
from stoscore.units import GIB, MIB

SIZE_BYTES = 100 * GIB
WRITTEN_BYTES = GIB
FURTHER = 3
ONE_MIB_MAX = 150.0
FURTHER_MIB_MAX = 1.0 + 0.003 * WRITTEN_BYTES / MIB
_JOB = fio.Job("fill", "write", "128k", 4)
_CAPACITY_BYTES = 2 * (1 + FURTHER) * SIZE_BYTES
_QUIET_S = 3.0
"""After a volume is filled: what was under way is over."""


async def measure(directory: Path) -> list[Figure]:
    """Raises StosError, RuntimeError."""
    cluster = SetCluster(directory, {"STOS_REPLICA_CAPACITY_BYTES": str(_CAPACITY_BYTES)})
    state = await asyncio.to_thread(cluster.up)
    try:
        pids = {node: state.processes[node].pid for node in (*state.nodes, APP)}
        command = Command(directory)
        seen = []
        for number in track(range(1 + FURTHER), "filling volumes"):
            await _fill(command, f"memory-{number}")
            await asyncio.sleep(_QUIET_S)
            seen.append({node: _rss_mib(pid) for node, pid in pids.items()})
    finally:
        await asyncio.to_thread(cluster.stop)
        shutil.rmtree(directory, ignore_errors=True)
    first, last = seen[0], seen[-1]
    copies = [node for node in pids if node != APP]
    further = max((last[node] - first[node]) / FURTHER for node in copies)
    return [
        Figure("RSS with one volume, worst of the copies' services", max(first[n] for n in copies), "MiB", ONE_MIB_MAX),
        Figure("RSS with one volume, the application's node", first[APP], "MiB", ONE_MIB_MAX),
        Figure("RSS of each further volume, a copy", further, "MiB", FURTHER_MIB_MAX),
        Figure("RSS of each further volume, its user", (last[APP] - first[APP]) / FURTHER, "MiB", FURTHER_MIB_MAX),
    ]


async def _fill(command: Command, name: str) -> None:
    await command.json("volume", "create", name, "--size", str(SIZE_BYTES))
    opened = await command.json("volume", "connect", name, "--node", APP)
    await asyncio.to_thread(fio.run, _JOB, opened["uri"], WRITTEN_BYTES, seconds=None)


def _rss_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
