"""Making the two volumes: one for a filesystem, one that is written over NBD, both led by the same node.

Placement spreads primaries over the nodes, so the second volume is usually led by another one: it is moved.
"""

from __future__ import annotations

from typing import Any

from services.dev.demo.context import Context, DemoVolume
from services.dev.demo.csi import mounted_as, raw_block
from services.dev.layout import APP
from stoscore.units import GIB, format_size

SIZE_BYTES = 1 * GIB
REPLICAS = "2"
FILESYSTEM = "ext4"
FILES_NAME = "demo-files"
RAW_NAME = "demo-raw"
_SERVES_TIMEOUT_S = 20.0


async def make_volumes(context: Context) -> tuple[DemoVolume, DemoVolume]:
    """(the filesystem's, the recorder's), attached to the application's node."""
    files, files_primary = await _create(context, FILES_NAME, mounted_as(FILESYSTEM))
    raw, raw_primary = await _create(context, RAW_NAME, raw_block())
    if raw_primary != files_primary:
        await _move(context, RAW_NAME, raw_primary, files_primary)
    return (
        await _attach(context, FILES_NAME, files, mounted_as(FILESYSTEM)),
        await _attach(context, RAW_NAME, raw, raw_block()),
    )


async def _move(context: Context, name: str, before: str, node: str) -> None:
    """Both are to lose their primary at once."""
    await context.command.run("volume", "move-primary", name, "--to", node)

    def moved() -> bool:
        primary = context.watch.seen[name].primary
        return primary is not None and primary.node == node

    await context.watch.until(f"{name} led by {node}", moved, _SERVES_TIMEOUT_S)
    context.view.say(
        f"{name}: moved from {before} to {node}, as an upgrade would: both are to lose their primary at once"
    )


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
