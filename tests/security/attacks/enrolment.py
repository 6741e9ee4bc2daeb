"""The enrolment door: it takes strangers, so whatever they say is tried on it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from stoscore.enrolment import ENROL_METHOD, HOST_NAME, JoinToken, admin_method
from tests.security.scene import HOST, Outcome, Scene

TIMEOUT_S = 10.0
_PEM = serialization.Encoding.PEM


def _call(scene: Scene, method: str, body: bytes) -> tuple[str, dict[str, Any]]:
    """(gRPC status, answer)"""
    door = next(name for name in sorted(scene.ports) if name.startswith("certs"))
    credentials = grpc.ssl_channel_credentials(scene.trust_pem.encode())
    options = [("grpc.ssl_target_name_override", HOST_NAME), ("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(f"{HOST}:{scene.ports[door]}", credentials, options) as channel:
        try:
            return "OK", json.loads(channel.unary_unary(method)(body, timeout=TIMEOUT_S))
        except grpc.RpcError as error:
            return error.code().name, {"error": {"message": error.details()}}


def _enrol(scene: Scene, **fields: Any) -> tuple[dict[str, Any] | None, str]:
    """(credentials or None, what was said)"""
    body = {"v": 1, "attestor": "join-token", "evidence": {}, "nats_public_key": ""} | fields
    status, answer = _call(scene, ENROL_METHOD, json.dumps(body).encode())
    if answer.get("ok") is True:
        return answer["result"], "issued"
    return None, f"{status}: {answer.get('error', {}).get('message', '')}"


def _request(key: Any, *uris: str) -> str:
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if uris:
        builder = builder.add_extension(names, critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(_PEM).decode()


def _evidence(token: JoinToken) -> dict[str, str]:
    return {"token_id": token.token_id, "secret": token.secret}


def _named(credentials: dict[str, Any]) -> list[str]:
    certificate = x509.load_pem_x509_certificate(credentials["certificate_pem"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def use_token(scene: Scene, identity: Path | None, token: str) -> Outcome:
    """With a key of our own. Won when we are given credentials."""
    captured = JoinToken.decode(token)
    request = _request(ec.generate_private_key(ec.SECP256R1()))
    credentials, told = _enrol(scene, evidence=_evidence(captured), csr_pem=request)
    return Outcome(credentials is not None, told)


def guess_token(scene: Scene, identity: Path | None, token: str) -> Outcome:
    """We know a token's id and not its secret. Won when we are given credentials."""
    known = JoinToken.decode(token)
    request = _request(ec.generate_private_key(ec.SECP256R1()))
    told = []
    for secret in ("", "x", known.secret[:-1], known.secret + "x", known.secret.swapcase(), "*", "\0", known.token_id):
        credentials, said = _enrol(scene, evidence={"token_id": known.token_id, "secret": secret}, csr_pem=request)
        if credentials is not None:
            return Outcome(True, f"the secret {secret!r} was taken")
        told.append(said)
    return Outcome(False, "; ".join(sorted(set(told))))


def ask_for_another_name(scene: Scene, identity: Path | None, token: str) -> Outcome:
    """A good token for one identity, and a signing request that names others. Won when the certificate names
    anything else than the token's identity."""
    own = JoinToken.decode(token)
    wanted = [f"spiffe://{scene.cluster}/{other}" for other in ("user/admin", "svc/certs", "node/n1")]
    request = _request(ec.generate_private_key(ec.SECP256R1()), *wanted)
    credentials, told = _enrol(scene, evidence=_evidence(own), csr_pem=request)
    named = _named(credentials) if credentials else []
    mine = {f"spiffe://{scene.cluster}/{own.kind}/{own.name}", f"{own.name}.{own.kind}.stos.internal"}
    return Outcome(bool(set(named) - mine), f"{told}: {named}")


def certify_a_key_that_is_not_ours(scene: Scene, identity: Path | None, token: str, certificate: str) -> Outcome:
    """A good token, and a signing request for the public key of somebody else, which we can't sign with. Won when
    that key is certified under our name: its owner's acts would count as ours."""
    victim = x509.load_pem_x509_certificate(certificate.encode()).public_key()
    raw = _splice(_request(ec.generate_private_key(ec.SECP256R1())), victim)
    credentials, told = _enrol(scene, evidence=_evidence(JoinToken.decode(token)), csr_pem=raw)
    return Outcome(credentials is not None, told)


def _splice(csr_pem: str, key: Any) -> str:
    """The same request with another public key in it: the signature fits no more."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    csr = x509.load_pem_x509_csr(csr_pem.encode())
    der = csr.public_bytes(serialization.Encoding.DER)
    ours = csr.public_key().public_bytes(serialization.Encoding.DER, form)
    theirs = key.public_bytes(serialization.Encoding.DER, form)
    assert len(ours) == len(theirs)
    assert ours in der
    text = base64.encodebytes(der.replace(ours, theirs)).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"


def renew_by_somebody_elses_certificate(scene: Scene, identity: Path | None, certificate: str) -> Outcome:
    """Certificates are public: show another's, sign with a key of ours. Won when we are given credentials."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = _request(key)
    proof = base64.b64encode(key.sign(request.encode(), ec.ECDSA(hashes.SHA256()))).decode()
    evidence = {"certificate_pem": certificate, "proof": proof}
    credentials, told = _enrol(scene, attestor="certificate", evidence=evidence, csr_pem=request)
    return Outcome(credentials is not None, told)


