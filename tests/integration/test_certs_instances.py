"""Two certs processes on one vault, either of which may be killed: administration by role, revocation, a new root."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.certs.administration import Administration
from services.certs.app import wall_clock
from services.certs.authority import Authority
from services.certs.settings import CertsSettings
from services.certs.vault import open_vault
from stoscore import subjects
from stoscore.bus import Bus, RequestContext
from stoscore.certs_messages import (
    IdentityDetail,
    IdentityPage,
    ListIdentities,
    Revoked,
    RevokeIdentity,
    RotateAuthority,
    Rotated,
    ShowIdentity,
)
from stoscore.enrolment import IssuedToken, IssueToken, admin_call, admin_method, ask_door, enrol, issue_token
from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from stoscore.invitations import JoinToken
from stoscore.messages import DescribeReplica, Empty, Message
from stoscore.renewal import renew
from tests.support.audit import told
from tests.support.certs_process import CertsProcess
from tests.support.living import living
from tests.support.nats_service import free_port

pytestmark = pytest.mark.long

VOLUME = "0123456789abcdef" * 2


class TwoCerts:
    """certs-1 and certs-2 on one directory, and NATS."""

    def __init__(self, directory: Path, **settings: str):
        ports = [free_port(), free_port()]
        advertised = ",".join(f"127.0.0.1:{port}" for port in ports)
        self.data = directory / "certs"
        self.instances = []
        for number, port in enumerate(ports, start=1):
            home = directory / f"certs-{number}"
            home.mkdir()
            process = CertsProcess(
                home,
                STOS_CERTS_NAME=f"certs-{number}",
                STOS_CERTS_DATA_DIR=str(self.data),
                STOS_CERTS_PORT=str(port),
                STOS_CERTS_ADVERTISE=advertised,
                **settings,
            )
            process.port = port
            self.instances.append(process)
        self.first, self.second = self.instances
        self.nats, self.nats_urls = self.first.nats, self.first.nats_urls
        self.second.environment["STOS_NATS_URLS"] = self.nats_urls[0]
        self.second.nats.token_file = self.first.nats.token_file

    def start(self) -> None:
        for process in self.instances:
            process.start()
        self.nats.start()

    def stop(self) -> None:
        for process in self.instances:
            process.kill()
        self.nats.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoCerts]:
    certs = TwoCerts(tmp_path_factory.mktemp("instances"))
    try:
        certs.start()
        yield certs
    finally:
        certs.stop()


async def until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.05)


async def ask(bus: Bus, verb: str, request: Message, answer: type[Message]) -> Message:
    """Waits until certs serves that."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await bus.request(subjects.certs(verb), request, answer)
            except StosError as error:
                if not error.details.get("no_responders"):
                    raise
            await asyncio.sleep(0.1)


# ---- administration --------------------------------------------------------------------------------------


async def test_who_may_do_what(cluster: TwoCerts) -> None:
    certs = cluster.first
    admin = await certs.bus(await certs.enrolled("user", "admin"))
    operator = await certs.bus(await certs.enrolled("user", "otto", "operator"))
    viewer = await certs.bus(await certs.enrolled("user", "vera", "viewer"))
    node = await certs.bus(await certs.enrolled("node", "n1"))
    listing = (ListIdentities(), IdentityPage)
    for bus in (admin, operator, viewer):
        page = await ask(bus, "ls", *listing)
        assert isinstance(page, IdentityPage)
        assert {"node/n1", "svc/certs-1", "svc/certs-2", "svc/nats"} <= {
            f"{one.kind}/{one.name}" for one in page.identities
        }
        detail = await ask(bus, "show", ShowIdentity(kind="user", name="vera"), IdentityDetail)
        assert isinstance(detail, IdentityDetail)
        assert detail.identity.role == "viewer"
    wanted: list[tuple[str, Message, type[Message]]] = [
        ("token", IssueToken(kind="user", name="eve", role="admin"), IssuedToken),
        ("revoke", RevokeIdentity(kind="user", name="admin"), Revoked),
        ("rotate", RotateAuthority(what="root"), Rotated),
    ]
    for bus in (operator, viewer, node):
        for verb, request, answer in wanted:
            with pytest.raises(StosError) as caught:
                await bus.request(subjects.certs(verb), request, answer)
            assert caught.value.code is Code.PERMISSION_DENIED
    with pytest.raises(StosError) as caught:
        await node.request(subjects.certs("ls"), *listing)
    assert caught.value.code is Code.PERMISSION_DENIED
    made = await ask(admin, "token", IssueToken(kind="user", name="eve", role="viewer"), IssuedToken)
    assert isinstance(made, IssuedToken)
    event = await told(admin, lambda event: (event.action, event.who) == ("certs.token", "admin/admin"))
    assert event.outcome == "done"
    assert event.reporter in ("svc:certs-1", "svc:certs-2")
    for bus in (admin, operator, viewer, node):
        await bus.close()


