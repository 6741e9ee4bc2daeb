"""Processes that host services: several in one, tokens that come late, orderly ends, clear refusals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.enrolment import issue_token
from stoscore.errors import StosError
from stoscore.files import write_private
from stoscore.messages import Ranking, RankRequest
from tests.support.certs_process import CertsProcess
from tests.support.control_plane import ControlPlane


class TwoServices(CertsProcess):
    services = ("placement", "certs")


def run_to_end(*services: str, **settings: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("STOS_")}
    command = [sys.executable, "-m", "services.cli.main", "serve", *services]
    return subprocess.run(command, env=clean | settings, capture_output=True, text=True, timeout=30)


async def test_two_services_in_one_process(tmp_path: Path) -> None:
    """Each has its own identity. The token for placement is made by certs, which runs beside it already."""
    identities, token_file = tmp_path / "identity", tmp_path / "token"
    process = TwoServices(tmp_path, STOS_IDENTITY_DIR=str(identities), STOS_JOIN_TOKEN_FILE=str(token_file))
    try:
        await asyncio.to_thread(process.start)
        await asyncio.to_thread(process.nats.start)
        token = await issue_token(process.socket, "svc", "placement-1")
        write_private(token_file, token.encode())
        user = await process.bus(await process.enrolled("user", "admin"))
        async with asyncio.timeout(15):
            while not await placement_answers(user):
                await asyncio.sleep(0.1)
        await user.close()
        assert (identities / "placement" / "cert.pem").exists()
        assert await asyncio.to_thread(process.kill, signal.SIGTERM) == 0
    finally:
        process.stop()


async def placement_answers(user: Bus) -> bool:
    """Whatever it says: there are no nodes to rank."""
    request = RankRequest(volume="0" * 32, name="v", size_bytes=1 << 20, copies=1)
    try:
        await user.request(subjects.placement("rank"), request, Ranking)
    except StosError as error:
        return "no_responders" not in error.details
    return True


def test_an_unknown_service() -> None:
    ended = run_to_end("unheard-of")
    assert ended.returncode == 3
    assert ended.stderr.startswith("stos serve unheard-of: no plugin 'unheard-of'")


def test_a_service_named_twice() -> None:
    ended = run_to_end("placement", "placement")
    assert ended.returncode == 2
    assert "named twice" in ended.stderr


def test_no_identity_and_no_token(tmp_path: Path) -> None:
    ended = run_to_end("placement", STOS_IDENTITY_DIR=str(tmp_path / "none"))
    assert ended.returncode == 7
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("stos serve")]
    assert "cert.pem is missing" in line
    assert "STOS_JOIN_TOKEN_FILE" in line


def test_an_identity_of_another_role(control_plane: ControlPlane) -> None:
    node = control_plane.identity("node", "n1")
    ended = run_to_end("placement", STOS_IDENTITY_DIR=str(node.directory))
    assert ended.returncode == 7
    assert "not of a placement" in ended.stderr


def test_an_identity_of_another_cluster(control_plane: ControlPlane) -> None:
    placement = control_plane.identity("svc", "placement-1")
    ended = run_to_end("placement", STOS_IDENTITY_DIR=str(placement.directory), STOS_CLUSTER="other")
    assert ended.returncode == 7
    assert "is of cluster" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_waiting_for_a_token(tmp_path: Path, number: int) -> None:
    environment = os.environ | {
        "STOS_IDENTITY_DIR": str(tmp_path / "id"),
        "STOS_JOIN_TOKEN_FILE": str(tmp_path / "never"),
        "STOS_LOG_FORMAT": "plain",
    }
    command = [sys.executable, "-m", "services.cli.main", "serve", "placement"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "waiting for a join token" in process.stderr.readline()
    process.send_signal(number)
    assert process.wait(10) == 0