def renew(scene: Scene, identity: Path | None) -> Outcome:
    """By the certificate that we hold, at the front door. Won when we are given credentials."""
    assert identity is not None
    key = serialization.load_pem_private_key((identity / "key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    request = _request(ec.generate_private_key(ec.SECP256R1()))
    proof = base64.b64encode(key.sign(request.encode(), ec.ECDSA(hashes.SHA256()))).decode()
    evidence = {"certificate_pem": (identity / "cert.pem").read_text(), "proof": proof}
    credentials, told = _enrol(scene, attestor="certificate", evidence=evidence, csr_pem=request)
    return Outcome(credentials is not None, f"{told} {_named(credentials) if credentials else ''}")


def swamp(scene: Scene, identity: Path | None, size_bytes: int) -> Outcome:
    """One enormous request. Won when the service reads it instead of refusing it by its size."""
    body = b'{"v":1,"attestor":"' + b"x" * size_bytes + b'"}'
    status, answer = _call(scene, ENROL_METHOD, body)
    return Outcome(status == "OK", f"{status} {str(answer)[:200]}")


def mumble(scene: Scene, identity: Path | None, token: str) -> Outcome:
    """Malformed requests of every kind, most of them with a good token. Won when any of them is answered with
    credentials, or with anything else than a refusal that says what is wrong."""
    good = JoinToken.decode(token)
    wrong = []
    for what, body in _malformed(_evidence(good)):
        status, answer = _call(scene, ENROL_METHOD, body)
        code = answer.get("error", {}).get("code", "")
        refused = status == "OK" and code in ("INVALID_ARGUMENT", "UNAUTHENTICATED", "UNSUPPORTED_VERSION")
        if not refused:
            wrong.append(f"{what}: {status} {str(answer)[:120]}")
    return Outcome(bool(wrong), "; ".join(wrong) or "all were refused with a reason")


def _malformed(evidence: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    def enrol(**fields: Any) -> bytes:
        body = {"v": 1, "attestor": "join-token", "evidence": evidence, "csr_pem": good, "nats_public_key": ""}
        return json.dumps(body | fields).encode()

    good = _request(ec.generate_private_key(ec.SECP256R1()))
    yield from (("nothing", b""), ("noise", os.urandom(500)), ("text", b"hello"), ("null", b"null"), ("list", b"[]"))
    yield "deep", b"[" * 20_000
    yield "deep object", b'{"a":' * 10_000
    yield "huge number", b'{"v":' + b"9" * 30_000 + b"}"
    yield "another version", enrol(v=2)
    yield "an unknown field", enrol(role="admin")
    yield "a list for a text", enrol(csr_pem=[good])
    yield "no such attestor", enrol(attestor="../join_token")
    yield "many pieces of evidence", enrol(evidence={str(n): "x" for n in range(1000)})
    yield "evidence that is no text", enrol(evidence={"token_id": 1, "secret": True})
    yield "a path for a token", enrol(evidence=evidence | {"token_id": "../issued/user.admin"})
    yield "a NUL in a token", enrol(evidence=evidence | {"token_id": evidence["token_id"] + "\0"})
    yield "no request", enrol(csr_pem="")
    yield "a certificate for a request", enrol(csr_pem=good.replace("CERTIFICATE REQUEST", "CERTIFICATE"))
    yield "half a request", enrol(csr_pem=good[: len(good) // 2])
    yield "a request that is not ASCII", enrol(csr_pem="\u2603" + good)
    yield "an RSA key", enrol(csr_pem=_request(rsa.generate_private_key(65537, 2048)))
    yield "a key of another curve", enrol(csr_pem=_request(ec.generate_private_key(ec.SECP384R1())))
    yield "a key of a weak curve", enrol(csr_pem=_request(ec.generate_private_key(ec.SECP192R1())))
    yield "a NATS key that is none", enrol(nats_public_key="U" + "A" * 55)
    yield "a NATS account key", enrol(nats_public_key="A" + "A" * 55)


def administer(scene: Scene, identity: Path | None) -> Outcome:
    """The administrator's calls, at the door for everybody. Won when one is known there."""
    told = []
    for verb in ("ls", "show", "token", "revoke", "rotate"):
        body = b'{"v":1,"kind":"user","name":"eve","role":"admin"}' if verb == "token" else b'{"v":1}'
        status, answer = _call(scene, admin_method(verb), body)
        told.append(f"{verb}: {status}")
        if status != "UNIMPLEMENTED":
            return Outcome(True, f"{told} {answer}")
    return Outcome(False, "; ".join(told))
