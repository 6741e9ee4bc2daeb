"""Enrolment through the real certs process: tokens that work once, doors that stay shut, starts that fail."""

from __future__ import annotations

import asyncio
import shutil
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from stoscore.admission import ensure_identity
from stoscore.certs_messages import Credentials, IdentityPage, ListIdentities
from stoscore.enrolment import (
    ENROL_METHOD,
    HOST_NAME,
    EnrolRequest,
    JoinToken,
    admin_call,
    certificate_request,
    enrol,
    issue_token,
)
from stoscore.envelope import decode_answer
from stoscore.errors import Code, StosError
from stoscore.identity import Identity, nats_public_key, next_key
from stoscore.settings import CommonSettings
from tests.support.certs_process import CertsProcess
from tests.support.control_plane import free_port


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CertsProcess]:
    process = CertsProcess(tmp_path_factory.mktemp("certs"))
    try:
        process.start()
        yield process
    finally:
        process.stop()


async def raw_call(certs: CertsProcess, root_pem: str, data: bytes) -> bytes:
    """What a client that is not ours may send to the enrolment door."""
    async with grpc.aio.secure_channel(
        f"127.0.0.1:{certs.port}",
        grpc.ssl_channel_credentials(root_pem.encode()),
        options=[("grpc.ssl_target_name_override", HOST_NAME)],
    ) as channel:
        answer: bytes = await channel.unary_unary(ENROL_METHOD, None, None)(data, timeout=5)
        return answer


async def ask(certs: CertsProcess, token: JoinToken, request: EnrolRequest) -> Credentials:
    data = await raw_call(certs, token.root_pem, request.model_dump_json().encode())
    return decode_answer(Credentials, data)


def request_with(directory: Path, token: JoinToken, **changes: object) -> EnrolRequest:
    uri = f"spiffe://{token.cluster}/{token.kind}/{token.name}"
    fields: dict[str, object] = {
        "attestor": "join-token",
        "evidence": {"token_id": token.token_id, "secret": token.secret},
        "csr_pem": certificate_request(next_key(directory), uri),
        "nats_public_key": nats_public_key(directory),
    }
    return EnrolRequest.model_validate(fields | changes)


async def refused(certs: CertsProcess, token: JoinToken, request: EnrolRequest, code: Code, why: str) -> None:
    with pytest.raises(StosError, match=why) as caught:
        await ask(certs, token, request)
    assert caught.value.code is code
    assert token.secret not in str(caught.value)


async def new_token(certs: CertsProcess, kind: str = "node", name: str = "n1", valid_s: int = 60) -> JoinToken:
    return JoinToken.decode(await issue_token(certs.socket, kind, name, valid_s=valid_s))


# ---- what works ------------------------------------------------------------------------------------------


async def test_a_token_becomes_an_identity(certs: CertsProcess, tmp_path: Path) -> None:
    await enrol(tmp_path / "id", await new_token(certs))
    identity = Identity.load(tmp_path / "id")
    assert (identity.kind, identity.name) == ("node", "n1")
    assert identity.cluster.startswith("stos-")
    assert 3.99 < (identity.not_after - identity.renew_at).total_seconds() / 86_400 + 1 < 4.01
    for path in (tmp_path / "id").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    page = await admin_call(certs.socket, "ls", ListIdentities(), IdentityPage)
    found = {f"{item.kind}/{item.name}": item for item in page.identities}["node/n1"]
    assert (found.role, found.state) == ("node", "valid")
    assert found.certificate is not None
    assert found.certificate.attestor == "join-token"


