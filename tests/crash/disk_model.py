"""A disk that records every write and sync, and can say what a power loss at this moment might leave.

The store runs on real files; the kernel's calls are recorded on their way. Between two syncs of a file each of its
4 KiB pages may stand on the disk as any of the versions that it went through, in any combination with the others
(the cache writes pages back in whatever order it likes), and one page may be torn: some of its 512-byte sectors
are of one version and the rest of the next. What a sync covered stays.

    pwrite, punch ─> a new version of each touched page          fdatasync ─> only the last versions are left
    memory map (the tail) ─> looked at before each recorded call
    rename, removal ─> may have happened or not, each for itself        fsync of the directory ─> has happened
    a new file ─> is empty until its fsync
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR
from typing import Any
from unittest.mock import patch

from services.replica.store import disk

PAGE = 4096
SECTOR = 512
_ZERO = bytes(PAGE)


@dataclass(slots=True)
class RecordedFile:
    """One file: its durable pages, and the versions that pages went through since its last sync."""

    size: int
    durable: dict[int, bytes] = field(default_factory=dict)
    pending: dict[int, list[bytes]] = field(default_factory=dict)

    def latest(self, page: int) -> bytes:
        versions = self.pending.get(page)
        return versions[-1] if versions else self.durable.get(page, _ZERO)

    def changed(self, page: int, content: bytes) -> None:
        if content != self.latest(page):
            self.pending.setdefault(page, []).append(content)

    def written(self, offset: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            page, first = divmod(offset + at, PAGE)
            step = min(PAGE - first, len(data) - at)
            old = self.latest(page)
            self.changed(page, old[:first] + data[at : at + step] + old[first + step :])
            at += step

    def zeroed(self, offset: int, size: int) -> None:
        self.written(offset, bytes(size))

    def synced(self) -> None:
        for page, versions in self.pending.items():
            self.durable[page] = versions[-1]
        self.pending.clear()


class _OneByOne:
    """In the place of the pool that syncs several files at once: a crash falls between any two of them."""

    def submit(self, work: Callable[..., None], *arguments: object) -> Future[None]:
        done: Future[None] = Future()
        work(*arguments)
        done.set_result(None)
        return done


Image = dict[str, tuple[int, dict[int, bytes]]]
"""File name -> (size, pages that are not zeros)."""


class Disk:
    """Records what a store does to one directory. `each` is called before every recorded call takes effect."""

    def __init__(self, directory: Path, each: Callable[[], None], image: Image | None = None):
        """`image`: what is in the directory, when that is known."""
        self.directory = directory
        self.files: dict[str, RecordedFile] = {}
        self._each = each
        self._inodes: dict[int, RecordedFile] = {}
        self._moves: list[tuple[str, str]] = []
        """(from, to) of renames that no sync of a directory covered; to nowhere: a removal."""
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                name = str(path.relative_to(directory))
                self.files[name] = RecordedFile(*(image[name] if image else _read(path)))
                self._inodes[path.stat().st_ino] = self.files[name]

    # --- recording ---

    @contextmanager
    def recording(self) -> Iterator[None]:
        real_pwrite, real_sync, real_fallocate = os.pwrite, os.fdatasync, disk._libc.fallocate
        real_fsync, real_rename, real_rmtree = os.fsync, os.rename, shutil.rmtree

        def pwrite(fd: int, data: Any, offset: int) -> int:
            written = real_pwrite(fd, data, offset)
            self._note(fd, lambda file: file.written(offset, bytes(data[:written])))
            return written

        def fdatasync(fd: int) -> None:
            real_sync(fd)
            self._note(fd, RecordedFile.synced)

        def fsync(fd: int) -> None:
            real_fsync(fd)
            name = self._name(os.readlink(f"/proc/self/fd/{fd}"))
            if name is not None:
                self._each()
                self._fsynced(fd, name)

        def rename(source: Any, target: Any) -> None:
            old, new = self._name(source), self._name(target)
            if old is None or new is None:
                real_rename(source, target)
                return
            self._forget(new)
            self._adopt(old)
            real_rename(source, target)
            self._look_at_the_map()
            self._each()
            self._moves.append((old, new))

        def rmtree(path: Any, *arguments: Any, **options: Any) -> None:
            name = self._name(path)
            if name is None or not Path(path).is_dir():
                real_rmtree(path, *arguments, **options)
                return
            self._forget(name)
            real_rmtree(path, *arguments, **options)
            self._each()
            self._moves.append((name, ""))

        class Libc:
            @staticmethod
            def fallocate(fd: int, mode: int, offset: int, size: int) -> int:
                done = int(real_fallocate(fd, mode, offset, size))
                assert done == 0
                self._note(fd, lambda file: file.zeroed(offset, size))
                return done

        with (
            patch.object(os, "pwrite", pwrite),
            patch.object(os, "fdatasync", fdatasync),
            patch.object(os, "fsync", fsync),
            patch.object(os, "rename", rename),
            patch.object(shutil, "rmtree", rmtree),
            patch.object(disk, "_libc", Libc),
            patch.object(disk, "_syncers", _OneByOne()),
        ):
            yield

    def _note(self, fd: int, change: Callable[[RecordedFile], None]) -> None:
        file = self._inodes.get(os.fstat(fd).st_ino)
        if file is None:
            return
        self._look_at_the_map()
        self._each()
        change(file)

    def _name(self, path: Any) -> str | None:
        """In the directory that is recorded; "." for that itself."""
        path = Path(path)
        return str(path.relative_to(self.directory)) if path.is_relative_to(self.directory) else None

    def _fsynced(self, fd: int, name: str) -> None:
        status = os.fstat(fd)
        if S_ISDIR(status.st_mode):
            covered = [move for move in self._moves if str(Path(move[1] or move[0]).parent) == name]
            self._moves = [move for move in self._moves if move not in covered]
            self.files = _moved(self.files, covered)
            return
        now = RecordedFile(*_read(self.directory / name))
        file = self._inodes.setdefault(status.st_ino, now)
        file.size, file.durable = now.size, now.durable
        file.pending.clear()
        if all(known is not file for known in self.files.values()):
            self.files[name] = file

    def _forget(self, name: str) -> None:
        """Its inodes may come back as other files."""
        place = self.directory / name
        for path in (place, *place.rglob("*")):
            if path.is_file():
                self._inodes.pop(path.stat().st_ino, None)

    def _adopt(self, name: str) -> None:
        """What was made and never synced is an empty file to a power loss."""
        place = self.directory / name
        for path in (place, *place.rglob("*")):
            if path.is_file() and path.stat().st_ino not in self._inodes:
                file = self._inodes[path.stat().st_ino] = RecordedFile(0)
                self.files[str(path.relative_to(self.directory))] = file

    def _look_at_the_map(self) -> None:
        content = (self.directory / "tail").read_bytes()
        tail = self.files["tail"]
        for at in range(0, len(content), PAGE):
            tail.changed(at // PAGE, content[at : at + PAGE].ljust(PAGE, b"\0"))

    # --- what may be left ---

    def settled(self) -> Image:
        """Everything as the page cache has it: what a killed process leaves."""
        self._look_at_the_map()
        return self._image(lambda file, page: file.latest(page), self._moves)

    def power_loss(self, choice: random.Random) -> Image:
        """One of the states that a power loss may leave."""
        how = choice.choice(("nothing", "everything", "some", "some", "some", "torn", "torn"))

        def pick(file: RecordedFile, page: int) -> bytes:
            versions = [file.durable.get(page, _ZERO), *file.pending[page]]
            if how == "nothing":
                return versions[0]
            if how == "everything":
                return versions[-1]
            at = choice.randrange(len(versions))
            if how == "torn" and at + 1 < len(versions):
                return _torn(versions[at], versions[at + 1], choice)
            return versions[at]

        return self._image(pick, [move for move in self._moves if how == "everything" or choice.random() < 0.5])

    def _image(self, pick: Callable[[RecordedFile, int], bytes], moves: list[tuple[str, str]]) -> Image:
        image: Image = {}
        for name, file in _moved(self.files, moves).items():
            pages = dict(file.durable)
            for page in file.pending:
                pages[page] = pick(file, page)
            image[name] = (file.size, pages)
        return image


def _moved(files: dict[str, RecordedFile], moves: list[tuple[str, str]]) -> dict[str, RecordedFile]:
    for old, new in moves:
        taken = {name: file for name, file in files.items() if name == old or name.startswith(f"{old}/")}
        files = {name: file for name, file in files.items() if name not in taken}
        if new:
            files |= {new + name[len(old) :]: file for name, file in taken.items()}
    return files


def _read(path: Path) -> tuple[int, dict[int, bytes]]:
    content = path.read_bytes()
    pages = {at // PAGE: content[at : at + PAGE].ljust(PAGE, b"\0") for at in range(0, len(content), PAGE)}
    return len(content), {page: data for page, data in pages.items() if data != _ZERO}


def _torn(before: bytes, after: bytes, choice: random.Random) -> bytes:
    return b"".join((after if choice.random() < 0.5 else before)[at : at + SECTOR] for at in range(0, PAGE, SECTOR))


def lay_down(image: Image, directory: Path) -> None:
    """Make the directory's files what the image says. Thousands of times, so without an object for each path."""
    root = str(directory)
    for place, folders, names in os.walk(root, topdown=False):
        for name in names:
            if os.path.relpath(os.path.join(place, name), root) not in image:
                os.unlink(os.path.join(place, name))
        for folder in folders:
            with suppress(OSError):
                os.rmdir(os.path.join(place, folder))
    for place in {os.path.dirname(name) for name in image}:
        os.makedirs(os.path.join(root, place), exist_ok=True)
    for name, (size, pages) in image.items():
        fd = os.open(os.path.join(root, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.ftruncate(fd, size)
        for page, content in pages.items():
            if content != _ZERO:
                os.pwrite(fd, content[: size - page * PAGE], page * PAGE)
        os.close(fd)
