"""The socket holder: what listens outlives whom it serves, and whoever comes meanwhile waits."""

from __future__ import annotations

import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.replica.holder import Holder, _bound, serve_one
from services.replica.nbd import HeldListeners
from stoscore.errors import StosError

LOG = logging.getLogger("test")


class Serving:
    """A holder in a thread, as its process serves it."""

    def __init__(self, directory: Path):
        self.path = directory / "holder.sock"
        self.path.unlink(missing_ok=True)
        self.holder = Holder(directory)
        self._door = _bound(self.path, socket.SOCK_SEQPACKET)
        self._door.setblocking(True)
        self._door.listen(8)
        self._ending = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending:
            serve_one(self._door, self.holder)

    def end(self) -> None:
        """As when its process is killed: the names stay."""
        self._ending = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as knock:
            knock.connect(str(self.path))
        self._thread.join(30)
        self._door.close()
        self.holder.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Serving]]:
    made: list[Serving] = []

    def begin() -> Serving:
        made.append(Serving(tmp_path))
        return made[-1]

    yield begin
    for one in made:
        if not one._ending:
            one.end()


def came(listener: socket.socket) -> bytes:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(30)
        return connection.recv(100)


async def test_who_comes_while_the_service_is_away_waits_for_the_next(
    start: Callable[[], Serving], tmp_path: Path
) -> None:
    listeners = HeldListeners(start().path, LOG)
    path = tmp_path / "v.sock"
    first = await listeners.listen(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await listeners.leave(path)
    first.close()  # the service is gone
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.send(b"waited")
        second = await listeners.listen(path)
        second.setblocking(True)
        assert came(second) == b"waited"
        second.close()


async def test_a_released_socket_is_gone(start: Callable[[], Serving], tmp_path: Path) -> None:
    listeners = HeldListeners(start().path, LOG)
    (await listeners.listen(tmp_path / "v.sock")).close()
    await listeners.release(tmp_path / "v.sock")
    assert not (tmp_path / "v.sock").exists()
    await listeners.release(tmp_path / "v.sock")


async def test_what_nobody_remembers_goes(start: Callable[[], Serving], tmp_path: Path) -> None:
    listeners = HeldListeners(start().path, LOG)
    for name in ("a.sock", "b.sock"):
        (await listeners.listen(tmp_path / name)).close()
    await listeners.keep([tmp_path / "b.sock"])
    assert [(tmp_path / name).exists() for name in ("a.sock", "b.sock")] == [False, True]
    await listeners.keep([])
    assert not (tmp_path / "b.sock").exists()


async def test_a_name_that_somebody_removed_is_made_again(start: Callable[[], Serving], tmp_path: Path) -> None:
    listeners = HeldListeners(start().path, LOG)
    path = tmp_path / "v.sock"
    (await listeners.listen(path)).close()
    path.unlink()
    again = await listeners.listen(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    again.close()


async def test_the_next_holder_takes_the_names_over(start: Callable[[], Serving], tmp_path: Path) -> None:
    listeners = HeldListeners(tmp_path / "holder.sock", LOG)
    path = tmp_path / "v.sock"
    old = start()
    first = await listeners.listen(path)
    old.end()
    start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))  # the service listens still
    first.close()
    second = await listeners.listen(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    second.close()


async def test_without_a_holder_the_service_binds_its_own(tmp_path: Path) -> None:
    listeners = HeldListeners(tmp_path / "nobody.sock", LOG)
    path = tmp_path / "v.sock"
    own = await listeners.listen(path)
    own.listen()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    await listeners.keep([path])
    await listeners.release(path)
    assert not path.exists()
    own.close()


@pytest.mark.parametrize("request_text", ["listen\0/etc/v.sock", "keep\0../v.sock", "fly\0", "", "listen", "\xff\xfe"])
def test_what_is_not_its_business_is_refused(tmp_path: Path, request_text: str) -> None:
    with pytest.raises(StosError):
        Holder(tmp_path).answer(request_text.encode("latin-1"))


async def test_a_client_that_says_nothing_stops_nobody(
    start: Callable[[], Serving], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.replica.holder.ANSWER_S", 0.05)
    serving = start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(str(serving.path))
        held = await HeldListeners(serving.path, LOG).listen(tmp_path / "v.sock")
        assert os.fstat(held.fileno())
        held.close()
