"""A replica that begins as what another one was at a snapshot, without a copy of its blocks.

    layers/0001 … 0007/{data,sums,roots}   the source's files up to the snapshot: hard links
    layers/0002 … 0007/present             a copy of it: folding changes it, and each replica folds by itself
    layers/0008/…                          empty but for the sums and roots of the snapshot; takes the writes
    layers/stack                           these layers, without names: the clone has no snapshots
    state, intent, tail                    those of a new replica

Sealed layers never change, so neither replica can tell that the other has them; whoever removes its directory removes
its links. Folding and healing do write into sealed files, and only what every replica that has them reads there:
a fold into a hole that the others do not look at, healing what the checksum says.

It is made under a hidden name, synced and renamed like every replica: cut short it is never seen.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from services.replica.store.directory import make, write_sparse, write_zeros
from services.replica.store.files import fill_common
from services.replica.store.format import Format
from services.replica.store.layer import file_sizes
from services.replica.store.layers import Layers, copy_allocated
from services.replica.store.port import StoreError
from services.replica.store.stack import FILE, FILE_BYTES, LAYERS_MAX, Entry, StackFile


def make_clone(source: Layers, snapshot: str, directory: Path, format: Format, boot_id: str) -> None:
    """A new data replica of that format; whole or not at all. Any thread but the event loop's, while the source is in
    use. It is never smaller than the layer that it rests on, which is larger than its snapshot where the source grew
    for a record that was never committed: nothing lies beyond the record's end then, here as there. Raises
    StoreError."""

    def fill(making: Path) -> None:
        (making / "layers").mkdir()
        sealed = source.lend(snapshot, making)
        below = sealed[-1]
        size_blocks = max(format.size_blocks, below.size_blocks)
        fill_common(making, replace(format, size_blocks=size_blocks), boot_id)
        if len(sealed) == LAYERS_MAX:
            raise StoreError(f"snapshot {snapshot} lies on as many layers as there may be: clone an older one")
        newest = Entry(below.number + 1)
        _make_newest(making, newest, below, size_blocks)
        write_zeros(making / FILE, FILE_BYTES)
        with (making / FILE).open("r+b") as file:
            StackFile(file.fileno(), str(directory / FILE)).make((*sealed, newest))

    make(directory, fill)


def _make_newest(making: Path, newest: Entry, below: Entry, size_blocks: int) -> None:
    """Its checksums are those of the whole volume, as after a seal."""
    (making / newest.directory).mkdir()
    for name, size in file_sizes(size_blocks, newest.number).items():
        write_sparse(making / newest.directory / name, size)
    for name in ("sums", "roots"):
        source = making / below.directory / name
        with source.open("rb") as file:
            copy_allocated(file.fileno(), making / newest.directory / name, str(source))
