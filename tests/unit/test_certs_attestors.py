"""Who somebody is, evidence says and nothing else: not the signing request, not the pod, not an old certificate."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from services.certs.administration import Administration
from services.certs.authority import Authority
from stoscore.certs_messages import Credentials, RevokeIdentity
from stoscore.enrolment import EnrolRequest, certificate_request
from stoscore.errors import Code, StosError
from stoscore.identity import NATS_HOST_NAME
from stoscore.invitations import JoinToken
from stoscore.spiffe import certificate_uri
from tests.support.authorities import Clock, Member, open_instance
from tests.support.kubernetes_api import Account, KubernetesApi

NODE, POD = "authentication.kubernetes.io/node-name", "authentication.kubernetes.io/pod-name"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return open_instance(tmp_path / "vault", Clock())


def enrol(authority: Authority, attestor: str, evidence: dict[str, str], csr_pem: str = "") -> Credentials:
    csr_pem = csr_pem or certificate_request(ec.generate_private_key(ec.SECP256R1()), "")
    return asyncio.run(authority.enrol(EnrolRequest(attestor=attestor, evidence=evidence, csr_pem=csr_pem)))


def refused(act: Callable[[], object], code: Code, why: str = ".") -> str:
    with pytest.raises(StosError, match=why) as caught:
        act()
    assert caught.value.code is code
    return caught.value.message


# ---- what the signing request says ---------------------------------------------------------------------


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


TRICKS: dict[str, list[x509.GeneralName]] = {
    "another identity": [uri("spiffe://stos/user/admin")],
    "many": [uri(f"spiffe://stos/node/n{number}") for number in range(200)],
    "another trust domain": [uri("spiffe://evil/node/n1")],
    "a NUL in it": [uri("spiffe://stos/node/n2\0.evil")],
    "look-alikes": [uri("spiffe://stos/node/n1%00"), uri("SPIFFE://stos/node/n1"), uri("spiffe://stos/node//n2")],
    "host names of services": [x509.DNSName(NATS_HOST_NAME), x509.DNSName("certs.stos.internal"), x509.DNSName("*")],
    "others": [x509.RFC822Name("admin@stos"), x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))],
}


@pytest.mark.parametrize("trick", sorted(TRICKS))
def test_names_in_a_request_mean_nothing(authority: Authority, trick: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "spiffe://stos/user/admin")]))
        .add_extension(x509.SubjectAlternativeName(TRICKS[trick]), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    csr_pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    token = JoinToken.decode(authority.make_token("node", "n1", 60))
    issued = x509.load_pem_x509_certificate(
        enrol(authority, "join-token", token.evidence(), csr_pem).certificate_pem.encode()
    )
    assert certificate_uri(issued) == f"spiffe://{authority.cluster}/node/n1"
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert len(names.get_values_for_type(x509.UniformResourceIdentifier)) == 1
    assert not {NATS_HOST_NAME, "certs.stos.internal", "*"} & set(names.get_values_for_type(x509.DNSName))
    assert names.get_values_for_type(x509.RFC822Name) == []
    assert not issued.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert b"admin" not in issued.subject.public_bytes()


def test_requests_that_are_none(authority: Authority) -> None:
    good = certificate_request(ec.generate_private_key(ec.SECP256R1()), "")
    foreign = base64.b64encode(b"\x30\x82\xff\xff" + bytes(64)).decode()
    keys = [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()]
    others = []
    for key in keys:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        others.append(builder.sign(key, digest).public_bytes(serialization.Encoding.PEM).decode())
    body = good.splitlines()[1:-1]
    flipped = "\n".join([good.splitlines()[0], *body[:-1], "A" * len(body[-1]), good.splitlines()[-1]])
    for csr_pem in (
        "x",
        good[: len(good) // 2],
        f"-----BEGIN CERTIFICATE REQUEST-----\n{foreign}\n-----END CERTIFICATE REQUEST-----\n",
        good.replace("REQUEST", "REQUESTS"),
        flipped,
        *others,
    ):
        token = JoinToken.decode(authority.make_token("node", "n1", 60))
        refused(lambda t=token, c=csr_pem: enrol(authority, "join-token", t.evidence(), c), Code.INVALID_ARGUMENT)  # type: ignore[misc]
        enrol(authority, "join-token", token.evidence())  # which was not used up


def test_evidence_has_one_form(authority: Authority) -> None:
    member = Member("node", "n1")
    member.join(authority)
    assert member.credentials is not None
    pem = member.credentials.certificate_pem
    for attestor, evidence in (
        ("join-token", {}),
        ("join-token", {"token_id": "0" * 16}),
        ("join-token", {"token_id": "0" * 16, "secret": "x", "kind": "user"}),
        ("certificate", {"certificate_pem": pem}),
        ("certificate", {"certificate_pem": pem, "proof": "%"}),
        ("certificate", {"certificate_pem": "é", "proof": ""}),
        (
            "certificate",
            {"certificate_pem": "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----", "proof": ""},
        ),
        ("certificate", {"certificate_pem": "x" * 20_001, "proof": ""}),
        ("kubernetes-service-account", {"token": "a", "node": "n2"}),
        ("../../etc/passwd", {}),
        ("", {}),
    ):
        refused(lambda a=attestor, e=evidence: enrol(authority, a, e), Code.INVALID_ARGUMENT)  # type: ignore[misc]


def test_the_authoritys_own_certificates_prove_nobody(authority: Authority) -> None:
    """Neither the root's nor the issuer's, by whomever they are shown; and nobody becomes certs."""
    record = authority.record()
    csr_pem = certificate_request(ec.generate_private_key(ec.SECP256R1()), "")
    for name, pem in (("root-1", record.roots[0].certificate_pem), ("issuer-1", record.issuers[0].certificate_pem)):
        proof = authority.keyring.key(name).sign(csr_pem.encode(), ec.ECDSA(hashes.SHA256()))
        evidence = {"certificate_pem": pem, "proof": base64.b64encode(proof).decode()}
        refused(lambda e=evidence: enrol(authority, "certificate", e, csr_pem), Code.UNAUTHENTICATED)  # type: ignore[misc]


def test_nobody_becomes_certs_by_renewing(authority: Authority, tmp_path: Path) -> None:
    own = authority.own_identity(tmp_path / "own", "svc", "certs")
    csr_pem = certificate_request(ec.generate_private_key(ec.SECP256R1()), "")
    pem = own.certificate.public_bytes(serialization.Encoding.PEM).decode()
    evidence = {"certificate_pem": pem, "proof": base64.b64encode(own.sign(csr_pem.encode())).decode()}
    refused(lambda: enrol(authority, "certificate", evidence, csr_pem), Code.PERMISSION_DENIED, "to itself only")


# ---- pods of Kubernetes --------------------------------------------------------------------------------


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    made = KubernetesApi(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def kubernetes(api: KubernetesApi, tmp_path: Path) -> Authority:
    return open_instance(
        tmp_path / "vault",
        Clock(),
        kubeconfig=api.kubeconfig,
        kubernetes_accounts="stos/node=node/{node},stos/placement=svc/placement-{pod},stos/csi=svc/csi-controller",
    )


def account(name: str, **extra: list[str]) -> Account:
    return Account(f"system:serviceaccount:stos:{name}", ["stos-certs"], {NODE: ["n1"], POD: ["pod-0"]} | extra)


def pod(authority: Authority, token: str = "good") -> str:
    issued = enrol(authority, "kubernetes-service-account", {"token": token})
    return certificate_uri(x509.load_pem_x509_certificate(issued.certificate_pem.encode())).partition("/stos-")[2]


def test_a_pod_is_what_the_settings_say(kubernetes: Authority, api: KubernetesApi) -> None:
    for name, identity in (("node", "node/n1"), ("placement", "svc/placement-pod-0"), ("csi", "svc/csi-controller")):
        api.accounts["good"] = account(name)
        assert pod(kubernetes).partition("/")[2] == identity
    known = kubernetes.ledger.find("node", "n1")
    assert known is not None
    assert known.certificates[0].attestor == "kubernetes-service-account"


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (None, "does not know this service-account token"),
        (Account("system:serviceaccount:stos:node", ["vault", "https://kubernetes.default.svc"]), "does not know"),
        (account("stranger"), "stos/stranger stands for nobody"),
        (Account("system:serviceaccount:other:node", ["stos-certs"], {NODE: ["n1"]}), "other/node stands for nobody"),
        (Account("admin", ["stos-certs"]), "not the token of a service account"),
        (Account("system:serviceaccount:stos:node:x", ["stos-certs"], {NODE: ["n1"]}), "not the token of a service"),
        (Account("system:node:n1", ["stos-certs"], {NODE: ["n1"]}), "not the token of a service account"),
        (Account("system:serviceaccount:stos:node", ["stos-certs"]), "not bound to a node"),
        (account("node", **{NODE: []}), "not bound to a node"),
        (account("node", **{NODE: ["n1", "n2"]}), "not bound to a node"),
        (account("node", **{NODE: [""]}), "not bound to a node"),
        (account("placement", **{POD: ["x" * 60]}), "can't be an identity"),
        *((account("node", **{NODE: [name]}), "can't be an identity") for name in ("a.b", "N1", "..", "a/b", "*", ">")),
        *((account("node", **{NODE: [name]}), "can't be an identity") for name in ("n1\0", "n1 ", "ñ1", "-n1", "n1-")),
    ],
)
def test_pods_that_are_nobody(kubernetes: Authority, api: KubernetesApi, known: Account | None, why: str) -> None:
    if known is not None:
        api.accounts["good"] = known
    said = refused(lambda: pod(kubernetes), Code.UNAUTHENTICATED, why)
    assert "good" not in said


def test_a_server_that_knows_no_audiences(kubernetes: Authority, api: KubernetesApi) -> None:
    """It would take a token that was made for somebody else."""
    api.knows_audiences = False
    api.accounts["good"] = Account("system:serviceaccount:stos:node", ["elsewhere"], {NODE: ["n1"]})
    refused(lambda: pod(kubernetes), Code.UNAUTHENTICATED, "was not made for 'stos-certs'")


def test_kubernetes_is_away(kubernetes: Authority, api: KubernetesApi) -> None:
    """Which the pod waits for."""
    api.accounts["good"] = account("node")
    api.broken = True
    refused(lambda: pod(kubernetes), Code.UNAVAILABLE, "503")
    api.broken = False
    pod(kubernetes)
    api.stop()
    refused(lambda: pod(kubernetes), Code.UNAVAILABLE, "does not answer")


def test_nobody_is_configured(authority: Authority) -> None:
    refused(lambda: pod(authority), Code.FAILED_PRECONDITION, "STOS_CERTS_KUBERNETES_ACCOUNTS|nobody may enrol")


def test_a_pods_token_is_no_administrators_word(kubernetes: Authority, api: KubernetesApi) -> None:
    """Kubernetes goes on giving tokens to a revoked node."""
    api.accounts["good"] = account("node")
    pod(kubernetes)
    Administration(kubernetes).revoke(RevokeIdentity(kind="node", name="n1"))
    refused(lambda: pod(kubernetes), Code.UNAUTHENTICATED, "node/n1 is revoked")
    clock = kubernetes.now
    assert isinstance(clock, Clock)
    clock.pass_s(30 * 86_400)
    refused(lambda: pod(kubernetes), Code.UNAUTHENTICATED, "node/n1 is revoked")
    Member("node", "n1").join(kubernetes)
    pod(kubernetes)
