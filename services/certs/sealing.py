"""Private keys at rest: AES-256-GCM under a key-encryption key that lies in a file of its own.

A copy of the vault (a backup of the disk, etcd's snapshot) is then worthless without that file. The name of the
entry is authenticated along with its content: a sealed key that is copied over another entry, the root's over an
issuer's, does not open there.

The file is one line, `stos-kek-1.` and base64 of 32 random bytes and 4 bytes of their SHA-256, so that a truncated
or mistyped file is told from a wrong one. In Kubernetes without such a file the same line is kept in a Secret of
its own. A vault remembers a fingerprint of its key; with another one nothing is opened and nothing is written.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stoscore.errors import StosError, precondition
from stoscore.files import private_directory, sync_directory

KEY_BYTES, CHECK_BYTES, NONCE_BYTES = 32, 4, 12
KEK_PREFIX = "stos-kek-1."
_SEALED = b"stos-sealed-1\n"
_RESTORE = "restore it from a backup: see docs/runbooks/ca-lost.md"


class Seal:
    """Seals and opens contents under one key-encryption key. It shows itself by its fingerprint only."""

    def __init__(self, kek: bytes):
        if len(kek) != KEY_BYTES:
            raise ValueError("a key-encryption key has 32 bytes")
        self._cipher = AESGCM(kek)
        self.fingerprint = hashlib.sha256(b"stos kek fingerprint\0" + kek).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Seal({self.fingerprint})"

    def seal(self, name: str, content: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return _SEALED + nonce + self._cipher.encrypt(nonce, content, name.encode("ascii"))

    def open(self, name: str, sealed: bytes) -> bytes:
        """Raises StosError FAILED_PRECONDITION when it is damaged, another entry's, or under another key."""
        head, body = sealed[: len(_SEALED)], sealed[len(_SEALED) :]
        if head != _SEALED:
            raise precondition(f"the private key {name} is damaged or of a newer version", _RESTORE)
        try:
            return self._cipher.decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], name.encode("ascii"))
        except (InvalidTag, ValueError):
            raise precondition(f"the private key {name} is damaged or not this entry's", _RESTORE) from None


def encode_kek(kek: bytes) -> bytes:
    text = base64.b64encode(kek + _check(kek)).decode("ascii")
    return f"{KEK_PREFIX}{text}\n".encode("ascii")


def decode_kek(line: bytes, where: str) -> bytes:
    """Raises StosError FAILED_PRECONDITION for what is no whole key. The content is never part of the message."""
    try:
        text = line.decode("ascii").strip()
        raw = base64.b64decode(text.removeprefix(KEK_PREFIX), validate=True)
    except (ValueError, binascii.Error):
        text, raw = "", b""
    kek, check = raw[:KEY_BYTES], raw[KEY_BYTES:]
    if not text.startswith(KEK_PREFIX) or len(kek) != KEY_BYTES or check != _check(kek):
        raise precondition(
            f"{where} holds no whole key-encryption key: it is half written, or something else",
            "put the right file back; without it the CA's keys can only be restored from a backup",
        )
    return kek


def read_kek_file(path: Path) -> bytes | None:
    """None when there is no file. Raises StosError FAILED_PRECONDITION when it holds no key, or others may read it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode, line = os.fstat(file.fileno()).st_mode, file.read(1024)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise precondition(f"can't read the key-encryption key {path}: {error.strerror}") from None
    if mode & 0o007:
        raise precondition(f"everybody may read the key-encryption key {path}", f"chmod 600 {path}")
    return decode_kek(line, str(path))


def make_kek_file(path: Path) -> bytes:
    """A new key in a new file (0600 from the start). Two processes that do this at once get the same key: the file
    appears under its name as a whole, and only once."""
    private_directory(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(encode_kek(os.urandom(KEY_BYTES)))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(draft, path)
            sync_directory(path.parent)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise precondition(f"can't write the key-encryption key {path}: {error.strerror}") from None
    kek = read_kek_file(path)
    if kek is None:
        raise precondition(f"the key-encryption key {path} vanished", "try again")
    return kek


def _check(kek: bytes) -> bytes:
    return hashlib.sha256(b"stos kek check\0" + kek).digest()[:CHECK_BYTES]


def wrong_kek(where: str) -> StosError:
    return precondition(
        f"the key-encryption key in {where} is not the one that this vault was made with",
        "put the right one back; nothing was changed",
    )
