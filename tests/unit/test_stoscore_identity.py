"""Identity directories: private from the start, whole after any crash, and clear about what is wrong."""

from __future__ import annotations

import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stoscore import identity as identities
from stoscore.enrolment import EnrolRequest, IssuedToken, JoinToken, certificate_request
from stoscore.errors import Code, StosError
from stoscore.files import locked, private_directory, write_private
from stoscore.identity import Identity, parse_uri, verify_signature
from stoscore.spiffe import Peer, role_of, shown_peer
from tests.support.ca import TestAuthority


def test_who_it_is(tmp_path: Path) -> None:
    found = TestAuthority("stos-1").issue(tmp_path, "n1")
    assert (found.cluster, found.kind, found.name) == ("stos-1", "node", "n1")
    assert found.uri == "spiffe://stos-1/node/n1"
    assert found.inbox_prefix == "_INBOX.node.n1"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://c/node",
        "spiffe://c/node/a/b",
        "spiffe://c/other/n1",
        "spiffe://c/node/N1",
        "spiffe://c/node/n1\n",
        "spiffe:///node/n1",
        "https://c/node/n1",
        "spiffe://c/node/" + "n" * 64,
    ],
)
def test_what_is_no_identity(uri: str) -> None:
    with pytest.raises(StosError) as caught:
        parse_uri(uri)
    assert caught.value.code is Code.UNAUTHENTICATED


SHOWN = {"serialNumber": "00AB12", "notBefore": "Jan  1 00:00:00 2030 GMT"}


def test_whom_a_certificate_names() -> None:
    one = SHOWN | {"subjectAltName": (("DNS", "x"), ("URI", "spiffe://c/node/n1"))}
    issued_s = int(datetime(2030, 1, 1, 0, 10, tzinfo=UTC).timestamp())
    assert shown_peer(one) == shown_peer(one, "c") == Peer("node", "n1", "ab12", issued_s)
    two = SHOWN | {"subjectAltName": (("URI", "spiffe://c/node/n1"), ("URI", "spiffe://c/node/n2"))}
    nul = SHOWN | {"subjectAltName": (("URI", "spiffe://c/node/n1\0.evil"),)}
    bare = {"subjectAltName": (("URI", "spiffe://c/node/n1"),)}
    odd = one | {"serialNumber": "none"}
    shown: tuple[tuple[object, str | None], ...] = (
        (None, None),
        ({}, None),
        (SHOWN, None),
        (SHOWN | {"subjectAltName": ()}, None),
        (two, None),
        (nul, None),
        (bare, None),
        (odd, None),
        (one, "d"),
    )
    for peer, cluster in shown:
        with pytest.raises(StosError) as caught:
            shown_peer(peer, cluster)
        assert caught.value.code is Code.UNAUTHENTICATED


def reason(directory: Path) -> str:
    with pytest.raises(StosError) as caught:
        Identity.load(directory)
    assert caught.value.code is Code.UNAUTHENTICATED
    assert caught.value.next_step
    return caught.value.message


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    authority = TestAuthority()
    assert "cert.pem is missing" in reason(tmp_path / "nothing")
    expired = authority.issue(tmp_path, "n1", valid=-timedelta(hours=1))
    assert "expired" in reason(expired.directory)
    good, other = authority.issue(tmp_path, "n1"), authority.issue(tmp_path, "n2")
    shutil.copy(other.directory / "key.pem", good.directory / "key.pem")
    assert "do not belong together" in reason(good.directory)
    (other.directory / "cert.pem").write_text("rubbish")
    assert "damaged" in reason(other.directory)
    many = authority.issue_files(tmp_path, ["spiffe://stos/node/n1", "spiffe://stos/node/n2"])
    with pytest.raises(StosError, match="names 2 identities"):
        Identity.load(many)


def test_a_crash_between_certificate_and_key_is_finished(tmp_path: Path) -> None:
    found = TestAuthority().issue(tmp_path, "n1")
    (found.directory / "key.pem").rename(found.directory / "key.next.pem")
    assert Identity.load(found.directory).uri == found.uri
    assert not (found.directory / "key.next.pem").exists()


def test_a_waiting_key_without_certificate_changes_nothing(tmp_path: Path) -> None:
    found = TestAuthority().issue(tmp_path, "n1")
    waiting = identities.next_key(found.directory)
    assert Identity.load(found.directory).key.public_key() == found.key.public_key()
    assert identities.next_key(found.directory).public_key() == waiting.public_key()


