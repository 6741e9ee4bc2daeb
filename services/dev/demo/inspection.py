"""Believing nothing: files by SHA-256, copies from the replicas' directories, the filesystem by its check."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import BinaryIO

from services.dev.demo.context import Context, DemoFailed, DemoVolume
from services.dev.demo.files import differing
from services.dev.demo.load import FileWriter, RawWriter, connect
from services.dev.demo.mounting import MountedVolume
from services.dev.demo.tools import check_filesystem, in_thread
from services.dev.demo.verify import Copy, disagreements, not_as_written
from services.dev.demo.volumes import SIZE_BYTES
from services.dev.nbd_client import NbdClient
from stoscore.units import MIB

_READ_BYTES = 1 * MIB
_READS_AT_ONCE = 4
_ZEROS = bytes(_READ_BYTES)


async def read_copy(context: Context, volume: DemoVolume, node: str) -> Copy:
    """The checksums of one replica, computed from its directory by a process of its own."""
    layout = context.cluster.layout
    directory = replica_directory(layout.data(node), volume.volume_id)
    out = layout.root / f"{volume.name}-{node}.sums"
    try:
        await context.command.run("store", "digest", str(directory), "--out", str(out))
        return Copy(node, out.read_bytes())
    finally:
        out.unlink(missing_ok=True)


def replica_directory(data: Path, volume_id: str) -> Path:
    """Where a node keeps its replica of a volume. Raises DemoFailed when it has none."""
    for found in sorted(data.rglob("format.json")):
        if volume_id in str(found.parent):
            return found.parent
    raise DemoFailed(f"no replica of {volume_id} below {data}")


async def inspect_files(context: Context, mounted: MountedVolume, writer: FileWriter) -> None:
    """Mounts afresh, so that nothing comes from memory, and reads every file."""
    findings = context.findings
    await mounted.unmount()
    await mounted.mount()
    files = list(writer.written.values())
    bad = await in_thread(lambda: differing(mounted.where, files))
    findings.files_verified = len(files) - len(bad)
    found = f"{findings.files_verified} of {len(files)}" + (f", first bad: {bad[0]}" if bad else "")
    findings.check("every file by its SHA-256", bool(files) and not bad, found)
    context.view.say(f"{findings.files_verified} files have their SHA-256")
    await mounted.unmount()


async def inspect_filesystem(context: Context, volume: DemoVolume) -> None:
    """`e2fsck -fn` on what the frontend serves, read over NBD into an image."""
    image = context.cluster.layout.root / "filesystem.img"
    async with await connect(context, volume) as client:
        with image.open("wb") as file:
            await _read_into(file, client)
    clean, said = await check_filesystem(image)
    image.unlink()
    context.findings.check("e2fsck -fn", clean, said)
    context.view.say(f"e2fsck -fn: {said}")


async def _read_into(file: BinaryIO, client: NbdClient) -> None:
    """A sparse copy of the whole volume, a few reads at a time."""
    file.truncate(SIZE_BYTES)
    offsets = iter(range(0, SIZE_BYTES, _READ_BYTES))

    async def read_on() -> None:
        for offset in offsets:
            data = await client.read(offset, _READ_BYTES)
            if data != _ZEROS:
                os.pwrite(file.fileno(), data, offset)

    await asyncio.gather(*(read_on() for _ in range(_READS_AT_ONCE)))


async def inspect_copies(context: Context, volumes: list[DemoVolume], raw: RawWriter) -> None:
    """All copies of all volumes, with each other; the recorder's volume also with its log."""
    problems: list[str] = []
    compared = 0
    for volume in volumes:
        nodes = sorted(context.watch.seen[volume.name].in_sync)
        copies = [await read_copy(context, volume, node) for node in nodes]
        if len(copies) != 3:
            problems.append(f"{volume.name} has {len(copies)} copies in sync, not 3")
        problems += [f"{volume.name}: {line}" for line in disagreements(copies)]
        compared += sum(copy.blocks for copy in copies)
        if volume is volumes[-1]:
            problems += await asyncio.to_thread(_against_log, copies, raw)
    context.findings.copies_identical = not problems
    found = problems[0] if problems else f"{compared} blocks compared"
    context.findings.check("all copies on disk are the same and as written", not problems, found)
    for line in problems or [found]:
        context.view.say(line)


def _against_log(copies: list[Copy], raw: RawWriter) -> list[str]:
    allowed = raw.recorder.history.allowed(raw.recorder.pattern)
    found = []
    for copy in copies:
        if wrong := not_as_written(copy, allowed):
            found.append(f"{copy.node} does not hold what was written in {len(wrong)} blocks, first {wrong[0]}")
    return found
