"""A replica's directory as a whole: made in one step, opened by one process at a time, removed in one step.

It is filled under a name that nobody looks at, synced, and renamed: a crash or a full disk in the middle leaves
no half made replica, and the directory entries are durable before the maker answers (rule K1).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from services.replica.store.disk import failed
from services.replica.store.port import FormatError, StoreError

_ZEROS = bytes(1 << 16)


def making_name(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.making")


def removing_name(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.removing")


def lock(directory: Path) -> int:
    """The descriptor that holds the lock until it is closed. Raises StoreError when another process holds it."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise failed("open", str(directory), error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise StoreError(f"{directory} is in use by another process") from None
        raise failed("lock", str(directory), error) from error
    return fd


def make(directory: Path, fill: Callable[[Path], None]) -> None:
    """Create `directory` with what `fill` puts into it, or nothing at all. Raises StoreError."""
    if directory.exists():
        raise StoreError(f"{directory} exists already")
    making = making_name(directory)
    try:
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        try:
            fill(making)
            for path in sorted(making.rglob("*"), reverse=True):
                sync_path(path)
            sync_path(making)
            making.rename(directory)
            sync_path(directory.parent)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
    except OSError as error:
        raise failed("create", str(directory), error) from error


def remove(directory: Path) -> None:
    """Give the space back. Idempotent; a crash in the middle never leaves a directory that looks whole."""
    removing = removing_name(directory)
    try:
        shutil.rmtree(removing, ignore_errors=True)
        if directory.exists():
            directory.rename(removing)
            sync_path(directory.parent)
            shutil.rmtree(removing)
    except OSError as error:
        raise failed("remove", str(directory), error) from error


def clear_leftovers(parent: Path) -> None:
    """Finish what a process that ended was making or removing; best effort. Its own process holds `parent` alone."""
    for pattern in (".*.making", ".*.removing"):
        for path in parent.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def sync_path(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def share(source: Path, target: Path) -> None:
    """The file at both places. Raises StoreError, which says what to do, and OSError."""
    try:
        os.link(source, target)
    except OSError as error:
        told = _NOT_SHARED.get(error.errno or 0)
        if told is None:
            raise
        raise StoreError(f"{source} can't be shared: {told}") from error


_NOT_SHARED = {
    errno.EMLINK: "its file system lets a file have no more links; delete a clone, or clone a newer snapshot",
    errno.EXDEV: "the clone would be on another file system; the replicas of a node have to be on one",
    errno.EPERM: "its file system knows no hard links; use one that does, such as ext4 or xfs",
}


def write_zeros(path: Path, size: int) -> None:
    """A file of written zeros: overwriting it later changes no metadata, so fdatasync commits no journal."""
    with path.open("wb") as file:
        for at in range(0, size, len(_ZEROS)):
            file.write(_ZEROS[: min(len(_ZEROS), size - at)])


def write_sparse(path: Path, size: int) -> None:
    """A file of that size that takes no space."""
    with path.open("wb") as file:
        file.truncate(size)


def open_file(path: Path, size: int, *, writable: bool = True) -> int:
    """A descriptor. Raises FormatError when the file is missing or of another size, StoreError when it can't
    be opened."""
    try:
        fd = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
    except FileNotFoundError:
        raise FormatError(f"{path} is missing") from None
    except OSError as error:
        raise failed("open", str(path), error) from error
    found = os.fstat(fd).st_size
    if found != size:
        os.close(fd)
        raise FormatError(f"{path} has {found} bytes and should have {size}: it is torn")
    return fd
