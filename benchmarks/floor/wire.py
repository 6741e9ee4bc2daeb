"""The floor's link between its three processes: a short header, checksums, blocks; over TLS 1.3, both verified."""

from __future__ import annotations

import ssl
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

import xxhash
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BLOCK = 4096
SUM = 8
FRAME = struct.Struct("<IIQQ")
"""kind, payload bytes, request, offset"""
WRITE, FLUSH, DONE = 1, 2, 3
BUFFER_BYTES = 40 << 20
"""One NBD request of 32 MiB and what surrounds it; pages that are not touched cost nothing."""
PIECE_BYTES = 512 << 10
"""A receive call offers no more than this, so that the buffer's hot part stays in the cache."""


def sums(data: memoryview) -> bytes:
    """8 bytes per block."""
    digest = xxhash.xxh3_64_intdigest
    blocks = len(data) // BLOCK
    return struct.pack(f"<{blocks}Q", *[digest(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)])


def certificate(directory: Path) -> tuple[Path, Path]:
    """A key and a certificate that trusts itself, for all three."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "floor")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key_path, cert_path = directory / "key.pem", directory / "cert.pem"
    key_path.touch(mode=0o600)
    plain = serialization.NoEncryption()
    key_path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    cert_path.write_bytes(signed.public_bytes(pem))
    return key_path, cert_path


def context(directory: Path, *, server: bool) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    made.load_verify_locations(directory / "cert.pem")
    return made


class Buffer:
    """A receive buffer: bytes come in at `end`, are used up to `start`, and what is left moves to the front."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(BUFFER_BYTES))
        self.start = 0
        self.end = 0

    def room(self) -> memoryview:
        if self.start == self.end:
            self.start = self.end = 0
        elif self.start and self.end > PIECE_BYTES:
            rest = self.end - self.start
            self.view[:rest] = self.view[self.start : self.end]
            self.start, self.end = 0, rest
        return self.view[self.end : self.end + PIECE_BYTES]