async def test_what_the_socket_is_used_for_is_told(cluster: TwoCerts) -> None:
    bus = await cluster.first.bus(await cluster.first.enrolled("user", "admin"))
    await issue_token(cluster.second.socket, "node", "n7")
    event = await told(bus, lambda event: event.action == "certs.token" and event.target == "node/n7")
    assert event.who == f"socket/uid-{os.getuid()}"
    with pytest.raises(StosError, match="no node/n99"):
        await admin_call(cluster.second.socket, "revoke", RevokeIdentity(kind="node", name="n99"), Revoked)
    await told(bus, lambda event: event.action == "certs.revoke" and event.outcome == "failed")
    await bus.close()


async def test_strangers_at_the_door_are_told(cluster: TwoCerts, tmp_path: Path) -> None:
    bus = await cluster.first.bus(await cluster.first.enrolled("user", "admin"))
    token = JoinToken.decode(await issue_token(cluster.first.socket, "node", "n8"))
    await enrol(tmp_path / "first", token)
    with pytest.raises(StosError, match="used before"):
        await enrol(tmp_path / "thief", token)
    event = await told(bus, lambda event: event.action == "certs.enrol" and "used before" in event.reason)
    assert event.who == "ipv4:127.0.0.1"
    assert event.outcome == "refused"
    event = await told(bus, lambda event: event.action == "certs.enrol" and event.target == "node/n8")
    assert (event.who, event.outcome, event.reason) == ("ipv4:127.0.0.1", "done", "join-token")
    with pytest.raises(StosError, match="is not served here"):
        await ask_door(token.addresses, token.root_pem, admin_method("token"), IssueToken(kind="node", name="x"), Empty)
    await told(bus, lambda event: "CertsAdmin/token is not served here" in event.reason)
    await bus.close()


