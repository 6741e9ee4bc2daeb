"""The embedded cluster with real processes: volumes live through the death of everything around them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from services.dev import leftovers
from services.dev.cluster import Cluster
from services.dev.demo.tools import find_program
from services.dev.demo.verify import disagreements, not_as_written
from services.dev.nbd_client import NbdClient, NbdError
from stoscore.errors import Code, StosError
from stoscore.units import BLOCK_BYTES, MIB
from tests.support.cluster import RunningCluster, completed
from tests.support.nbd import run

pytestmark = pytest.mark.slow
VOLUME = "data"
SIZE_BYTES = 64 * MIB
GAP_NS_MAX = 1_500_000_000


@pytest.fixture(scope="module")
def volume(running: RunningCluster) -> str:
    created = running.stos("volume", "create", VOLUME, "--size", "64MiB")
    assert created.code == 0, created.errors
    assert "3 copies" in created.output
    return VOLUME


# ---- volumes -----------------------------------------------------------------------------------------


def test_everything_runs_and_has_a_log(running: RunningCluster) -> None:
    status = running.json("dev", "status")
    assert all(process["alive"] for process in status["processes"])
    assert all(Path(process["log"]).stat().st_mode & 0o077 == 0 for process in status["processes"])
    assert {node["node"] for node in running.json("node", "ls")} == {"n1", "n2", "n3", "app"}


def test_sockets_and_secrets_are_private(running: RunningCluster) -> None:
    where = (running.cluster.layout.root, running.cluster.layout.run)
    for listening in leftovers.unix_sockets(*where):
        assert Path(listening).stat().st_mode & 0o077 == 0, listening
        assert Path(listening).parent.stat().st_mode & 0o077 == 0, listening
    for path in running.cluster.layout.root.rglob("*"):
        if path.suffix in (".seed", ".jwt", ".key") or path.name == "key.pem":
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_volume_is_listed_shown_and_read_by_any_nbd_client(running: RunningCluster, volume: str) -> None:
    (listed,) = [row for row in running.json("volume", "ls") if row["name"] == volume]
    assert listed["size_bytes"] == SIZE_BYTES
    shown = running.json("volume", "show", volume)
    assert sorted(shown["in_sync"]) == ["n1", "n2", "n3"]
    uri = running.stos("volume", "connect", volume, "--node", "app").output.strip()
    assert uri.startswith(f"nbd+unix:///{volume}?socket=")
    if find_program("nbdinfo"):
        size = subprocess.run(["nbdinfo", "--size", uri], capture_output=True, text=True, timeout=30, check=True)
        assert int(size.stdout) == SIZE_BYTES


async def test_the_primary_dies_under_load(running: RunningCluster, volume: str) -> None:
    victim = running.json("volume", "show", volume)["primary"]
    async with running.writing(volume) as recorder:
        await asyncio.to_thread(running.cluster.kill, victim)
        await completed(recorder, 2000)
        await asyncio.to_thread(running.cluster.start, victim)
        await running.in_sync(volume, 3)
    assert recorder.history.errors == 0
    assert recorder.gap.longest_ns < GAP_NS_MAX
    copies = running.copies(volume)
    assert len(copies) == 3
    assert disagreements(copies) == []
    # Other tests have written to this volume too, so only what this recorder wrote is compared with its log.
    allowed = recorder.history.allowed(recorder.pattern)
    wrong = [block for block in not_as_written(copies[0], allowed) if block in allowed]
    assert wrong == []


@pytest.mark.parametrize("service", ["nats", "certs", "placement", "csi"])
async def test_a_service_dies_under_load_and_no_write_notices(
    running: RunningCluster, volume: str, service: str
) -> None:
    async with running.writing(volume) as recorder:
        recorder.gap.take()
        await asyncio.to_thread(running.cluster.kill, service)
        try:
            await completed(recorder, 1000)
            await asyncio.sleep(2)
            await completed(recorder, 1000)
        finally:
            await asyncio.to_thread(running.cluster.start, service)
        await completed(recorder, 500)
    assert recorder.history.errors == 0
    assert recorder.gap.longest_ns < GAP_NS_MAX
    await running.in_sync(volume, 3)


async def test_with_nats_away_a_volume_still_fails_over(running: RunningCluster, volume: str) -> None:
    """Candidates ask for votes over the peer links as well: no way of an election needs NATS."""
    victim = running.json("volume", "show", volume)["primary"]
    async with running.writing(volume) as recorder:
        await asyncio.to_thread(running.cluster.kill, "nats")
        try:
            await completed(recorder, 500)
            recorder.gap.take()
            await asyncio.to_thread(running.cluster.kill, victim)
            await completed(recorder, 1000)
        finally:
            await asyncio.to_thread(running.cluster.start, "nats")
            await asyncio.to_thread(running.cluster.start, victim)
        await completed(recorder, 500)
    assert recorder.history.errors == 0
    assert recorder.gap.longest_ns < GAP_NS_MAX
    await running.in_sync(volume, 3)
    assert disagreements(running.copies(volume)) == []


def test_new_volumes_can_be_made_after_all_that(running: RunningCluster) -> None:
    created = running.stos("volume", "create", "after", "--size", "8MiB", "--replicas", "1")
    assert created.code == 0, created.errors
    assert running.stos("volume", "rm", "after").code == 0
    assert [row["name"] for row in running.json("volume", "ls") if row["name"] == "after"] == []


async def test_a_backup_dies_and_returns_under_load(running: RunningCluster, volume: str) -> None:
    primary = running.json("volume", "show", volume)["primary"]
    backup = next(node for node in ("n1", "n2", "n3") if node != primary)
    async with running.writing(volume) as recorder:
        await asyncio.to_thread(running.cluster.kill, backup)
        await completed(recorder, 1000)
        await asyncio.to_thread(running.cluster.start, backup)
        await running.in_sync(volume, 3)
    assert recorder.history.errors == 0
    assert disagreements(running.copies(volume)) == []


async def test_the_cluster_stops_and_starts_with_its_volumes(running: RunningCluster, volume: str) -> None:
    async with running.writing(volume) as recorder:
        await completed(recorder, 500)
    assert running.stos("volume", "disconnect", volume).code == 0
    assert await asyncio.to_thread(running.cluster.stop) == []
    await asyncio.to_thread(running.cluster.up)
    await running.in_sync(volume, 3)
    async with running.writing(volume) as again:
        await completed(again, 100)
    assert again.history.errors == 0
    assert disagreements(running.copies(volume)) == []


# ---- bad input ---------------------------------------------------------------------------------------


def test_a_second_cluster_in_the_same_directory_is_refused(running: RunningCluster) -> None:
    with pytest.raises(StosError, match="a cluster is running in") as caught:
        Cluster(running.directory).up()
    assert caught.value.code is Code.FAILED_PRECONDITION
    told = running.stos("dev", "up", "--dir", str(running.directory))
    assert told.code != 0
    assert "a cluster is running" in told.errors
    assert all(process["alive"] for process in running.json("dev", "status")["processes"])


def test_fewer_nodes_than_there_are_is_refused(running: RunningCluster) -> None:
    cluster = Cluster(running.directory)
    with pytest.raises(StosError, match="has 3 nodes"):
        cluster._prepare(2)


def test_a_port_in_use_is_told_and_the_node_starts_when_it_is_free(running: RunningCluster, volume: str) -> None:
    port = running.cluster.state().ports["n3"]
    running.cluster.kill("n3")
    with socket.create_server(("127.0.0.1", port)), pytest.raises(StosError) as caught:
        running.cluster.start("n3")
    assert "n3 ended at its start" in caught.value.message
    assert str(port) in caught.value.message or "in use" in caught.value.message
    assert running.cluster.start("n3") == ["n3"]


def test_unknown_names_are_told_with_what_there_is(running: RunningCluster) -> None:
    told = running.stos("dev", "kill", "n9")
    assert told.code == 3
    assert "n1" in told.errors
    assert running.stos("dev", "kill", "n1", "--signal", "NOTHING").code == 2
    assert running.json("dev", "status")["processes"][4]["alive"]


@pytest.mark.parametrize("size", ["0", "-1", "1e99", "nothing", "999999TiB"])
def test_impossible_sizes_are_refused(running: RunningCluster, size: str) -> None:
    told = running.stos("volume", "create", "impossible", "--size", size)
    assert told.code == 2, told
    assert running.stos("volume", "show", "impossible").code == 3


def test_a_size_above_the_pool_leaves_nothing_half_made(running: RunningCluster) -> None:
    told = running.stos("volume", "create", "huge", "--size", "10TiB", "--timeout", "10")
    assert told.code == 2, told
    assert "above the pool" in told.errors
    assert [row for row in running.json("volume", "ls") if row["name"] == "huge"] == []


def test_a_name_in_use_with_another_size_is_refused(running: RunningCluster, volume: str) -> None:
    assert running.stos("volume", "create", volume, "--size", "64MiB").code == 0
    assert running.stos("volume", "create", volume, "--size", "65MiB").code == 4
    assert running.stos("volume", "create", volume, "--size", "64MiB", "--replicas", "1").code == 4


def test_a_volume_in_use_is_not_removed(running: RunningCluster, volume: str) -> None:
    assert running.stos("volume", "connect", volume, "--node", "app").code == 0
    assert running.stos("volume", "rm", volume).code == 5
    assert running.json("volume", "show", volume)["primary"]


async def test_bad_nbd_clients_harm_nobody(running: RunningCluster, volume: str) -> None:
    path = running.json("volume", "connect", volume, "--node", "app")["socket"]
    with pytest.raises(NbdError):
        await NbdClient.connect(path, "nothing")
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(path)
        rude.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
    async with await NbdClient.connect(path, volume) as client:
        with pytest.raises(NbdError):
            await client.read(client.size, BLOCK_BYTES)
        with pytest.raises(NbdError):
            await client.write(client.size - BLOCK_BYTES, bytes(2 * BLOCK_BYTES))
        assert len(await client.read(0, BLOCK_BYTES)) == BLOCK_BYTES


def test_a_peer_without_a_certificate_is_refused_and_the_node_lives_on(running: RunningCluster) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    port = running.cluster.state().ports["n1"]
    # With TLS 1.3 the client learns of the refusal only at its first read.
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        socket.create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw) as link,
    ):
        link.settimeout(10)
        if link.recv(1) == b"":
            raise ConnectionResetError("hung up")
    assert running.json("node", "show", "n1")["node"] == "n1"


# ---- remote clients ----------------------------------------------------------------------------------


async def _qemu_io(exported: dict[str, Any], files: str, *commands: str) -> tuple[int, str]:
    credentials = ["--object", f"tls-creds-x509,id=tls,endpoint=client,dir={files}", "--image-opts", exported["qemu"]]
    return await run("qemu-io", *credentials, *(word for command in commands for word in ("-c", command)))


async def test_an_exported_volume_is_for_who_is_named_and_until_he_is_revoked(
    running: RunningCluster, volume: str, tmp_path: Path
) -> None:
    """From the token to the revocation, with the commands that people use."""
    here = running.json("volume", "connect", volume, "--node", "app")["socket"]
    files = {}
    for name in ("eve", "mallory"):
        issued = running.stos(
            "certs", "token", "--kind", "user", "--name", name, "--role", "viewer", "--out", str(tmp_path)
        )
        token = issued.output.strip()
        assert running.stos("certs", "enrol", "--token-file", token, "--identity-dir", str(tmp_path / name)).code == 0
        files[name] = running.json("volume", "client-files", str(tmp_path / name))["directory"]
    exported = running.json("volume", "export", volume, "--listen", "127.0.0.1:0", "--client", "user/eve")
    code, output = await _qemu_io(exported, files["eve"], "write -P 0x42 0 256k", "read -P 0x42 0 256k")
    assert code == 0 and "failed" not in output, output
    async with await NbdClient.connect(here, volume) as client:
        assert await client.read(0, 256 * 1024) == b"\x42" * 256 * 1024
    code, output = await _qemu_io(exported, files["mallory"], "read 0 4k")
    assert code != 0 and "the export is not for this identity" in output, output

    opened = await NbdClient.connect(here, volume)
    assert running.stos("certs", "revoke", "user/eve", "--reason", "lost").code == 0

    async def refused() -> bool:
        code, output = await _qemu_io(exported, files["eve"], "read 0 4k")
        return code != 0 and "is revoked: lost" in output

    async with asyncio.timeout(30):
        while not await refused():
            await asyncio.sleep(0.2)
    assert len(await opened.read(0, BLOCK_BYTES)) == BLOCK_BYTES, "who uses it here is not disturbed"
    await opened.close()

    def told(who: str, action: str) -> bool:
        events = running.json("events", "--kind", "audit", "--reporter", "app", "--since", "10m")
        return any(who in str(event) and action in str(event) for event in events)

    for who, action in (("user/eve", "nbd.open"), ("user/mallory", "nbd.open"), ("admin/admin", "nbd.export")):
        await running.wait(f"{who} {action}", lambda who=who, action=action: told(who, action))
    assert running.stos("volume", "unexport", volume).code == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(exported["address"].rpartition(":")[2])), 5).close()
