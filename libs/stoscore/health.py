"""Signs of life for whoever started this process, as files: no port that has to be guarded, no program to ask with.

    alive    its modification time moves every second while the event loop turns
    ready    is there while the process does its work: not before, and not while it stops

A process whose loop is stuck in a call leaves `alive` as it is. A probe of Kubernetes looks at the file's age; see
docs/kubernetes.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from stoscore.errors import precondition
from stoscore.telemetry import get_logger

ALIVE, READY = "alive", "ready"
BEAT_S = 1.0

log = get_logger("health")


class Health:
    """The two files in a directory; without one it does nothing."""

    def __init__(self, directory: Path | None):
        self._directory = directory

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """From the start of the process to its end. Raises StosError when the directory can't be written: a process
        that can't show that it lives would be killed again and again."""
        if self._directory is None:
            yield
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self.unready()
            (self._directory / ALIVE).touch()
        except OSError as error:
            raise precondition(f"can't show signs of life in {self._directory}: {error.strerror}") from None
        beat = asyncio.create_task(self._beat(self._directory / ALIVE), name="health")
        try:
            yield
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)
            self.unready()

    async def _beat(self, file: Path) -> None:
        while True:
            try:
                file.touch()
            except OSError as error:
                log.error("can't show signs of life: %s", error)
            await asyncio.sleep(BEAT_S)

    def ready(self) -> None:
        if self._directory is not None:
            with suppress(OSError):
                (self._directory / READY).touch()

    def unready(self) -> None:
        if self._directory is not None:
            with suppress(OSError):
                (self._directory / READY).unlink(missing_ok=True)
