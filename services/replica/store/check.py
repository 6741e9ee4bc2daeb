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

from services.replica.store import intent, stack, state, tail
from services.replica.store.directory import open_file
from services.replica.store.disk import data_ranges, failed, read_at
from services.replica.store.format import Format, read_format
from services.replica.store.intent import IntentLog, regions_of
from services.replica.store.layer import Layer, file_sizes
from services.replica.store.layers import close_layers, open_layers
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
    """Every layer: what the volume is, and what it was at each seal."""
    entries = _stack(directory, report, closing)
    missing = len(report.problems)
    for number, entry in enumerate(entries):
        size_blocks = report.format.size_blocks if number == len(entries) - 1 else entry.size_blocks
        for name, size in file_sizes(size_blocks, entry.number).items():
            _open(directory / entry.directory, name, size, report, closing)
    if len(report.problems) > missing or not entries:
        return
    try:
        layers = open_layers(directory, report.format, entries, frozenset, writable=False)
    except FormatError as error:
        report.problems.append(str(error))
        return
    closing.callback(close_layers, layers)
    shared = sum(layer.shared for layer in layers)
    if shared:
        report.notes.append(f"{shared} of {len(layers)} layers are shared with other replicas: clones, or their source")
    for layer in layers:
        if layer.present is not None:
            _check_copies(f"{layer.where} present", layer.present.copies(layer.size_blocks), report)
        _check_layer(layer, frozenset(report.marked) if layer is layers[-1] else frozenset(), report)
    if report.bad_blocks:
        report.problems.append(f"{len(report.bad_blocks)} blocks do not match their checksum")
    if report.bad_roots:
        report.problems.append(f"the checksums of {len(report.bad_roots)} regions do not match their root")
    if report.unfinished_blocks:
        report.notes.append(f"{report.unfinished_blocks} unfinished blocks inside marked regions")


def _stack(directory: Path, report: Report, closing: ExitStack) -> tuple[stack.Entry, ...]:
    if report.format.version == 1:
        return stack.FIRST
    fd = _open(directory, stack.FILE, stack.FILE_BYTES, report, closing)
    if fd is None:
        return ()
    file = stack.StackFile(fd, str(directory / stack.FILE))
    _check_copies("stack", file.copies(), report)
    try:
        return file.load()
    except FormatError as error:
        report.problems.append(str(error))
        return ()


def _check_layer(layer: Layer, marked: frozenset[int], report: Report) -> None:
    """Blocks are counted in the newest layer, the last one to be looked at."""
    report.blocks = 0
    for region in _present_regions(layer):
        first = region * REGION_BLOCKS
        count = min(REGION_BLOCKS, layer.size_blocks - first)
        stored = read_at(layer.files.sums, REGION_SUMS_BYTES, region * REGION_SUMS_BYTES, f"{layer.where}/sums")
        want = struct.unpack(f"<{count}Q", stored[: count * SUM_BYTES])
        have = struct.unpack(f"<{count}Q", layer.actual(first, count))
        bad = [first + at for at in range(count) if want[at] != have[at]]
        report.blocks += count - want.count(0)
        if region in marked:
            report.unfinished_blocks += len(bad)
            continue
        report.bad_blocks += bad
        if layer.sums.root(region) != node(stored):
            report.bad_roots.append(region)


def _present_regions(layer: Layer) -> list[int]:
    """Regions of which any file has anything, of this layer or one below it."""
    found: set[int] = set()
    below: Layer | None = layer
    while below is not None:
        for fd, step in (
            (below.files.data, REGION_BYTES),
            (below.files.sums, REGION_SUMS_BYTES),
            (below.files.roots, SUM_BYTES),
        ):
            try:
                for low, high in data_ranges(fd, 0, os.fstat(fd).st_size):
                    found.update(range(low // step, -(-high // step)))
            except OSError as error:
                raise failed("find the data of", below.where, error) from error
        below = below.below
    return sorted(region for region in found if region < layer.sums.regions)