async def test_a_start_takes_its_token_from_the_file(certs: CertsProcess, tmp_path: Path) -> None:
    lines = [(await new_token(certs, "svc", "placement-7")).encode(), (await new_token(certs)).encode()]
    (tmp_path / "tokens").write_text("\n".join(lines) + "\n")
    settings = CommonSettings(join_token_file=tmp_path / "tokens")
    identity = await ensure_identity(settings, tmp_path / "id", "placement")
    assert identity.uri.endswith("/svc/placement-7")
    again = await ensure_identity(settings, tmp_path / "id", "placement")  # needs no token any more
    assert again.certificate == identity.certificate
    with pytest.raises(StosError, match="not of a csi"):
        await ensure_identity(settings, tmp_path / "id", "csi")
    with pytest.raises(StosError, match="no token for the role 'csi'"):
        await ensure_identity(settings, tmp_path / "other", "csi")


# ---- what does not ---------------------------------------------------------------------------------------


async def test_a_token_is_good_for_one_key(certs: CertsProcess, tmp_path: Path) -> None:
    token = await new_token(certs)
    first = request_with(tmp_path / "first", token)
    await ask(certs, token, first)
    await ask(certs, token, first)  # the answer was lost: the same key asks again
    thief = request_with(tmp_path / "thief", token)
    await refused(certs, token, thief, Code.UNAUTHENTICATED, "used before")


async def test_of_two_thieves_at_once_one_is_refused(certs: CertsProcess, tmp_path: Path) -> None:
    token = await new_token(certs)
    requests = [request_with(tmp_path / str(number), token) for number in range(8)]
    outcomes = await asyncio.gather(*(ask(certs, token, item) for item in requests), return_exceptions=True)
    assert sum(isinstance(item, Credentials) for item in outcomes) == 1


async def test_a_used_token_stays_used_after_a_crash(tmp_path: Path) -> None:
    process = CertsProcess(tmp_path)
    try:
        await asyncio.to_thread(process.start)
        used, fresh = await new_token(process), await new_token(process, name="n2")
        await ask(process, used, request_with(tmp_path / "a", used))
        process.kill()
        await asyncio.to_thread(process.start)
        again = request_with(tmp_path / "b", used)
        await refused(process, used, again, Code.UNAUTHENTICATED, "used before")
        await ask(process, fresh, request_with(tmp_path / "c", fresh))
        assert process.kill(15) == 0
    finally:
        process.stop()


async def test_bad_evidence(certs: CertsProcess, tmp_path: Path) -> None:
    token = await new_token(certs)
    for evidence in (
        {"token_id": token.token_id, "secret": "guess"},
        {"token_id": "../../cluster", "secret": token.secret},
        {"token_id": "0" * 16, "secret": token.secret},
    ):
        request = request_with(tmp_path / "x", token, evidence=evidence)
        await refused(certs, token, request, Code.UNAUTHENTICATED, "unknown")
    whole = {"token_id": token.token_id, "secret": token.secret}
    for bad in ({}, {"token_id": token.token_id}, whole | {"more": "x"}, whole | {"secret": "x" * 20_001}):
        request = request_with(tmp_path / "x", token, evidence=bad)
        await refused(certs, token, request, Code.INVALID_ARGUMENT, "the evidence must be")
    late = await new_token(certs, valid_s=1)
    await asyncio.sleep(1.1)
    await refused(certs, late, request_with(tmp_path / "x", late), Code.UNAUTHENTICATED, "expired")
    # None of it used the token up.
    await ask(certs, token, request_with(tmp_path / "x", token))


async def test_bad_requests(certs: CertsProcess, tmp_path: Path) -> None:
    token = await new_token(certs)
    p384 = certificate_request(ec.generate_private_key(ec.SECP384R1()), "spiffe://a/node/n1")
    for changes, why in (
        ({"csr_pem": "rubbish"}, "PKCS #10"),
        ({"csr_pem": "é"}, "PKCS #10"),
        ({"csr_pem": p384}, "P-256"),
        ({"nats_public_key": "UAAAA"}, "nats_public_key"),
        ({"attestor": "../x"}, "no attestor"),
    ):
        request = request_with(tmp_path / "x", token, **changes)
        await refused(certs, token, request, Code.INVALID_ARGUMENT, why)
    for data in (b"", b"no json", b'{"v":2}', b'{"more":1}'):
        answer = await raw_call(certs, token.root_pem, data)
        with pytest.raises(StosError):
            decode_answer(Credentials, answer)
    await ask(certs, token, request_with(tmp_path / "x", token))


