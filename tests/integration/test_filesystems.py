"""ext4, xfs and btrfs on a volume of three copies: made, filled, trimmed and checked, while its primaries die; and
PostgreSQL with its own checksums on, through the same."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
import shutil
from pathlib import Path

import pytest

from services.dev.demo.verify import disagreements
from stoscore.units import KIB
from tests.support.cluster import RunningCluster
from tests.support.device import device, mounted, needs_devices, ran
from tests.support.failovers import failing_over

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.root, needs_devices]
POSTGRES = Path("/usr/lib/postgresql/15/bin")
PGBENCH_S = 45

MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
CHECK = {
    "ext4": ("e2fsck", "-fn"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly", "--check-data-csum"),
}


def create(running: RunningCluster, volume: str) -> None:
    created = running.stos("volume", "create", volume, "--size", "512MiB")
    assert created.code == 0, created.errors


async def copies_are_equal(running: RunningCluster, volume: str) -> None:
    await running.in_sync(volume, 3)
    copies = running.copies(volume)
    assert len(copies) == 3 and disagreements(copies) == []
    await running.wait("its removal", lambda: running.stos("volume", "rm", volume).code == 0, 120.0)


def fill(where: Path, files: int) -> dict[Path, str]:
    """Files of many sizes, some of them removed again; what remains and its digests."""
    kept = {}
    for number in range(files):
        path = where / f"{number % 7}" / f"file-{number}"
        path.parent.mkdir(exist_ok=True)
        data = os.urandom((number * 37 % 200 + 1) * KIB + number % 513)
        with path.open("wb") as file:
            file.write(data)
            if number % 10 == 0:
                os.fsync(file.fileno())
        kept[path] = hashlib.sha256(data).hexdigest()
        if number % 3 == 0:
            path.unlink()
            del kept[path]
    os.sync()
    return kept


@pytest.mark.parametrize("filesystem", list(MAKE))
async def test_a_filesystem_lives_through_failovers(running: RunningCluster, filesystem: str, tmp_path: Path) -> None:
    if shutil.which(MAKE[filesystem][0], path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip(f"{MAKE[filesystem][0]} is not installed")
    known = Path("/proc/filesystems").read_text().split()
    if filesystem not in known and (await asyncio.to_thread(shutil.which, "modprobe")) is None:
        pytest.skip(f"NOT MOUNTED: this kernel has no {filesystem}")
    create(running, filesystem)
    async with device(running, filesystem, tmp_path / "state") as path:
        name = path.removeprefix("/dev/")
        assert Path(f"/sys/block/{name}/queue/logical_block_size").read_text() == "4096\n"
        async with failing_over(running, filesystem):
            await ran(*MAKE[filesystem], path)
            async with mounted(path, filesystem, tmp_path / "mnt") as where:
                kept = await asyncio.to_thread(fill, where, 400)
                await ran("fstrim", str(where))
        await ran(*CHECK[filesystem], path)
        async with mounted(path, filesystem, tmp_path / "mnt"):
            for file, digest in kept.items():
                assert hashlib.sha256(file.read_bytes()).hexdigest() == digest, file
        await ran(*CHECK[filesystem], path)
    await copies_are_equal(running, filesystem)


def as_postgres(*command: str) -> tuple[str, ...]:
    return ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command)


async def test_postgresql_lives_through_failovers(running: RunningCluster) -> None:
    if not (POSTGRES / "pg_amcheck").exists():
        pytest.skip("postgresql-15 is not installed")
    # A short path of its own, which the user postgres may walk: pytest's is private, and a socket's path is short.
    base = Path(f"/tmp/stos-pg-{os.getpid()}")
    base.mkdir(mode=0o755)
    sockets = base / "run"
    sockets.mkdir()
    user = pwd.getpwnam("postgres")
    os.chown(sockets, user.pw_uid, user.pw_gid)
    create(running, "pg")

    def tool(name: str, *arguments: str) -> tuple[str, ...]:
        return as_postgres(str(POSTGRES / name), *arguments)

    there = ("-h", str(sockets))
    try:
        async with device(running, "pg", base / "state") as path:
            await ran(*MAKE["ext4"], path)
            async with mounted(path, "ext4", base / "mnt") as where:
                data = where / "data"
                data.mkdir()
                os.chown(data, user.pw_uid, user.pw_gid)
                await ran(*tool("initdb", "-D", str(data), "--data-checksums", "-A", "trust"))
                options = f"-c listen_addresses='' -c unix_socket_directories={sockets} -c max_wal_size=64MB"
                log = str(sockets / "log")
                await ran(*tool("pg_ctl", "-D", str(data), "-l", log, "-w", "-t", "300", "-o", options, "start"))
                try:
                    async with failing_over(running, "pg"):
                        await ran(*tool("pgbench", *there, "-q", "-i", "-s", "4", "postgres"))
                        told = await ran(*tool("pgbench", *there, "-c", "4", "-T", str(PGBENCH_S), "postgres"))
                    assert "number of failed transactions: 0 " in told, told
                    query = "select sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts"
                    assert (await ran(*tool("psql", *there, "-Atc", query, "postgres"))).strip() == "t"
                    await ran(*tool("psql", *there, "-c", "create extension amcheck", "postgres"))
                    await ran(*tool("pg_amcheck", *there, "--heapallindexed", "--all"))
                finally:
                    await ran(*tool("pg_ctl", "-D", str(data), "-w", "-m", "fast", "stop"))
                checked = await ran(*tool("pg_checksums", "--check", "-D", str(data)))
                assert "Bad checksums:  0" in checked, checked
            await ran(*CHECK["ext4"], path)
        await copies_are_equal(running, "pg")
    finally:
        shutil.rmtree(base, ignore_errors=True)
