"""A certificate of ours that is still valid, by the signature of its key: this is how an identity renews.

Whether it was revoked, certs looks up itself at the moment of signing (`Authority.issue`): the claim says which
certificate it was, and from when.
"""

from __future__ import annotations

import asyncio
import base64
import binascii

from cryptography import x509

from services.certs import issue
from services.certs.attestors import Claim, Desk, take
from stoscore.errors import Code, StosError, invalid
from stoscore.spiffe import UNREADABLE, certificate_uri, owner, parse_uri, verify_signature


class CertificateAttestor:
    name = "certificate"

    async def attest(self, evidence: dict[str, str], desk: Desk) -> Claim:
        text, signed = take(evidence, ("certificate_pem", "proof"))
        try:
            certificate = x509.load_pem_x509_certificate(text.encode("ascii"))
            proof = base64.b64decode(signed, validate=True)
        except (binascii.Error, *UNREADABLE):
            raise invalid("the evidence needs certificate_pem (PEM) and proof (base64)") from None
        record = await asyncio.to_thread(desk.books.record)
        issue.check_issued(certificate, [issue.load(one.certificate_pem) for one in record.issuers], desk.now)
        verify_signature(certificate, proof, desk.csr_pem.encode("utf-8"))
        if parse_uri(certificate_uri(certificate))[0] != desk.cluster:
            raise StosError(Code.UNAUTHENTICATED, "the certificate is not of this cluster")
        peer = owner(certificate)
        return Claim(peer.kind, peer.name, as_of_s=peer.issued_s, serial=peer.serial)


attestor = CertificateAttestor()
