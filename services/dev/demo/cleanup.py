"""The end of the volumes, and the proof that nothing of them is left: no space, mount, program or socket."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from services.dev import leftovers
from services.dev.cluster import Cluster
from services.dev.demo.context import Context, DemoVolume
from services.dev.demo.summary import Findings
from services.dev.demo.wire import listening_ports
from services.dev.layout import APP
from stoscore.units import format_size

_SPACE_TIMEOUT_S = 45.0
_POLL_S = 0.1
_LEFT_SHARE_MAX = 0.02
"""Of the space that the volumes used: what nodes may keep for themselves."""


def used_bytes(directory: Path) -> int:
    """What the files below a directory occupy on disk."""
    total = 0
    for base, _, files in os.walk(directory):
        for name in files:
            try:
                total += os.lstat(os.path.join(base, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


async def delete_volumes(context: Context, volumes: list[DemoVolume]) -> None:
    """ControllerUnpublish and DeleteVolume; then the nodes' disks must be as empty as before."""
    data = context.cluster.layout.data("x").parent
    before = used_bytes(data)
    for volume in volumes:
        await context.csi.controller_unpublish(volume.volume_id, APP)
        await context.csi.delete(volume.volume_id)
        context.watch.forget(volume.name)
        context.view.say(f"{volume.name} is deleted")
    listed = await context.command.json("volume", "ls")
    context.findings.check("no volume is listed", not listed, str(len(listed)))
    after = await _settled(data, int(before * _LEFT_SHARE_MAX))
    given_back = after <= before * _LEFT_SHARE_MAX
    found = f"{format_size(before)} used before, {format_size(after)} after"
    context.findings.check("the space is given back", given_back, found)
    context.view.say(found)


async def _settled(data: Path, goal_bytes: int) -> int:
    """What is used once the replicas' directories are gone, or at the latest after some seconds."""
    try:
        async with asyncio.timeout(_SPACE_TIMEOUT_S):
            while used_bytes(data) > goal_bytes:
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        pass
    return used_bytes(data)


def nothing_in_use(cluster: Cluster, findings: Findings) -> None:
    """Before the cluster is stopped: its users left nothing behind."""
    where = (cluster.layout.root, cluster.layout.run)
    left = [f"mount {mount.target}" for mount in leftovers.mounts(*where)] + leftovers.loop_devices(*where)
    findings.check("nothing is left mounted", not left, ", ".join(left) or "nothing")


def nothing_running(cluster: Cluster, findings: Findings, stubborn: list[str], ports: list[int]) -> None:
    """After the cluster is stopped."""
    where = (cluster.layout.root, cluster.layout.run)
    findings.check("every process ended by itself", not stubborn, ", ".join(stubborn) or "all")
    running = [f"{pid} {command[:80]}" for pid, command in leftovers.programs(*where)]
    findings.check("nothing is left running", not running, "; ".join(running) or "nothing")
    listening = [str(port) for port in listening_ports(ports)] + leftovers.unix_sockets(*where)
    findings.check("nothing is left listening", not listening, ", ".join(listening) or "nothing")
