"""The trust state: only certs of this cluster says it, it never goes back, and nobody can lock himself out by it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.certs import issue
from stoscore.certs_messages import Denied, SignedTrust, TrustState
from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from stoscore.spiffe import Peer, owner
from stoscore.trust import denial, load_roots, sign_trust, verify_chain, verify_trust
from tests.support.ca import TestAuthority

NOW = datetime.now(UTC)


class Scene:
    """One cluster with certs and a node."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.authority = TestAuthority("stos-1")
        self.certs = self.authority.issue(directory, "certs", kind="svc")
        self.roots = (self.authority.root,)

    def identity(self, kind: str, name: str, *, cluster: str | None = None) -> Identity:
        return self.authority.issue(self.directory, name, kind=kind, cluster=cluster)

    def verify(self, signed: SignedTrust, current: TrustState | None = None, now: datetime | None = NOW) -> TrustState:
        return verify_trust(signed, self.roots, "stos-1", current=current, now=now)

    def refused(self, signed: SignedTrust, why: str, current: TrustState | None = None) -> StosError:
        with pytest.raises(StosError, match=why) as caught:
            self.verify(signed, current)
        return caught.value


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_what_certs_says_is_believed(scene: Scene) -> None:
    state = scene.verify(scene.authority.trust(scene.certs, 7, renew_issued_before_s=5))
    assert (state.cluster, state.number, state.renew_issued_before_s) == ("stos-1", 7, 5)
    assert load_roots(state.roots_pem) == scene.roots
    second = scene.identity("svc", "certs-2")
    assert scene.verify(scene.authority.trust(second, 8), current=state).number == 8


@pytest.mark.parametrize(
    ("kind", "name"),
    [("node", "certs"), ("node", "n1"), ("user", "certs"), ("svc", "placement-1"), ("svc", "certsx"), ("svc", "nats")],
)
def test_nobody_else_is(scene: Scene, kind: str, name: str) -> None:
    signed = scene.authority.trust(scene.identity(kind, name), 1)
    assert scene.refused(signed, "not by certs").code is Code.UNAUTHENTICATED


def test_another_cluster_with_the_same_root(scene: Scene) -> None:
    foreign = scene.identity("svc", "certs", cluster="stos-2")
    scene.refused(scene.authority.trust(foreign, 1), "of cluster 'stos-2'")
    state = TrustState(cluster="stos-2", number=1, roots_pem=scene.authority.root_pem)
    scene.refused(sign_trust(scene.certs, state), "of cluster 'stos-2'")


def test_another_root_with_the_same_cluster(scene: Scene) -> None:
    other = TestAuthority("stos-1")
    signer = other.issue(scene.directory, "certs", kind="svc")
    both = scene.authority.root_pem + other.root_pem
    scene.refused(other.trust(signer, 1), "no root vouches")
    scene.refused(other.trust(signer, 1, roots_pem=both), "no root vouches")


def test_a_signature_of_something_else(scene: Scene) -> None:
    good = scene.authority.trust(scene.certs, 1)
    other = scene.authority.trust(scene.certs, 2)
    node = scene.authority.trust(scene.identity("node", "n1"), 1)
    bare = base64.b64encode(scene.certs.sign(good.state_json.encode())).decode()
    for signature in (other.signature, node.signature, bare, base64.b64encode(b"x").decode()):
        scene.refused(good.model_copy(update={"signature": signature}), "not signed")
    scene.refused(good.model_copy(update={"signature": "%"}), "no base64")
    scene.refused(good.model_copy(update={"chain_pem": node.chain_pem}), "not signed")
    scene.refused(good.model_copy(update={"chain_pem": "rubbish"}), "can't be read")
    scene.refused(good.model_copy(update={"chain_pem": good.chain_pem * 9}), "too long")


def test_an_expired_signer(scene: Scene) -> None:
    """Refused when it is heard; what was heard in time and kept is read again later."""
    signed = scene.authority.trust(scene.certs, 1)
    late = scene.certs.not_after + timedelta(seconds=1)
    for moment in (late, scene.certs.not_before - timedelta(seconds=1)):
        with pytest.raises(StosError, match="expired or is not valid yet"):
            scene.verify(signed, now=moment)
    assert scene.verify(signed, now=None).number == 1


def test_it_never_goes_back(scene: Scene) -> None:
    current = scene.verify(scene.authority.trust(scene.certs, 5))
    older = scene.authority.trust(scene.certs, 4)
    assert scene.refused(older, "older than 5", current).code is Code.FAILED_PRECONDITION
    denied = [Denied(kind="node", name="n1", issued_before_s=9, expires_s=10)]
    scene.refused(scene.authority.trust(scene.certs, 5, denied=denied), "two different ones", current)
    assert scene.verify(scene.authority.trust(scene.certs, 5), current) == current


def test_nobody_locks_everybody_out(scene: Scene) -> None:
    """A state after which no further one could be believed is not believed itself."""
    other = TestAuthority("stos-1")
    scene.refused(scene.authority.trust(scene.certs, 1, roots_pem=other.root_pem), "no root vouches")
    for roots_pem in ("", "rubbish", scene.certs.chain[0].public_bytes(serialization.Encoding.PEM).decode()):
        scene.refused(scene.authority.trust(scene.certs, 1, roots_pem=roots_pem), "its roots")
    scene.refused(scene.authority.trust(scene.certs, 1, roots_pem=scene.authority.root_pem * 9), "more than 8")
    itself = [Denied(kind="svc", name="certs", serial=scene.certs.peer.serial, expires_s=1)]
    scene.refused(scene.authority.trust(scene.certs, 1, denied=itself), "signer svc/certs is revoked")


