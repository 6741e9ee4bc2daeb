"""Real files for the mounted volume: the interpreter's own library tree, thousands of them, on every machine.

Their SHA-256 are taken from the source before the copy, so the list owes nothing to the volume.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages"})
"""Not the library's own: caches change while they are read, packages may be gigabytes."""
BYTES_MAX = 256 * 1024 * 1024
"""So that the tree fits its volume with room to spare, whatever the distribution put there."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One file of the list. `path` is relative to the tree."""

    path: str
    size_bytes: int
    sha256: str


def library_tree() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _regular_files(tree: Path) -> Iterator[Path]:
    for directory, names, files in os.walk(tree):
        names[:] = sorted(set(names) - _LEFT_OUT)
        for name in sorted(files):
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                yield path


def list_tree(tree: Path, bytes_max: int = BYTES_MAX) -> list[Listed]:
    """The files of a tree with their SHA-256, in a fixed order, up to `bytes_max` in all."""
    listed: list[Listed] = []
    total_bytes = 0
    for path in _regular_files(tree):
        size_bytes = path.stat().st_size
        if total_bytes + size_bytes > bytes_max:
            continue
        total_bytes += size_bytes
        listed.append(Listed(str(path.relative_to(tree)), size_bytes, sha256_of(path)))
    return listed


def copy_tree(source: Path, target: Path, files: list[Listed], progress: Callable[[int], None]) -> None:
    """Copies the listed files; `progress` hears the bytes of each. Raises OSError at the first I/O error."""
    for file in files:
        to = target / file.path
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file.path, to)
        progress(file.size_bytes)


def sync_filesystem(mounted: Path) -> None:
    """Everything written to the filesystem is on the volume when this returns. Raises OSError."""
    descriptor = os.open(mounted, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.sync()


def differing(target: Path, files: list[Listed]) -> list[str]:
    """The listed files that are missing, unreadable or of another content below `target`."""
    bad: list[str] = []
    for file in files:
        try:
            same = sha256_of(target / file.path) == file.sha256
        except OSError:
            same = False
        if not same:
            bad.append(file.path)
    return bad
