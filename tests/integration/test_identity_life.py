"""The life of identities with the real certs and NATS services: waiting for both, losing both, revoked, come back."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.catalogue import Catalogue
from stoscore.certs_messages import Revoked, RevokeIdentity, RotateAuthority, Rotated, SignedTrust, TrustState
from stoscore.enrolment import admin_call, enrol, issue_token
from stoscore.errors import StosError
from stoscore.files import write_private
from stoscore.following import Follower, ask_trust
from stoscore.identity import Identity
from stoscore.identity_files import next_key
from stoscore.invitations import JoinToken
from stoscore.messages import Ranking, RankRequest
from stoscore.renewal import keep_renewed, renew
from stoscore.trust import sign_trust
from stoscore.volumes import Volumes
from tests.support.certs_process import CertsProcess
from tests.support.kubernetes_api import Account, KubernetesApi
from tests.support.nats_service import free_port
from tests.support.service_process import ServiceProcess

pytestmark = pytest.mark.long


@pytest.fixture
def certs(tmp_path: Path) -> Iterator[CertsProcess]:
    """certs and, not yet started, NATS."""
    process = CertsProcess(tmp_path)
    try:
        process.start()
        yield process
    finally:
        process.stop()


@pytest.fixture
def placement(certs: CertsProcess, tmp_path: Path) -> Iterator[ServiceProcess]:
    """Not yet started, without a token."""
    directory = tmp_path / "placement"
    directory.mkdir()
    process = ServiceProcess("placement", directory, STOS_NATS_URLS=certs.nats_urls[0])
    try:
        yield process
    finally:
        process.stop()


async def give_token(
    certs: CertsProcess, process: ServiceProcess, name: str = "placement-1", *, kind: str = "svc"
) -> None:
    token = await issue_token(certs.socket, kind, name)
    write_private(process.token_file, f"{token}\n".encode())


async def revoke(certs: CertsProcess, kind: str, name: str, serial: str = "") -> None:
    request = RevokeIdentity(kind=kind, name=name, serial=serial, reason="stolen")  # type: ignore[arg-type]
    await admin_call(certs.socket, "revoke", request, Revoked)


async def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.05)


async def certs_answers(identity: Identity, bus: Bus) -> None:
    """It has found NATS as well."""
    async with asyncio.timeout(60):
        while True:
            with suppress(StosError):
                await ask_trust(identity, bus)
                return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def following(certs: CertsProcess, identity: Identity) -> AsyncIterator[Bus]:
    """Its bus, connected or not, and a follower of the trust state."""
    bus = await Bus.connect(identity, certs.nats_urls, name=f"test {identity.name}")
    follower = asyncio.create_task(Follower(identity, bus).run())
    try:
        yield bus
        assert not follower.done(), follower
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
        await bus.close()


# ---- coming in ---------------------------------------------------------------------------------------------


async def test_processes_start_in_any_order(certs: CertsProcess, placement: ServiceProcess) -> None:
    """A token, no certs, no NATS: it waits, and goes on when each of them comes."""
    await give_token(certs, placement)
    certs.kill()
    placement.start()
    await placement.wait_logged("waiting for certs at")
    certs.start()
    await placement.wait_logged("enrolled")
    await placement.wait_logged("no connection to NATS")
    await asyncio.to_thread(certs.nats.start)
    await placement.wait_logged("connected to NATS")
    await placement.wait_logged("placement is ready")
    assert placement.stop(signal.SIGTERM) == 0


async def test_any_certs_of_a_token_will_do(certs: CertsProcess, tmp_path: Path) -> None:
    token = JoinToken.decode(await issue_token(certs.socket, "node", "n1"))
    several = JoinToken(
        f"127.0.0.1:{free_port()},{token.address}",
        token.cluster,
        token.kind,
        token.name,
        token.root_pem,
        token.token_id,
        token.secret,
    )
    async with asyncio.timeout(30):
        credentials = await enrol(tmp_path / "n1", several)
    identity = Identity.load(tmp_path / "n1")
    assert identity.trust == credentials.trust
    assert identity.trust is not None
    assert identity.role == "node"


async def test_one_process_an_identity(certs: CertsProcess, placement: ServiceProcess) -> None:
    await give_token(certs, placement)
    placement.start()
    await placement.wait_logged("enrolled")
    offset = len(placement.logged())
    second = ServiceProcess("placement", placement.identity_dir.parent, STOS_NATS_URLS=certs.nats_urls[0])
    second.start()
    assert await second.wait_end() == 5
    line = await placement.wait_logged("stos serve placement", offset=offset)
    assert "another process uses the identity in" in line
    assert placement.alive


async def test_a_pod_needs_no_token_but_its_own(tmp_path: Path) -> None:
    """Kubernetes vouches for it, also when it was away for too long; who was revoked is let in by no such token."""
    api = KubernetesApi(tmp_path)
    certs = CertsProcess(
        tmp_path,
        STOS_CERTS_KUBECONFIG=str(api.kubeconfig),
        STOS_CERTS_KUBERNETES_ACCOUNTS="stos/stos-placement=svc/placement-{node}",
    )
    pod = ServiceProcess(
        "placement",
        tmp_path,
        STOS_NATS_URLS=certs.nats_urls[0],
        STOS_SERVICE_ACCOUNT_TOKEN_FILE=str(tmp_path / "account"),
        STOS_ENROL_ADDRESSES=f"127.0.0.1:{free_port()},127.0.0.1:{certs.port}",
        STOS_ENROL_ROOT_FILE=str(tmp_path / "roots.pem"),
        STOS_CLUSTER="to be told",
    )
    del pod.environment["STOS_JOIN_TOKEN_FILE"]
    bound = {"authentication.kubernetes.io/node-name": ["n1"]}
    api.accounts["first"] = Account("system:serviceaccount:stos:stos-placement", ["stos-certs"], bound)
    try:
        await asyncio.to_thread(certs.start)
        someone = await certs.enrolled("node", "n9")
        pod.environment["STOS_CLUSTER"] = someone.cluster
        pod.start()
        await pod.wait_logged(f"can't read {tmp_path / 'account'}")
        (tmp_path / "account").write_text("first")
        await pod.wait_logged(f"can't read {tmp_path / 'roots.pem'}")
        (tmp_path / "roots.pem").write_text(someone.trust_pem)
        await pod.wait_logged("enrolled")
        assert Identity.load(pod.identity_dir).uri == f"spiffe://{someone.cluster}/svc/placement-n1"
        pod.stop()

        (pod.identity_dir / "cert.pem").unlink()  # as good as expired
        del api.accounts["first"]
        api.accounts["second"] = Account("system:serviceaccount:stos:stos-placement", ["stos-certs"], bound)
        pod.start()
        assert await pod.wait_end() == 7
        await pod.wait_logged("Kubernetes does not know this service-account token")
        (tmp_path / "account").write_text("second")
        offset = len(pod.logged())
        pod.start()
        await pod.wait_logged("enrolled", offset=offset)
        await revoke(certs, "svc", "placement-n1")
        assert await pod.wait_end() == 7
        assert "the identity svc/placement-n1 is revoked: stolen" in pod.logged()
        assert "second" not in pod.logged()
    finally:
        pod.stop()
        certs.stop()
        api.stop()


# ---- revoked -----------------------------------------------------------------------------------------------


async def test_a_revoked_service_stops_and_says_why(certs: CertsProcess, placement: ServiceProcess) -> None:
    await asyncio.to_thread(certs.nats.start)
    await give_token(certs, placement)
    placement.start()
    await placement.wait_logged("placement is ready")
    await revoke(certs, "svc", "placement-1")
    assert await placement.wait_end(30) == 7
    line = await placement.wait_logged("stos serve placement:")
    assert "the identity svc/placement-1 is revoked: stolen" in line
    assert "Traceback" not in placement.logged()

    placement.start()  # its trust state says so at once
    assert await placement.wait_end(30) == 7
    await give_token(certs, placement)
    offset = len(placement.logged())
    placement.start()
    await placement.wait_logged("placement is ready", offset=offset)
    assert placement.alive


async def test_a_revoked_service_with_a_token_comes_back_by_itself(
    certs: CertsProcess, placement: ServiceProcess
) -> None:
    """One certificate is revoked, since a copy of it was stolen; a new token is there already."""
    await asyncio.to_thread(certs.nats.start)
    await give_token(certs, placement)
    placement.start()
    await placement.wait_logged("placement is ready")
    await give_token(certs, placement)
    before = Identity.load(placement.identity_dir)
    user = await certs.bus(await certs.enrolled("user", "admin"))
    await revoke(certs, "svc", "placement-1", before.peer.serial)
    await placement.wait_logged("this process has a new identity")
    await until(lambda: Identity(placement.identity_dir).peer.serial != before.peer.serial)
    request = RankRequest(volume="0" * 32, name="v", size_bytes=1 << 20, copies=1)
    with pytest.raises(StosError, match="node"):  # there are none to rank
        async with asyncio.timeout(30):
            while True:
                try:
                    await user.request(subjects.placement("rank"), request, Ranking)
                except StosError as error:
                    if not error.details.get("no_responders"):
                        raise
                await asyncio.sleep(0.1)
    assert placement.alive
    await user.close()


async def test_a_revoked_node_stops_and_keeps_its_data(
    certs: CertsProcess, placement: ServiceProcess, tmp_path: Path
) -> None:
    """An operator may have meant the certificate, not the copies: with a new token it serves them again."""
    await asyncio.to_thread(certs.nats.start)
    await give_token(certs, placement)
    placement.start()
    home = tmp_path / "n1"
    home.mkdir()
    node = ServiceProcess(
        "replica",
        home,
        STOS_NATS_URLS=certs.nats_urls[0],
        STOS_REPLICA_NODE="n1",
        STOS_REPLICA_DATA_DIR=str(home / "data"),
        STOS_REPLICA_RUN_DIR=str(home / "run"),
        STOS_REPLICA_LISTEN=f"127.0.0.1:{free_port()}",
    )
    try:
        await give_token(certs, node, "n1", kind="node")
        node.start()
        await node.wait_logged("replica is ready")
        await placement.wait_logged("placement is ready")
        bus = await certs.bus(await certs.enrolled("user", "admin"))
        volumes = Volumes(bus, Catalogue(bus))
        made = await volumes.create("data", 1 << 20, replicas=0)
        await revoke(certs, "node", "n1")
        assert await node.wait_end() == 7
        line = await node.wait_logged("stos serve replica:")
        assert "the identity node/n1 is revoked: stolen" in line

        await give_token(certs, node, "n1", kind="node")
        offset = len(node.logged())
        node.start()
        await node.wait_logged("replica is ready", offset=offset)
        async with asyncio.timeout(60):
            while (status := (await volumes.get("data"))[1]) is None or not status.serving:
                await asyncio.sleep(0.1)
        assert status.incarnation == made.incarnation
        await bus.close()
    finally:
        node.stop()


async def test_who_was_revoked_while_it_was_down(certs: CertsProcess, placement: ServiceProcess) -> None:
    """NATS lets it in no more, so it learns why at the door of certs."""
    await asyncio.to_thread(certs.nats.start)
    await give_token(certs, placement)
    placement.start()
    await placement.wait_logged("placement is ready")
    placement.stop()
    await revoke(certs, "svc", "placement-1")
    placement.start()
    assert await placement.wait_end(60) == 7
    assert "is revoked: stolen" in placement.logged()


async def test_a_revocation_is_heard_asked_for_and_looked_up(certs: CertsProcess) -> None:
    """By who is connected, by who was not, and without NATS."""
    await asyncio.to_thread(certs.nats.start)
    n1 = await certs.enrolled("node", "n1")
    victims = [await certs.enrolled("node", f"v{number}") for number in range(3)]

    def known(victim: Identity) -> bool:
        try:
            n1.check_peer(victim.peer)
        except StosError:
            return True
        return False

    async with following(certs, n1) as bus:
        await until(lambda: bus.connected)
        await revoke(certs, "node", "v0")
        await until(lambda: known(victims[0]), 20)
        certs.nats.kill()
        await until(lambda: not bus.connected)
        await revoke(certs, "node", "v1")
        await until(lambda: known(victims[1]), 60)
        assert not bus.connected
    await revoke(certs, "node", "v2")
    await asyncio.to_thread(certs.nats.start)
    async with following(certs, n1) as bus:
        await until(lambda: known(victims[2]), 20)
    assert known(victims[0])
    again = Identity.load(n1.directory)
    with pytest.raises(StosError, match="node/v2 is revoked: stolen"):
        again.check_peer(victims[2].peer)


async def test_what_certs_did_not_say_is_refused_loudly(
    certs: CertsProcess, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """On the very subject: a state of another signer, of another cluster, older, and no state at all."""
    await asyncio.to_thread(certs.nats.start)
    n1 = await certs.enrolled("node", "n1")
    foreign = CertsProcess(tmp_path / "foreign")
    foreign.directory.mkdir()
    try:
        await asyncio.to_thread(foreign.start)
        stranger = await foreign.enrolled("node", "n9")
    finally:
        foreign.stop()
    async with following(certs, n1) as bus:
        await until(lambda: bus.connected and n1.trust_state is not None)
        assert n1.trust is not None
        assert n1.trust_state is not None
        assert stranger.trust is not None
        before = n1.trust
        state = n1.trust_state.model_copy(update={"number": n1.trust_state.number + 9})
        older = TrustState(cluster=n1.cluster, number=1, roots_pem=n1.trust_pem)
        own = Identity.load(certs.data / "certs" / "identity")  # what nobody but certs has
        false: list[tuple[SignedTrust | None, str]] = [
            (sign_trust(n1, state), "signed by node/n1, not by certs"),
            (stranger.trust, "of cluster"),
            (sign_trust(own, older), "is older than"),
            (None, "bad SignedTrust"),
        ]
        async with authorised(certs, own) as mouth:
            for signed, said in false:
                assert mouth.send(subjects.certs("trust"), signed if signed is not None else b"{}")
                await until(lambda said=said: said in caplog.text)  # type: ignore[misc]
            assert n1.trust == before
            real = sign_trust(own, state)
            assert mouth.send(subjects.certs("trust"), real)
            await until(lambda: n1.trust == real)


@asynccontextmanager
async def authorised(certs: CertsProcess, own: Identity) -> AsyncIterator[Bus]:
    """certs' own place on the bus; the process itself is gone meanwhile."""
    await asyncio.to_thread(certs.kill)
    bus = await certs.bus(own)
    try:
        yield bus
    finally:
        await bus.close()


