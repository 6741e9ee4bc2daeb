"""Whole reads and writes at an offset, and holes: what the kernel does in pieces, done completely or not at all.

Every failure of the disk leaves this file as a StoreError that says what was done, where, and what the kernel
answered. A space that ran out looks like any other failure here: the replica drops out of the in-sync set and
nothing that could not be stored is ever acknowledged.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

from services.replica.store.port import StoreError
from services.replica.store.sums import Buffer
from stoscore.units import BLOCK_BYTES, KIB

_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02
_ZERO_CHUNK = bytes(1 << 20)
FOLIO_BYTES = 32 * KIB
_syncers = ThreadPoolExecutor(4, thread_name_prefix="store-sync")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_mmap, _munmap, _mincore = _libc.mmap, _libc.munmap, _libc.mincore
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_mmap.restype = ctypes.c_void_p
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_ubyte))
_MAP_FAILED = ctypes.c_void_p(-1).value
_START = 2
"""SYNC_FILE_RANGE_WRITE (sync_file_range(2), Linux only)"""
_sync_file_range = getattr(_libc, "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def failed(what: str, where: str, error: OSError) -> StoreError:
    reason = error.strerror or str(error)
    return StoreError(f"could not {what} {where}: {reason[:1].lower()}{reason[1:]}")


def write_at(fd: int, data: Buffer, offset: int, where: str) -> None:
    """All of `data`, whatever the number of calls. Raises StoreError; then a part of it may be written."""
    try:
        written, size = os.pwrite(fd, data, offset), len(data)
        while written < size:
            # A short write is how a full disk announces itself: the next call gets the error.
            step = os.pwrite(fd, memoryview(data)[written:], offset + written)
            if step == 0:
                raise OSError(errno.EIO, "the kernel wrote nothing")
            written += step
    except OSError as error:
        raise failed(f"write {len(data)} bytes at {offset} of", where, error) from error


def write_blocks_at(fd: int, data: Buffer, offset: int, where: str) -> None:
    """As `write_at`, of what may be overwritten block by block later. The page cache keeps what one call wrote as one
    folio, and ext4 looks at each block of it whenever one of them is written: *on Linux 6.18 4 KiB cost 1.3 us where
    single blocks had been written, 5.3 where 128 KiB had, and 24 where 1 MiB had.*"""
    size = len(data)
    if size <= FOLIO_BYTES:
        write_at(fd, data, offset, where)
        return
    view = memoryview(data)
    for at in range(0, size, FOLIO_BYTES):
        write_at(fd, view[at : at + FOLIO_BYTES], offset + at, where)


def read_at(fd: int, size: int, offset: int, where: str) -> bytes:
    """Exactly `size` bytes. Raises StoreError, also when the file ends before."""
    try:
        data = os.pread(fd, size, offset)
        while len(data) < size:
            more = os.pread(fd, size - len(data), offset + len(data))
            if not more:
                raise StoreError(f"{where} ends at byte {offset + len(data)} and should go on")
            data += more
    except OSError as error:
        raise failed(f"read {size} bytes at {offset} of", where, error) from error
    return data


def read_into(fd: int, buffer: memoryview, offset: int, where: str) -> None:
    """Fills the buffer. Raises StoreError, also when the file ends before."""
    try:
        got = os.preadv(fd, (buffer,), offset)
    except OSError as error:
        raise failed(f"read {len(buffer)} bytes at {offset} of", where, error) from error
    if got != len(buffer):
        buffer[got:] = read_at(fd, len(buffer) - got, offset + got, where)


def is_cached(fd: int, offset: int, size: int) -> bool:
    """Reading that range would not wait for the disk. It only looks: a read that may not wait (RWF_NOWAIT) has the
    kernel fetch what is missing, and who looks a moment later finds it. False as well where the kernel can't tell."""
    start = offset - offset % mmap.PAGESIZE
    length = offset + size - start
    place = _mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, start)
    if place == _MAP_FAILED:
        return False
    try:
        pages = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
        return bool(_mincore(place, length, pages) == 0 and all(page & 1 for page in pages))
    finally:
        _munmap(place, length)


def drop_clean(fd: int, offset: int, size: int) -> None:
    """What the page cache has of a range, but for what is not written yet."""
    os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)


@contextmanager
def not_ahead(*fds: int) -> Iterator[None]:
    """The kernel reads what is asked for and nothing beyond. Meant to be short: it holds for everybody who reads by one
    of these descriptors meanwhile."""
    for fd in fds:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    try:
        yield
    finally:
        for fd in fds:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NORMAL)


def sync_data(fd: int, where: str) -> None:
    """fdatasync; it covers the pages that were changed through a memory map as well."""
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise failed("sync", where, error) from error


def start_writing(fd: int) -> None:
    """The kernel begins to write the file's changed pages, and is not waited for. With no flag to wait, it takes no
    failure away from the fdatasync that comes later."""
    if _sync_file_range is not None:
        _sync_file_range(fd, 0, 0, _START)


def sync_together(files: Sequence[tuple[int, str]]) -> None:
    """fdatasync of several files at the same time: one after the other each waits for the disk's cache anew,
    which is three to nine times as long for three files. Raises the first file's StoreError, when all are done."""
    if not files:
        return
    (fd, where), *others = files
    running = [_syncers.submit(sync_data, *other) for other in others]
    try:
        sync_data(fd, where)
    finally:
        wait(running)
    for future in running:
        future.result()


def punch(fd: int, offset: int, size: int, where: str) -> None:
    """The range reads as zeros and gives its space back where the file system can; else zeros are written."""
    if _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, size) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise failed(f"punch {size} bytes at {offset} of", where, OSError(code, os.strerror(code)))
    for at in range(offset, offset + size, len(_ZERO_CHUNK)):
        write_at(fd, memoryview(_ZERO_CHUNK)[: min(len(_ZERO_CHUNK), offset + size - at)], at, where)


def first_data(fd: int, start: int, end: int, where: str) -> int | None:
    """The first byte between two offsets that may be allocated. Raises StoreError."""
    try:
        return next((low for low, _ in data_ranges(fd, start, end)), None)
    except OSError as error:
        raise failed("find the data of", where, error) from error


def data_ranges(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(offset, end) of what is allocated between two byte offsets, in whole blocks; the rest reads as zeros.
    A file system without SEEK_HOLE says that everything is allocated, which is slower and as right."""
    at = start
    while at < end:
        try:
            first = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if first >= end:
            return
        last = os.lseek(fd, first, os.SEEK_HOLE)
        low = max(at, first - first % BLOCK_BYTES)
        high = min(end, last + -last % BLOCK_BYTES)
        yield low, high
        at = high
