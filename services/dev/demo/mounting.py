"""The volume as a mounted filesystem, through the CSI node service, where the machine can do that."""

from __future__ import annotations

from pathlib import Path

from services.dev.demo.context import Context, DemoVolume
from services.dev.demo.files import sync_filesystem
from services.dev.demo.tools import in_thread, why_no_mount


class MountedVolume:
    """Stage and publish, unpublish and unstage, again and again. `where` is the mounted directory."""

    def __init__(self, context: Context, volume: DemoVolume):
        base = context.cluster.layout.root / "mnt"
        self._context = context
        self._volume = volume
        self._staging = base / "staging"
        self.where = base / "files"

    async def mount(self) -> None:
        for directory in (self._staging, self.where.parent):
            directory.mkdir(parents=True, exist_ok=True)
        volume = self._volume
        csi = self._context.csi
        await csi.stage(volume.volume, volume.context, self._staging, volume.capability)
        await csi.publish(volume.volume, volume.context, self._staging, self.where, volume.capability)

    async def sync(self) -> None:
        await in_thread(lambda: sync_filesystem(self.where))

    async def unmount(self) -> None:
        await self._context.csi.unpublish(self._volume.volume_id, self.where)
        await self._context.csi.unstage(self._volume.volume_id, self._staging)


async def mount_if_possible(context: Context, volume: DemoVolume) -> MountedVolume | None:
    """None, with the reason told, on a machine that can't mount. Where it can, a failure is a failure."""
    if reason := why_no_mount():
        context.view.say(f"no mounted filesystem here ({reason}); the demo goes on over NBD alone")
        return None
    mounted = MountedVolume(context, volume)
    await mounted.mount()
    context.view.say(f"{volume.name} is mounted at {_shown(mounted.where)}")
    return mounted


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
