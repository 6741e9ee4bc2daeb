"""The secrets of a running cluster, collected from the files that keep them, and the search for them elsewhere."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

_PEM = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)
_SEED = re.compile(rb"\bS[OAU][A-Z2-7]{56}\b")
_TOKEN = re.compile(rb"stos-join-1\.([A-Za-z0-9_-]+)")
_KEK = re.compile(rb"stos-kek-1\.([A-Za-z0-9+/=_-]+)")


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret in one of the forms in which it could leak."""

    what: str
    home: Path
    """The file that may hold it."""
    form: bytes


def collect(directory: Path) -> list[Secret]:
    """Private keys, NATS seeds, join tokens and key-encryption keys in all files below the directory."""
    found: list[Secret] = []
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.stat().st_size <= 1 << 20:
            found += _in_file(path, path.read_bytes())
    return found


def _in_file(path: Path, content: bytes) -> Iterator[Secret]:
    for pem in _PEM.findall(content):
        yield from _key_forms(path, pem)
    for seed in _SEED.findall(content):
        yield Secret("NATS seed", path, seed)
    for token in _TOKEN.findall(content):
        yield Secret("join token", path, token[-120:])
        fields = json.loads(base64.urlsafe_b64decode(token + b"=" * (-len(token) % 4)))
        yield Secret("join token's secret", path, fields["secret"].encode())
    for line in _KEK.findall(content):
        yield Secret("key-encryption key", path, line)
        yield from _forms("key-encryption key", path, base64.b64decode(line)[:32])


def _key_forms(path: Path, pem: bytes) -> Iterator[Secret]:
    key = serialization.load_pem_private_key(pem, None)
    for line in pem.splitlines()[1:-1]:
        # The first line of a P-256 key says only what it is, the same for all.
        if len(line) >= 32 and not line.startswith(b"MIGHAgEAMBMGByqGSM49"):
            yield Secret("private key", path, line)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        yield from _forms("private key", path, key.private_numbers().private_value.to_bytes(32))


def _forms(what: str, path: Path, raw: bytes) -> Iterator[Secret]:
    yield Secret(what, path, raw)
    yield Secret(f"{what} (hex)", path, raw.hex().encode())
    yield Secret(f"{what} (base64)", path, base64.b64encode(raw).rstrip(b"="))


def leaks(secrets: list[Secret], places: dict[str, bytes], *, at_home: bool = False) -> list[str]:
    """Where any of the secrets turns up outside of its own file."""
    return [
        f"{secret.what} of {secret.home} in {name}"
        for name, content in places.items()
        for secret in secrets
        if secret.form in content and (at_home or name != str(secret.home))
    ]


def files(*directories: Path) -> dict[str, bytes]:
    """Every regular file's content; a volume's data file is left out, it belongs to the user."""
    found = {}
    for directory in directories:
        for parent, _, names in os.walk(directory):
            for name in names:
                path = Path(parent, name)
                if path.is_file() and "layers" not in path.parts:
                    found[str(path)] = path.read_bytes()
    return found


def process_listing(pid: int) -> dict[str, bytes]:
    """What `ps` can show of a process, and a crash report names: arguments, environment."""
    return {f"/proc/{pid}/{file}": Path(f"/proc/{pid}/{file}").read_bytes() for file in ("cmdline", "environ", "comm")}
