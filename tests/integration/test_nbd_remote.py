"""A volume over TCP with TLS: the programs that people use, certificates as certs issues them, who may and who not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from services.cli.export import make_client_files
from services.replica.frontends import FILE, Frontends
from services.replica.nbd import Frontend, RemoteDoor
from services.replica.nbd import client as client_module
from services.replica.nbd import remote as remote_module
from services.replica.nbd.wire import Command, Option, Reply
from services.replica.peers import PeerNetwork
from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from stoscore.messages import OpenFrontend, RemoteExport, VoterModel
from stoscore.spiffe import node_host_name
from stoscore.units import MIB
from tests.support.authority import LocalAuthority
from tests.support.ca import HOUR, TestAuthority
from tests.support.nbd import NAME, SIZE, VOLUME, Nodes, RawClient, run
from tests.support.peers import until
from tests.support.trail import HeardTrail

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy.")
HOST = node_host_name("n1")
WHO = "admin/ann"


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAuthority]:
    made = LocalAuthority(tmp_path_factory.mktemp("authority"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def eve(authority: LocalAuthority) -> Path:
    """What user/eve gives to qemu and libnbd."""
    return make_client_files(authority.identity("user", "eve").directory)


@pytest.fixture
def n1(authority: LocalAuthority, tmp_path: Path) -> Identity:
    """A copy: a test may change whom it trusts."""
    directory = tmp_path / "n1"
    shutil.copytree(authority.identity("node", "n1").directory, directory)
    return Identity.load(directory)


class Exported:
    """A frontend with its Unix socket and its TCP port."""

    def __init__(self, frontend: Frontend, door: RemoteDoor, nodes: Nodes, audit: HeardTrail):
        self.frontend, self.door, self.nodes, self.audit = frontend, door, nodes, audit

    @property
    def port(self) -> int:
        return int(self.door.status().address.rpartition(":")[2])

    def qemu(self, x509: Path, host: str = HOST) -> list[str]:
        """Arguments that name the export for qemu's programs."""
        opened = f"driver=nbd,host=127.0.0.1,port={self.port},export={NAME},tls-creds=tls,tls-hostname={host}"
        return ["--object", f"tls-creds-x509,id=tls,endpoint=client,dir={x509}", "--image-opts", opened]


@pytest.fixture
async def exported(tmp_path: Path, n1: Identity) -> AsyncIterator[Exported]:
    nodes, audit = Nodes(), HeardTrail()
    frontend = Frontend(VOLUME, NAME, SIZE, 3, {"n1": 1, "n2": 2}, tmp_path / "v", nodes.send, nodes.up.__contains__)
    nodes.frontend = frontend
    await frontend.start()
    remote = RemoteExport(address="127.0.0.1:0", clients=["user/eve", "node/n2"])
    door = RemoteDoor(frontend.export, remote, frontend, n1, audit, logging.getLogger("test.remote"))
    await door.start()
    yield Exported(frontend, door, nodes, audit)
    await frontend.close()
    await door.close()


# ---- the programs that people use ------------------------------------------------------------------------


async def test_qemu_writes_from_afar_what_is_read_here_and_back(exported: Exported, eve: Path) -> None:
    write = ["-c", "write -P 0x5a 1M 128k", "-c", "flush", "-c", "write -P 0xa5 3M 4k", "-c", "read -P 0x5a 1M 128k"]
    code, output = await run("qemu-io", *exported.qemu(eve), *write)
    assert code == 0, output
    assert "Pattern verification failed" not in output
    here = f"nbd+unix:///{NAME}?socket={exported.frontend.socket_path}"
    code, output = await run("qemu-io", "-f", "raw", "-c", "read -P 0x5a 1M 128k", "-c", "write -P 0x77 8M 64k", here)
    assert code == 0, output
    assert "Pattern verification failed" not in output
    code, output = await run("qemu-io", *exported.qemu(eve), "-c", "read -P 0x77 8M 64k", "-c", "read -P 0xa5 3M 4k")
    assert code == 0, output
    assert "Pattern verification failed" not in output


async def test_qemu_img_copies_and_compares(exported: Exported, eve: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(4 * MIB) + bytes(SIZE - 8 * MIB) + os.urandom(4 * MIB))
    target = exported.qemu(eve)
    code, output = await run(
        "qemu-img", "convert", "-n", "-f", "raw", "--target-image-opts", *target[:2], str(source), target[3]
    )
    assert code == 0, output
    assert bytes(exported.nodes.content) == source.read_bytes()
    code, output = await run("qemu-img", "info", *exported.qemu(eve))
    assert code == 0, output
    assert "64 MiB" in output


