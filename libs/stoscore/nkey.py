"""NATS keys (nkeys): Ed25519 key pairs in a text form, with a letter in front that says what they are for.

    seed        base32( 5 bits "S", 8 bits what for, 3 bits 0 | 32 bytes | CRC-16 )
    public key  base32( 8 bits what for                       | 32 bytes | CRC-16 )

As `nkeys` writes them; that library brings a second implementation of Ed25519, which each command would load before it
says a word.
"""

from __future__ import annotations

import base64
from binascii import crc_hqx

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stoscore.errors import Code, StosError

OPERATOR, ACCOUNT, USER = 14 << 3, 0, 20 << 3
"""O, A and U as the first letter in base32."""
_SEED = 18 << 3
_SEED_BYTES, _PUBLIC_BYTES = 2 + 32 + 2, 1 + 32 + 2


def make_seed(prefix: int, randomness: bytes) -> bytes:
    """A private key from 32 random bytes, in its text form: "S" and the letter of what it is for."""
    if prefix not in (OPERATOR, ACCOUNT, USER) or len(randomness) != 32:
        raise ValueError("no key of NATS")
    return _encode(bytes((_SEED | prefix >> 5, (prefix & 31) << 3)) + randomness)


def public_key(seed: bytes) -> str:
    """Raises StosError UNAUTHENTICATED for what is no seed."""
    prefix, key = _private(seed)
    return _encode(bytes((prefix,)) + key.public_key().public_bytes_raw()).decode("ascii")


def sign(seed: bytes, message: bytes) -> bytes:
    """Raises StosError UNAUTHENTICATED for what is no seed."""
    return _private(seed)[1].sign(message)


def valid_public_key(text: str, letter: str) -> bool:
    """The text is a public key of that letter ("U" user, "A" account, "O" operator), checksum included."""
    return len(text) == 56 and text.startswith(letter) and _decode(text.encode("utf-8"), _PUBLIC_BYTES) is not None


def _private(seed: bytes) -> tuple[int, Ed25519PrivateKey]:
    raw = _decode(seed, _SEED_BYTES)
    if raw is None or raw[0] & 0xF8 != _SEED:
        # Without the seed itself: what is nearly one must not be in a log.
        raise StosError(Code.UNAUTHENTICATED, "the key for NATS is damaged", next_step="enrol this identity again")
    return (raw[0] & 7) << 5 | raw[1] >> 3, Ed25519PrivateKey.from_private_bytes(raw[2:])


def _encode(raw: bytes) -> bytes:
    return base64.b32encode(raw + crc_hqx(raw, 0).to_bytes(2, "little")).rstrip(b"=")


def _decode(text: bytes, length: int) -> bytes | None:
    """Without its checksum; None for what was not encoded so."""
    try:
        raw = base64.b32decode(text + b"=" * (-len(text) % 8))
    except ValueError:
        return None
    whole = len(raw) == length and crc_hqx(raw[:-2], 0) == int.from_bytes(raw[-2:], "little")
    return raw[:-2] if whole else None
