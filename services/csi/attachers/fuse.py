"""The attacher `fuse`: a block device without the kernel's nbd module.

    frontend's socket ──NBD──> qemu-storage-daemon ──FUSE──> <volume>/disk ──direct I/O──> /dev/loopN

The daemon belongs to no process of ours: it is started detached, survives a restart of the node service,
and ends with the volume's detach. It waits for a frontend that went away (`reconnect-delay`) instead of
failing the I/O, so a restart of the replica service is a pause. Its directory holds, per volume, the file
`disk` (a zero-sized mount point for FUSE), `loop` (which loop device stands on it) and the daemon's monitor, two pipes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from services.csi import host
from services.csi.attachers import Export, loops, processes, qmp
from services.csi.attachers.fuse_connection import one_at_a_time
from services.csi.commands import missing, run, search_path
from stoscore.errors import StosError, invalid, precondition
from stoscore.files import private_directory, write_private
from stoscore.limits import valid_volume_id

DAEMON = "qemu-storage-daemon"
PROGRAMS = (DAEMON, "losetup", "mount", "umount")
RECONNECT_S = 7 * 86_400
"""How long I/O waits for a frontend that is gone before it fails."""
_END_S = 5.0


class FuseAttacher:
    """See the module."""

    name = "fuse"

    def __init__(self, state_dir: Path):
        self._state_dir = state_dir

    def obstacle(self) -> str | None:
        if os.geteuid() != 0:
            return "it needs root to mount"
        for program in PROGRAMS:
            if shutil.which(program, path=search_path()) is None:
                return str(missing(program))
        if not os.path.exists("/dev/fuse"):
            return "there is no /dev/fuse (load the kernel module fuse, or give the container it)"
        if not os.path.exists("/dev/loop-control"):
            return "there is no /dev/loop-control (load the kernel module loop, or give the container it)"
        return None

    async def attached(self) -> dict[str, str]:
        return {volume: loop.path for volume in self._volumes() if (loop := self._loop(volume))}

    async def attach(self, volume: str, export: Export) -> str:
        disk = self._disk(volume)
        daemon, loop = _daemon(disk), self._loop(volume)
        if daemon and loop:
            if not any(_server(export) in part for part in daemon.argv):
                raise precondition(
                    f"{loop.path} is attached to another export of this volume",
                    next_step="unstage the volume first",
                )
            return loop.path
        if daemon or loop:
            # An attach was interrupted, or the daemon died under its device: begin again from nothing.
            await self.detach(volume)
        private_directory(disk.parent)
        disk.touch(mode=0o600)
        qmp.make_pipes(_monitor(disk))
        try:
            (await run(daemon_command(export, disk))).check()
            await one_at_a_time(disk)
            made = await loops.make(disk)
            write_private(self._note(volume), made.note().encode())
        except StosError:
            await self.detach(volume)
            raise
        return made.path

    async def resize(self, volume: str, export: Export, size_bytes: int) -> None:
        """The frontend has dropped the daemon's connection, and a new one learns the export's new size. The daemon
        makes it at its next request, a read of ours; then its own node has to be told, and the loop device."""
        loop, disk = self._loop(volume), self._disk(volume)
        if loop is None:
            raise precondition(f"volume {volume} is not attached")
        (await run(["dd", f"if={disk}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct", "status=none"])).check()
        await qmp.ask(_monitor(disk), "block_resize", {"node-name": "disk", "size": size_bytes})
        await loops.resize(loop, size_bytes)

    async def detach(self, volume: str) -> None:
        disk = self._disk(volume)
        loop = self._loop(volume)
        if loop:
            await loops.release(loop)
        daemon = _daemon(disk)
        if daemon:
            await processes.end(daemon, grace_s=_END_S)
        if host.mount_at(str(disk)) is not None:
            # Left behind by a daemon that was killed; lazily, because nobody answers there any more.
            (await run(["umount", "--lazy", str(disk)])).check()
        shutil.rmtree(disk.parent, ignore_errors=True)

    async def tend(self) -> None:
        """The daemon reconnects by itself."""

    def _volumes(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._state_dir) if valid_volume_id(name))
        except FileNotFoundError:
            return []

    def _disk(self, volume: str) -> Path:
        if not valid_volume_id(volume):
            raise invalid(f"{volume!r} is no volume id")
        return self._state_dir / volume / "disk"

    def _note(self, volume: str) -> Path:
        return self._state_dir / volume / "loop"

    def _loop(self, volume: str) -> loops.Loop | None:
        """By the backing file's path, or by the note when that path is lost."""
        used = loops.in_use()
        disk = host.resolved(str(self._disk(volume)))
        for loop in used:
            if loop.backing == disk:
                return loop
        try:
            return loops.recall(self._note(volume).read_text(), used)
        except FileNotFoundError:
            return None


def daemon_command(export: Export, disk: Path) -> list[str]:
    """The two parts that `_server` and `_fuse_export` give are also how a running daemon is recognised."""
    blockdev = f"driver=nbd,node-name=disk,{_server(export)}reconnect-delay={RECONNECT_S},discard=unmap"
    monitor = ["--chardev", f"pipe,id=qmp,path={_escaped(str(_monitor(disk)))}", "--monitor", "chardev=qmp"]
    return [DAEMON, "--daemonize", "--blockdev", blockdev, "--export", _fuse_export(disk), *monitor]


def _monitor(disk: Path) -> Path:
    return disk.with_name("monitor")


def _server(export: Export) -> str:
    return f"server.type=unix,server.path={_escaped(export.socket)},export={_escaped(export.name)},"


def _fuse_export(disk: Path) -> str:
    return f"type=fuse,id=disk,node-name=disk,mountpoint={_escaped(str(disk))},writable=on"


def _daemon(disk: Path) -> processes.Process | None:
    export = _fuse_export(disk)
    return processes.find(lambda argv: os.path.basename(argv[0]) == DAEMON and export in argv)


def _escaped(value: str) -> str:
    """A comma separates qemu's options; two are one within a value."""
    return value.replace(",", ",,")


attacher = FuseAttacher
"""The plugin."""
