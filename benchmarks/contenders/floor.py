"""`benchmarks.floor`: the work itself and nothing else."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.contenders.contract import ROOT, STOP_S, environment


class Floor:
    name = "floor"
    jobs: frozenset[str] | None = None

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "floor"
        self._process: subprocess.Popen[str] | None = None
        self._pids: dict[str, int] = {}

    def missing(self) -> str:
        return ""

    def start(self, size_bytes: int) -> str:
        self._directory.mkdir(parents=True)
        argv = [sys.executable, "-m", "benchmarks.floor.floor_server", str(self._directory), str(size_bytes)]
        self._process = subprocess.Popen(argv, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the floor did not start")
        told = json.loads(line)
        self._pids = dict(told["pids"])
        return str(told["uri"])

    def processes(self) -> dict[str, int]:
        return self._pids

    def working(self) -> set[str]:
        return set(self._pids)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)
