"""Every socket on which a running cluster can be reached: each has a known purpose and refuses a stranger."""

from __future__ import annotations

import asyncio
import errno
import os
import pwd
import socket
import sys
from pathlib import Path

import pytest

from tests.security import kernel
from tests.security.kernel import Listening
from tests.security.stage import VICTIM, Stage

pytestmark = [pytest.mark.long, pytest.mark.slow]

STRANGER = "nobody"


def purpose(stage: Stage, found: Listening) -> str:
    """What the socket is for; "" when nobody knows."""
    if found.family in ("tcp", "tcp6"):
        host, _, port = found.address.rpartition(":")
        if host != "127.0.0.1":
            return ""
        names = {str(number): name for name, number in stage.ports.items()}
        return names.get(port, "")
    if found.family == "unix" and not found.address.startswith("@"):
        run = stage.cluster.layout.run
        return str(Path(found.address).relative_to(run)) if Path(found.address).is_relative_to(run) else ""
    return ""


@pytest.fixture(scope="module")
def sockets(stage: Stage) -> list[Listening]:
    processes = kernel.processes_of(stage.cluster.layout.root, stage.cluster.layout.run)
    started = {process.pid for process in stage.cluster.state().processes.values()}
    assert started <= set(processes), "the search for the cluster's processes misses some"
    return kernel.listening(processes)


def test_each_socket_has_a_known_purpose(stage: Stage, sockets: list[Listening]) -> None:
    unknown = [one for one in sockets if not purpose(stage, one)]
    assert unknown == []


def test_the_search_sees_all_that_are_known(stage: Stage, sockets: list[Listening]) -> None:
    """Otherwise the other tests would be content with nothing."""
    seen = {purpose(stage, one) for one in sockets}
    assert set(stage.ports) <= seen
    assert any(name.endswith(".sock") and "/" in name for name in seen), "the volume's NBD socket"


@pytest.mark.asyncio(loop_scope="session")
async def test_each_tcp_port_refuses_a_stranger(stage: Stage, sockets: list[Listening]) -> None:
    """Plain text gets no answer anywhere. TLS without a certificate gets one only at the enrolment door, which
    asks for a token instead (see the attacks on enrolment)."""
    scene = await stage.scene()
    doors = {purpose(stage, one) for one in sockets if one.family.startswith("tcp")}
    # NBD begins in plain text with "begin TLS", and says nothing else there.
    exports = {door for door in doors if door.startswith("nbd")}
    for door in exports:
        outcome = await stage.attacker.attack("doors.use_export_plainly", scene, None, name=VICTIM, door=door)
        assert not outcome.won, f"{door}: {outcome.told}"
    for door in sorted(doors - exports):
        outcome = await stage.attacker.attack("doors.speak_plainly", scene, None, door=door)
        assert not outcome.won, f"{door}: {outcome.told}"
        if not door.startswith("certs"):
            outcome = await stage.attacker.attack("doors.come_without", scene, None, door=door)
            assert not outcome.won, f"{door}: {outcome.told}"
    await stage.victim_works()


def connect_as(user: str, path: str) -> int:
    """The errno that another user of this machine gets; 0 when he is let in."""
    account = pwd.getpwnam(user)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        os._exit(socket.socket(socket.AF_UNIX).connect_ex(path))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_each_unix_socket_refuses_another_user(sockets: list[Listening]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    paths = [listening.address for listening in sockets if listening.family == "unix"]
    assert paths
    for path in paths:
        assert connect_as(STRANGER, path) == errno.EACCES, path
        # Not by the directory alone, which an administrator may make wider for the sake of another file.
        assert Path(path).stat().st_mode & 0o007 == 0, path


@pytest.mark.asyncio(loop_scope="session")
async def test_a_port_that_nobody_knows_is_noticed(stage: Stage) -> None:
    """The enumeration bites: a process of the cluster that opens one more port would fail the test above."""
    code = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print('open', flush=True); sys.stdin.read()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(stage.cluster.layout.root),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.readline(), 30)
        found = kernel.listening(kernel.processes_of(stage.cluster.layout.root, stage.cluster.layout.run))
        (extra,) = [one for one in found if one.pid == process.pid]
        assert purpose(stage, extra) == ""
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