def stos(cluster: TwoCerts, identity: Identity, *arguments: str) -> subprocess.CompletedProcess[str]:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("STOS_")}
    return subprocess.run(
        [sys.executable, "-m", "services.cli.main", *arguments],
        env=ours | {"STOS_NATS_URLS": cluster.nats_urls[0], "STOS_IDENTITY_DIR": str(identity.directory)},
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


async def test_the_commands(cluster: TwoCerts, tmp_path: Path) -> None:
    admin = await cluster.first.enrolled("user", "alice")

    async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(stos, cluster, admin, *arguments)

    done = await run("node", "join-token", "n4")
    assert done.returncode == 0, done.stderr
    await enrol(tmp_path / "n4", JoinToken.decode(done.stdout))
    listed = await run("certs", "ls", "-o", "json")
    assert listed.returncode == 0, listed.stderr
    page = json.loads(listed.stdout)
    assert {"kind": "node", "name": "n4", "state": "valid"}.items() <= next(
        one for one in page["identities"] if one["name"] == "n4"
    ).items()
    assert page["backup_unix_s"] == 0
    table = (await run("certs", "ls")).stdout
    assert "never made" in table
    assert "node/n4" in table
    detail = await run("certs", "show", "node/n4")
    assert Identity.load(tmp_path / "n4").peer.serial in detail.stdout
    revoked = await run("certs", "revoke", "node/n4", "--reason", "left the rack\x1b[31m")
    assert revoked.returncode == 0, revoked.stderr
    assert "stos certs token --kind node --name n4" in revoked.stdout
    detail = await run("certs", "show", "node/n4")
    assert "left the rack" in detail.stdout
    assert "\x1b" not in detail.stdout
    wrong = {
        ("certs", "revoke", "node/n404"): 3,
        ("certs", "revoke", "n4"): 2,
        ("certs", "revoke", "node/n4", "--reason", "x" * 121): 2,
        ("certs", "revoke", "node/n4", "--serial", "no hex"): 2,
        ("certs", "rotate"): 2,
        ("certs", "show", "node/n404"): 3,
        ("certs", "token", "--kind", "user", "--name", "bob"): 2,
        ("node", "join-token", "Not_A_Name"): 2,
    }
    for arguments, done in zip(wrong, await asyncio.gather(*(run(*one) for one in wrong)), strict=True):
        assert done.returncode == wrong[arguments], (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ")
    eve = await cluster.first.enrolled("user", "eve", "viewer")
    done = await asyncio.to_thread(stos, cluster, eve, "node", "join-token", "n5")
    assert done.returncode == 7


# ---- several instances -----------------------------------------------------------------------------------


async def test_any_instance_will_do(cluster: TwoCerts, tmp_path: Path) -> None:
    """Each is killed in turn; the other one enrols, renews and revokes, and knows of everything."""
    admin = await cluster.first.enrolled("user", "admin")
    token = JoinToken.decode(await issue_token(cluster.first.socket, "node", "n20"))
    assert len(token.addresses) == 2
    bus = await cluster.first.bus(admin)
    survivor, victim = cluster.second, cluster.first
    for turn in range(2):
        await asyncio.to_thread(victim.kill)
        node = f"n2{turn}"
        if turn:
            token = JoinToken.decode(await issue_token(survivor.socket, "node", node))
        async with asyncio.timeout(30):
            await enrol(tmp_path / node, token)
        identity = Identity.load(tmp_path / node)
        async with living(identity, cluster.nats_urls) as node_bus:
            await renew(identity, node_bus)
            await ask(bus, "revoke", RevokeIdentity(kind="node", name=node), Revoked)
            await until(lambda: not node_bus.connected)
        with pytest.raises(StosError, match=r"used before|revoked|unknown"):
            await enrol(tmp_path / f"again-{node}", token)
        await asyncio.to_thread(victim.start)
        survivor, victim = victim, survivor
    await bus.close()


async def test_an_instance_that_dies_right_after_it_revoked(cluster: TwoCerts) -> None:
    """It has changed the vault and told nobody. The others do."""
    thief, other = await cluster.first.enrolled("node", "n30"), await cluster.first.enrolled("node", "n31")

    def revoke_and_die() -> None:
        settings = CertsSettings(data_dir=cluster.data, name="certs-9")
        authority = Authority(settings, open_vault(settings), wall_clock)
        Administration(authority).revoke(RevokeIdentity(kind="node", name="n30", reason="stolen"))

    async with living(other, cluster.nats_urls), living(thief, cluster.nats_urls) as stolen:
        await asyncio.to_thread(revoke_and_die)
        await until(lambda: not stolen.connected)
        await until(lambda: is_denied(other, thief))


def is_denied(judge: Identity, other: Identity) -> bool:
    try:
        judge.check_peer(other.peer)
    except StosError:
        return True
    return False


# ---- a new root, while everything runs -------------------------------------------------------------------


@pytest.mark.slow
async def test_a_new_root_loses_no_request(tmp_path: Path) -> None:
    """Certificates live 40 s. An instance is killed in each phase and comes back; requests go on all the time."""
    cluster = TwoCerts(tmp_path, STOS_CERTS_CERTIFICATE_LIFE_S="40")
    try:
        await asyncio.to_thread(cluster.start)
        node, user = await cluster.first.enrolled("node", "n1"), await cluster.first.enrolled("user", "admin")
        async with living(node, cluster.nats_urls) as answering, living(user, cluster.nats_urls) as asking:

            async def describe(request: DescribeReplica, context: RequestContext) -> Empty:
                return Empty()

            await answering.serve(subjects.node("n1", "describe"), DescribeReplica, describe)
            asked = 0

            async def go_on_asking() -> None:
                nonlocal asked
                while True:
                    await asking.request(subjects.node("n1", "describe"), DescribeReplica(volume=VOLUME), Empty)
                    asked += 1

            requests = asyncio.create_task(go_on_asking())
            old = node.trust_pem
            rotated = await ask(asking, "rotate", RotateAuthority(what="root"), Rotated)
            assert isinstance(rotated, Rotated)
            await asyncio.to_thread(cluster.first.kill)
            await until(lambda: len(node.roots) == 2)
            await asyncio.to_thread(cluster.first.start)
            await until(lambda: "the new root's issuer signs" in logged(cluster), 90)
            await asyncio.to_thread(cluster.second.kill)
            await until(lambda: len(node.roots) == 1, 120)
            await asyncio.to_thread(cluster.second.start)
            assert node.trust_pem != old
            await until(lambda: len(user.roots) == 1)
            assert not requests.done(), requests
            assert asked > 100
            requests.cancel()
            late = await cluster.second.enrolled("node", "late")
            assert late.trust_pem == node.trust_pem
            page = await ask(asking, "ls", ListIdentities(), IdentityPage)
            assert isinstance(page, IdentityPage)
            assert page.authority.rotation is None
            assert len(page.authority.roots) == 1
    finally:
        cluster.stop()


def logged(cluster: TwoCerts) -> str:
    return cluster.first.logged() + cluster.second.logged()
