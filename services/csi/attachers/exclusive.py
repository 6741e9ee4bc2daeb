"""Is somebody using this device? Mounts and device mappers hold theirs exclusively, and an exclusive open
tells so without touching the data."""

from __future__ import annotations

import errno
import os

from stoscore.errors import StosError, precondition


def refuse_in_use(path: str) -> None:
    """Raises FAILED_PRECONDITION while the block device is mounted or otherwise claimed."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise busy(path) from error


def busy(path: str) -> StosError:
    return precondition(
        f"{path} is in use: a process or a mount holds it open",
        next_step="unpublish the volume, end what uses it, and ask again",
    )
