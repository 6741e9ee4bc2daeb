"""Small private files, written so that a reader sees the old or the new content and never a part.

They are created with mode 0600 from the start: a file that is made readable and restricted afterwards was
readable for a moment.
"""

from __future__ import annotations

import os
from pathlib import Path

from stoscore.errors import precondition


def private_directory(path: Path) -> Path:
    """The directory, made with mode 0700 if missing. Raises StosError when it can't be made or written."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise precondition(f"can't make the directory {path}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise precondition(f"the directory {path} is not writable", "give this user write permission")
    return path


def write_private(path: Path, content: bytes) -> None:
    """Replace the file's content, durably, mode 0600. Raises StosError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise precondition(f"can't write {path}: {error.strerror}") from None
