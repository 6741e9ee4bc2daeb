"""A volume's way from CreateVolume to a directory and back, over gRPC, with real devices and real mounts;
the NBD server behind it is qemu-nbd on a file."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import uvloop

from services.csi import host
from services.csi.app import Servers
from services.csi.attachers import loops
from services.csi.attachers.fuse import FuseAttacher
from services.csi.settings import CsiSettings
from stoscore.proto import csi_pb2 as pb
from stoscore.proto import csi_pb2_grpc as rpc
from stoscore.units import MIB
from tests.support.csi import MemoryVolumes, block, create_request, mounted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture"),
    pytest.mark.skipif(
        FuseAttacher(Path("/nonexistent")).obstacle() is not None or shutil.which("qemu-nbd") is None,
        reason="needs root, FUSE, loop devices, qemu-storage-daemon and qemu-nbd",
    ),
]
SIZE_BYTES = 320 * MIB
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
EXISTS = grpc.StatusCode.ALREADY_EXISTS


class Machine:
    """One node: its csi service, one volume published to it, and what serves that volume."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.staging, self.pods = directory / "staging", directory / "pods"
        self.pods.mkdir()
        self.volumes = MemoryVolumes()
        self.settings = CsiSettings(
            controller_socket=directory / "c.sock",
            node_socket=directory / "n.sock",
            node="app",
            state_dir=directory / "state",
        )
        self.file = directory / "volume.img"
        self.volume = ""
        self.capability = mounted()

    async def start(self) -> None:
        self.servers = Servers(self.settings, self.volumes, ready=lambda: True)
        await self.servers.start()
        self.channels: list[Any] = [grpc.aio.insecure_channel(f"unix:{self.directory}/{name}.sock") for name in "cn"]
        self.controller, self.node = rpc.ControllerStub(self.channels[0]), rpc.NodeStub(self.channels[1])

    async def stop(self) -> None:
        for channel in self.channels:
            await channel.close(None)
        await self.servers.stop()

    async def provision(self, capability: pb.VolumeCapability) -> None:
        self.capability = capability
        request = create_request("pvc-1", SIZE_BYTES, capability=capability)
        self.volume = (await self.controller.CreateVolume(request)).volume.volume_id
        with self.file.open("wb") as file:
            file.truncate(SIZE_BYTES)
        self.serve()
        await self.publish_to_node()

    def serve(self) -> None:
        path = str(self.directory / "nbd.sock")
        self.volumes.sockets[self.volume] = path
        argv = ["qemu-nbd", "--persistent", "--format=raw", "--export-name=pvc-1", f"--socket={path}", str(self.file)]
        self.server = subprocess.Popen(argv)
        until = time.monotonic() + 10
        while not os.path.exists(path):
            assert time.monotonic() < until
            time.sleep(0.02)

    async def publish_to_node(self) -> None:
        request = pb.ControllerPublishVolumeRequest(
            volume_id=self.volume, node_id="app", volume_capability=self.capability
        )
        await self.controller.ControllerPublishVolume(request)

    def stage(self, capability: Any = None, path: Path | None = None) -> Awaitable[Any]:
        return self.node.NodeStageVolume(  # type: ignore[no-any-return]
            pb.NodeStageVolumeRequest(
                volume_id=self.volume,
                staging_target_path=str(path or self.staging),
                volume_capability=capability or self.capability,
                volume_context={"volumeName": "pvc-1"},
            )
        )

    def unstage(self) -> Awaitable[Any]:
        return self.node.NodeUnstageVolume(  # type: ignore[no-any-return]
            pb.NodeUnstageVolumeRequest(volume_id=self.volume, staging_target_path=str(self.staging))
        )

    def publish(self, pod: str, *, readonly: bool = False) -> Awaitable[Any]:
        return self.node.NodePublishVolume(  # type: ignore[no-any-return]
            pb.NodePublishVolumeRequest(
                volume_id=self.volume,
                staging_target_path=str(self.staging),
                target_path=str(self.pods / pod),
                volume_capability=self.capability,
                readonly=readonly,
            )
        )

    def unpublish(self, pod: str) -> Awaitable[Any]:
        return self.node.NodeUnpublishVolume(  # type: ignore[no-any-return]
            pb.NodeUnpublishVolumeRequest(volume_id=self.volume, target_path=str(self.pods / pod))
        )

    def left(self) -> list[str]:
        """Mounts and devices that are still there."""
        here = str(self.directory)
        return [mount.path for mount in host.mounts() if mount.path.startswith(here)] + [
            loop.path for loop in loops.in_use() if loop.backing.startswith(here)
        ]


