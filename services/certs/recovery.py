"""A new authority for a cluster whose own is lost, without a backup.

Nobody can be told about it: what the nodes believe is signed by keys that are gone. So each of them has to be let in
again, with a new join token. What stays is the cluster's name, which their volumes' directories carry, and, when it is
known, the NATS account, without which the catalogue and the events would have to be begun anew.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from services.certs import record as records
from services.certs.founding import found
from services.certs.keyring import PREFIX as KEYS
from services.certs.ledger import IDENTITIES, TOKENS
from services.certs.record import Record
from services.certs.settings import CertsSettings
from services.certs.vault import Vault
from stoscore.errors import StosError, invalid, precondition
from stoscore.identity_files import CERT, NATS_JWT
from stoscore.nkey import valid_public_key
from stoscore.spiffe import UNREADABLE, certificate_uri, parse_uri

CLUSTER = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Remains:
    """What an identity directory of the cluster tells about it."""

    cluster: str
    nats_account: str


def read_remains(directory: Path) -> Remains:
    """From any identity of the cluster that has a NATS credential, expired or not. Raises StosError
    INVALID_ARGUMENT."""
    try:
        certificate = x509.load_pem_x509_certificate((directory / CERT).read_bytes())
        cluster = parse_uri(certificate_uri(certificate))[0]
        body = (directory / NATS_JWT).read_text("ascii").split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        account = str(claims["nats"]["issuer_account"])
    except (OSError, KeyError, IndexError, AttributeError, binascii.Error, StosError, *UNREADABLE) as error:
        raise invalid(f"{directory} is no identity directory of a cluster: {error}", "name another one") from None
    if not valid_public_key(account, "A"):
        raise invalid(f"{directory / NATS_JWT} names no NATS account", "name another identity directory")
    return Remains(cluster, account)


def recover(
    settings: CertsSettings, vault: Vault, cluster: str, nats_account: str, now: Callable[[], datetime]
) -> Record:
    """Found the authority of that cluster anew, in an empty vault. Raises StosError FAILED_PRECONDITION, and changes
    nothing, when there is something in it."""
    if not CLUSTER.fullmatch(cluster):
        raise invalid(
            f"{cluster[:80]!r} can't be a cluster's name",
            "it is in every identity's certificate: spiffe://<cluster>/…; --identity DIR reads it",
        )
    left = [name for name in (IDENTITIES, TOKENS, KEYS) if vault.below(name)]
    if vault.get(records.NAME) is not None:
        left.insert(0, "an authority")
    if left:
        raise precondition(
            f"this vault holds {', '.join(left)}",
            "nothing was changed; move the vault away first, and keep it: a part of it may be of use",
        )
    return found(settings, vault, now, cluster, nats_account)
