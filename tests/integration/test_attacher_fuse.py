"""The attacher `fuse` with the real programs: a filesystem through NBD, FUSE and a loop device, and nothing
left behind, whatever died on the way."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.csi import host
from services.csi.attachers import Export, loops, processes
from services.csi.attachers.fuse import DAEMON, FuseAttacher
from services.csi.attachers.nbd_handshake import negotiate
from stoscore.errors import Code, StosError
from stoscore.units import MIB

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(
        FuseAttacher(Path("/nonexistent")).obstacle() is not None or shutil.which("qemu-nbd") is None,
        reason="needs root, FUSE, loop devices, qemu-storage-daemon and qemu-nbd",
    ),
]
SIZE_BYTES = 128 * MIB


class Server:
    """qemu-nbd serving one file on a Unix socket."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "volume.img"
        self.export = Export(socket=str(directory / "nbd.sock"), name="pvc-1")
        with self.file.open("wb") as file:
            file.truncate(SIZE_BYTES)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = ["qemu-nbd", "--persistent", "--format=raw", "--discard=unmap", f"--export-name={self.export.name}"]
        self.process = subprocess.Popen([*argv, f"--socket={self.export.socket}", str(self.file)])
        until = time.monotonic() + 10
        while not os.path.exists(self.export.socket):
            assert time.monotonic() < until
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        Path(self.export.socket).unlink(missing_ok=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    serving = Server(tmp_path)
    serving.start()
    yield serving
    serving.kill()


@pytest.fixture
def volume() -> str:
    return secrets.token_hex(16)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state, with a comma"


def fsck(path: str) -> None:
    checked = subprocess.run(["e2fsck", "-fn", path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def left_behind(state: Path) -> list[str]:
    """Everything that a detach has to take away."""
    left = [f"loop {loop.path}" for loop in loops.in_use() if loop.backing.startswith(str(state))]
    left += [f"mount {mount.path}" for mount in host.mounts() if mount.path.startswith(str(state))]
    escaped = str(state).replace(",", ",,")
    daemon = processes.find(lambda argv: argv[0].endswith(DAEMON) and any(escaped in part for part in argv))
    left += [f"process {daemon.pid}"] if daemon else []
    left += [str(path) for path in state.glob("*")] if state.exists() else []
    return left


async def test_a_filesystem_goes_through_unharmed(server: Server, state: Path, volume: str, tmp_path: Path) -> None:
    attacher = FuseAttacher(state)
    path = await attacher.attach(volume, server.export)
    assert await attacher.attach(volume, server.export) == path
    assert await FuseAttacher(state).attached() == {volume: path}  # as a restarted service finds it
    device = host.device_of(path)
    assert host.size_of(device) == SIZE_BYTES
    assert await host.format_if_blank(device, "", default="ext4", timeout_s=60) == "ext4"
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    await host.mount(device, str(mountpoint), "ext4", ["noatime"])
    content = {f"file{number}": os.urandom(64 * 1024) for number in range(64)}
    try:
        for name, data in content.items():
            (mountpoint / name).write_bytes(data)
        with pytest.raises(StosError) as caught:
            await attacher.detach(volume)
        assert caught.value.code is Code.FAILED_PRECONDITION
        assert {name: (mountpoint / name).read_bytes() for name in content} == content
    finally:
        await host.unmount(str(mountpoint))
    fsck(path)
    await attacher.detach(volume)
    assert left_behind(state) == []
    await attacher.detach(volume)
    # What the server's file holds in the end is the filesystem, too.
    fsck(str(server.file))


async def test_the_device_has_sectors_of_4096_bytes(server: Server, state: Path, volume: str) -> None:
    attacher = FuseAttacher(state)
    path = await attacher.attach(volume, server.export)
    try:
        directory = Path("/sys/block") / path.removeprefix("/dev/")
        assert (directory / "queue/logical_block_size").read_text() == "4096\n"
        assert (directory / "loop/dio").read_text() == "1\n"
    finally:
        await attacher.detach(volume)
    assert left_behind(state) == []


async def test_io_waits_for_a_server_that_comes_back(server: Server, state: Path, volume: str) -> None:
    attacher = FuseAttacher(state)
    path = await attacher.attach(volume, server.export)
    try:
        server.kill()
        write = await asyncio.create_subprocess_exec(
            "dd", "if=/dev/urandom", f"of={path}", "bs=4096", "count=256", "oflag=direct", "status=none"
        )
        await asyncio.sleep(0.5)
        assert write.returncode is None
        server.start()
        assert await asyncio.wait_for(write.wait(), 30) == 0
    finally:
        await attacher.detach(volume)
    assert left_behind(state) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_daemon_that_died_is_replaced(server: Server, state: Path, volume: str, number: signal.Signals) -> None:
    attacher = FuseAttacher(state)
    await attacher.attach(volume, server.export)
    daemon = processes.find(lambda argv: argv[0].endswith(DAEMON) and any(volume in part for part in argv))
    assert daemon is not None
    os.kill(daemon.pid, number)
    await asyncio.sleep(0.3)
    assert volume in await attacher.attached()  # still known, so that it can be taken away
    path = await attacher.attach(volume, server.export)
    assert host.size_of(host.device_of(path)) == SIZE_BYTES
    await attacher.detach(volume)
    assert left_behind(state) == []


async def test_another_export_is_not_mixed_up(server: Server, state: Path, volume: str) -> None:
    attacher = FuseAttacher(state)
    await attacher.attach(volume, server.export)
    try:
        with pytest.raises(StosError) as caught:
            await attacher.attach(volume, Export(socket=server.export.socket, name="other"))
        assert caught.value.code is Code.FAILED_PRECONDITION
    finally:
        await attacher.detach(volume)


@pytest.mark.parametrize("what", ["no server", "no export"])
async def test_an_attach_that_fails_leaves_nothing(server: Server, state: Path, volume: str, what: str) -> None:
    export = server.export
    if what == "no server":
        server.kill()
    else:
        export = Export(socket=export.socket, name="unknown")
    with pytest.raises(StosError) as caught:
        await FuseAttacher(state).attach(volume, export)
    assert DAEMON in caught.value.message
    assert left_behind(state) == []


async def test_data_without_a_signature_is_not_formatted_over(server: Server, state: Path, volume: str) -> None:
    with server.file.open("r+b") as file:
        file.seek(100 * 4096)
        file.write(b"somebody's raw data")
    attacher = FuseAttacher(state)
    device = host.device_of(await attacher.attach(volume, server.export))
    try:
        with pytest.raises(StosError) as caught:
            await host.format_if_blank(device, "ext4", default="ext4", timeout_s=60)
        assert caught.value.code is Code.FAILED_PRECONDITION
        assert "not formatted" in caught.value.message
    finally:
        await attacher.detach(volume)


def test_the_kernels_handshake_with_a_real_server(server: Server) -> None:
    negotiated = negotiate(server.export.socket, server.export.name, timeout_s=5.0)
    with negotiated.connection:
        assert negotiated.size_bytes == SIZE_BYTES
        assert negotiated.flags & 0b101 == 0b101  # has flags, can flush
    with pytest.raises(StosError) as caught:
        negotiate(server.export.socket, "unknown", timeout_s=5.0)
    assert caught.value.code is Code.NOT_FOUND
    server.kill()
    with pytest.raises(StosError) as caught:
        negotiate(server.export.socket, server.export.name, timeout_s=5.0)
    assert caught.value.code is Code.UNAVAILABLE
