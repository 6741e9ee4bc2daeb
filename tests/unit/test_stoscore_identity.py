"""Identity directories: private from the start, whole after any crash, and clear about what is wrong."""

from __future__ import annotations

import shutil
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from stoscore import identity as identities
from stoscore.enrolment import JoinToken, certificate_request
from stoscore.errors import Code, StosError
from stoscore.files import private_directory, write_private
from stoscore.identity import Identity, parse_uri, peer_uri, verify_signature
from tests.support.ca import TestAuthority


def test_who_it_is(tmp_path: Path) -> None:
    found = TestAuthority("stos-1").issue(tmp_path, "n1")
    assert (found.cluster, found.kind, found.name) == ("stos-1", "node", "n1")
    assert found.uri == "spiffe://stos-1/node/n1"
    assert found.inbox_prefix == "_INBOX_node_n1"


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


def test_the_peers_one_uri() -> None:
    one = {"subjectAltName": (("DNS", "x"), ("URI", "spiffe://c/node/n1"))}
    assert peer_uri(one) == "spiffe://c/node/n1"
    assert peer_uri(one, "c") == "spiffe://c/node/n1"
    two = {"subjectAltName": (("URI", "spiffe://c/node/n1"), ("URI", "spiffe://c/node/n2"))}
    for peer, cluster in ((None, None), ({}, None), ({"subjectAltName": ()}, None), (two, None), (one, "d")):
        with pytest.raises(StosError) as caught:
            peer_uri(peer, cluster)
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


def test_a_join_token_there_and_back() -> None:
    token = JoinToken("127.0.0.1:1", "stos-1", "node", "n1", "PEM", "0" * 16, "hidden")
    assert JoinToken.decode(f" {token.encode()}\n") == token
    assert "hidden" not in repr(token)
    for text in ("", "x", token.encode()[:-9], "stos-join-1.e30", "stos-join-1.W10", "stos-join-1.é"):
        with pytest.raises(StosError) as caught:
            JoinToken.decode(text)
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert "hidden" not in str(caught.value)


def test_a_signing_request_is_signed_by_its_key(tmp_path: Path) -> None:
    from services.certs.issue import requested_key

    key = identities.next_key(tmp_path)
    assert requested_key(certificate_request(key, "spiffe://c/node/n1")) == key.public_key()
