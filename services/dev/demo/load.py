"""The two applications: the recorder on one volume, the copier of real files on the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

from services.dev.demo.context import Context, DemoVolume
from services.dev.demo.files import Listed, copy_tree
from services.dev.demo.mounting import MountedVolume
from services.dev.demo.recorder import Recorder
from services.dev.demo.tools import in_thread
from services.dev.demo.volumes import SIZE_BYTES
from services.dev.layout import APP
from services.dev.nbd_client import NbdClient


async def connect(context: Context, volume: DemoVolume) -> NbdClient:
    """An NBD connection to the volume's frontend on the application's node."""
    opened = await context.command.json("volume", "connect", volume.name, "--node", APP)
    return await NbdClient.connect(opened["socket"], volume.name)


class RawWriter:
    """The recorder with its connection."""

    def __init__(self, client: NbdClient):
        self.client = client
        self.recorder = Recorder(client, SIZE_BYTES)

    def writes(self) -> int:
        return self.recorder.history.completed

    def errors(self) -> int:
        return self.recorder.history.errors


@asynccontextmanager
async def under_load(raw: RawWriter, files: Awaitable[None] | None) -> AsyncIterator[None]:
    """Both applications work while the block runs; after it all their writes are answered. When the block fails,
    nobody waits for answers that may never come."""
    raw.recorder.resume()
    copying = asyncio.ensure_future(files) if files is not None else None
    try:
        yield
    except BaseException:
        await raw.recorder.abandon()
        if copying is not None:
            copying.cancel()
        raise
    await raw.recorder.pause()
    if copying is not None:
        await copying


class FileWriter:
    """Copies files into the mounted volume; its errors are I/O errors of an application."""

    def __init__(self, context: Context, mounted: MountedVolume, source: Path):
        self._context = context
        self._mounted = mounted
        self._source = source
        self.errors = 0
        self.written: dict[str, Listed] = {}
        """path below the mounted directory -> what must be there"""

    async def copy(self, files: list[Listed], to: str) -> None:
        """Returns when the files are on the volume, not just in memory."""
        scene = self._context.view.scene
        scene.copied_bytes, scene.files_bytes = 0, sum(file.size_bytes for file in files)

        def progress(size_bytes: int) -> None:
            scene.copied_bytes += size_bytes

        try:
            await in_thread(lambda: copy_tree(self._source, self._mounted.where / to, files, progress))
            await self._mounted.sync()
        except OSError as error:
            self.errors += 1
            self._context.view.say(f"copying failed: {error}")
            return
        for file in files:
            path = f"{to}/{file.path}"
            self.written[path] = Listed(path, file.size_bytes, file.sha256)
