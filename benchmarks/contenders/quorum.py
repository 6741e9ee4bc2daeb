"""qemu's quorum driver over three NBD exports of qemu itself: replication by the client, without TLS or checksums."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.contenders.contract import end, serve

COPIES = 3
_PROGRAM = "qemu-storage-daemon"


class Quorum:
    name = "quorum"
    jobs: frozenset[str] | None = None

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "quorum"
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def missing(self) -> str:
        return "" if shutil.which(_PROGRAM) else f"{_PROGRAM} is not installed: apt install qemu-system-common"

    def start(self, size_bytes: int) -> str:
        self._directory.mkdir(parents=True)
        children = []
        for number in range(COPIES):
            socket = self._copy(number, size_bytes)
            children += ["--blockdev", f"nbd,node-name=c{number},server.type=unix,server.path={socket},export=copy"]
        members = ",".join(f"children.{number}=c{number}" for number in range(COPIES))
        socket = self._directory / "socket"
        argv = [*children, "--blockdev", f"quorum,node-name=volume,vote-threshold=2,{members}"]
        self._running["quorum"] = serve([_PROGRAM, *argv, *_export("volume", "volume", socket)], socket)
        return f"nbd+unix:///volume?socket={socket}"

    def _copy(self, number: int, size_bytes: int) -> Path:
        file, socket = self._directory / f"copy{number}", self._directory / f"copy{number}.sock"
        with file.open("wb") as made:
            made.truncate(size_bytes)
        disk = f"file,node-name=disk,filename={file},discard=unmap"
        self._running[f"copy{number}"] = serve([_PROGRAM, "--blockdev", disk, *_export("disk", "copy", socket)], socket)
        return socket

    def processes(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._running.items()}

    def working(self) -> set[str]:
        return set(self._running)

    def stop(self) -> None:
        """The driver before its copies: without them it would wait for its last requests."""
        while self._running:
            end(self._running.popitem()[1])
        shutil.rmtree(self._directory, ignore_errors=True)


def _export(node: str, name: str, socket: Path) -> list[str]:
    server = f"addr.type=unix,addr.path={socket}"
    return ["--nbd-server", server, "--export", f"nbd,id=export,node-name={node},name={name},writable=on"]
