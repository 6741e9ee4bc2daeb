"""The layers of an open replica: sealed, dropped and folded together.

    seal    the newest layer never changes again; a new one above it, with a copy of its sums, takes the writes
    drop    a snapshot's name is forgotten; its layer is to go
    fold    what the layer above does not have is copied up into it, a little at a time; then the layer goes
    lend    a clone gets the sealed layers up to a snapshot: the same files, under another directory (`cloning`)

What the volume holds is the same before, during and after each of them, and so is every other snapshot. Each is
done when the list of layers is replaced (`stack`): a stop before leaves what was, a stop after what is wanted, and a
fold that was cut short begins again. Folding copies upwards because the layer above may be the one that takes
writes: its blocks are newer and win, and nothing that is read meanwhile is ever overwritten.

A layer whose files a clone shares is not folded: the copy would take space, and the files would give none back.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from services.replica.store import growing, stack
from services.replica.store.directory import open_file, share, sync_path, write_sparse, write_zeros
from services.replica.store.disk import data_ranges, failed, read_at, write_blocks_at
from services.replica.store.format import Format
from services.replica.store.layer import SHARED, Layer, LayerFiles, file_sizes
from services.replica.store.port import NoSnapshot
from services.replica.store.stack import Entry, StackFile
from stoscore.units import REGION_BLOCKS

_COPY_BYTES = 1 << 20
_WALKED_BLOCKS_MAX = 16 * REGION_BLOCKS
"""Of one step of a fold that finds nothing to copy."""


class Layers:
    """`top` takes the writes. Closes its files itself."""

    __slots__ = (
        "_cursor",
        "_directory",
        "_entries",
        "_folded",
        "_layers",
        "_lending",
        "_lock",
        "_marked",
        "_named",
        "_next",
        "_retired",
        "_scans",
        "_stack",
    )

    def __init__(self, directory: Path, format: Format, marked: Callable[[], Collection[int]]) -> None:
        """Raises FormatError, StoreError; then nothing stays open."""
        self._directory = directory
        self._marked = marked
        self._folded = self._cursor = 0
        """Number of the layer that is being copied, and the first of its blocks that was not looked at."""
        self._next: tuple[Entry, Layer] | None = None
        """Prepared for the next seal."""
        self._retired: list[Layer] = []
        self._scans = 0
        self._lock = threading.Lock()
        self._lending = threading.Lock()
        """Held while the list changes: a clone takes all layers up to a snapshot, or none."""
        self._layers: list[Layer] = []
        self._named: dict[str, Layer] = {}
        """The snapshots' layers. Replaced in one step: a worker changes the list while others look one up."""
        self._stack: tuple[int, StackFile] | None = None
        self._entries = stack.FIRST
        try:
            if format.version > 1:
                self._stack = self._open_stack()
                self._entries = self._stack[1].open()
            self._layers = open_layers(directory, format, self._entries, marked)
            for layer in self._layers:
                if layer.present is not None:
                    layer.present.settle()
            stack.clear_leftovers(directory, self._entries)
            self._name()
        except BaseException:
            self.close()
            raise

    @property
    def top(self) -> Layer:
        return self._layers[-1]

    @property
    def snapshots(self) -> dict[str, Layer]:
        """By name, in the order in which they were sealed."""
        return self._named

    def _name(self) -> None:
        pairs = zip(self._entries[:-1], self._layers, strict=False)
        self._named = {entry.snapshot: layer for entry, layer in pairs if entry.snapshot}

    @property
    def folds(self) -> bool:
        """Something is left to be folded."""
        return self._folding() is not None

    @property
    def nameless(self) -> bool:
        """A layer is left that is no snapshot's any more, whoever else has it."""
        return not all(entry.snapshot for entry in self._entries[:-1])

    def root(self, snapshot: str, size_blocks: int) -> int | None:
        """Worker thread. Raises StoreError, Unproved."""
        with self.scanning():
            layer = self.snapshots.get(snapshot)
            return layer.root(size_blocks) if layer is not None else None

    def drop_cache(self) -> None:
        """After a failed sync, which may have been that of a sealed layer into which something is folded."""
        for layer in self._layers:
            layer.drop_cache()

    def doubt_maps(self) -> None:
        """What was read of the maps is made durable before anything is concluded from it: the layer below goes at the
        end of a fold, and a bit that is not on the disk leads there."""
        for layer in self._layers:
            if layer.present is not None:
                layer.present.change_all()

    def allocated_bytes(self) -> int:
        return sum(layer.allocated_bytes() for layer in self._layers)

    @contextmanager
    def scanning(self) -> Iterator[None]:
        """A worker reads beside the event loop: no layer's files are closed under it."""
        with self._lock:
            self._scans += 1
        try:
            yield
        finally:
            with self._lock:
                self._scans -= 1

    def close(self) -> None:
        """A clone that is being made gets its files before, or none."""
        with self._lending:
            self._discard()
            close_layers((*self._layers, *self._retired))
            if self._stack is not None:
                os.close(self._stack[0])
            self._layers, self._retired, self._stack, self._entries, self._named = [], [], None, (), {}

    # --- seal; worker thread ---

    @property
    def full(self) -> bool:
        return len(self._entries) == stack.LAYERS_MAX

    def begin(self, format: Format) -> Format:
        """The directory can have more than one layer: its format from now on. Raises StoreError."""
        if self._stack is not None:
            return format
        path = self._directory / stack.FILE
        making = path.with_name(".stack.making")
        try:
            write_zeros(making, stack.FILE_BYTES)
            with making.open("r+b") as file:
                StackFile(file.fileno(), str(path)).make()
            sync_path(making)
            os.rename(making, path)
            sync_path(path.parent)
        except OSError as error:
            raise failed("make", str(path), error) from error
        format = replace(format, version=2)
        growing.announce(self._directory, format)
        growing.finish(self._directory)
        self._stack = self._open_stack()
        self._stack[1].open()
        return format

    def is_prepared(self, size_blocks: int) -> bool:
        return self._next is not None and self._next[1].size_blocks == size_blocks

    def prepare(self, sizes: AbstractContextManager[bool]) -> None:
        """What of a seal takes long, beside everything else: the next layer's files, with a copy of the sums. None is
        prepared when the newest layer, which grows under `sizes`, has grown meanwhile. Raises StoreError: then all is
        as it was."""
        self._discard()
        above = Entry(self._entries[-1].number + 1)
        self.top.sums.watch()
        with sizes:
            size_blocks = self.top.size_blocks
        self._make(above, size_blocks)
        with sizes:
            if self.top.size_blocks == size_blocks:
                self._next = above, open_layer(self._directory, above, size_blocks, self.top, self._marked)

    def seal(self, snapshot: str, size_blocks: int) -> None:
        """It was prepared, and nobody writes meanwhile. The newest layer is synced together with the one above it, for
        applications wait for this. Raises StoreError: then all is as it was, unless it was the list that could not be
        stored."""
        assert self._stack is not None
        assert self._next is not None
        above, fresh = self._next

        def catch_up() -> list[tuple[int, str]]:
            for region in self.top.sums.watched:
                self.top.sums.copy_region(region, fresh.files.sums, fresh.files.roots)
            return fresh.sums.files

        self.top.sync(catch_up)
        fresh.sums.suspect = self.top.sums.suspect
        sealed = replace(self._entries[-1], size_blocks=size_blocks, snapshot=snapshot)
        entries = (*self._entries[:-1], sealed, above)
        with self._lending:
            self._stack[1].save(entries)
            self.top.sums.seal()
            self._next = None
            self._entries = entries
            self._layers = [*self._layers, fresh]
            self._name()

    def _discard(self) -> None:
        if self._next is not None:
            close_layers([self._next[1]])
        self._next = None

    def _open_stack(self) -> tuple[int, StackFile]:
        path = self._directory / stack.FILE
        fd = open_file(path, stack.FILE_BYTES)
        return fd, StackFile(fd, str(path))

    def _make(self, entry: Entry, size_blocks: int) -> None:
        """The directory of the next layer, durable; what was prepared before goes."""
        directory = self._directory / entry.directory
        making = directory.with_name(f".{directory.name}.making")
        try:
            for path in (making, directory):
                shutil.rmtree(path, ignore_errors=True)
            making.mkdir()
            for name, size in file_sizes(size_blocks, entry.number).items():
                write_sparse(making / name, size)
            copy_allocated(self.top.files.sums, making / "sums", str(directory))
            copy_allocated(self.top.files.roots, making / "roots", str(directory))
            for path in sorted(making.iterdir()):
                sync_path(path)
            sync_path(making)
            os.rename(making, directory)
            sync_path(directory.parent)
        except OSError as error:
            raise failed("make", str(directory), error) from error

    # --- drop and fold ---

    def drop(self, snapshot: str) -> None:
        """Durable when it returns; the space comes back by folding. Worker thread."""
        if snapshot not in self.snapshots or self._stack is None:
            return
        nameless = tuple(replace(at, snapshot="") if at.snapshot == snapshot else at for at in self._entries)
        with self._lending:
            self._stack[1].save(nameless)
            self._entries = nameless
            self._name()

    def _folding(self) -> int | None:
        """The lowest layer that is no snapshot's any more and nobody else's; in a long list, whoever else has it."""
        crowded = len(self._entries) > stack.SHARED_MAX
        for at, entry in enumerate(self._entries[:-1]):
            if not entry.snapshot and (crowded or not self._layers[at].shared):
                return at
        return None

    def fold(self, blocks: int) -> bool:
        """Copy about that many blocks, or look at many more that need no copy. Is there more to copy, so that `settle`
        has to wait? Event loop's thread: an old block must not overtake a new one. Raises StoreError."""
        self._release()
        at = self._folding()
        if at is None:
            return False
        lower, upper = self._layers[at], self._layers[at + 1]
        if self._folded != self._entries[at].number:
            self._folded, self._cursor = self._entries[at].number, 0
        end = min(lower.size_blocks, self._cursor + _WALKED_BLOCKS_MAX)
        while self._cursor < end and blocks > 0:
            step = min(blocks, end - self._cursor, REGION_BLOCKS - self._cursor % REGION_BLOCKS)
            blocks -= upper.adopt(lower, self._cursor, step)
            self._cursor += step
        return self._cursor < lower.size_blocks

    def settle(self) -> None:
        """The fold's layer goes, if all of it is copied. Worker thread. Raises StoreError."""
        at = self._folding()
        if at is None or self._stack is None:
            return
        if self._folded != self._entries[at].number or self._cursor < self._layers[at].size_blocks:
            return
        with self._lending:
            self._settle(self._stack[1], at)

    def _settle(self, file: StackFile, at: int) -> None:
        lower, upper = self._layers[at], self._layers[at + 1]
        upper.sync()
        entries = self._entries[:at] + self._entries[at + 1 :]
        file.save(entries)
        upper.rests_on(lower.below)
        self._entries = entries
        self._layers = self._layers[:at] + self._layers[at + 1 :]
        self._name()
        with self._lock:
            self._retired.append(lower)
        stack.clear_leftovers(self._directory, entries if self._next is None else (*entries, self._next[0]))

    # --- lend; any thread but the event loop's ---

    def lend(self, snapshot: str, target: Path) -> tuple[Entry, ...]:
        """The layers up to that snapshot in the directory `target` as well, nameless: their list. Raises StoreError,
        OSError; then a part of it may be there."""
        with self._lending:
            names = [entry.snapshot for entry in self._entries[:-1]]
            if not snapshot or snapshot not in names:
                raise NoSnapshot(f"{self._directory} has no snapshot {snapshot!r}")
            count = names.index(snapshot) + 1
            for entry, layer in zip(self._entries[:count], self._layers[:count], strict=True):
                (target / entry.directory).mkdir()
                for name in SHARED:
                    share(self._directory / entry.directory / name, target / entry.directory / name)
                if layer.files.present is not None:
                    size = os.fstat(layer.files.present).st_size
                    write_sparse(target / entry.directory / "present", size)
                    copy_allocated(layer.files.present, target / entry.directory / "present", layer.where)
            return tuple(replace(entry, snapshot="") for entry in self._entries[:count])

    def _release(self) -> None:
        """Close what was folded, unless a scan that began before may still read it."""
        with self._lock:
            gone = [] if self._scans else self._retired
            self._retired = self._retired if self._scans else []
        close_layers(gone)


