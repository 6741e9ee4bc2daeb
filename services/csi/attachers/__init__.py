"""Attachers: how a frontend's NBD socket becomes a block device of this node.

An attacher is a plugin of the group `stos.attachers`: a callable that takes a directory of its own and
returns an object with the methods below. It keeps no state in memory. A node service that was killed and
started again finds what is attached by looking (at sysfs, at the process table, into that directory),
because the devices and the filesystems on them live on without it.

Every device has 4096-byte logical sectors, like a volume's blocks: smaller requests are served, but each of them
reads and writes its whole block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stoscore import plugins
from stoscore.errors import precondition

GROUP = "stos.attachers"
SECTOR_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Export:
    """Where a volume is served on this node."""

    socket: str
    """Path of the NBD server's Unix socket."""
    name: str
    """Name of the export on it."""


class Attacher(Protocol):
    """One way to make a device of an export."""

    name: str

    def obstacle(self) -> str | None:
        """Why this node can't attach this way, with what to install; None when it can."""

    async def attached(self) -> dict[str, str]:
        """The device path of every volume that is attached this way."""

    async def attach(self, volume: str, export: Export) -> str:
        """The path of the volume's device. Repeating it returns the same device; a failure leaves nothing
        half made."""

    async def resize(self, volume: str, export: Export, size_bytes: int) -> None:
        """The attached device has at least that size, as the export has by now; what is on it goes on. Idempotent.
        Raises when it can't be had."""

    async def detach(self, volume: str) -> None:
        """Take the device away, and all that attach started. Idempotent. Raises FAILED_PRECONDITION while
        something holds the device open."""

    async def tend(self) -> None:
        """Look after what is attached (reconnect it, for instance) until cancelled; returns when this way of
        attaching needs no looking after."""


AttacherFactory = Callable[[Path], Attacher]


def load(names: Sequence[str], state_dir: Path) -> list[Attacher]:
    """The named attachers in that order. Raises NOT_FOUND for a name that no plugin has."""
    found: list[Attacher] = []
    for name in names:
        factory: AttacherFactory = plugins.load(GROUP, name)
        found.append(factory(state_dir / name))
    return found


def first_usable(attachers: Sequence[Attacher]) -> Attacher:
    """The first that this node can use. Raises FAILED_PRECONDITION with every one's obstacle."""
    obstacles: list[str] = []
    for attacher in attachers:
        obstacle = attacher.obstacle()
        if obstacle is None:
            return attacher
        obstacles.append(f"{attacher.name}: {obstacle}")
    raise precondition(
        f"this node can't make a block device of a volume; {'; '.join(obstacles) or 'no attacher is set'}",
        next_step="remove one obstacle and ask again; NBD clients can use the frontend without it",
    )


async def holder(attachers: Sequence[Attacher], volume: str) -> tuple[Attacher, str] | None:
    """The attacher that has the volume attached, and the device."""
    for attacher in attachers:
        device = (await attacher.attached()).get(volume)
        if device is not None:
            return attacher, device
    return None
