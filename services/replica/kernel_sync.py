"""fdatasync without a thread: the kernel is asked to sync files, and an eventfd says when they are.

    lane ──sync(data, sums, roots)──> io_submit(2) ─ ─ kernel ─ ─> eventfd ──> event loop ──> told(failure)

A flush that is handed to a thread wakes one for each file and then the loop, and all of them wait for the
interpreter's lock: several times the processor time of the flush itself, and a third more of its latency. The kernel
has workers of its own (IOCB_CMD_FDSYNC, Linux 4.18), which report the same failures for the same descriptors.

Where the kernel has no such call, or a sandbox or a limit (`fs.aio-max-nr`) forbids it, `open` answers None and flushes
go to threads. So does what comes while `UNDER_WAY_MAX` files are being synced.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import struct
from collections.abc import Callable, Sequence
from typing import Protocol

from services.replica.store import StoreError
from services.replica.store.disk import failed, sync_together

Told = Callable[[StoreError | None], None]
Files = Sequence[tuple[int, str]]
"""(descriptor, name)"""
UNDER_WAY_MAX = 256
_CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""Machine -> numbers of io_setup, io_destroy, io_getevents, io_submit, which libc has no functions for."""
_IOCB = struct.Struct("<QIIHhIQQqQII")
"""struct iocb (linux/aio_abi.h): data, key, rw flags, opcode, priority, descriptor, buffer, bytes, offset, reserved,
flags, eventfd."""
_EVENT = struct.Struct("<QQqq")
"""struct io_event: data, the iocb, result, second result."""
_FDSYNC = 3
_TELL_EVENTFD = 1
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


class Syncs(Protocol):
    """What a lane needs of it."""

    def sync(self, files: Files, told: Told) -> bool: ...


class KernelSync:
    """One event loop's. All calls come in its thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: ctypes.c_ulong, calls: tuple[int, int, int, int]):
        """Use `open`."""
        self._loop = loop
        self._context = context
        _, self._destroy, self._getevents, self._submit = calls
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._blocks = ctypes.create_string_buffer(UNDER_WAY_MAX * _IOCB.size)
        self._events = ctypes.create_string_buffer(UNDER_WAY_MAX * _EVENT.size)
        start = ctypes.addressof(self._blocks)
        self._pointers = (ctypes.c_void_p * UNDER_WAY_MAX)(*[start + n * _IOCB.size for n in range(UNDER_WAY_MAX)])
        self._next_file = 1
        self._files: dict[int, tuple[str, _Flush]] = {}
        """Number of a sync of one file -> its name, and the flush that waits for it."""
        loop.add_reader(self._eventfd, self._look)

    @classmethod
    def open(cls, loop: asyncio.AbstractEventLoop) -> KernelSync | None:
        """None where the kernel does not do this for us."""
        calls = _CALLS.get(platform.machine())
        context = ctypes.c_ulong(0)
        if calls is None or _syscall(calls[0], ctypes.c_uint(UNDER_WAY_MAX), ctypes.byref(context)) < 0:
            return None
        return cls(loop, context, calls)

    def close(self) -> None:
        """Waits for what is under way, and tells nobody of it. Idempotent."""
        if self._eventfd < 0:
            return
        self._loop.remove_reader(self._eventfd)
        _syscall(self._destroy, self._context)
        os.close(self._eventfd)
        self._eventfd = -1

    def sync(self, files: Files, told: Told) -> bool:
        """fdatasync of these files, at the same time; `told` hears of the first failure when all are done, never before
        this call has returned. False, and nothing asked for, when the kernel does not take it."""
        if self._eventfd < 0 or len(self._files) + len(files) > UNDER_WAY_MAX:
            return False
        if not files:
            self._loop.call_soon(told, None)
            return True
        first = self._next_file
        for at, (fd, _) in enumerate(files):
            fields = (first + at, 0, 0, _FDSYNC, 0, fd, 0, 0, 0, 0, _TELL_EVENTFD, self._eventfd)
            _IOCB.pack_into(self._blocks, at * _IOCB.size, *fields)
        taken = _syscall(self._submit, self._context, ctypes.c_long(len(files)), self._pointers)
        if taken <= 0:
            return False
        self._next_file += taken
        flush = _Flush(taken, told)
        for at, (_, name) in enumerate(files[:taken]):
            self._files[first + at] = (name, flush)
        if taken < len(files):
            # It ran out of memory between two of them. What it took it syncs, so the others can't be left to somebody
            # who begins anew: a failure is told once.
            flush.left += 1
            rest = self._loop.run_in_executor(None, sync_together, files[taken:])
            rest.add_done_callback(lambda done: flush.ended(_failure_of(done)))
        return True

    def _look(self) -> None:
        """Some are done."""
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            return
        count = _syscall(
            self._getevents, self._context, ctypes.c_long(0), ctypes.c_long(UNDER_WAY_MAX), self._events, None
        )
        for at in range(count):
            number, _, result, _ = _EVENT.unpack_from(self._events, at * _EVENT.size)
            name, flush = self._files.pop(number)
            flush.ended(failed("sync", name, OSError(-result, os.strerror(-result))) if result < 0 else None)


def _failure_of(done: asyncio.Future[None]) -> StoreError | None:
    error = done.exception()
    return error if error is None or isinstance(error, StoreError) else StoreError(f"{type(error).__name__}: {error}")


class _Flush:
    """Files that are synced for one."""

    __slots__ = ("_failure", "_told", "left")

    def __init__(self, left: int, told: Told) -> None:
        self.left = left
        self._told = told
        self._failure: StoreError | None = None

    def ended(self, failure: StoreError | None) -> None:
        """One of them."""
        self._failure = self._failure or failure
        self.left -= 1
        if not self.left:
            self._told(self._failure)
