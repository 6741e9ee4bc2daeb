"""The node's service is killed and started again under a mounted file system: a pause, no error, nothing lost."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.csi import host
from services.csi.commands import run
from services.dev.demo.csi import CsiClient, mounted_as
from services.dev.demo.tools import why_no_mount
from stoscore.units import MIB
from tests.support.cluster import AlteredCluster, RunningCluster, running_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(bool(why_no_mount()), reason=why_no_mount() or "can mount"),
]
BLOCK_BYTES, BLOCKS = 4096, 256


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningCluster]:
    cluster = AlteredCluster(tmp_path / "dev")
    door = cluster.layout.socket_directory("app") / "holder.sock"
    cluster = AlteredCluster(tmp_path / "dev", settings={"app": {"STOS_REPLICA_HOLDER": str(door)}})
    with running_cluster(cluster) as running, holder(door):
        yield running


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`stos serve holder`, a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("STOS_")}
    command = [sys.executable, "-m", "services.cli.main", "serve", "holder"]
    with subprocess.Popen(command, env=clean | {"STOS_HOLDER_SOCKET": str(path)}) as process:
        try:
            until = time.monotonic() + 60
            while not answers(path):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()


def answers(path: Path) -> bool:
    """A name alone says nothing: a holder that was killed leaves it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as knock:
        return knock.connect_ex(str(path)) == 0


class Writer:
    """Writes numbered blocks past the page cache, one after the other, and looks at the clock after each."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        self.completed = 0
        self.longest_s = 0.0
        self.error: OSError | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        buffer = mmap.mmap(-1, BLOCK_BYTES)
        last_s = time.monotonic()
        try:
            while not self._ending:
                buffer[:8] = self.completed.to_bytes(8, "big")
                os.pwrite(self._file, buffer, self.completed % BLOCKS * BLOCK_BYTES)
                self.completed += 1
                now_s = time.monotonic()
                self.longest_s, last_s = max(self.longest_s, now_s - last_s), now_s
            os.fsync(self._file)
        except OSError as error:
            self.error = error

    async def until(self, completed: int) -> None:
        async with asyncio.timeout(120):
            while self.completed < completed and self.error is None:
                await asyncio.sleep(0.02)
        assert self.error is None

    def end(self) -> None:
        self._ending = True
        self._thread.join(120)
        assert not self._thread.is_alive()
        os.close(self._file)


async def test_a_mounted_file_system_sees_a_pause(
    running: RunningCluster, csi: CsiClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = await csi.create("claim", 64 * MIB, mounted_as("ext4"), {"replicas": "1"})
    capability, staging, target = mounted_as("ext4"), tmp_path / "staging", tmp_path / "target"
    staging.mkdir()
    context = await csi.controller_publish(volume, "app", capability)
    await csi.stage(volume, context, staging, capability)
    await csi.publish(volume, context, staging, target, capability)
    writer = Writer(target / "file")
    gaps: dict[str, float] = {}
    for number in (signal.SIGKILL, signal.SIGTERM):
        await writer.until(writer.completed + 50)
        writer.longest_s = 0.0
        await asyncio.to_thread(running.cluster.kill, "app", number)
        await running.wait("app has ended", lambda: "app" not in running.cluster.running())
        await asyncio.to_thread(running.cluster.start, "app")
        await writer.until(writer.completed + 50)
        gaps[number.name] = writer.longest_s
    writer.end()
    assert writer.error is None
    with capsys.disabled():
        told = ", ".join(f"{name} {gap:.2f} s" for name, gap in gaps.items())
        print(f"\nlongest gap of a writer while its node's service restarts: {told}")
    content = (target / "file").read_bytes()
    newest = [int.from_bytes(content[at : at + 8], "big") for at in range(0, len(content), BLOCK_BYTES)]
    assert sorted(newest) == list(range(writer.completed - len(newest), writer.completed))
    await csi.unpublish(volume.volume_id, target)
    there = host.mount_at(str(staging))
    assert there is not None
    await host.unmount(str(staging))
    (await run(["e2fsck", "-fn", there.source])).check()
    await csi.unstage(volume.volume_id, staging)
    await csi.controller_unpublish(volume.volume_id, "app")
    await csi.delete(volume.volume_id)