async def test_names_in_a_request_mean_nothing(certs: CertsProcess, tmp_path: Path) -> None:
    """Who asks for another name with a token for n1 is n1."""
    token = await new_token(certs)
    wrong = certificate_request(next_key(tmp_path), f"spiffe://{token.cluster}/user/admin")
    issued = await ask(certs, token, request_with(tmp_path, token, csr_pem=wrong))
    (tmp_path / "cert.pem").write_text(issued.certificate_pem)
    (tmp_path / "trust.pem").write_text(issued.trust_pem)
    assert Identity.load(tmp_path).uri == f"spiffe://{token.cluster}/node/n1"


async def test_a_newcomer_tells_no_false_certs_its_secret(certs: CertsProcess, tmp_path: Path) -> None:
    other = CertsProcess(tmp_path / "other")
    other.directory.mkdir()
    try:
        await asyncio.to_thread(other.start)
        token = await new_token(certs)
        redirected = replace(token, address=f"127.0.0.1:{other.port}")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await enrol(tmp_path / "id", redirected)  # it goes on waiting for the real one
        assert not Identity.exists(tmp_path / "id")
        assert "refused:" not in other.logged()
    finally:
        other.stop()


async def test_impossible_identities_get_no_token(certs: CertsProcess) -> None:
    for kind, name in (
        ("node", "N1"),
        ("node", "a.b"),
        ("node", ""),
        ("node", "../x"),
        ("root", "x"),
        ("svc", "unheard-of"),
        ("svc", "node-1"),
        ("svc", "certs-9"),
        ("user", "eve"),
    ):
        with pytest.raises(StosError) as caught:
            await issue_token(certs.socket, kind, name)
        assert caught.value.code is Code.INVALID_ARGUMENT


def test_the_admin_door_is_for_this_user_only(certs: CertsProcess) -> None:
    assert stat.S_IMODE(certs.socket.stat().st_mode) == 0o600
    for path in certs.data.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == 0, f"{path} is {mode:o}"


async def test_no_certs_no_token(tmp_path: Path) -> None:
    with pytest.raises(StosError, match="no certs service") as caught:
        await issue_token(tmp_path / "nothing.sock", "node", "n1")
    assert caught.value.code is Code.UNAVAILABLE


# ---- starts that fail ------------------------------------------------------------------------------------


def one_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("stos serve")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def test_a_second_process_in_the_directory(certs: CertsProcess) -> None:
    ended = certs.run_to_end(STOS_CERTS_PORT=str(free_port()))
    assert ended.returncode == 5
    assert "another certs process called 'certs' uses" in one_line(ended.stderr)