def test_a_revoked_certs_says_nothing_more(scene: Scene) -> None:
    second = scene.identity("svc", "certs-2")
    denied = [Denied(kind="svc", name="certs", serial=scene.certs.peer.serial, expires_s=1)]
    current = scene.verify(scene.authority.trust(second, 1, denied=denied))
    scene.refused(scene.authority.trust(scene.certs, 2), "signer svc/certs is revoked", current)


def test_a_state_that_can_not_be_read(scene: Scene) -> None:
    for text in ("", "{}", '{"v":2}', "[]"):
        signature = base64.b64encode(scene.certs.sign(b"stos trust state 1\0" + text.encode())).decode()
        signed = scene.authority.trust(scene.certs, 1)
        scene.refused(signed.model_copy(update={"state_json": text, "signature": signature}), "can't be read")


# ---- who is denied -----------------------------------------------------------------------------------------


def test_denials() -> None:
    peer = Peer("node", "n1", "ab", 100)

    def hit(**fields: object) -> bool:
        entry = Denied.model_validate({"kind": "node", "name": "n1", "expires_s": 1} | fields)
        state = TrustState(cluster="c", number=1, roots_pem="", denied=[entry])
        found = denial(state, peer)
        assert found in (None, entry)
        return found is not None

    assert hit(serial="ab")
    assert hit(issued_before_s=101)
    assert not hit(issued_before_s=100)
    assert not hit(serial="abc")
    assert not hit(serial="abc", issued_before_s=101)
    assert not hit(serial="ab", name="n2")
    assert not hit(issued_before_s=101, kind="user")
    assert not hit()


@pytest.mark.parametrize("serial", ["AB", "0ab", "ab ", "-1", "ab\n"])
def test_a_serial_number_has_one_form(serial: str) -> None:
    with pytest.raises(ValueError, match="serial"):
        Denied(kind="node", name="n1", serial=serial, expires_s=1)


# ---- chains ------------------------------------------------------------------------------------------------


class Chain:
    """Root, issuer and leaf as certs makes them."""

    def __init__(self) -> None:
        self.keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]
        root_key, issuer_key, leaf_key = self.keys
        self.root = issue.make_root("stos-1", root_key, NOW, 1)
        self.issuer = issue.make_issuer(self.root, root_key, issuer_key.public_key(), NOW, 2)
        self.leaf = self.signed_by(self.issuer, issuer_key, leaf_key)

    @staticmethod
    def signed_by(
        issuer: x509.Certificate, issuer_key: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey
    ) -> x509.Certificate:
        return issue.issue_leaf(
            issuer,
            issuer_key,
            key.public_key(),
            uri="spiffe://stos-1/node/n1",
            hosts=[],
            now=NOW,
            life=timedelta(days=4),
            serial=3,
        )


def test_a_chain_leads_to_a_root() -> None:
    one, other = Chain(), Chain()
    assert verify_chain([one.leaf, one.issuer], [other.root, one.root], NOW) is one.root
    assert owner(one.leaf) == Peer("node", "n1", "3", int(NOW.timestamp()))
    for chain, roots in (
        ([one.leaf], [one.root]),
        ([one.leaf, one.issuer], [other.root]),
        ([one.leaf, one.issuer], []),
        ([one.leaf, other.issuer], [one.root, other.root]),
    ):
        with pytest.raises(StosError, match="no root vouches"):
            verify_chain(chain, roots, NOW)


def test_a_leaf_is_no_authority() -> None:
    """A node signs a certificate for certs with its own key."""
    one = Chain()
    forged = one.signed_by(one.leaf, one.keys[2], ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(StosError, match="no root vouches"):
        verify_chain([forged, one.leaf, one.issuer], [one.root], NOW)
    with pytest.raises(StosError, match="no root vouches"):
        verify_chain([forged], [one.leaf], NOW)


def test_an_issuer_makes_no_issuers() -> None:
    one = Chain()
    key = ec.generate_private_key(ec.SECP256R1())
    below = issue.make_issuer(one.issuer, one.keys[1], key.public_key(), NOW, 9)
    leaf = one.signed_by(below, key, one.keys[2])
    with pytest.raises(StosError, match="no root vouches"):
        verify_chain([leaf, below, one.issuer], [one.root], NOW)


def test_an_authority_is_nobody() -> None:
    one = Chain()
    with pytest.raises(StosError, match="nobody's identity"):
        verify_chain([one.issuer], [one.root], NOW)


def test_every_certificate_of_a_chain_must_be_valid() -> None:
    one = Chain()
    verify_chain([one.leaf, one.issuer], [one.root], NOW)
    for moment in (NOW - timedelta(minutes=11), NOW + timedelta(days=5)):
        with pytest.raises(StosError, match="expired or is not valid yet"):
            verify_chain([one.leaf, one.issuer], [one.root], moment)
    assert verify_chain([one.leaf, one.issuer], [one.root]) is one.root