@pytest.fixture(scope="module")
def event_loop_policy() -> uvloop.EventLoopPolicy:
    """As in production: gRPC, uvloop and child processes have to get along in one process."""
    return uvloop.EventLoopPolicy()


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    node = Machine(tmp_path)
    await node.start()
    yield node
    for mount in reversed(host.mounts()):
        if mount.path.startswith(str(tmp_path)) and mount.fs_type != "fuse":
            program("umount", mount.path)
    if node.volume:
        await FuseAttacher(node.settings.state_dir / "fuse").detach(node.volume)
        node.server.kill()
        node.server.wait()
    await node.stop()


def program(*argv: str, data: bytes = b"") -> int:
    """Run it; its exit code."""
    return subprocess.run(argv, input=data, capture_output=True).returncode


async def refused(call: Awaitable[Any], code: grpc.StatusCode, says: str = "") -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code, caught.value.details()
    assert says in (caught.value.details() or "")


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_there_and_back(machine: Machine, fs_type: str) -> None:
    await machine.provision(mounted(fs_type, flags=["noatime"]))
    for _ in range(2):
        await machine.stage()
    for _ in range(2):
        await machine.publish("a")
    (machine.pods / "a" / "file").write_text("data")
    await machine.publish("b", readonly=True)
    assert (machine.pods / "b" / "file").read_text() == "data"
    with pytest.raises(OSError, match="Read-only"):
        (machine.pods / "b" / "file").write_text("x")
    there = host.mount_at(str(machine.staging))
    assert there is not None
    assert there.fs_type == fs_type

    await refused(machine.unstage(), PRECONDITION, "still published")
    for pod in ("a", "a", "b"):
        await machine.unpublish(pod)
    assert list(machine.pods.iterdir()) == []
    for _ in range(2):
        await machine.unstage()
    assert machine.left() == []
    assert not machine.volumes.frontends
    check = ["e2fsck", "-fn"] if fs_type == "ext4" else ["xfs_repair", "-n", "-f"]
    assert program(*check, str(machine.file)) == 0

    # A second life: the filesystem is found and not made again.
    await machine.stage()
    assert (machine.staging / "file").read_text() == "data"
    await machine.unstage()


async def test_a_restarted_service_goes_on_where_the_old_one_stopped(machine: Machine) -> None:
    await machine.provision(mounted())
    await machine.stage()
    await machine.stop()
    await machine.start()
    await machine.stage()
    await machine.publish("a")
    await machine.stop()
    await machine.start()
    await machine.unpublish("a")
    await machine.unstage()
    assert machine.left() == []


async def test_one_writer_is_one_target(machine: Machine) -> None:
    """ReadWriteOncePod; with the modes of several writers there may be more."""
    single = pb.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER
    await machine.provision(mounted(mode=single))
    await machine.stage()
    for _ in range(2):
        await machine.publish("a")
    await refused(machine.publish("b"), PRECONDITION, "one writer")
    await machine.unpublish("a")
    await machine.publish("b")
    machine.capability = mounted(mode=pb.VolumeCapability.AccessMode.SINGLE_NODE_MULTI_WRITER)
    await machine.publish("c")
    for pod in ("b", "c"):
        await machine.unpublish(pod)
    await machine.unstage()
    assert machine.left() == []


async def test_a_group_may_own_what_is_in_it(machine: Machine) -> None:
    """What Kubernetes does for fsGroup: owner and rights are the file system's, and last."""
    await machine.provision(mounted())
    await machine.stage()
    await machine.publish("a")
    os.chown(machine.pods / "a", 0, 2000)
    (machine.pods / "a").chmod(0o2775)
    (machine.pods / "a" / "file").write_text("data")
    await machine.unpublish("a")
    await machine.unstage()
    await machine.stage()
    assert (machine.staging / "file").stat().st_gid == machine.staging.stat().st_gid == 2000
    await machine.unstage()