def test_private_from_the_start(tmp_path: Path) -> None:
    directory = private_directory(tmp_path / "a" / "b")
    write_private(directory / "secret", b"1")
    (directory / "secret").chmod(0o644)
    write_private(directory / "secret", b"2")
    assert (directory / "secret").read_bytes() == b"2"
    assert stat.S_IMODE((directory / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [path.name for path in directory.iterdir()] == ["secret"]


def test_a_proof(tmp_path: Path) -> None:
    authority = TestAuthority()
    first, second = authority.issue(tmp_path, "n1"), authority.issue(tmp_path, "n2")
    verify_signature(first.certificate, first.sign(b"x"), b"x")
    for certificate, message in ((second.certificate, b"x"), (first.certificate, b"y")):
        with pytest.raises(StosError, match="not signed"):
            verify_signature(certificate, first.sign(b"x"), message)


def test_a_damaged_waiting_key_is_made_anew(tmp_path: Path) -> None:
    """Half-written by a disk that lied, say: nobody has vouched for it, so nothing is lost."""
    found = TestAuthority().issue(tmp_path, "n1")
    waiting = identities.next_key(found.directory)
    path = found.directory / "key.next.pem"
    for content in (path.read_bytes()[:60], b""):
        path.write_bytes(content)
        fresh = identities.next_key(found.directory)
        assert fresh.public_key() not in (waiting.public_key(), found.key.public_key())
        assert identities.next_key(found.directory).public_key() == fresh.public_key()
    assert Identity.load(found.directory).certificate == found.certificate


@pytest.mark.parametrize("name", ["key.pem", "cert.pem"])
@pytest.mark.parametrize("keep_bytes", [0, 40, 200])
def test_a_half_written_file_is_damage_and_never_an_accident(tmp_path: Path, name: str, keep_bytes: int) -> None:
    found = TestAuthority().issue(tmp_path, "n1")
    path = found.directory / name
    path.write_bytes(path.read_bytes()[:keep_bytes])
    assert "damaged" in reason(found.directory)
    assert path.stat().st_size == keep_bytes
    path.unlink()
    assert f"{name} is missing" in reason(found.directory)


def test_a_half_written_nats_key_is_made_anew(tmp_path: Path) -> None:
    found = TestAuthority().issue(tmp_path, "n1")
    public = identities.nats_public_key(found.directory)
    assert identities.nats_public_key(found.directory) == public
    for content in (b"SU", b"", b"\xff" * 58):
        (found.directory / "nats.seed").write_bytes(content)
        fresh = identities.nats_public_key(found.directory)
        assert fresh != public
        assert identities.nats_public_key(found.directory) == fresh


def test_one_process_an_identity(tmp_path: Path) -> None:
    """Also between two openings in one process, and what a killed one left half-written is removed."""
    directory = tmp_path / "identity"
    with locked(directory, "the identity", "stop it"):
        (directory / ".key.pem.99.tmp").write_text("half a key")
        with (
            pytest.raises(StosError, match="another process uses the identity in") as caught,
            locked(directory, "the identity", "stop it"),
        ):
            pytest.fail("two have it")
        assert caught.value.code is Code.FAILED_PRECONDITION
        assert (directory / ".key.pem.99.tmp").exists()
    with locked(directory, "the identity", "stop it"):
        assert [path.name for path in directory.iterdir()] == ["lock"]


def test_roles_follow_from_names() -> None:
    assert [role_of(*who) for who in (("node", "n1"), ("svc", "placement-2"), ("svc", "certs"))] == [
        "node",
        "placement",
        "certs",
    ]


def test_a_users_role_is_in_its_directory(tmp_path: Path) -> None:
    found = TestAuthority().issue(tmp_path, "eve", kind="user")
    assert found.role == "user"
    write_private(found.directory / "role", b"viewer\n")
    assert Identity.load(found.directory).role == "viewer"


def test_a_join_token_there_and_back() -> None:
    token = JoinToken("127.0.0.1:1", "stos-1", "node", "n1", "PEM", "0" * 16, "hidden")
    assert JoinToken.decode(f" {token.encode()}\n") == token
    assert "hidden" not in repr(token)
    for text in ("", "x", token.encode()[:-9], "stos-join-1.e30", "stos-join-1.W10", "stos-join-1.é"):
        with pytest.raises(StosError) as caught:
            JoinToken.decode(text)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert "hidden" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    """Not by what a log line, an exception or a debugger makes of them."""
    token = JoinToken("127.0.0.1:1", "stos-1", "node", "n1", "PEM", "0" * 16, "hidden")
    request = EnrolRequest(attestor="join-token", evidence=token.evidence(), csr_pem="")
    for holder in (token, request, IssuedToken(token=token.encode())):
        for shown in (repr(holder), str(holder), f"{[holder]}"):
            assert "hidden" not in shown
            assert token.encode() not in shown
    assert request.evidence["secret"] == "hidden"


def test_a_signing_request_is_signed_by_its_key(tmp_path: Path) -> None:
    from services.certs.issue import requested_key

    key = identities.next_key(tmp_path)
    assert requested_key(certificate_request(key, "spiffe://c/node/n1")) == key.public_key()
