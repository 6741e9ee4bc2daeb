"""Where the files of a replica's directory are and how big; making and opening them, all or none.

    format.json   state   intent   tail   layers/0001/{data,sums,roots}

A witness has the first two only. What comes to the layers once one is sealed: see `layers`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from services.replica.store import intent, state, tail
from services.replica.store.directory import lock, make, open_file, write_sparse, write_zeros
from services.replica.store.format import FILE as FORMAT_FILE
from services.replica.store.format import Format
from services.replica.store.intent import IntentLog, regions_of
from services.replica.store.layer import file_sizes
from services.replica.store.stack import FIRST
from services.replica.store.state import StateFile

LAYER = FIRST[0].directory


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """Descriptors of a data replica's files. `closing` closes them, the lock last."""

    state: int
    intent: int
    tail: int
    closing: ExitStack


def make_data(directory: Path, format: Format, boot_id: str) -> None:
    """A new data replica, whole or not at all. Raises StoreError."""

    def fill(making: Path) -> None:
        fill_common(making, format, boot_id)
        (making / LAYER).mkdir(parents=True)
        for name, size in file_sizes(format.size_blocks).items():
            write_sparse(making / LAYER / name, size)

    make(directory, fill)


def fill_common(making: Path, format: Format, boot_id: str) -> None:
    """What a new data replica has besides its layers. Raises OSError, StoreError."""
    _make_identity(making, format)
    regions = regions_of(format.size_blocks)
    write_zeros(making / "intent", intent.file_bytes(regions))
    with (making / "intent").open("r+b") as file:
        IntentLog(file.fileno(), regions, str(making / "intent")).make(boot_id)
    (making / "tail").write_bytes(tail.Tail.image())


def make_witness(directory: Path, format: Format) -> None:
    """A new witness, whole or not at all. Raises StoreError."""
    make(directory, lambda making: _make_identity(making, format))


def _make_identity(making: Path, format: Format) -> None:
    (making / FORMAT_FILE).write_bytes(format.to_bytes())
    write_zeros(making / "state", state.FILE_BYTES)
    with (making / "state").open("r+b") as file:
        StateFile(file.fileno(), str(making / "state")).make()


def open_data(directory: Path, format: Format) -> OpenFiles:
    """Lock the directory and open all of its files but the layers'. Raises FormatError, StoreError; then nothing
    stays open."""
    with ExitStack() as closing:
        closing.callback(os.close, lock(directory))
        regions = regions_of(format.size_blocks)
        sizes = {"state": state.FILE_BYTES, "intent": intent.file_bytes(regions), "tail": tail.FILE_BYTES}
        fds = {}
        for name, size in sizes.items():
            fds[name] = open_file(directory / name, size)
            closing.callback(os.close, fds[name])
        return OpenFiles(fds["state"], fds["intent"], fds["tail"], closing.pop_all())
    raise AssertionError("an exit stack swallows nothing")


def open_state(directory: Path) -> tuple[int, ExitStack]:
    """Lock a witness's directory and open its state. Raises FormatError, StoreError."""
    with ExitStack() as closing:
        closing.callback(os.close, lock(directory))
        fd = open_file(directory / "state", state.FILE_BYTES)
        closing.callback(os.close, fd)
        return fd, closing.pop_all()
    raise AssertionError("an exit stack swallows nothing")
