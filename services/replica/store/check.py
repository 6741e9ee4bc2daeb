"""Is a replica's directory whole? Every structure is read and compared with what it must agree with.

Offline: the directory must not be open, since a running replica is between two states at any moment. A mismatch
in a marked region is an unfinished write and no fault (it is reported, and settled by the next take-over or
delta sync); the same mismatch outside the marks is corruption.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from services.replica.store import intent, state, tail
from services.replica.store.directory import open_file
from services.replica.store.disk import data_ranges, failed, read_at
from services.replica.store.format import Format, read_format
from services.replica.store.intent import IntentLog, regions_of
from services.replica.store.layer import DIRECTORY, file_sizes, hash_data
from services.replica.store.port import FormatError, StoreError
from services.replica.store.slots import Copy
from services.replica.store.state import StateFile
from services.replica.store.sum_map import REGION_SUMS_BYTES
from services.replica.store.sums import node
from stoscore.units import REGION_BLOCKS, REGION_BYTES, SUM_BYTES


@dataclass(slots=True)
class Report:
    """What a check found. `problems` are faults, one sentence each; `notes` are worth knowing and no faults."""

    directory: str
    format: Format
    marked: list[int] = field(default_factory=list)
    unclean: bool = False
    blocks: int = 0
    """present blocks"""
    bad_blocks: list[int] = field(default_factory=list)
    bad_roots: list[int] = field(default_factory=list)
    unfinished_blocks: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not self.problems


def check(directory: Path) -> Report:
    """Raises FormatError when it is no replica of this format, StoreError when it is in use or unreadable."""
    report = Report(str(directory), read_format(directory))
    with ExitStack() as closing:
        _lock_shared(directory, closing)
        _check_state(directory, report, closing)
        if report.format.kind == "data":
            _check_intent(directory, report, closing)
            _check_tail(directory, report, closing)
            _check_blocks(directory, report, closing)
    return report


def _lock_shared(directory: Path, closing: ExitStack) -> None:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        closing.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(f"{directory} is in use: stop its replica before a check") from None
    except OSError as error:
        raise failed("open", str(directory), error) from error


def _open(directory: Path, name: str, size: int, report: Report, closing: ExitStack) -> int | None:
    try:
        fd = open_file(directory / name, size, writable=False)
    except FormatError as error:
        report.problems.append(str(error))
        return None
    closing.callback(os.close, fd)
    return fd


def _check_state(directory: Path, report: Report, closing: ExitStack) -> None:
    fd = _open(directory, "state", state.FILE_BYTES, report, closing)
    if fd is not None:
        _check_copies("state", StateFile(fd, str(directory / "state")).copies(), report)


def _check_copies(name: str, copies: list[Copy], report: Report) -> None:
    """Copies come four to a value, two to a slot."""
    for at in range(0, len(copies), 4):
        four = copies[at : at + 4]
        torn = sum(copy.sequence is None for copy in four)
        if torn == len(four):
            report.problems.append(f"{name}: no readable copy of value {at // 4}")
        elif torn:
            report.notes.append(f"{name}: {torn} of {len(four)} copies of value {at // 4} are torn or damaged")


def _check_intent(directory: Path, report: Report, closing: ExitStack) -> None:
    regions = regions_of(report.format.size_blocks)
    fd = _open(directory, "intent", intent.file_bytes(regions), report, closing)
    if fd is None:
        return
    log = IntentLog(fd, regions, str(directory / "intent"))
    _check_copies("intent", log.copies(), report)
    try:
        log.open()
    except FormatError as error:
        report.problems.append(str(error))
        return
    report.marked = sorted(log.marked)
    report.unclean = log.header.unclean
    if report.unclean:
        report.notes.append("unclean: it counts for nothing until a take-over or delta sync")


def _check_tail(directory: Path, report: Report, closing: ExitStack) -> None:
    fd = _open(directory, "tail", tail.FILE_BYTES, report, closing)
    if fd is None:
        return
    if tail.scan(read_at(fd, tail.FILE_BYTES, 0, str(directory / "tail"))) is None:
        report.notes.append("the tail is unreadable: all marked regions count as unfinished")


def _check_blocks(directory: Path, report: Report, closing: ExitStack) -> None:
    layer, sizes = directory / DIRECTORY, file_sizes(report.format.size_blocks)
    fds = {name: _open(layer, name, size, report, closing) for name, size in sizes.items()}
    data, sums, roots = fds["data"], fds["sums"], fds["roots"]
    if data is None or sums is None or roots is None:
        return
    marked = frozenset(report.marked)
    for region in _present_regions(data, sums, roots, sizes, str(layer)):
        first = region * REGION_BLOCKS
        count = min(REGION_BLOCKS, report.format.size_blocks - first)
        stored = read_at(sums, REGION_SUMS_BYTES, region * REGION_SUMS_BYTES, str(layer / "sums"))
        root = int.from_bytes(read_at(roots, SUM_BYTES, region * SUM_BYTES, str(layer / "roots")), "little")
        actual = hash_data(data, first, count, str(layer / "data"))
        want = struct.unpack(f"<{count}Q", stored[: count * SUM_BYTES])
        have = struct.unpack(f"<{count}Q", actual)
        bad = [first + at for at in range(count) if want[at] != have[at]]
        report.blocks += count - want.count(0)
        if region in marked:
            report.unfinished_blocks += len(bad)
            continue
        report.bad_blocks += bad
        if root != node(stored):
            report.bad_roots.append(region)
    if report.bad_blocks:
        report.problems.append(f"{len(report.bad_blocks)} blocks do not match their checksum")
    if report.bad_roots:
        report.problems.append(f"the checksums of {len(report.bad_roots)} regions do not match their root")
    if report.unfinished_blocks:
        report.notes.append(f"{report.unfinished_blocks} unfinished blocks inside marked regions")


def _present_regions(data: int, sums: int, roots: int, sizes: dict[str, int], where: str) -> list[int]:
    """Regions of which any file has anything."""
    region_bytes = {"data": REGION_BYTES, "sums": REGION_SUMS_BYTES, "roots": SUM_BYTES}
    found: set[int] = set()
    try:
        for name, fd in (("data", data), ("sums", sums), ("roots", roots)):
            step = region_bytes[name]
            for low, high in data_ranges(fd, 0, sizes[name]):
                found.update(range(low // step, -(-high // step)))
    except OSError as error:
        raise failed("find the data of", where, error) from error
    return sorted(found)
