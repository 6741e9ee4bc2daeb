"""NATS keys (nkeys): Ed25519 key pairs with a letter in front that says what they are for."""

from __future__ import annotations

import base64

import nkeys

OPERATOR = nkeys.PREFIX_BYTE_OPERATOR
ACCOUNT = nkeys.PREFIX_BYTE_ACCOUNT
USER = nkeys.PREFIX_BYTE_USER


def make_seed(prefix: int, randomness: bytes) -> bytes:
    """A private key from 32 random bytes, in its text form: "S" and the letter of what it is for."""
    return bytes(nkeys.encode_seed(randomness, prefix))


def public_key(seed: bytes) -> str:
    return str(nkeys.from_seed(bytearray(seed)).public_key.decode("ascii"))


def sign(seed: bytes, message: bytes) -> bytes:
    return bytes(nkeys.from_seed(bytearray(seed)).sign(message))


def valid_public_key(text: str, letter: str) -> bool:
    """The text is a public key of that letter ("U" user, "A" account, "O" operator), checksum included."""
    if len(text) != 56 or not text.startswith(letter):
        return False
    try:
        raw = base64.b32decode(text.encode("ascii"))
    except ValueError:
        return False
    return bool(int.from_bytes(raw[-2:], "little") == nkeys.crc16(bytearray(raw[:-2])))
