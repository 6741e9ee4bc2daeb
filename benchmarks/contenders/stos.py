"""A cluster of our own, made and used by the `stos` command as a person would."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.contenders.contract import ROOT, environment

_COMMAND_S = 120
_APP = "app"


class Stos:
    """Its client is on the node without copies."""

    name = "stos"
    jobs: frozenset[str] | None = None

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "stos"
        self._pids: dict[str, int] = {}
        self._nodes: set[str] = set()
        self._started = False

    def missing(self) -> str:
        return ""

    def start(self, size_bytes: int) -> str:
        self._started = True
        up = self.stos("dev", "up")
        self._pids = {process["name"]: process["pid"] for process in up["processes"]}
        groups = {process["group"]: process["name"] for process in up["processes"]}
        self._nodes = {groups[node] for node in (*up["nodes"], _APP)}
        return self.volume("bench", size_bytes, _APP)

    def volume(self, name: str, size_bytes: int, node: str | None) -> str:
        """The URI of a new volume that is used on that node; None: where its primary is."""
        self.stos("volume", "create", name, "--size", str(size_bytes), "--replicas", "2")
        node = node or str(self.stos("volume", "show", name)["primary"])
        return str(self.stos("volume", "connect", name, "--node", node)["uri"])

    def processes(self) -> dict[str, int]:
        return self._pids

    def working(self) -> set[str]:
        return self._nodes

    def stop(self) -> None:
        if self._started and (self._directory / "cluster.json").exists():
            self._command("dev", "stop")
        self._started = False
        shutil.rmtree(self._directory, ignore_errors=True)

    def stos(self, *arguments: str) -> Any:
        done = self._command(*arguments, "-o", "json")
        if done.returncode:
            raise RuntimeError(f"`stos {' '.join(arguments)}` failed: {done.stderr.strip()[-800:]}")
        return json.loads(done.stdout)

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "services.cli.main", *arguments]
        return subprocess.run(
            argv,
            cwd=ROOT,
            env=environment() | {"STOS_DIR": str(self._directory)},
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )


class StosBeside:
    """Another volume of the same cluster, used on the node of its own primary."""

    name = "stos-beside"
    jobs: frozenset[str] | None = frozenset({
        "randwrite-4k-q1", "randwrite-4k-q16", "randread-4k-q16", "write-128k-q4", "read-1m-q4", "randwrite-4k-fsync",
    })  # fmt: skip

    def __init__(self, cluster: Stos) -> None:
        self._cluster = cluster

    def missing(self) -> str:
        return ""

    def start(self, size_bytes: int) -> str:
        if not self._cluster.processes():
            raise RuntimeError("the cluster of contender stos is not there")
        return self._cluster.volume("beside", size_bytes, None)

    def processes(self) -> dict[str, int]:
        return self._cluster.processes()

    def working(self) -> set[str]:
        return self._cluster.working()

    def stop(self) -> None:
        """With its cluster."""