async def test_qemu_insists_on_the_nodes_name(exported: Exported, eve: Path) -> None:
    code, output = await run("qemu-io", *exported.qemu(eve, node_host_name("n2")), "-c", "read 0 4k")
    assert code != 0
    assert "hostname" in output or "does not match" in output, output


async def resolving(tmp_path: Path, *command: str) -> tuple[int, str]:
    """Runs a command for which the node's name is this machine: in a mount namespace with a hosts file of its own."""
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
    code, output = await run("unshare", "-m", "true")
    if code:
        pytest.skip(f"no mount namespaces here: {output}")
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    return await run("unshare", "-m", "sh", "-c", script, str(hosts), *command)


async def test_libnbd_copies_there_and_back_and_verifies_the_name(
    exported: Exported, eve: Path, tmp_path: Path
) -> None:
    uri = f"nbds://{HOST}:{exported.port}/{NAME}?tls-certificates={eve}"
    code, output = await resolving(tmp_path, "nbdinfo", uri)
    assert code == 0, output
    assert "export-size: 67108864" in output
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(8 * MIB) + bytes(SIZE - 16 * MIB) + os.urandom(8 * MIB))
    code, output = await resolving(tmp_path, "nbdcopy", "--flush", str(source), uri)
    assert code == 0, output
    code, output = await resolving(tmp_path, "nbdcopy", uri, str(back))
    assert code == 0, output
    assert back.read_bytes() == source.read_bytes() == bytes(exported.nodes.content)
    wrong = f"nbds://localhost:{exported.port}/{NAME}?tls-certificates={eve}"
    code, output = await resolving(tmp_path, "nbdinfo", wrong)
    assert code != 0
    assert "certificate" in output.lower(), output


async def test_programs_without_tls_or_without_a_right_are_told(
    exported: Exported, authority: LocalAuthority, tmp_path: Path
) -> None:
    code, output = await run("nbdinfo", f"nbd://127.0.0.1:{exported.port}/{NAME}")
    assert code != 0
    assert "TLS" in output, output
    mallory = make_client_files(authority.identity("user", "mallory").directory)
    code, output = await run("qemu-io", *exported.qemu(mallory), "-c", "read 0 4k")
    assert code != 0
    assert "the export is not for this identity" in output, output
    assert exported.audit.reasons("nbd.open", "user/mallory") == ["the export is not for this identity"]


# ---- those who may not -----------------------------------------------------------------------------------


async def plain(exported: Exported) -> RawClient:
    """Connected and greeted, nothing more."""
    client = RawClient(*await asyncio.open_connection("127.0.0.1", exported.port))
    assert await client.read(18) == b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3)
    client.writer.write(struct.pack(">I", 3))
    return client


async def begin_tls(exported: Exported, context: ssl.SSLContext) -> RawClient:
    """As `plain`, and TLS stands as far as this side can tell."""
    client = await plain(exported)
    client.option(Option.STARTTLS)
    assert await client.option_reply() == (Reply.ACK, b"")
    await client.writer.start_tls(context, server_hostname=HOST)
    return client


