"""The story, step by step. Each step is told, done and checked; the first that can't be done ends it.

volumes through CSI ── load on both ── primary killed ── it comes back ── load ── next primary killed ──
it comes back ── everything read from disk and compared ── volumes deleted
"""

from __future__ import annotations

import asyncio

from services.dev.demo.cleanup import delete_volumes, nothing_in_use
from services.dev.demo.context import Context, DemoVolume
from services.dev.demo.files import Listed, library_tree, list_tree
from services.dev.demo.inspection import inspect_copies, inspect_files, inspect_filesystem
from services.dev.demo.load import FileWriter, RawWriter, connect, under_load
from services.dev.demo.loss import lose_primary, primary_of
from services.dev.demo.mounting import MountedVolume, mount_if_possible
from services.dev.demo.volumes import make_volumes
from stoscore.units import MIB, format_size

_BESIDE_BYTES = 12 * MIB
"""Files copied while a primary is killed; with the recorder's writes they stay below what is promised a time
for."""


async def play(context: Context) -> None:
    """All of it. Raises DemoFailed, TimeoutError, StosError, AioRpcError or OSError at what can't be done."""
    view = context.view
    view.step("two volumes are made through CSI: 1 GiB, 2 replicas besides the primary copy")
    files_volume, raw_volume = await make_volumes(context)
    volumes = [files_volume, raw_volume]

    view.step("one becomes a mounted ext4 filesystem")
    mounted = await mount_if_possible(context, files_volume)

    view.step("real files go in, a recorder writes over NBD")
    raw = RawWriter(await connect(context, raw_volume))
    view.scene.writes, view.scene.errors = raw.writes, raw.errors
    writer, batches = await _fill(context, mounted, raw)

    for number, batch in enumerate(batches, start=1):
        victim = primary_of(context, raw_volume)
        view.step(f"{victim}, which leads both, is killed under load and comes back ({number} of 2)")
        copying = writer.copy(batch, f"while-{victim}-dies") if writer is not None else None
        context.findings.losses.append(await lose_primary(context, volumes, raw, copying))
    context.findings.io_errors = raw.errors() + (writer.errors if writer is not None else 0)

    view.step("files, copies and filesystem are checked")
    await raw.client.close()
    await _inspect(context, volumes, raw, mounted, writer)

    view.step("the volumes are deleted")
    await context.command.run("volume", "disconnect", raw_volume.name)
    await delete_volumes(context, volumes)
    nothing_in_use(context.cluster, context.findings)


async def _fill(
    context: Context, mounted: MountedVolume | None, raw: RawWriter
) -> tuple[FileWriter | None, list[list[Listed]]]:
    """Most of the files, under the recorder's load. Returns the batches that are copied during the losses."""
    if mounted is None:
        async with under_load(raw, None):
            await asyncio.sleep(2)
        return None, [[], []]
    tree = library_tree()
    listed = await asyncio.to_thread(list_tree, tree)
    first, second = _last_bytes(listed, _BESIDE_BYTES), _last_bytes(listed[::2], _BESIDE_BYTES)
    bulk = listed[: len(listed) - len(first)]
    total = format_size(sum(file.size_bytes for file in listed))
    context.view.say(f"{len(listed)} files of {tree} ({total}), SHA-256 listed")
    writer = FileWriter(context, mounted, tree)
    async with under_load(raw, None):
        await writer.copy(bulk, "library")
    context.view.say(f"{len(bulk)} files copied, {raw.writes()} blocks written over NBD")
    return writer, [first, second]


def _last_bytes(files: list[Listed], bytes_max: int) -> list[Listed]:
    """As many of the last files as fit."""
    total = 0
    for index in range(len(files) - 1, -1, -1):
        total += files[index].size_bytes
        if total > bytes_max:
            return files[index + 1 :]
    return files


async def _inspect(
    context: Context,
    volumes: list[DemoVolume],
    raw: RawWriter,
    mounted: MountedVolume | None,
    writer: FileWriter | None,
) -> None:
    if mounted is not None and writer is not None:
        await inspect_files(context, mounted, writer)
        await inspect_filesystem(context, volumes[0])
    await context.watch.look()
    await inspect_copies(context, volumes, raw)
