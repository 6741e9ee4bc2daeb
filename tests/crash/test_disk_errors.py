"""Every call that the store makes to the kernel fails once, in each way a disk can fail: what then?

The failure is told as a StoreError and nothing else; what was flushed before stays; and when the directory is opened
again the replica knows that it counts for nothing (rule S3). A failed sync is final for its process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from services.replica.store import StoreError, disk
from tests.crash.run import IN_MEMORY, Counted, Life

_LIBC = disk._libc
STEPS = 60
CALLS = ("pwrite", "pread", "fdatasync")
PUNCH = "fallocate"


class FailingCalls:
    """The kernel's calls, counted; the `fails`-th one is refused with `code`."""

    def __init__(self, fails: int, code: int):
        self._fails = fails
        self._code = code
        self.count = 0
        self.failed = ""

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.count += 1
            if self.count == self._fails:
                self.failed = name
                raise OSError(self._code, os.strerror(self._code))
            return real(*arguments)

        return call

    @contextmanager
    def active(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self.wrap(name, getattr(os, name)))
            patch.setattr(disk, "_libc", self)
            yield

    def fallocate(self, *arguments: int) -> int:
        """As the C library tells an error."""
        try:
            return int(self.wrap(PUNCH, _LIBC.fallocate)(*arguments))
        except OSError:
            ctypes.set_errno(self._code)
            return -1


def _one(directory: Path, seed: int, fails: int, code: int) -> str:
    """The name of the call that failed; "" when the life ended before."""
    life = Life(seed, directory, Counted())
    calls = FailingCalls(fails, code)
    refused = False
    with calls.active():
        try:
            life.steps(STEPS)
        except StoreError:
            refused = True
    if not calls.failed:
        life._store.close(clean=False)
        return ""
    if refused:
        life.after_an_error()
    return calls.failed


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_every_call_fails_once(code: int) -> None:
    where = IN_MEMORY if IN_MEMORY.is_dir() else None
    failed: dict[str, int] = {}
    for fails in range(1, 2000):
        with tempfile.TemporaryDirectory(prefix="stos-errors-", dir=where) as directory:
            name = _one(Path(directory), seed=code, fails=fails, code=code)
        if not name:
            break
        failed[name] = failed.get(name, 0) + 1
    assert set(failed) == {*CALLS, PUNCH}
    assert sum(failed.values()) > 200, "the life is too short to say anything"


def test_a_failed_sync_is_final(tmp_path: Path) -> None:
    life = Life(1, tmp_path, Counted())
    life._write()
    calls = FailingCalls(1, errno.EIO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", calls.wrap("fdatasync", os.fdatasync))
        with pytest.raises(StoreError, match="input/output error"):
            life._store.sync()
        for _ in range(3):
            with pytest.raises(StoreError, match="opened again"):
                life._store.sync()
    with suppress(StoreError):
        life._store.close()