# ---- renewing ----------------------------------------------------------------------------------------------


async def test_a_renewal_needs_no_nats(certs: CertsProcess) -> None:
    n1 = await certs.enrolled("node", "n1")
    before = n1.certificate
    bus = await Bus.connect(n1, certs.nats_urls, name="nowhere")
    await renew(n1, bus)
    assert n1.certificate != before
    certs.kill()
    with pytest.raises(StosError, match="certs"):
        await renew(n1, bus)
    assert Identity.load(n1.directory).certificate == n1.certificate
    await bus.close()


async def test_what_certs_asks_for_is_done_at_once(certs: CertsProcess) -> None:
    """Everybody is to renew, long before a quarter of four days is over."""
    await asyncio.to_thread(certs.nats.start)
    n1 = await certs.enrolled("node", "n1")
    before = n1.certificate
    async with following(certs, n1) as bus:
        await until(lambda: bus.connected)
        renewing = asyncio.create_task(keep_renewed(n1, bus))
        await admin_call(certs.socket, "rotate", RotateAuthority(what="issuer"), Rotated)
        await until(lambda: n1.certificate != before, 30)
        assert not n1.must_renew
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", path], capture_output=True)
    if done.returncode:
        pytest.skip("needs root to mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.root
async def test_a_full_disk_keeps_the_old_identity(
    certs: CertsProcess, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The renewal fails at each of its writes in turn; the old identity stays whole, on disk and in use."""
    await asyncio.to_thread(certs.nats.start)
    enrolled = await certs.enrolled("node", "n1")
    home = small_disk / "n1"
    shutil.copytree(enrolled.directory, home)
    identity = Identity.load(home)
    bus = await certs.bus(identity)
    await certs_answers(identity, bus)
    ballast = small_disk / "ballast"
    failures, free_bytes = 0, 0
    while True:
        fill(ballast, free_bytes)
        before = identity.certificate
        try:
            await renew(identity, bus)
            break
        except StosError as error:
            failures += 1
            assert "No space left" in str(error)
            assert identity.certificate == before
            assert Identity.load(home).certificate == before
            assert bus.connected
            assert not list(home.glob(".*.tmp"))
        free_bytes += 4096
    assert failures >= 2
    assert Identity.load(home).certificate == identity.certificate != enrolled.certificate

    fill(ballast, 0)
    (home / "key.next.pem").unlink(missing_ok=True)
    with pytest.raises(StosError, match="No space left"):
        next_key(home)
    await bus.close()


def fill(ballast: Path, free_bytes: int) -> None:
    """All of its disk but for that much."""
    ballast.unlink(missing_ok=True)
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
        file.truncate(file.tell() - free_bytes)
