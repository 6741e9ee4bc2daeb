"""The data directory of a node: whose it is, and that only one process uses it.

`node.json` says which node of which cluster wrote it and in which layout; another node, another cluster or an older
program that finds it refuses to start and touches nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from stoscore.errors import StosError, precondition

LAYOUT = 1
"""Version of the directory's layout; replicas carry a format version of their own."""
FILE = "node.json"


class DataDir:
    """Held from `claim` until the process ends."""

    def __init__(self, path: Path):
        self.path = path
        self._lock: int | None = None

    def claim(self, cluster: str, node: str) -> None:
        """Raises StosError with one clear line."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check_owner(cluster, node)
        except BlockingIOError:
            raise precondition(f"{self.path} is in use by another process", "one process a data directory") from None
        except OSError as error:
            raise precondition(
                f"the data directory can't be used: {error}", "check STOS_REPLICA_DATA_DIR, its rights and its space"
            ) from error

    def _check_owner(self, cluster: str, node: str) -> None:
        file = self.path / FILE
        try:
            found = json.loads(file.read_text())
            layout, owner = found["layout"], (found["cluster"], found["node"])
        except FileNotFoundError:
            self._write_owner(file, cluster, node)
            return
        except (ValueError, KeyError, TypeError) as error:
            raise precondition(
                f"{file} is damaged: {error}", "restore it, or give the node an empty directory"
            ) from None
        if not isinstance(layout, int) or layout > LAYOUT:
            raise precondition(f"{self.path} has layout {layout} and this program knows up to {LAYOUT}", "update stos")
        if owner != (cluster, node):
            raise _foreign(self.path, owner, (cluster, node))

    def _write_owner(self, file: Path, cluster: str, node: str) -> None:
        temporary = file.with_suffix(".new")
        with open(temporary, "w") as out:
            out.write(json.dumps({"layout": LAYOUT, "cluster": cluster, "node": node}) + "\n")
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
        directory = os.open(self.path, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _foreign(path: Path, owner: tuple[str, str], us: tuple[str, str]) -> StosError:
    return precondition(
        f"{path} belongs to node {owner[1]} of cluster {owner[0]}; this is node {us[1]} of cluster {us[0]}",
        "give this node its own data directory",
    )