def open_layers(
    directory: Path,
    format: Format,
    entries: tuple[Entry, ...],
    marked: Callable[[], Collection[int]],
    *,
    writable: bool = True,
) -> list[Layer]:
    """Oldest first. Raises FormatError, StoreError; then nothing stays open."""
    layers: list[Layer] = []
    try:
        for entry in entries:
            below = layers[-1] if layers else None
            newest = entry is entries[-1]
            size = format.size_blocks if newest else entry.size_blocks
            layers.append(open_layer(directory, entry, size, below, marked if newest else frozenset, writable=writable))
    except BaseException:
        close_layers(layers)
        raise
    return layers


def open_layer(
    directory: Path,
    entry: Entry,
    size_blocks: int,
    below: Layer | None,
    marked: Callable[[], Collection[int]],
    *,
    writable: bool = True,
) -> Layer:
    """Raises FormatError, StoreError; then nothing stays open."""
    fds: dict[str, int] = {}
    try:
        for name, size in file_sizes(size_blocks, entry.number).items():
            fds[name] = open_file(directory / entry.directory / name, size, writable=writable)
        return Layer(LayerFiles(**fds), size_blocks, str(directory / entry.directory), marked, below)
    except BaseException:
        for fd in fds.values():
            os.close(fd)
        raise


def close_layers(layers: Iterable[Layer]) -> None:
    for layer in layers:
        for fd in layer.descriptors:
            os.close(fd)


def copy_allocated(source: int, target: Path, where: str) -> None:
    """What is allocated of a sparse file, into one of the same size. Raises OSError, StoreError."""
    fd = os.open(target, os.O_WRONLY)
    try:
        for low, high in data_ranges(source, 0, os.fstat(source).st_size):
            for at in range(low, high, _COPY_BYTES):
                write_blocks_at(fd, read_at(source, min(_COPY_BYTES, high - at), at, where), at, str(target))
    finally:
        os.close(fd)
