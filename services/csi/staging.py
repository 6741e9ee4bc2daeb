"""From a volume's id to a directory that a pod sees, and back, in four idempotent steps.

    stage      frontend opened ─> device attached ─> formatted if blank ─> mounted at the staging path
    publish    staging path (or the device file) bound to the target path
    unpublish  unbound, the target removed
    unstage    unmounted ─> device detached ─> frontend closed

Nothing is remembered between calls. Each step looks at what is there (mount table, devices, frontends)
and does the rest, so it may be cut off anywhere and be called again, by this process or by its successor.
What is not this volume's is never unmounted, removed or written.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from services.csi import host
from services.csi.attachers import Attacher, Export, first_usable, holder
from services.csi.condition import condition
from services.csi.mounts import Device, Mount
from services.csi.port import VolumesPort
from services.csi.validate import FS_DEFAULT, Access
from stoscore.errors import Code, StosError, not_found, precondition, unavailable
from stoscore.messages import FrontendOpened
from stoscore.proto import csi_pb2 as pb
from stoscore.telemetry import span

_STACKED_MAX = 16
"""Mounts on top of each other at one path that unpublishing takes away."""


class Staging:
    """The volumes of one node."""

    def __init__(self, volumes: VolumesPort, attachers: Sequence[Attacher], *, node: str, format_timeout_s: float):
        self._volumes = volumes
        self._attachers = attachers
        self._node = node
        self._format_timeout_s = format_timeout_s

    # ---- stage ---------------------------------------------------------------------------------------

    async def stage(
        self, volume: str, path: str, use: Access, fs_type: str, *, larger: bool = False, timeout_s: float
    ) -> None:
        """`larger`: the file system may be smaller than the volume, which began as something smaller. Raises
        FAILED_PRECONDITION when the volume is not published to this node, when the node has no way to attach, or when
        the path or the volume holds something else."""
        held = await holder(self._attachers, volume)
        attacher = held[0] if held else await self._usable(volume)
        # Opened again even when the device is there: a restarted replica service may have lost its frontend.
        opened = await self._volumes.open_frontend(volume, self._node, timeout_s=timeout_s)
        with span("csi.attach", volume=volume, attacher=attacher.name):
            device = host.device_of(await attacher.attach(volume, _export(opened)))
        if use.block:
            self._refuse_mounted(device, path)
        else:
            await self._mount(device, path, use, fs_type)
            if larger:
                await host.grow_filesystem(device)

    async def _usable(self, volume: str) -> Attacher:
        try:
            return first_usable(self._attachers)
        except StosError:
            await self._volumes.get(volume)  # "there is no such volume" is the better answer if it is true
            raise

    async def _mount(self, device: Device, path: str, use: Access, fs_type: str) -> None:
        there = host.mount_at(path)
        if there is not None:
            if not device.mounted_as_filesystem(there):
                raise precondition(f"staging_target_path {path} is a mount of {there.what}")
            if fs_type and there.fs_type != fs_type:
                raise StosError(Code.ALREADY_EXISTS, f"the volume is staged with {there.fs_type}, not {fs_type}")
            return
        host.make_directory(path, "staging_target_path")
        with span("csi.mount", device=device.path):
            found = await host.format_if_blank(device, fs_type, default=FS_DEFAULT, timeout_s=self._format_timeout_s)
            await host.mount(device, path, found, use.mount_flags)

    def _refuse_mounted(self, device: Device, path: str) -> None:
        there = host.mount_at(path)
        if there is not None and device.mounted_as_filesystem(there):
            raise StosError(
                Code.ALREADY_EXISTS, f"the volume is staged as a filesystem at {path}, not as a block device"
            )

    async def unstage(self, volume: str, path: str, *, timeout_s: float) -> None:
        """Raises FAILED_PRECONDITION while the volume is published or in use."""
        device = await self._device(volume)
        there = host.mount_at(path)
        if there is not None and (device is None or not device.mounted_as_filesystem(there)):
            raise precondition(f"staging_target_path {path} is a mount of {there.what}, not of volume {volume}")
        if device is not None:
            elsewhere = [mount.path for mount in host.mounts() if device.mounted(mount) and mount != there]
            if elsewhere:
                raise precondition(
                    f"volume {volume} is still published at {elsewhere[0]}",
                    next_step="unpublish it there first",
                )
        if there is not None:
            await host.unmount(path)
        for attacher in self._attachers:
            await attacher.detach(volume)
        await self._close(volume, timeout_s)

    async def _close(self, volume: str, timeout_s: float) -> None:
        try:
            await self._volumes.close_frontend(volume, self._node, timeout_s=timeout_s)
        except StosError as error:
            if error.code is not Code.NOT_FOUND:
                raise

    # ---- publish -------------------------------------------------------------------------------------

    async def publish(self, volume: str, staging: str, target: str, use: Access, *, readonly: bool) -> None:
        """Raises FAILED_PRECONDITION when the volume is not staged there, ALREADY_EXISTS when the target
        shows it in another way."""
        device = await self._device(volume)
        if device is None:
            await self._volumes.get(volume)  # NOT_FOUND, if that is why
            raise precondition(f"volume {volume} is not staged on this node", next_step="stage it first")
        if use.block:
            await self._publish_device(device, target, use, readonly=readonly)
        else:
            await self._publish_directory(device, staging, target, use, readonly=readonly)

    async def _publish_directory(
        self, device: Device, staging: str, target: str, use: Access, *, readonly: bool
    ) -> None:
        staged = host.mount_at(staging)
        if staged is None or not device.mounted_as_filesystem(staged):
            raise precondition(f"the volume is not staged at {staging}", next_step="stage it first")
        there = host.mount_at(target)
        if there is None:
            if use.one_writer:
                _refuse_second(device, staging)
            host.make_directory(target, "target_path")
            await host.bind(staging, target, readonly=readonly)
            return
        _refuse_foreign(there, target, shown=device.mounted_as_filesystem(there))
        if readonly and not there.readonly:
            # Less than was asked for is never given, and this is also where an interrupted publish stopped.
            await host.make_readonly(target)
        elif there.readonly and not readonly:
            raise StosError(Code.ALREADY_EXISTS, f"the volume is published read-only at {target}")

    async def _publish_device(self, device: Device, target: str, use: Access, *, readonly: bool) -> None:
        if readonly:
            raise precondition("a raw block volume can't be published read-only", next_step="publish it writable")
        there = host.mount_at(target)
        if there is None:
            if use.one_writer:
                _refuse_second(device, "")
            host.make_file(target, "target_path")
            await host.bind(device.path, target, readonly=False)
        else:
            _refuse_foreign(there, target, shown=device.mounted_as_file(there))

    async def unpublish(self, volume: str, target: str) -> None:
        device = await self._device(volume)
        for _ in range(_STACKED_MAX):
            there = host.mount_at(target)
            if there is None:
                break
            if device is None or not device.mounted(there):
                raise precondition(f"target_path {target} is a mount of {there.what}, not of volume {volume}")
            await host.unmount(target)
        host.remove_target(target)

    # ---- expand --------------------------------------------------------------------------------------

    async def expand(self, volume: str, path: str, least_bytes: int, *, timeout_s: float) -> int:
        """Frontend, device and file system learn the size that the volume has by now: what it is. Raises NOT_FOUND when
        the path does not show the volume, OUT_OF_RANGE when the volume itself has less than that."""
        device, as_block = await self.shown_at(volume, path)
        held = await holder(self._attachers, volume)
        if held is None:
            raise not_found(f"volume {volume} is not attached on this node")
        _, survey = await self._volumes.survey(volume)
        if survey.serving is None or survey.serving.record is None:
            raise unavailable(f"no copy of the volume serves now ({survey.told()})", "ask again")
        size_bytes = survey.serving.record.size_bytes
        if size_bytes < least_bytes:
            raise StosError(
                Code.OUT_OF_RANGE,
                f"the volume has {size_bytes} bytes, not {least_bytes}",
                next_step="expand it in the cluster first (ControllerExpandVolume)",
            )
        opened = await self._volumes.open_frontend(volume, self._node, timeout_s=timeout_s)
        if host.size_of(device) < size_bytes:
            with span("csi.resize", volume=volume, attacher=held[0].name):
                await held[0].resize(volume, _export(opened), size_bytes)
        if not as_block:
            await host.grow_filesystem(device)
        return size_bytes

    # ---- look ----------------------------------------------------------------------------------------

    async def shown_at(self, volume: str, path: str) -> tuple[Device, bool]:
        """The volume's device and whether the path shows it as a block device (else as a filesystem).
        Raises NOT_FOUND when the path does not show this volume."""
        device = await self._device(volume)
        there = host.mount_at(path)
        if device is None or there is None or not device.mounted(there):
            raise not_found(f"volume {volume} is not at {path}")
        return device, device.mounted_as_file(there)

    async def condition(self, volume: str, device: Device) -> pb.VolumeCondition:
        """What this node's kernel says of the file system, then what the volume's nodes say of its copies."""
        failed = next((m for m in host.mounts() if device.mounted_as_filesystem(m) and m.failed), None)
        if failed is not None:
            return pb.VolumeCondition(abnormal=True, message=f"the {failed.fs_type} became read-only after an error")
        try:
            _, survey = await self._volumes.survey(volume)
        except StosError as error:
            return pb.VolumeCondition(message=f"mounted and in use; its copies can't be asked for now: {error.message}")
        return condition(survey)

    async def _device(self, volume: str) -> Device | None:
        held = await holder(self._attachers, volume)
        return host.device_of(held[1]) if held else None


def _refuse_second(device: Device, staging: str) -> None:
    """SINGLE_NODE_SINGLE_WRITER: one target at a time, whoever asks for the second one."""
    staged = host.resolved(staging) if staging else ""
    # A part of the file system that is mounted elsewhere (a pod's subPath) belongs to a target that is there already.
    targets = [m for m in host.mounts() if device.mounted(m) and m.path != staged]
    whole = [m.path for m in targets if m.root == "/" or device.mounted_as_file(m)]
    if whole:
        raise precondition(
            f"the volume is published at {whole[0]}, and its access mode allows one writer",
            next_step="unpublish it there, or use ReadWriteOnce",
        )


def _refuse_foreign(there: Mount, target: str, *, shown: bool) -> None:
    if not shown:
        raise precondition(f"target_path {target} is a mount of {there.what}")


def _export(opened: FrontendOpened) -> Export:
    """The export's name stands in the frontend's NBD URI: nbd+unix:///NAME?socket=PATH."""
    return Export(socket=opened.socket, name=unquote(urlsplit(opened.uri).path.removeprefix("/")))