async def test_a_raw_block_volume(machine: Machine) -> None:
    await machine.provision(block())
    await machine.stage()
    for _ in range(2):
        await machine.publish("disk")
    target = machine.pods / "disk"
    assert target.is_block_device()
    data = os.urandom(4096)
    assert program("dd", f"of={target}", "bs=4096", "count=1", "oflag=direct", data=data) == 0
    stats = await machine.node.NodeGetVolumeStats(
        pb.NodeGetVolumeStatsRequest(volume_id=machine.volume, volume_path=str(target))
    )
    assert [usage.total for usage in stats.usage] == [SIZE_BYTES]
    await refused(machine.publish("ro", readonly=True), PRECONDITION, "read-only")
    await refused(machine.unstage(), PRECONDITION, "still published")
    for _ in range(2):
        await machine.unpublish("disk")
    assert not target.exists()
    await machine.unstage()
    assert machine.left() == []
    assert machine.file.read_bytes()[:4096] == data
    # It holds data that no filesystem explains: it is not formatted when it is asked for as one.
    await refused(machine.stage(mounted()), PRECONDITION, "not formatted")
    assert machine.file.read_bytes()[:4096] == data


async def test_stats_of_a_filesystem(machine: Machine) -> None:
    await machine.provision(mounted())
    await machine.stage()
    await machine.publish("a")
    request = pb.NodeGetVolumeStatsRequest(volume_id=machine.volume, volume_path=str(machine.pods / "a"))
    stats = await machine.node.NodeGetVolumeStats(request)
    assert "1 of 3 copies in sync" in stats.volume_condition.message
    sizes, inodes = stats.usage
    assert SIZE_BYTES * 0.8 < sizes.total <= SIZE_BYTES
    assert 0 < sizes.used < sizes.used + sizes.available <= sizes.total  # ext4 keeps a little for itself
    assert inodes.total > inodes.available > 0
    request.volume_path = str(machine.pods)
    await refused(machine.node.NodeGetVolumeStats(request), grpc.StatusCode.NOT_FOUND)


async def test_what_can_be_wrong_on_the_node(machine: Machine) -> None:
    await machine.provision(mounted())
    await machine.controller.ControllerUnpublishVolume(
        pb.ControllerUnpublishVolumeRequest(volume_id=machine.volume, node_id="app")
    )
    await refused(machine.stage(), PRECONDITION, "not attached")
    assert machine.left() == []
    await machine.publish_to_node()

    file = machine.directory / "file"
    file.write_text("data")
    await refused(machine.stage(path=file), PRECONDITION, "no directory")
    await refused(machine.stage(path=machine.directory / "no" / "such"), grpc.StatusCode.INVALID_ARGUMENT, "parent")
    await refused(machine.publish("a"), PRECONDITION, "not staged")

    await machine.stage()
    await refused(machine.stage(mounted("xfs")), EXISTS, "ext4")
    await refused(machine.stage(block()), EXISTS, "filesystem")
    (machine.pods / "file").write_text("data")
    await refused(machine.publish("file"), PRECONDITION, "no directory")
    await refused(machine.publish("no/parent"), grpc.StatusCode.INVALID_ARGUMENT, "parent")
    await machine.publish("ro", readonly=True)
    await refused(machine.publish("ro"), EXISTS, "read-only")
    assert file.read_text() == "data"


async def test_foreign_mounts_are_left_alone(machine: Machine) -> None:
    await machine.provision(mounted())
    foreign = machine.pods / "foreign"
    for path in (machine.staging, foreign):
        path.mkdir()
        assert program("mount", "-t", "tmpfs", "somebody", str(path)) == 0
    await refused(machine.stage(), PRECONDITION, "somebody")
    await refused(machine.unstage(), PRECONDITION, "somebody")
    await refused(machine.unpublish("foreign"), PRECONDITION, "somebody")
    assert program("umount", str(machine.staging)) == 0
    await machine.stage()
    await refused(machine.publish("foreign"), PRECONDITION, "somebody")
    assert os.path.ismount(foreign)


async def test_a_volume_in_use_stays(machine: Machine) -> None:
    await machine.provision(mounted())
    await machine.stage()
    with (machine.staging / "open").open("w"):
        await refused(machine.unstage(), PRECONDITION, "in use")
    await machine.unstage()
    assert machine.left() == []
