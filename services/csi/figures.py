"""What a node can attach, and how what is attached there is mounted: metrics of the csi service on each node.

`stos doctor` runs wherever somebody types it, which is seldom where a volume is mounted. Only the node itself sees
which modules its kernel has, and with which options a file system of ours was mounted by whoever did it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from services.csi.attachers import Attacher
from stoscore.metrics import Sample

UNSAFE_OPTIONS = ("nobarrier", "barrier=0", "data=writeback")
"""By which what was synced may be lost with the power, or files hold blocks of others after a crash."""
LOOK_S = 60.0
"""Between two looks at what stands in an attacher's way: one of them tries to load its kernel module."""
_DISK = re.compile(r"/[0-9a-f]{32}/disk$", re.ASCII)
"""What a loop device of ours stands on (the attacher fuse)."""


class Figures:
    """Of one node."""

    def __init__(self, attachers: Sequence[Attacher], root: Path = Path("/")):
        self._attachers = attachers
        self._root = root
        self._usable: dict[str, bool] = {}
        self._looked_s = -LOOK_S

    def samples(self) -> Iterator[Sample]:
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_S:
            self._usable = {attacher.name: attacher.obstacle() is None for attacher in self._attachers}
            self._looked_s = now_s
        for name, usable in self._usable.items():
            yield Sample("stos.attacher.usable", int(usable), (name,))
        unsafe = Counter(option for options in self._mounted() for option in options if option in UNSAFE_OPTIONS)
        for option, count in sorted(unsafe.items()):
            yield Sample("stos.mount.unsafe", count, (option,))

    def _mounted(self) -> Iterator[list[str]]:
        """The options of each file system on a device that is ours (proc_pid_mounts(5))."""
        try:
            lines = (self._root / "proc/self/mounts").read_text("utf-8", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            words = line.split(" ")
            if len(words) >= 4 and self._is_ours(words[0]):
                yield words[3].split(",")

    def _is_ours(self, device: str) -> bool:
        """The kernel keeps whose device it is: an nbd device's backend, or the file behind a loop device."""
        name = device.removeprefix("/dev/")
        backend, file = self._read(f"sys/block/{name}/backend"), self._read(f"sys/block/{name}/loop/backing_file")
        return backend.startswith("stos:") or _DISK.search(file) is not None

    def _read(self, path: str) -> str:
        try:
            return (self._root / path).read_text("utf-8", errors="replace").strip()
        except OSError:
            return ""
