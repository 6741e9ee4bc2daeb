"""What is measured: each contender serves one volume over NBD and names its processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parent.parent
VOLUME = "bench"
_START_S = 120
_STOP_S = 60
_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


class Contender(Protocol):
    name: str

    def start(self, size_bytes: int) -> str:
        """The NBD URI. Raises RuntimeError when it can't be started; then nothing of it runs."""

    def processes(self) -> dict[str, int]:
        """Process name -> pid, of all that belongs to it."""

    def working(self) -> set[str]:
        """The processes on the path of the data; the others only stand by."""

    def stop(self) -> None:
        """Idempotent. Leaves nothing behind, also after a start that was interrupted."""


def cpu_us(pid: int) -> int:
    """User and system time of a process so far. Raises RuntimeError when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        raise RuntimeError(f"process {pid} ended during the measurement") from None
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_US


class Floor:
    """`benchmarks.floor`: the work itself and nothing else."""

    name = "floor"

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "floor"
        self._process: subprocess.Popen[str] | None = None
        self._pids: dict[str, int] = {}

    def start(self, size_bytes: int) -> str:
        self._directory.mkdir(parents=True)
        argv = [sys.executable, "-m", "benchmarks.floor.floor_server", str(self._directory), str(size_bytes)]
        self._process = subprocess.Popen(argv, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, text=True)
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
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)


class Stos:
    """A cluster of our own, made and used by the `stos` command as a person would; its client is on the node
    without copies."""

    name = "stos"

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "stos"
        self._pids: dict[str, int] = {}
        self._nodes: set[str] = set()
        self._started = False

    def start(self, size_bytes: int) -> str:
        self._started = True
        up = self._stos("dev", "up")
        self._pids = {process["name"]: process["pid"] for process in up["processes"]}
        groups = {process["group"]: process["name"] for process in up["processes"]}
        self._nodes = {groups[node] for node in (*up["nodes"], "app")}
        self._stos("volume", "create", VOLUME, "--size", str(size_bytes), "--replicas", "2")
        return str(self._stos("volume", "connect", VOLUME, "--node", "app")["uri"])

    def processes(self) -> dict[str, int]:
        return self._pids

    def working(self) -> set[str]:
        return self._nodes

    def stop(self) -> None:
        if self._started and (self._directory / "cluster.json").exists():
            self._command("dev", "stop")
        self._started = False
        shutil.rmtree(self._directory, ignore_errors=True)

    def _stos(self, *arguments: str) -> Any:
        done = self._command(*arguments, "-o", "json")
        if done.returncode:
            raise RuntimeError(f"`stos {' '.join(arguments)}` failed: {done.stderr.strip()[-800:]}")
        return json.loads(done.stdout)

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "services.cli.main", *arguments]
        environment = _environment() | {"STOS_DIR": str(self._directory)}
        return subprocess.run(
            argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_START_S, check=False
        )


def _environment() -> dict[str, str]:
    """Settings of a cluster that the caller works with are not ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STOS_")}