def test_a_port_in_use(certs: CertsProcess, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = certs.run_to_end(
            STOS_CERTS_DATA_DIR=str(tmp_path / "new"),
            STOS_CERTS_ADMIN_SOCKET=str(tmp_path / "s"),
            STOS_CERTS_PORT=str(taken.getsockname()[1]),
        )
    assert ended.returncode == 5
    assert "in use" in one_line(ended.stderr)


def test_two_certs_do_not_share_a_port(certs: CertsProcess, tmp_path: Path) -> None:
    ended = certs.run_to_end(STOS_CERTS_DATA_DIR=str(tmp_path / "new"), STOS_CERTS_ADMIN_SOCKET=str(tmp_path / "s"))
    assert ended.returncode == 5
    assert "in use" in one_line(ended.stderr)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("STOS_CERTS_PROT", "1", "did you mean STOS_CERTS_PORT"),
        ("STOS_CERTS_PORT", "0", "STOS_CERTS_PORT='0'"),
        ("STOS_CERTS_PORT", "many", "STOS_CERTS_PORT='many'"),
        ("STOS_CERTS_CERTIFICATE_LIFE_S", "1", "STOS_CERTS_CERTIFICATE_LIFE_S"),
        ("STOS_CERTS_EVENTS_BYTES", "99999999999", "events_bytes must be below"),
        ("STOS_CERTS_ADMIN_SOCKET", "/tmp/" + "x" * 200, "longer than 107 bytes"),
        ("STOS_CERTS_NAME", "other", "STOS_CERTS_NAME='other'"),
        ("STOS_CERTS_ADVERTISE", "nohost", "is no host:port"),
        ("STOS_CERTS_KUBERNETES_ACCOUNTS", "stos/x", "is not NAMESPACE/ACCOUNT=KIND/NAME"),
        ("STOS_CERTS_KUBERNETES_ACCOUNTS", "stos/x=node/fixed", "all nodes would be one"),
        ("STOS_CERTS_KUBERNETES_ACCOUNTS", "stos/x=svc/certs-{pod}", "to itself only"),
        ("STOS_CERTS_KUBERNETES_ACCOUNTS", "stos/x=svc/csi,stos/x=svc/placement", "named twice"),
        ("STOS_LOG_FORMAT", "xml", "STOS_LOG_FORMAT='xml'"),
        ("STOS_NATS_URLS", "http://x:1", "is no NATS address"),
        ("STOS_UNKNOWN", "1", "unknown setting STOS_UNKNOWN"),
        ("STOS_CONFIG", "/nowhere.toml", "can't read the settings file"),
    ],
)
def test_bad_settings(certs: CertsProcess, variable: str, value: str, said: str) -> None:
    ended = certs.run_to_end(**{variable: value})
    assert ended.returncode == 2
    assert said in one_line(ended.stderr)


def test_a_vault_that_is_not_installed(certs: CertsProcess, tmp_path: Path) -> None:
    ended = certs.run_to_end(STOS_CERTS_DATA_DIR=str(tmp_path / "new"), STOS_CERTS_VAULT="cloud")
    assert ended.returncode == 3
    assert "no plugin 'cloud' in group stos.vaults" in one_line(ended.stderr)


def test_a_directory_that_can_not_be_made(certs: CertsProcess, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = certs.run_to_end(STOS_CERTS_DATA_DIR=str(tmp_path / "file" / "below"))
    assert ended.returncode == 5
    assert "can't make the directory" in one_line(ended.stderr)


@pytest.mark.parametrize(
    ("name", "keep_bytes", "said"),
    [
        ("kek", 20, "half written"),
        ("kek", None, "is missing, and the CA's keys can't be opened"),
        ("vault/entries/keys/root-1", 99, "is damaged"),
        ("vault/entries/keys/issuer-1", None, "private key issuer-1 is missing"),
        ("vault/entries/authority", 300, "is damaged"),
        ("vault/entries/authority", None, "its record is lost"),
    ],
)
def test_a_spoilt_vault_stops_the_start(
    certs: CertsProcess, tmp_path: Path, name: str, keep_bytes: int | None, said: str
) -> None:
    """One line that says what, exit code 5, and nothing is made anew."""
    copy = tmp_path / "certs"
    shutil.copytree(certs.data, copy, ignore=shutil.ignore_patterns("*.sock"))
    path = copy / name
    if keep_bytes is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:keep_bytes])
    before = {str(item): item.read_bytes() for item in copy.rglob("*") if item.is_file()}
    ended = certs.run_to_end(STOS_CERTS_DATA_DIR=str(copy), STOS_CERTS_PORT=str(free_port()))
    assert ended.returncode == 5
    assert said in one_line(ended.stderr)
    assert {str(item): item.read_bytes() for item in copy.rglob("*") if item.is_file()} == before
