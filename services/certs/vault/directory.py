"""A vault in a directory: one file an entry, for the embedded cluster and for a single machine.

    DIR/lock                          held for the moment of one change, by whichever process makes it
    DIR/entries/identities/node/n1    one line that describes the rest, then the entry's content

Changes are compared and made under the lock; a file is replaced as a whole, so that readers need none. The
first line names the content's SHA-256: a file that was torn or edited by hand is refused and never believed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from services.certs.vault import NEW, Conflict, Entry, check_name, check_size
from stoscore.errors import StosError, precondition, unavailable
from stoscore.files import private_directory, sync_directory, write_private

if TYPE_CHECKING:
    from services.certs.settings import CertsSettings

MAGIC = "stos-vault-1"
LOCK_WAIT_S = 10.0
LOCK_POLL_S = 0.01
"""A change takes some milliseconds; a process that was stopped in the middle of one must not stop the others
for ever."""


class DirectoryVault:
    """Implements `Vault` over a directory of this machine (no network file system: it relies on flock)."""

    poll_s = 0.5

    def __init__(self, directory: Path):
        self._directory = private_directory(directory)
        self._entries = private_directory(directory / "entries")

    def get(self, name: str) -> Entry | None:
        return self._read(check_name(name))

    def put(self, name: str, data: bytes, revision: str) -> Entry:
        path = self._path(check_name(name))
        check_size(name, data)
        with self._locked():
            self._compare(name, revision)
            made = Entry(name, data, secrets.token_hex(8))
            self._make_parents(path)
            write_private(path, f"{_head(made)}\n".encode("ascii") + data)
        return made

    def delete(self, name: str, revision: str) -> None:
        path = self._path(check_name(name))
        with self._locked():
            self._compare(name, revision)
            try:
                path.unlink()
                sync_directory(path.parent)
            except OSError as error:
                raise precondition(f"can't remove {path}: {error.strerror}") from None

    def below(self, prefix: str) -> list[Entry]:
        root = self._path(check_name(prefix))
        names = sorted(
            path.relative_to(self._entries).as_posix()
            for path in root.rglob("*")
            if not path.name.startswith(".") and path.is_file()
        )
        # One that is removed meanwhile is left out.
        return [entry for name in names if (entry := self._read(name)) is not None]

    def close(self) -> None:
        """Nothing is held between operations."""

    def _path(self, name: str) -> Path:
        return self._entries / name

    def _make_parents(self, path: Path) -> None:
        """The directories above a new entry, durably: its own fsync does not cover them."""
        missing = [parent for parent in path.parents if not parent.exists()]
        for parent in reversed(missing):
            private_directory(parent)
            sync_directory(parent.parent)

    def _compare(self, name: str, revision: str) -> None:
        entry = self._read(name)
        if (entry.revision if entry else NEW) != revision:
            raise Conflict(name)

    def _read(self, name: str) -> Entry | None:
        path = self._path(name)
        try:
            head, newline, data = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise precondition(f"can't read {path}: {error.strerror}") from None
        words = head.decode("ascii", "replace").split(" ")
        if words[0].startswith("stos-vault-") and words[0] != MAGIC:
            raise precondition(f"{path} was written by a newer version", "run that version")
        if not newline or len(words) != 3 or words[0] != MAGIC or words[2] != hashlib.sha256(data).hexdigest():
            raise _damaged(path)
        return Entry(name, data, words[1])

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Against the threads of this process as well: each takes the lock by a descriptor of its own."""
        path = self._directory / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise precondition(f"can't open {path}: {error.strerror}") from None
        try:
            _take(descriptor, path)
            yield
        finally:
            os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    end = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise unavailable(
                    f"another certs process holds {path} for more than {LOCK_WAIT_S:.0f} s",
                    "is one of them stopped?",
                ) from None
        time.sleep(LOCK_POLL_S)


def _head(entry: Entry) -> str:
    return f"{MAGIC} {entry.revision} {hashlib.sha256(entry.data).hexdigest()}"


def _damaged(path: Path) -> StosError:
    return precondition(f"{path} is damaged", "restore it from a backup: see docs/runbooks/ca-lost.md")


def vault(settings: CertsSettings) -> DirectoryVault:
    """The entry point `directory`."""
    return DirectoryVault(settings.vault_dir)
