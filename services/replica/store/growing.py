"""A replica's directory becomes larger: whole or not at all, whenever power is lost.

    format.next.json written ──> files longer ──> new cells of the intent log ──> renamed to format.json

Sizes of files are what tells a torn directory from a whole one, so they may not just differ from the format for a
moment. The announcement says what they are about to be; whoever opens a directory that has one goes on from there,
which may be repeated. What is appended reads as zeros, which is what absent blocks, sums and roots are.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from services.replica.store import intent, stack
from services.replica.store.directory import sync_path
from services.replica.store.disk import failed
from services.replica.store.format import FILE, Format, parse_format
from services.replica.store.intent import IntentLog, regions_of
from services.replica.store.layer import file_sizes
from services.replica.store.port import FormatError

NEXT = "format.next.json"
_WRITING = ".format.next.json"


def announce(directory: Path, format: Format) -> None:
    """Durable when it returns. Raises StoreError."""
    writing = directory / _WRITING
    try:
        writing.write_bytes(format.to_bytes())
        sync_path(writing)
        writing.rename(directory / NEXT)
        sync_path(directory)
    except OSError as error:
        raise failed("write", str(directory / NEXT), error) from error


def extend(directory: Path, before: Format, after: Format) -> None:
    """Durably the sizes of `after`; a file that is longer than before has been extended already. Raises FormatError for
    one that is of neither size, StoreError."""
    newest = stack.read(directory, before)[-1]
    old, new = _sizes(before, newest), _sizes(after, newest)
    for name, size in new.items():
        path = directory / name
        try:
            found = path.stat().st_size
            if found not in (old[name], size):
                raise FormatError(f"{path} has {found} bytes and should have {old[name]} or {size}: it is torn")
            os.truncate(path, size)
            sync_path(path)
        except OSError as error:
            raise failed("extend", str(path), error) from error


def finish(directory: Path) -> None:
    """The announced format is the directory's. Raises StoreError."""
    try:
        (directory / NEXT).rename(directory / FILE)
        sync_path(directory)
    except OSError as error:
        raise failed("replace", str(directory / FILE), error) from error


def settled(directory: Path, format: Format) -> Format:
    """The format of a directory that nobody has open, after what was announced there is done. Raises FormatError,
    StoreError."""
    path = directory / NEXT
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return format
    except OSError as error:
        raise failed("read", str(path), error) from error
    after = parse_format(raw, path)
    same = replace(after, size_blocks=format.size_blocks, version=format.version) == format
    if not same or after.size_blocks < format.size_blocks or after.version < format.version:
        raise FormatError(f"{path} is the announcement of another replica")
    extend(directory, format, after)
    _make_cells(directory, format, after)
    finish(directory)
    return after


def _make_cells(directory: Path, before: Format, after: Format) -> None:
    try:
        with (directory / "intent").open("r+b") as file:
            IntentLog(file.fileno(), regions_of(before.size_blocks), str(directory / "intent")).grow(
                regions_of(after.size_blocks)
            )
    except OSError as error:
        raise failed("open", str(directory / "intent"), error) from error


def _sizes(format: Format, newest: stack.Entry) -> dict[str, int]:
    """Sealed layers stay as they are: what lies beyond their end is absent in them."""
    files = file_sizes(format.size_blocks, newest.number)
    sizes = {f"{newest.directory}/{name}": size for name, size in files.items()}
    return sizes | {"intent": intent.file_bytes(regions_of(format.size_blocks))}
