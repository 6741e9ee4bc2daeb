"""nbdkit's file plugin: one copy, nothing around it. Its figures drift only with the machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.contenders.contract import end, serve


class Nbdkit:
    name = "nbdkit"
    jobs: frozenset[str] | None = None

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "nbdkit"
        self._process: subprocess.Popen[bytes] | None = None

    def missing(self) -> str:
        return "" if shutil.which("nbdkit") else "nbdkit is not installed: apt install nbdkit"

    def start(self, size_bytes: int) -> str:
        self._directory.mkdir(parents=True)
        file, socket = self._directory / "disk", self._directory / "socket"
        with file.open("wb") as made:
            made.truncate(size_bytes)
        self._process = serve(["nbdkit", "--foreground", "--unix", str(socket), "file", str(file)], socket)
        return f"nbd+unix:///?socket={socket}"

    def processes(self) -> dict[str, int]:
        return {"nbdkit": self._process.pid} if self._process is not None else {}

    def working(self) -> set[str]:
        return set(self.processes())

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)
