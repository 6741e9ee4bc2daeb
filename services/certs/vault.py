"""What certs keeps on its disk: the authority's keys, the NATS keys, open join tokens, who was issued what.

    lock                    one process per directory
    cluster                 the cluster's name, made at the first start
    ca/root.{key,pem}       ca/issuer-<n>.{key,pem}     the newest issuer signs
    nats-keys/*.seed        operator, account, system, role-<role>
    tokens/<id>.json        issued/<kind>.<name>.json

Everything is 0600 in directories with 0700, and every file is replaced as a whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.certs import issue
from services.certs.nats_jwt import NatsKeys
from services.certs.tokens import Token, is_over
from stoscore.enrolment import IssuedIdentity
from stoscore.errors import precondition
from stoscore.files import private_directory, write_private
from stoscore.identity import key_pem
from stoscore.nkey import ACCOUNT, OPERATOR, make_seed

_TOKEN_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Issuer:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class Vault:
    """One certs directory, locked while it is open."""

    def __init__(self, directory: Path):
        self.directory = private_directory(directory)
        self._lock = self._take_lock()
        for name in ("ca", "nats-keys", "tokens", "issued"):
            private_directory(directory / name)

    def _take_lock(self) -> int:
        path = self.directory / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise precondition(f"can't open {path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise precondition(
                f"another certs process uses {self.directory}", "stop it, or set STOS_CERTS_DATA_DIR"
            ) from None
        return descriptor

    def close(self) -> None:
        os.close(self._lock)

    # --- the authority ---

    def cluster(self, base: str) -> str:
        """The cluster's name: the base and random letters, made once. A volume's directory that was made in
        another cluster of the same base is told apart by them."""
        path = self.directory / "cluster"
        if not path.exists():
            write_private(path, f"{base}-{secrets.token_hex(4)}\n".encode("ascii"))
        return path.read_text("ascii").strip()

    def root(self, cluster: str, now: datetime) -> Issuer:
        certificate, key = self.directory / "ca" / "root.pem", self.directory / "ca" / "root.key"
        if not certificate.exists():
            made = ec.generate_private_key(ec.SECP256R1())
            write_private(key, key_pem(made))
            root = issue.make_root(cluster, made, now, x509.random_serial_number())
            write_private(certificate, issue.pem(root).encode("ascii"))
        return _load_issuer(certificate, key)

    def issuers(self) -> list[Issuer]:
        """All that ever signed, newest last."""
        found = self.directory.glob("ca/issuer-*.pem")
        paths = sorted(found, key=lambda path: int(path.stem.partition("-")[2]))
        return [_load_issuer(path, path.with_suffix(".key")) for path in paths]

    def add_issuer(self, root: Issuer, now: datetime) -> Issuer:
        number = len(self.issuers()) + 1
        key = ec.generate_private_key(ec.SECP256R1())
        made = issue.make_issuer(root.certificate, root.key, key.public_key(), now, x509.random_serial_number())
        path = self.directory / "ca" / f"issuer-{number}.pem"
        # The key first: a certificate without a key would stop the next start.
        write_private(path.with_suffix(".key"), key_pem(key))
        write_private(path, issue.pem(made).encode("ascii"))
        return Issuer(made, key)

    # --- NATS keys ---

    def nats_keys(self, roles: list[str]) -> NatsKeys:
        return NatsKeys(
            operator=self._seed("operator", OPERATOR),
            account=self._seed("account", ACCOUNT),
            system=self._seed("system", ACCOUNT),
            roles={role: self._seed(f"role-{role}", ACCOUNT) for role in roles},
        )

    def _seed(self, name: str, prefix: int) -> bytes:
        path = self.directory / "nats-keys" / f"{name}.seed"
        if not path.exists():
            write_private(path, make_seed(prefix, os.urandom(32)))
        return path.read_bytes().strip()

    # --- join tokens (attestors.TokenStore) ---

    def find(self, token_id: str) -> Token | None:
        if not _TOKEN_ID.fullmatch(token_id):
            return None
        try:
            return Token(**json.loads(self._token_path(token_id).read_text("utf-8")))
        except FileNotFoundError:
            return None

    def save(self, token: Token) -> None:
        write_private(self._token_path(token.token_id), json.dumps(asdict(token)).encode())

    def _token_path(self, token_id: str) -> Path:
        return self.directory / "tokens" / f"{token_id}.json"

    def tokens(self) -> list[Token]:
        paths = sorted(self.directory.glob("tokens/*.json"))
        return [token for path in paths if (token := self.find(path.stem)) is not None]

    def forget_old_tokens(self, now_s: int) -> None:
        for token in self.tokens():
            if is_over(token, now_s):
                self._token_path(token.token_id).unlink(missing_ok=True)

    # --- who was issued what ---

    def record(self, issued: IssuedIdentity) -> None:
        """The latest certificate of each identity."""
        path = self.directory / "issued" / f"{issued.kind}.{issued.name}.json"
        write_private(path, issued.model_dump_json().encode())

    def issued(self) -> list[IssuedIdentity]:
        paths = sorted(self.directory.glob("issued/*.json"))
        return [IssuedIdentity.model_validate_json(path.read_bytes()) for path in paths]


def _load_issuer(certificate: Path, key: Path) -> Issuer:
    try:
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ValueError("its key is of another kind")
        return Issuer(x509.load_pem_x509_certificate(certificate.read_bytes()), loaded)
    except (OSError, ValueError) as error:
        raise precondition(f"{certificate} is damaged: {error}", "restore the directory from a backup") from None
