"""The authority is lost: put back from a backup, or made anew; with the real services, as the runbook says."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.certs_messages import Revoked, RevokeIdentity
from stoscore.enrolment import admin_call, enrol, issue_token
from stoscore.errors import StosError
from stoscore.files import write_private
from stoscore.identity import Identity
from stoscore.invitations import JoinToken
from stoscore.renewal import renew
from stoscore.volumes import Volumes
from tests.support.audit import told
from tests.support.certs_process import CertsProcess
from tests.support.nats_service import free_port
from tests.support.service_process import ServiceProcess

pytestmark = pytest.mark.long

PASSPHRASE = "correct horse battery staple"


@dataclass
class Cluster:
    """certs, NATS, placement and one node; the node keeps a volume."""

    certs: CertsProcess
    placement: ServiceProcess
    node: ServiceProcess

    def stop(self) -> None:
        for process in (self.node, self.placement):
            process.stop()
        self.certs.stop()

    def stos(self, *arguments: str, code: int = 0) -> str:
        """A command beside the certs service, with its settings."""
        done = subprocess.run(
            [sys.executable, "-m", "services.cli.main", *arguments],
            env=self.certs.environment,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, done.stderr
        assert PASSPHRASE not in done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    async def give_tokens(self) -> None:
        """To all that run as services."""
        for file, kind, name in (
            (self.certs.nats.token_file, "svc", "nats"),
            (self.placement.token_file, "svc", "placement-1"),
            (self.node.token_file, "node", "n1"),
        ):
            token = await issue_token(self.certs.socket, kind, name)
            write_private(file, f"{token}\n".encode())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    homes = [tmp_path / name for name in ("placement", "n1")]
    for home in homes:
        home.mkdir()
    certs = CertsProcess(tmp_path)
    url = certs.nats_urls[0]
    placement = ServiceProcess("placement", homes[0], STOS_NATS_URLS=url)
    node = ServiceProcess(
        "replica",
        homes[1],
        STOS_NATS_URLS=url,
        STOS_REPLICA_NODE="n1",
        STOS_REPLICA_DATA_DIR=str(homes[1] / "data"),
        STOS_REPLICA_RUN_DIR=str(homes[1] / "run"),
        STOS_REPLICA_LISTEN=f"127.0.0.1:{free_port()}",
    )
    made = Cluster(certs, placement, node)
    try:
        certs.start()
        certs.nats.start()
        yield made
    finally:
        made.stop()


async def started(cluster: Cluster) -> Identity:
    """Everything runs and there is a volume. Returns the administrator."""
    await cluster.give_tokens()
    cluster.placement.start()
    cluster.node.start()
    await cluster.placement.wait_logged("placement is ready")
    await cluster.node.wait_logged("replica is ready")
    admin = await cluster.certs.enrolled("user", "admin")
    bus = await cluster.certs.bus(admin)
    await Volumes(bus, Catalogue(bus)).create("data", 1 << 20, replicas=0)
    await bus.close()
    return admin


async def serving(bus: Bus, timeout_s: float = 60.0) -> str:
    """The volume is found and served; returns its incarnation."""
    volumes = Volumes(bus, Catalogue(bus))
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                status = (await volumes.get("data"))[1]
                if status is not None and status.serving:
                    return status.incarnation
            except StosError:
                pass
            await asyncio.sleep(0.2)


async def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.05)


async def test_a_backup_puts_the_authority_back(cluster: Cluster, tmp_path: Path) -> None:
    """Nobody enrols again, and who was revoked after the backup stays out."""
    admin = await started(cluster)
    thief = await cluster.certs.enrolled("node", "n2")
    write_private(tmp_path / "passphrase", f"{PASSPHRASE}\n".encode())
    backup, given = str(tmp_path / "certs.backup"), ("--passphrase-file", str(tmp_path / "passphrase"))
    made = json.loads(await asyncio.to_thread(cluster.stos, "certs", "backup", backup, *given, "-o", "json"))
    assert made["cluster"] == admin.cluster
    bus = await cluster.certs.bus(admin)
    before = await serving(bus)
    event = await told(bus, lambda event: event.action == "certs.backup")
    assert event.who == f"local/uid-{os.getuid()}"
    await admin_call(cluster.certs.socket, "revoke", RevokeIdentity(kind="node", name="n2"), Revoked)
    identity_of_node = cluster.node.identity_dir
    await until(lambda: any(one.name == "n2" for one in denied_by(identity_of_node)))

    await asyncio.to_thread(cluster.certs.kill)
    shutil.rmtree(cluster.certs.data)
    trust = ("--trust-file", str(identity_of_node / "trust.json"))
    restored = await asyncio.to_thread(cluster.stos, "certs", "restore", backup, *given, *trust, "-o", "json")
    assert json.loads(restored)["denied"] == 1
    await asyncio.to_thread(cluster.certs.start)
    offset = len(cluster.certs.logged())

    async with asyncio.timeout(30):
        while True:
            try:
                await renew(admin, bus)
                break
            except StosError:
                await asyncio.sleep(0.2)
    assert await serving(bus) == before
    with pytest.raises(StosError, match="revoked"):
        await renew(thief, await Bus.connect(thief, cluster.certs.nats_urls, name="thief"))
    again = await cluster.certs.enrolled("node", "n3")
    assert again.cluster == admin.cluster
    assert "Traceback" not in cluster.certs.logged()[offset:]
    assert cluster.node.alive
    assert cluster.placement.alive
    await bus.close()


def denied_by(directory: Path) -> list[RevokeIdentity]:
    state = Identity.load(directory).trust_state
    return [RevokeIdentity(kind=one.kind, name=one.name) for one in state.denied] if state else []  # type: ignore[arg-type]


async def test_without_a_backup_everybody_is_let_in_again(cluster: Cluster, tmp_path: Path) -> None:
    """Keys, ledger and all are gone. The volume, its name in the catalogue and its node's copy stay."""
    admin = await started(cluster)
    bus = await cluster.certs.bus(admin)
    before = await serving(bus)
    await bus.close()
    await asyncio.to_thread(cluster.certs.kill)
    shutil.rmtree(cluster.certs.data)

    made = await asyncio.to_thread(
        cluster.stos, "certs", "recover", "--identity", str(cluster.node.identity_dir), "-o", "json"
    )
    assert json.loads(made)["cluster"] == admin.cluster
    refused = await asyncio.to_thread(cluster.stos, "certs", "recover", "--cluster", "other", code=5)
    assert "this vault holds an authority" in refused
    await asyncio.to_thread(cluster.certs.start)
    # Nobody is restarted: each finds its token, and that it is of a younger authority.
    await cluster.give_tokens()
    await cluster.placement.wait_logged("this process has a new identity")
    await cluster.node.wait_logged("this process has a new identity")
    shutil.rmtree(admin.directory)
    fresh = await cluster.certs.enrolled("user", "admin")
    assert fresh.cluster == admin.cluster
    assert not set(fresh.roots) & set(admin.roots)
    bus = await Bus.connect(fresh, cluster.certs.nats_urls, name="admin")
    assert await bus.wait_connected(60)
    assert await serving(bus) == before
    await renew(fresh, bus)
    token = JoinToken.decode(await issue_token(cluster.certs.socket, "node", "n2"))
    await enrol(tmp_path / "n2", token)
    assert os.path.exists(tmp_path / "n2" / "cert.pem")
    assert cluster.node.alive
    assert cluster.placement.alive
    await bus.close()
