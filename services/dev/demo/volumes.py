"""Making the two volumes: one for a filesystem, one that is written over NBD, both led by the same node.

Placement spreads primaries over the nodes, so the second volume is usually led by another one. Volumes are
made and the misfits deleted until one fits: every volume is made by the same public call, and none is told
who should lead it.
"""

from __future__ import annotations

from typing import Any

from services.dev.demo.context import Context, DemoFailed, DemoVolume
from services.dev.demo.csi import mounted_as, raw_block
from services.dev.layout import APP
from stoscore.units import GIB, format_size

SIZE_BYTES = 1 * GIB
REPLICAS = "2"
FILESYSTEM = "ext4"
FILES_NAME = "demo-files"
RAW_NAME = "demo-raw"
_TRIES = 8
_SERVES_TIMEOUT_S = 20.0


async def make_volumes(context: Context) -> tuple[DemoVolume, DemoVolume]:
    """(the filesystem's, the recorder's), attached to the application's node."""
    files, files_primary = await _create(context, FILES_NAME, mounted_as(FILESYSTEM))
    raw, name = await _create_led_by(context, files_primary)
    return (
        await _attach(context, FILES_NAME, files, mounted_as(FILESYSTEM)),
        await _attach(context, name, raw, raw_block()),
    )


async def _create_led_by(context: Context, node: str) -> tuple[Any, str]:
    """(csi.v1.Volume, its name)"""
    for number in range(1, _TRIES + 1):
        name = f"{RAW_NAME}-{number}"
        volume, primary = await _create(context, name, raw_block())
        if primary == node:
            return volume, name
        context.view.say(f"{name} is led by {primary}, not by {node}: deleted, another is made")
        context.watch.forget(name)
        await context.csi.delete(volume.volume_id)
    raise DemoFailed(f"none of {_TRIES} volumes was led by {node}")


async def _create(context: Context, name: str, capability: Any) -> tuple[Any, str]:
    """(csi.v1.Volume, its primary's node)"""
    volume = await context.csi.create(name, SIZE_BYTES, capability, {"replicas": REPLICAS})
    context.watch.add(name, volume.volume_id)
    await context.watch.until(f"{name} served", lambda: context.watch.seen[name].primary is not None, _SERVES_TIMEOUT_S)
    primary = context.watch.seen[name].primary
    assert primary is not None
    copies = ", ".join(sorted(context.watch.seen[name].statuses))
    size = format_size(volume.capacity_bytes)
    context.view.say(f"{name}: {size}, copies on {copies}; {primary.node} leads in epoch {primary.epoch}")
    return volume, primary.node


async def _attach(context: Context, name: str, volume: Any, capability: Any) -> DemoVolume:
    publish_context = await context.csi.controller_publish(volume, APP, capability)
    context.view.say(f"{name} is attached to {APP}")
    return DemoVolume(name, volume, capability, publish_context)