def showing(directory: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if directory is not None:
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


async def refused(exported: Exported, context: ssl.SSLContext) -> None:
    """Nothing but the end comes of this client's attempt."""
    with contextlib.suppress(OSError, EOFError):
        client = await begin_tls(exported, context)
        client.option(Option.GO, struct.pack(">I", 0) + struct.pack(">H", 0))
        reply, _ = await client.option_reply()
        assert reply == Reply.ERR_POLICY
        client.option(Option.EXPORT_NAME, NAME.encode())
        assert await client.is_hung_up()


async def test_before_tls_every_question_is_answered_with_tls_first(exported: Exported) -> None:
    client = await plain(exported)
    for number in (Option.LIST, Option.INFO, Option.GO, Option.STRUCTURED_REPLY):
        client.option(number, b"\0" * 6)
        reply, _ = await client.option_reply()
        assert reply == Reply.ERR_TLS_REQD
    client.option(Option.EXPORT_NAME, NAME.encode())
    assert await client.is_hung_up()
    await until(lambda: exported.audit.told)
    assert exported.audit.told[0].who == "127.0.0.1"
    assert exported.audit.told[0].action == "nbd.open"


async def test_what_is_sent_before_tls_is_not_read_as_if_it_came_through_it(exported: Exported, eve: Path) -> None:
    """Somebody in the middle puts his own options behind the victim's STARTTLS."""
    client = await plain(exported)
    client.option(Option.STARTTLS)
    client.option(Option.GO, struct.pack(">I", 0) + struct.pack(">H", 0))
    assert await client.option_reply() == (Reply.ACK, b"")
    context = showing(None)
    context.load_cert_chain(eve / "client-cert.pem", eve / "client-key.pem")
    with pytest.raises((OSError, EOFError)):
        await client.writer.start_tls(context, server_hostname=HOST)
        await client.option_reply()
    assert not exported.door.clients


async def test_only_tls_1_3(exported: Exported, authority: LocalAuthority) -> None:
    context = showing(authority.identity("user", "eve").directory)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    await refused(exported, context)
    await until(lambda: exported.audit.told)
    assert not exported.door.clients


async def test_certificates_that_are_not_good_open_nothing(
    exported: Exported, authority: LocalAuthority, n1: Identity, tmp_path: Path
) -> None:
    eve = f"spiffe://{n1.cluster}/user/eve"
    foreign = TestAuthority(n1.cluster)
    strangers = {
        "peer did not return a certificate": None,
        "its certificate is not accepted": foreign.issue_files(tmp_path, [eve]),
        "the export is not for this identity": authority.identity("svc", "csi").directory,
    }
    for says, directory in strangers.items():
        exported.audit.told.clear()
        await refused(exported, showing(directory))
        await until(lambda: exported.audit.told)
        assert says in exported.audit.reasons("nbd.open")[0], says
    # Of the right authority, and not good all the same: it is ours that the node trusts here.
    ours = TestAuthority()
    node = Identity(ours.issue_files(tmp_path, ["spiffe://stos/node/n1"]))
    door = RemoteDoor(
        exported.frontend.export,
        RemoteExport(address="127.0.0.1:0", clients=["user/eve"]),
        exported.frontend,
        node,
        exported.audit,
        logging.getLogger("test.remote"),
    )
    await door.start()
    other = Exported(exported.frontend, door, exported.nodes, exported.audit)
    eve = "spiffe://stos/user/eve"
    for says, directory in {
        "expired": ours.issue_files(tmp_path, [eve], valid=timedelta(seconds=-5)),
        "not yet valid": ours.issue_files(tmp_path, [eve], valid=3 * HOUR, begins=2 * HOUR),
        "is of cluster 'other'": ours.issue_files(tmp_path, ["spiffe://other/user/eve"]),
        "names 2 identities": ours.issue_files(tmp_path, [eve, "spiffe://stos/user/mallory"]),
        "names 0 identities": ours.issue_files(tmp_path, []),
    }.items():
        exported.audit.told.clear()
        await refused(other, showing(directory))
        await until(lambda: exported.audit.told)
        assert says in exported.audit.reasons("nbd.open")[0], says
    assert not door.clients
    await door.close()


async def test_kinds_are_told_apart(exported: Exported, authority: LocalAuthority) -> None:
    """node/n2 is named, and user/n2 is somebody else."""
    await refused(exported, showing(authority.identity("user", "n2").directory))
    client = await begin_tls(exported, showing(authority.identity("node", "n2").directory))
    client.option(Option.EXPORT_NAME, NAME.encode())
    assert struct.unpack(">Q", (await client.read(10))[:8]) == (SIZE,)
    client.close()


async def test_tls_begins_only_once(exported: Exported, authority: LocalAuthority) -> None:
    client = await begin_tls(exported, showing(authority.identity("user", "eve").directory))
    client.option(Option.STARTTLS)
    reply, _ = await client.option_reply()
    assert reply == Reply.ERR_INVALID
    client.close()


# ---- the trust changes -----------------------------------------------------------------------------------


async def working(exported: Exported, authority: LocalAuthority, kind: str = "user", name: str = "eve") -> RawClient:
    client = await begin_tls(exported, showing(authority.identity(kind, name).directory))
    client.option(Option.EXPORT_NAME, NAME.encode())
    await client.read(10)
    client.ask(Command.READ, 0, 4096)
    assert await client.reply() == (0, 1)
    await client.read(4096)
    return client


async def test_revocation_ends_a_session_at_once_and_touches_nobody_else(
    exported: Exported, authority: LocalAuthority, n1: Identity
) -> None:
    here = await RawClient.connect(exported.frontend.socket_path)
    eve, n2 = await working(exported, authority), await working(exported, authority, "node", "n2")
    assert sorted(exported.door.status().connected) == ["node/n2", "user/eve"]
    exported.nodes.held = []
    eve.ask(Command.WRITE, 0, 4096, 2, bytes(4096))
    await until(lambda: exported.nodes.held)
    n1.apply_trust(authority.revoked("user", "eve", like=n1))
    with contextlib.suppress(OSError, EOFError):
        assert await eve.is_hung_up()
    assert exported.door.status().connected == ["node/n2"]
    assert exported.audit.reasons("nbd.keep", "user/eve") == ["the certificate of user/eve is revoked: stolen"]
    held, exported.nodes.held = exported.nodes.held, None
    for node, frame in held:
        exported.nodes.serve(node, frame)
    for client in (here, n2):
        client.ask(Command.READ, 0, 4096, 7)
        assert await client.reply() == (0, 7)
        client.close()
    await refused(exported, showing(authority.identity("user", "eve").directory))
    assert exported.audit.reasons("nbd.open", "user/eve")[-1] == "the certificate of user/eve is revoked: stolen"


async def test_who_is_named_no_more_is_cut_off(exported: Exported, authority: LocalAuthority) -> None:
    eve, n2 = await working(exported, authority), await working(exported, authority, "node", "n2")
    exported.door.allow(["node/n2"])
    with contextlib.suppress(OSError, EOFError):
        assert await eve.is_hung_up()
    assert exported.door.status().connected == ["node/n2"]
    await refused(exported, showing(authority.identity("user", "eve").directory))
    n2.close()


# ---- bounds ----------------------------------------------------------------------------------------------


async def test_connections_are_few_and_the_unix_socket_is_not_disturbed(
    exported: Exported, authority: LocalAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_module, "CLIENTS", replace(remote_module.CLIENTS, burst=1000))
    limit = client_module.REMOTE.clients
    clients = [await working(exported, authority) for _ in range(limit)]
    with pytest.raises((OSError, EOFError)):
        await working(exported, authority)
    assert len(exported.door.clients) == limit
    here = await RawClient.connect(exported.frontend.socket_path)
    here.ask(Command.READ, 0, 4096, 7)
    assert await here.reply() == (0, 7)
    clients.pop().close()
    await until(lambda: len(exported.door.clients) == limit - 1)
    clients.append(await working(exported, authority))
    for client in (*clients, here):
        client.close()


async def test_strangers_at_the_door_are_few_and_keep_nobody_out(exported: Exported, authority: LocalAuthority) -> None:
    """Slow ones, before TLS and in it."""
    crowd = [socket.create_connection(("127.0.0.1", exported.port)) for _ in range(20)]
    listener = exported.door._listener
    assert listener is not None
    await until(lambda: len(exported.audit.told) >= 16)
    assert listener.handshakes <= 4
    client = await working(exported, authority)
    here = await RawClient.connect(exported.frontend.socket_path)
    here.ask(Command.READ, 0, 4096, 7)
    assert await here.reply() == (0, 7)
    for sock in crowd:
        sock.close()
    client.close()
    here.close()


async def test_a_remote_client_has_little_in_flight(exported: Exported, authority: LocalAuthority) -> None:
    """The rest of what it sends waits in its own socket."""
    client = await working(exported, authority)
    exported.nodes.held = []

    async def flood() -> None:
        for number in range(100):
            client.ask(Command.WRITE, 0, MIB, number, bytes(MIB))
            await client.writer.drain()

    sending = asyncio.create_task(flood())
    (served,) = exported.door.clients
    await until(lambda: not served._reading)
    assert served._unanswered_bytes <= client_module.REMOTE.in_flight_bytes + MIB
    assert served._buffer.capacity <= 2 * MIB
    sending.cancel()
    client.close()
    held, exported.nodes.held = exported.nodes.held, None
    for node, frame in held:
        exported.nodes.serve(node, frame)
    await until(lambda: not exported.door.clients)


# ---- as the node keeps them ------------------------------------------------------------------------------


@pytest.fixture
def audit() -> HeardTrail:
    return HeardTrail()


@pytest.fixture
async def frontends(tmp_path: Path, n1: Identity, audit: HeardTrail) -> AsyncIterator[Frontends]:
    made = _frontends(tmp_path, n1, audit)
    yield made
    await made.stop()


def _frontends(tmp_path: Path, identity: Identity, audit: HeardTrail) -> Frontends:
    for name in ("run", "state"):
        (tmp_path / name).mkdir(mode=0o700, exist_ok=True)
    made = Frontends("n1", tmp_path / "run", tmp_path / "state", identity, audit)
    made.network = _NoNetwork()  # type: ignore[assignment]
    return made


class _NoNetwork:
    """No peer is linked."""

    send = staticmethod(lambda node, *parts: False)
    connected = staticmethod(lambda node: False)
    __class__ = PeerNetwork  # type: ignore[assignment]


def request(remote: RemoteExport | None, attach_epoch: int = 1) -> OpenFrontend:
    voters = [VoterModel(node="n2", incarnation="ab" * 8)]
    return OpenFrontend(
        volume=VOLUME, name=NAME, size_bytes=SIZE, attach_epoch=attach_epoch, voters=voters, remote=remote
    )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_an_export_is_opened_changed_repeated_and_closed(frontends: Frontends, audit: HeardTrail) -> None:
    opened = await frontends.open(request(RemoteExport(address="127.0.0.1:0", clients=["user/eve"])), WHO)
    assert opened.remote is not None
    address = opened.remote.address
    port = int(address.rpartition(":")[2])
    assert _listens(port)
    again = await frontends.open(request(None), WHO)
    assert again.remote == opened.remote, "who only opens the frontend leaves the export as it is"
    other = await frontends.open(request(RemoteExport(address=address, clients=["user/bob"])), WHO)
    assert other.remote is not None
    assert (other.remote.address, other.remote.clients) == (address, ["user/bob"])
    moved = await frontends.open(request(RemoteExport(address="127.0.0.1:0", clients=["user/bob"])), WHO)
    assert moved.remote is not None
    assert moved.remote.address == address, "it listens where it did when any port will do"
    await frontends.unexport(VOLUME, WHO)
    await frontends.unexport(VOLUME, WHO)
    assert not _listens(port)
    (status,) = frontends.statuses()
    assert status.remote is None
    assert Path(status.socket).is_socket()
    await frontends.close(VOLUME)
    await frontends.unexport(VOLUME, WHO)
    for_eve, for_bob = f"on {address} for user/eve", f"on {address} for user/bob"
    assert audit.reasons("nbd.export", WHO) == [for_eve, for_bob, for_bob]
    assert audit.reasons("nbd.unexport", WHO) == [""]


async def test_an_address_that_can_not_be_had_changes_nothing(frontends: Frontends) -> None:
    opened = await frontends.open(request(RemoteExport(address="127.0.0.1:0", clients=["user/eve"])), WHO)
    assert opened.remote is not None
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StosError, match="in use") as caught:
            await frontends.open(request(RemoteExport(address=address, clients=["user/eve"])), WHO)
    assert caught.value.code is Code.FAILED_PRECONDITION
    for bad in ("nonsense", "127.0.0.1:99999", ":1", "192.0.2.77:9"):
        with pytest.raises(StosError):
            await frontends.open(request(RemoteExport(address=bad, clients=["user/eve"])), WHO)
    (status,) = frontends.statuses()
    assert status.remote == opened.remote
    assert _listens(int(opened.remote.address.rpartition(":")[2]))


