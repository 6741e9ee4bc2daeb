"""File systems that are mounted here stand still for a snapshot, and never for longer than was asked for.

    freeze    a program is started that holds it (`freezer.py`); answered when it stands still
    thaw      the program's input ends

The program thaws by itself: when its time is over, and when this service dies, whose end of the pipe is then closed.
What remains is a container that dies with all its programs and comes back to the same mounts: which file systems were
to be frozen is noted beside what is attached, and whoever starts here next thaws them.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.csi import freezer, host
from services.csi.attachers import Attacher, holder
from services.csi.commands import search_path
from stoscore.limits import valid_volume_id
from stoscore.messages import Frozen, Thawed
from stoscore.telemetry import get_logger

SYNC_S = 10.0
"""What is dirty is written beforehand, beside everything else; what takes longer is not frozen."""
FREEZE_S = 1.0
THAW_S = 5.0

_log = get_logger("csi")


@dataclass(slots=True)
class Held:
    """One program. `token`: drawn by lot, so that a late word does not thaw for another snapshot."""

    token: str
    limit_s: float
    program: subprocess.Popen[bytes]
    said: bytes = b""


class Freezing:
    """`notes`: a directory of its own."""

    def __init__(self, attachers: Sequence[Attacher], notes: Path):
        self._attachers = attachers
        self._notes = notes
        self._held: dict[str, Held] = {}

    async def freeze(self, volume: str, limit_s: float) -> Frozen:
        """It stands still now, for so long at most; or why it does not."""
        path = await self._mounted_at(volume)
        if volume in self._held:
            return Frozen(reason="it is frozen for another snapshot")
        if path is None:
            return Frozen(reason="no file system of it is mounted for writing")
        held = self._held[volume] = Held(secrets.token_hex(8), limit_s, _started(path, limit_s))
        self._watch(volume, held)
        try:
            await self._expect(held, b"synced", SYNC_S)
            self._note(volume).write_text(path)
            _tell(held, b"freeze\n")
            await self._expect(held, b"frozen", FREEZE_S)
        except (OSError, TimeoutError) as error:
            self._let_go(volume, held)
            return Frozen(reason=str(error) or "it takes too long")
        return Frozen(token=held.token)

    async def thaw(self, volume: str, token: str) -> Thawed:
        """It moves again."""
        held = self._held.get(volume)
        if held is None or held.token != token:
            return Thawed()
        self._let_go(volume, held)
        try:
            said = await self._expect(held, b"thawed", THAW_S)
        except (OSError, TimeoutError) as error:
            _log.error("the program that thaws does not answer: %s", error, extra={"volume": volume})
            return Thawed()
        frozen_ms = int(said.split()[1])
        _log.info("its file system stood still for %d ms", frozen_ms, extra={"volume": volume})
        return Thawed(lasted=frozen_ms < held.limit_s * 1000, frozen_ms=frozen_ms)

    async def thaw_left(self) -> None:
        """What programs of before that were killed may have left frozen."""
        for note in self._notes.glob("*"):
            if valid_volume_id(note.name) and note.name not in self._held:
                path = note.read_text()
                if await asyncio.to_thread(_thawed, path):
                    _log.warning("thawed %s, which a killed service had left frozen", path)
                note.unlink(missing_ok=True)

    def _let_go(self, volume: str, held: Held) -> None:
        """The program thaws; nobody waits for its end, for it may be stuck where the volume is."""
        assert held.program.stdin is not None
        held.program.stdin.close()
        if self._held.get(volume) is held:
            del self._held[volume]

    def _watch(self, volume: str, held: Held) -> None:
        """It may end by itself, and nobody come back for it."""
        loop, pidfd = asyncio.get_running_loop(), os.pidfd_open(held.program.pid)

        def ended() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            held.program.wait()
            if self._held.get(volume) in (None, held):
                self._held.pop(volume, None)
                self._note(volume).unlink(missing_ok=True)

        loop.add_reader(pidfd, ended)

    async def _mounted_at(self, volume: str) -> str | None:
        held = await holder(self._attachers, volume)
        if held is None:
            return None
        device = host.device_of(held[1])
        found = [m for m in host.mounts() if device.mounted_as_filesystem(m) and not m.readonly and not m.failed]
        return found[0].path if found else None

    def _note(self, volume: str) -> Path:
        self._notes.mkdir(parents=True, exist_ok=True)
        return self._notes / volume

    async def _expect(self, held: Held, word: bytes, within_s: float) -> bytes:
        """The line that begins with it. Raises OSError when the program ends without, TimeoutError."""
        assert held.program.stdout is not None
        descriptor = held.program.stdout.fileno()
        async with asyncio.timeout(within_s):
            while True:
                for line in held.said[: held.said.rfind(b"\n") + 1].splitlines():
                    if line.startswith(word):
                        return line
                await _readable(descriptor)
                more = os.read(descriptor, 4096)
                if not more:
                    raise OSError((held.said.splitlines() or [b"the program that freezes ended"])[-1].decode())
                held.said += more


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, lambda: None if readable.done() else readable.set_result(None))
    try:
        await readable
    finally:
        loop.remove_reader(descriptor)


def _started(path: str, limit_s: float) -> subprocess.Popen[bytes]:
    """By vfork, as in `commands`."""
    return subprocess.Popen(  # noqa: S603  (our own program; no shell reads the path)
        [sys.executable, "-I", "-S", freezer.__file__, path, f"{limit_s:g}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"LC_ALL": "C", "PATH": search_path()},
        start_new_session=True,
    )


def _thawed(path: str) -> bool:
    try:
        where = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        return freezer.thaw(where)
    finally:
        os.close(where)


def _tell(held: Held, line: bytes) -> None:
    assert held.program.stdin is not None
    os.write(held.program.stdin.fileno(), line)
