"""Unix sockets belong to their own user from their first moment: no glance at the directory ever sees another mode."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.csi.server import listen
from services.replica.nbd import Frontend
from stoscore.errors import StosError
from stoscore.files import socket_directory
from tests.support.nbd import NAME, SIZE, VOLUME

ROUNDS = 60
SEEN_WITHIN_S = 30


@contextmanager
def watched(directory: Path) -> Iterator[set[int]]:
    """The modes of every socket that was ever seen in the directory, looked at as often as this machine can."""
    seen: set[int] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            with os.scandir(directory) as entries:
                for entry in entries:
                    try:
                        seen.add(stat.S_IMODE(entry.stat().st_mode))
                    except FileNotFoundError:
                        continue

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


async def _nbd(path: Path) -> Callable[[], Awaitable[None]]:
    frontend = Frontend(VOLUME, NAME, SIZE, 1, {}, path, lambda node, *parts: False, lambda node: False)
    await frontend.start()
    return frontend.close


async def _csi(path: Path) -> Callable[[], Awaitable[None]]:
    server = await listen(path, lambda server: None)

    async def stop() -> None:
        await server.stop(None)

    return stop


@pytest.mark.parametrize("start", [_nbd, _csi])
async def test_a_socket_is_its_users_alone_from_the_start(
    tmp_path: Path, start: Callable[[Path], Awaitable[Callable[[], Awaitable[None]]]]
) -> None:
    before = os.umask(0)
    try:
        with watched(socket_directory(tmp_path / "run")) as seen:
            for _ in range(ROUNDS):
                stop = await start(tmp_path / "run" / "x.sock")
                assert stat.S_IMODE((tmp_path / "run" / "x.sock").stat().st_mode) == 0o600
                await stop()
            stop = await start(tmp_path / "run" / "x.sock")
            async with asyncio.timeout(SEEN_WITHIN_S):
                while not seen:  # a busy machine may not have let the watcher look before
                    await asyncio.sleep(0.001)
            await stop()
    finally:
        os.umask(before)
    assert seen == {0o600}
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o720])
async def test_no_socket_is_made_where_others_may_put_theirs(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(StosError, match="others may write into the directory") as caught:
        await _csi(directory / "x.sock")
    assert f"chmod 700 {directory}" in caught.value.next_step
    with pytest.raises(StosError):
        socket_directory(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory away")
def test_no_socket_is_made_in_somebody_elses_directory(tmp_path: Path) -> None:
    """Made under the name that ours would get, before we came."""
    directory = tmp_path / "theirs"
    directory.mkdir(mode=0o700)
    os.chown(directory, 12345, 12345)
    with pytest.raises(StosError, match="belongs to another user"):
        socket_directory(directory)
