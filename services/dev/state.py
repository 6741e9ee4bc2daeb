"""`cluster.json`: what a directory's cluster was made of and which processes were started for it.

Only one command at a time changes a cluster; the lock is the kernel's (flock), so it can't be left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from services.dev.processes import ProcessId
from stoscore.errors import Code, StosError, precondition

FORMAT = 2


@dataclass(frozen=True, slots=True)
class ClusterState:
    """Never changed in place: `save` what `with_process` returns."""

    nodes: tuple[str, ...]
    """The nodes that hold copies."""
    nats_urls: tuple[str, ...]
    user_identity_dir: str
    """Relative to the cluster's directory. With `nats_urls` what the `stos` command needs."""
    ports: dict[str, int]
    """nats, the instances of certs, and one per node."""
    processes: dict[str, ProcessId] = field(default_factory=dict)
    """Those that were started last, dead or alive; none after `stop`."""

    def with_process(self, name: str, process: ProcessId | None) -> ClusterState:
        rest = {other: known for other, known in self.processes.items() if other != name}
        return replace(self, processes=rest if process is None else rest | {name: process})


def read(path: Path) -> ClusterState | None:
    """None when there is no cluster. Raises StosError when the file is damaged or of a newer format."""
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from None
    try:
        if raw["format"] != FORMAT:
            raise precondition(
                f"{path} has format {raw['format']}, this program knows {FORMAT}", "use another --dir for this version"
            )
        return ClusterState(
            nodes=tuple(str(node) for node in raw["nodes"]),
            nats_urls=tuple(str(url) for url in raw["nats_urls"]),
            user_identity_dir=str(raw["user_identity_dir"]),
            ports={str(name): int(port) for name, port in raw["ports"].items()},
            processes={
                str(name): ProcessId(int(process["pid"]), int(process["start_ticks"]))
                for name, process in raw["processes"].items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(path, f"{type(error).__name__} {error}") from None


def _unreadable(path: Path, why: str) -> StosError:
    return precondition(f"can't read the cluster's state {path}: {why}", "remove the directory and start anew")


def save(path: Path, state: ClusterState) -> None:
    """Whole or not at all. Raises StosError when the directory can't be written."""
    content: dict[str, Any] = {"format": FORMAT} | asdict(state)
    draft = path.with_suffix(".new")
    try:
        with open(draft, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(json.dumps(content, indent=2) + "\n")
        os.replace(draft, path)
    except OSError as error:
        raise precondition(f"can't write {path}: {error.strerror}") from None


@contextlib.contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Held while a command changes the cluster. Raises StosError ABORTED when another command holds it."""
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise precondition(f"can't use the directory {lock.parent}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StosError(
                Code.ABORTED,
                f"another command is changing the cluster in {lock.parent}",
                next_step="wait until it is done, or use another --dir",
            ) from None
        yield
    finally:
        os.close(descriptor)