async def test_a_restarted_node_exports_what_it_exported(
    frontends: Frontends, tmp_path: Path, n1: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same port; when that is not to be had, the Unix socket is there all the same and it is tried again."""
    monkeypatch.setattr(remote_module, "RETRY_S", 0.05)
    opened = await frontends.open(request(RemoteExport(address="127.0.0.1:0", clients=["user/eve"])), WHO)
    assert opened.remote is not None
    port = int(opened.remote.address.rpartition(":")[2])
    await frontends.stop()
    assert (tmp_path / "state" / FILE).stat().st_mode & 0o777 == 0o600
    with socket.create_server(("127.0.0.1", port)):
        restarted = _frontends(tmp_path, n1, HeardTrail())
        await restarted.reopen()
        await until(lambda: "in use" in _remote(restarted).error)
        (status,) = restarted.statuses()
        assert Path(status.socket).is_socket()
    await until(lambda: not _remote(restarted).error)
    assert _listens(port)
    assert _remote(restarted).clients == ["user/eve"]
    await restarted.stop()


def _remote(frontends: Frontends):  # type: ignore[no-untyped-def]
    (status,) = frontends.statuses()
    assert status.remote is not None
    return status.remote


async def test_a_newer_attachment_takes_the_export_with_it(frontends: Frontends) -> None:
    """What was allowed for one attachment is not allowed for the next."""
    opened = await frontends.open(request(RemoteExport(address="127.0.0.1:0", clients=["user/eve"])), WHO)
    assert opened.remote is not None
    newer = await frontends.open(request(None, attach_epoch=2), WHO)
    assert newer.remote is None
    assert not _listens(int(opened.remote.address.rpartition(":")[2]))
