"""Loop devices: which one stands on a file, making one with 4096-byte sectors, taking one away.

A loop device is known by its backing file's path. When the file's own mount is lost (its FUSE daemon was
stopped), the kernel forgets that path and shows "/", while a filesystem on the device may still be
mounted. So the device's sequence number is kept beside it: the kernel gives a new one with every use of a
loop device, and the pair (name, sequence number) never means anything else.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from services.csi.attachers import SECTOR_BYTES
from services.csi.attachers.exclusive import busy, refuse_in_use
from services.csi.commands import run
from stoscore.errors import Code, StosError

SYSFS = Path("/sys/block")
_RELEASE_S = 3.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop device in use."""

    name: str
    """loop3"""
    sequence: int
    """The kernel's diskseq; 0 where the kernel has none (before 5.15)."""
    backing: str

    @property
    def path(self) -> str:
        return f"/dev/{self.name}"

    def note(self) -> str:
        """To be kept, for `recall`."""
        return f"{self.name} {self.sequence}\n"


def in_use(sysfs: Path = SYSFS) -> list[Loop]:
    """Every loop device that has a backing file, as sysfs tells; no device is touched."""
    found = []
    for backing in sorted(sysfs.glob("loop*/loop/backing_file")):
        directory = backing.parent.parent
        try:
            found.append(Loop(directory.name, _number(directory / "diskseq"), backing.read_text().removesuffix("\n")))
        except OSError:
            continue  # released meanwhile
    return found


def recall(note: str, loops: list[Loop]) -> Loop | None:
    """The device that the note was written for, if it is still in that same use."""
    name, _, sequence = note.strip().partition(" ")
    for loop in loops:
        if loop.name == name and loop.sequence and str(loop.sequence) == sequence:
            return loop
    return None


async def make(file: Path) -> Loop:
    """A loop device on the file, with direct I/O and 4096-byte sectors, or an error and no device."""
    argv = ["losetup", "--find", "--show", f"--sector-size={SECTOR_BYTES}", "--direct-io=on", str(file)]
    name = (await run(argv)).check().output.strip().removeprefix("/dev/")
    for loop in in_use():
        if loop.name == name:
            flaw = _flaw(SYSFS / name)
            if flaw is None:
                return loop
            await release(loop)
            raise StosError(Code.INTERNAL, f"{loop.path} on {file} has {flaw}; it is not used, for a volume needs both")
    raise StosError(Code.INTERNAL, f"losetup made {name or 'nothing'} and sysfs does not show it")


async def resize(loop: Loop, size_bytes: int) -> None:
    """The device learns that its file is larger. Raises INTERNAL when it does not. The file may be FUSE's, and of that
    the kernel believes an old size for a second."""
    clock = asyncio.get_running_loop()
    until = clock.time() + _RELEASE_S
    while _number(SYSFS / loop.name / "size") * 512 < size_bytes:
        if clock.time() >= until:
            raise StosError(Code.INTERNAL, f"{loop.path} does not grow to {size_bytes} bytes", next_step="ask again")
        (await run(["losetup", "--set-capacity", loop.path])).check()
        await asyncio.sleep(_POLL_S)


async def release(loop: Loop) -> None:
    """Detach the device from its file. Raises FAILED_PRECONDITION while something has it open."""
    # The kernel does not refuse to detach a mounted device but does it later, at the unmount, under whoever
    # wanted to go on with it.
    refuse_in_use(loop.path)
    await run(["losetup", "--detach", loop.path])
    clock = asyncio.get_running_loop()
    until = clock.time() + _RELEASE_S
    while recall(loop.note(), in_use()) or (not loop.sequence and loop in in_use()):
        if clock.time() >= until:
            raise busy(loop.path)
        await asyncio.sleep(_POLL_S)


def _flaw(directory: Path) -> str | None:
    sector_bytes = _number(directory / "queue" / "logical_block_size")
    if sector_bytes != SECTOR_BYTES:
        return f"{sector_bytes}-byte sectors"
    if _number(directory / "loop" / "dio") != 1:
        return "no direct I/O"
    return None


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
