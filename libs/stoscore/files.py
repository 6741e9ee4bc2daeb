"""Small private files, written so that a reader sees the old or the new content and never a part.

They are created with mode 0600 from the start: a file that is made readable and restricted afterwards was
readable for a moment.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stoscore.errors import precondition

LOCK = "lock"


def private_directory(path: Path) -> Path:
    """The directory, made with mode 0700 if missing. Raises StosError when it can't be made or written."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise precondition(f"can't make the directory {path}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise precondition(f"the directory {path} is not writable", "give this user write permission")
    return path


def socket_directory(path: Path) -> Path:
    """As `private_directory`, for Unix sockets. Raises StosError when it belongs to somebody else or others may write
    into it: they could put a socket of their own in the place of ours, and hear what is meant for us."""
    private_directory(path)
    found = path.stat()
    if found.st_uid not in (os.geteuid(), 0):
        raise precondition(f"the directory {path} belongs to another user", "choose another directory")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise precondition(f"others may write into the directory {path}", f"chmod 700 {path}, or choose another")
    return path


def write_private(path: Path, content: bytes) -> None:
    """Replace the file's content, durably, mode 0600. Raises StosError when the disk refuses; the file is then as
    it was, and nothing is left beside it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise precondition(f"can't write {path}: {error.strerror}") from None


def remove(path: Path) -> None:
    """Durably; idempotent. Raises StosError when the disk refuses."""
    try:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise precondition(f"can't remove {path}: {error.strerror}") from None


def sync_directory(path: Path) -> None:
    """Names that were made, replaced or removed in it are durable. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def locked(directory: Path, what: str, next_step: str) -> Iterator[None]:
    """The directory (made if missing) belongs to this process until the end of the block. What a killed process
    left half-written is removed. Raises StosError FAILED_PRECONDITION when another process has it."""
    path = private_directory(directory) / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise precondition(f"can't open {path}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise precondition(f"another process uses {what} in {directory}", next_step) from None
        for leftover in directory.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)
