"""Opening a vault: an existing authority with the key that fits it, or a new one, made once.

A vault in which something is missing is never "repaired" by making it anew: a new root beside the old cluster's
nodes would lock all of them out. So a new authority is made only where there is no trace of an old one; and its
record, which makes it real, is stored last. An instance that is killed before leaves keys behind that the next one
uses.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from services.certs import issue, sealing
from services.certs import record as records
from services.certs.keyring import Keyring, check_keys
from services.certs.ledger import IDENTITIES, TOKENS
from services.certs.record import Issuer, Record, Root
from services.certs.sealing import Seal
from services.certs.settings import CertsSettings
from services.certs.vault import NEW, Conflict, Vault, create
from stoscore.errors import precondition
from stoscore.nkey import ACCOUNT, make_seed, public_key
from stoscore.telemetry import get_logger

KEK_ENTRY = "kek"
"""Where the key-encryption key is kept when it has no file, which only the vault of Kubernetes does."""

log = get_logger("certs")


@dataclass(frozen=True, slots=True)
class Opened:
    """A vault with its seal."""

    record: Record
    keyring: Keyring
    seal: Seal


def open_authority(settings: CertsSettings, vault: Vault, now: Callable[[], datetime]) -> Opened:
    """The authority of this vault; a new cluster's, if there is none. Raises StosError FAILED_PRECONDITION, and has
    changed nothing, when key-encryption key, keys and certificates do not fit together."""
    from services.certs.migration import migrate

    migrate(settings, vault, now)
    entry = vault.get(records.NAME)
    if entry is None:
        refuse_remains(vault)
        found(settings, vault, now, settings.cluster + f"-{secrets.token_hex(4)}")
        entry = vault.get(records.NAME)
    if entry is None:
        raise precondition("the vault lost the authority's record", "is the disk all right?")
    record = records.decode(entry.data)
    seal = known_seal(settings, vault, record)
    keyring = Keyring(vault, seal)
    check_keys(keyring, record)
    return Opened(record, keyring, seal)


def refuse_remains(vault: Vault) -> None:
    """Raises StosError FAILED_PRECONDITION when identities were issued from this vault, whose record is gone."""
    for section in (IDENTITIES, TOKENS):
        if vault.below(section):
            raise precondition(
                f"the vault holds {section} and no authority: its record is lost",
                "nothing was changed; restore it from a backup: see docs/runbooks/ca-lost.md",
            )


# ---- the key-encryption key -----------------------------------------------------------------------------


def kek_place(settings: CertsSettings) -> str:
    return str(settings.kek_path) if settings.kek_path else f"the Secret {settings.kubernetes_prefix}.{KEK_ENTRY}"


def known_seal(settings: CertsSettings, vault: Vault, record: Record) -> Seal:
    """The seal that the record was made with. Raises StosError FAILED_PRECONDITION when its key is not there."""
    place = kek_place(settings)
    if settings.kek_path:
        kek = sealing.read_kek_file(settings.kek_path)
    else:
        entry = vault.get(KEK_ENTRY)
        kek = sealing.decode_kek(entry.data, place) if entry else None
    if kek is None:
        raise precondition(
            f"the key-encryption key {place} is missing, and the CA's keys can't be opened without it",
            "put it back; if it is lost, restore a backup: see docs/runbooks/ca-lost.md",
        )
    seal = Seal(kek)
    if seal.fingerprint != record.kek:
        raise sealing.wrong_kek(place)
    return seal


def new_seal(settings: CertsSettings, vault: Vault) -> Seal:
    """For a new authority: with the key that is there, else with a new one."""
    place = kek_place(settings)
    if settings.kek_path is None:
        line = create(vault, KEK_ENTRY, lambda: sealing.encode_kek(os.urandom(sealing.KEY_BYTES)))
        return Seal(sealing.decode_kek(line, place))
    kek = sealing.read_kek_file(settings.kek_path)
    if kek is None and settings.vault != "directory":
        # Each instance would make its own, on a disk of its own.
        raise precondition(
            f"there is no key-encryption key {place}",
            "give all instances the same file, or leave STOS_CERTS_KEK_FILE out to keep it in a Secret",
        )
    return Seal(kek or sealing.make_kek_file(settings.kek_path))


# ---- a new authority ------------------------------------------------------------------------------------


def make_root(keyring: Keyring, cluster: str, number: int, now: datetime) -> Root:
    """Number `number`'s root, below its key, which is made if it is not there yet."""
    name = f"root-{number}"
    certificate = issue.make_root(cluster, keyring.make(name), now, x509.random_serial_number())
    return Root(key=name, certificate_pem=issue.pem(certificate))


def make_issuer(keyring: Keyring, root: Root, number: int, now: datetime) -> Issuer:
    name = f"issuer-{number}"
    above = keyring.pair(root.key, root.certificate_pem)
    certificate = issue.make_issuer(
        above.certificate, above.key, keyring.make(name).public_key(), now, x509.random_serial_number()
    )
    return Issuer(key=name, root=root.key, certificate_pem=issue.pem(certificate))


def found(
    settings: CertsSettings, vault: Vault, now: Callable[[], datetime], cluster: str, nats_account: str = ""
) -> Record:
    """A new authority for that cluster, or what another instance made of it at the same moment."""
    seal = new_seal(settings, vault)
    keyring = Keyring(vault, seal)
    moment = now()
    root = make_root(keyring, cluster, 1, moment)
    issuer = make_issuer(keyring, root, 1, moment)
    now_s = int(moment.timestamp())
    record = Record(
        cluster=cluster,
        kek=seal.fingerprint,
        founded_s=now_s,
        made=1,
        number=now_s,
        nats_account=nats_account or new_nats_account(),
        roots=(root,),
        issuers=(issuer,),
        signer=issuer.key,
    )
    try:
        vault.put(records.NAME, record.encode(), NEW)
    except Conflict:
        entry = vault.get(records.NAME)
        if entry is None:
            raise
        return records.decode(entry.data)
    log.info("a new cluster has its authority", extra={"cluster": cluster})
    return record


def new_nats_account() -> str:
    """The public key of a NATS account. Nobody ever needs its private key (`nats_jwt.NatsKeys`), so nobody keeps it."""
    return public_key(make_seed(ACCOUNT, os.urandom(32)))
