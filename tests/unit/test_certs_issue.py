"""The authority's rules: what a certificate says, how long it lives, and whose it accepts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from services.certs import issue
from stoscore.errors import StosError
from stoscore.identity import certificate_uri

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LIFE = timedelta(days=4)
URI = "spiffe://stos-1/node/n1"


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


ROOT_KEY, ISSUER_KEY, LEAF_KEY = key(), key(), key()
ROOT = issue.make_root("stos-1", ROOT_KEY, NOW, 1)
ISSUER = issue.make_issuer(ROOT, ROOT_KEY, ISSUER_KEY.public_key(), NOW, 2)


def leaf(now: datetime = NOW, hosts: list[str] | None = None) -> x509.Certificate:
    return issue.issue_leaf(
        ISSUER, ISSUER_KEY, LEAF_KEY.public_key(), uri=URI, hosts=hosts or [], now=now, life=LIFE, serial=3
    )


def test_a_leaf() -> None:
    made = leaf()
    assert certificate_uri(made) == URI
    assert made.not_valid_before_utc == NOW - timedelta(minutes=10)
    assert made.not_valid_after_utc == NOW + LIFE
    assert made.public_key() == LEAF_KEY.public_key()
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


def test_only_who_is_found_by_a_host_name_gets_one() -> None:
    def names(certificate: x509.Certificate) -> list[str]:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return found.get_values_for_type(x509.DNSName)

    assert names(leaf()) == []
    made = leaf(hosts=["nats.stos.internal", "10.0.0.1"])
    assert names(made) == ["nats.stos.internal"]
    assert certificate_uri(made) == URI


def test_the_chain_verifies() -> None:
    leaf().verify_directly_issued_by(ISSUER)
    ISSUER.verify_directly_issued_by(ROOT)
    ROOT.verify_directly_issued_by(ROOT)
    assert ROOT.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 1
    assert ISSUER.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_a_leaf_never_outlives_its_issuer() -> None:
    late = ISSUER.not_valid_after_utc - timedelta(days=1)
    assert leaf(late).not_valid_after_utc == ISSUER.not_valid_after_utc
    assert issue.must_replace_issuer(ISSUER, late)
    assert not issue.must_replace_issuer(ISSUER, NOW)
    last = ISSUER.not_valid_after_utc - issue.ISSUER_REPLACED_BEFORE_END
    assert last + LIFE < ISSUER.not_valid_after_utc


@pytest.mark.parametrize("moment", [NOW - timedelta(minutes=11), NOW + LIFE, NOW + timedelta(days=30)])
def test_only_what_is_valid_now_is_accepted(moment: datetime) -> None:
    issue.check_issued(leaf(), [ISSUER], NOW)
    with pytest.raises(StosError, match="expired or is not valid yet"):
        issue.check_issued(leaf(), [ISSUER], moment)


def test_only_our_own_is_accepted() -> None:
    other_key = key()
    other_root = issue.make_root("stos-1", other_key, NOW, 1)
    other = issue.make_issuer(other_root, other_key, ISSUER_KEY.public_key(), NOW, 2)
    issue.check_issued(leaf(), [ISSUER], NOW)
    forged_key = key()
    forged = issue.issue_leaf(
        ISSUER, forged_key, LEAF_KEY.public_key(), uri=URI, hosts=[], now=NOW, life=LIFE, serial=3
    )
    for certificate, issuers in ((forged, [ISSUER]), (leaf(), []), (leaf(), [other_root]), (ROOT, [other])):
        with pytest.raises(StosError, match="not of this cluster"):
            issue.check_issued(certificate, issuers, NOW)
