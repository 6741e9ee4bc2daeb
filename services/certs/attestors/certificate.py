"""A certificate of ours that is still valid, by the signature of its key: this is how an identity renews."""

from __future__ import annotations

import base64
import binascii

from cryptography import x509

from services.certs.attestors import Claim, Desk
from services.certs.issue import check_issued
from stoscore.errors import Code, StosError, invalid
from stoscore.identity import certificate_uri, parse_uri, verify_signature


class CertificateAttestor:
    name = "certificate"

    async def attest(self, evidence: dict[str, str], desk: Desk) -> Claim:
        try:
            certificate = x509.load_pem_x509_certificate(evidence.get("certificate_pem", "").encode("ascii"))
            proof = base64.b64decode(evidence.get("proof", ""), validate=True)
        except (ValueError, binascii.Error):
            raise invalid("the evidence needs certificate_pem (PEM) and proof (base64)") from None
        check_issued(certificate, desk.issuers, desk.now)
        verify_signature(certificate, proof, desk.csr_pem.encode("utf-8"))
        _, kind, name = parse_uri(certificate_uri(certificate))
        if not kind:
            raise StosError(Code.UNAUTHENTICATED, "the certificate names no identity")
        return Claim(kind, name)


attestor = CertificateAttestor()
