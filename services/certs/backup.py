"""A backup of the authority: its record, all its keys and the ledger, in one file under a passphrase.

The first line says how the passphrase becomes a key (scrypt) and is authenticated along with the rest (AES-256-GCM), so
a file that was cut short, mixed or weakened is refused. Open join tokens are left out: they end within the hour.

What was done after the backup is not in it. An identity that enrolled later comes back by itself, with its certificate.
A revocation would be forgotten; the state that certs signed then is on every node's disk, and a restore that is shown
one takes its revocations over. A root that was changed later can't be restored: then the authority is lost
(`recovery`).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import BaseModel, ConfigDict, ValidationError

from services.certs import record as records
from services.certs.administration import BACKUP_ENTRY
from services.certs.founding import known_seal, new_seal
from services.certs.keyring import Keyring, check_keys
from services.certs.ledger import Known, Ledger
from services.certs.record import Denial, Record
from services.certs.settings import CertsSettings
from services.certs.vault import NEW, Vault, change
from stoscore.certs_messages import SignedTrust, TrustState
from stoscore.errors import Code, StosError, invalid, precondition
from stoscore.files import write_private
from stoscore.trust import load_roots, verify_trust

MAGIC = "stos-certs-backup-1"
SCRYPT = {"n": 1 << 17, "r": 8, "p": 1}
"""128 MiB and half a second for each guess."""
SALT_BYTES, NONCE_BYTES, KEY_BYTES = 16, 12, 32
HEAD_BYTES_MAX = 1024
PASSPHRASE_CHARS_MIN = 12
READS_MAX = 8


class Content(BaseModel):
    """What is in a backup."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    made_at_s: int
    record: Record
    keys: dict[str, str]
    """name -> base64 of the private key or seed"""
    identities: tuple[Known, ...]


# ---- making one ----------------------------------------------------------------------------------------


def write_backup(settings: CertsSettings, vault: Vault, path: Path, passphrase: str, now: datetime) -> Content:
    """A new file, 0600. Raises StosError ALREADY_EXISTS rather than replace one."""
    check_passphrase(passphrase)
    if path.exists():
        raise StosError(Code.ALREADY_EXISTS, f"{path} exists", next_step="name another file")
    content = _gather(settings, vault, now)
    write_private(path, seal(content, passphrase))
    note = {"at_s": content.made_at_s, "made": content.record.made, "uid": os.getuid()}
    change(vault, BACKUP_ENTRY, lambda _: json.dumps(note).encode())
    return content


def _gather(settings: CertsSettings, vault: Vault, now: datetime) -> Content:
    """All of one moment: when the authority was changed meanwhile, it is read again."""
    for _ in range(READS_MAX):
        before = vault.get(records.NAME)
        if before is None:
            raise precondition("there is no authority in this vault", "see STOS_CERTS_DATA_DIR, STOS_CERTS_VAULT")
        record = records.decode(before.data)
        keyring = Keyring(vault, known_seal(settings, vault, record))
        check_keys(keyring, record)
        keys = {name: base64.b64encode(keyring.secret(name)).decode("ascii") for name in keyring.names()}
        identities = tuple(Ledger(vault).all())
        if vault.get(records.NAME) == before:
            return Content(made_at_s=int(now.timestamp()), record=record, keys=keys, identities=identities)
    raise StosError(Code.ABORTED, "the authority changes all the time", next_step="try again")


def check_passphrase(passphrase: str) -> None:
    if len(passphrase) < PASSPHRASE_CHARS_MIN:
        raise invalid(f"the passphrase has less than {PASSPHRASE_CHARS_MIN} characters", "the file holds the CA's keys")


def _key(passphrase: str, salt: bytes, cost: dict[str, int]) -> bytes:
    return Scrypt(salt=salt, length=KEY_BYTES, **cost).derive(passphrase.encode())


def seal(content: Content, passphrase: str) -> bytes:
    salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
    fields: dict[str, Any] = {**SCRYPT, "salt": salt.hex(), "nonce": nonce.hex()}
    head = f"{MAGIC} {json.dumps(fields, sort_keys=True)}\n".encode("ascii")
    cipher = AESGCM(_key(passphrase, salt, SCRYPT))
    return head + cipher.encrypt(nonce, content.model_dump_json().encode(), head)


def open_backup(path: Path, passphrase: str) -> Content:
    """Raises StosError INVALID_ARGUMENT for what is no backup or damaged, or for another passphrase."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise invalid(f"can't read the backup {path}: {error.strerror}") from None
    line, newline, sealed = data.partition(b"\n")
    magic, _, rest = line[:HEAD_BYTES_MAX].partition(b" ")
    try:
        if magic != MAGIC.encode() or not newline:
            raise ValueError
        fields = json.loads(rest)
        salt, nonce = bytes.fromhex(fields.pop("salt")), bytes.fromhex(fields.pop("nonce"))
        if fields != SCRYPT:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise invalid(f"{path} is no backup of certs, or of another version, or damaged") from None
    try:
        text = AESGCM(_key(passphrase, salt, SCRYPT)).decrypt(nonce, sealed, line + newline)
    except (InvalidTag, ValueError):
        raise invalid(f"{path} does not open: another passphrase, or the file is damaged") from None
    try:
        return Content.model_validate_json(text)
    except ValidationError:
        raise invalid(f"{path} was written by another version of certs", "restore it with that version") from None


# ---- putting one back ----------------------------------------------------------------------------------


def restore(
    settings: CertsSettings,
    vault: Vault,
    content: Content,
    now: Callable[[], datetime],
    newest: SignedTrust | None = None,
) -> Record:
    """The authority of the backup in an empty vault, under this vault's own key-encryption key. `newest` is a trust
    state from a node's disk. Raises StosError FAILED_PRECONDITION, and overwrites nothing, when the vault holds
    something else, or when the backup is of no use any more. Killed in between, it can be done again."""
    record = _with_newest(content.record, newest)
    if vault.get(records.NAME) is not None:
        raise precondition(
            "this vault holds an authority", "nothing was changed; move that one away first, if it is lost or wrong"
        )
    seal_of_vault = new_seal(settings, vault)
    keyring = Keyring(vault, seal_of_vault)
    for name, text in content.keys.items():
        secret = _decoded(text)
        keyring.put_secret(name, secret)
        if keyring.secret(name) != secret:
            raise precondition(f"this vault holds another key {name}", "nothing was overwritten; empty the vault first")
    check_keys(keyring, record)
    ledger = Ledger(vault)
    for known in content.identities:
        ledger.put(_revoked_by(record, known))
    now_s = int(now().timestamp())
    restored = _with_nats_keys(record, content.identities).changed(now_s, kek=seal_of_vault.fingerprint)
    vault.put(records.NAME, restored.encode(), NEW)
    return restored


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise invalid("a key of the backup is damaged") from None


def _with_newest(record: Record, newest: SignedTrust | None) -> Record:
    """With the revocations that were made after the backup."""
    if newest is None:
        return record
    try:
        state = verify_trust(newest, load_roots(record.roots_pem), record.cluster)
    except StosError as error:
        raise precondition(
            f"the trust state was not signed by the authority of this backup: {error.message}",
            "if the root was changed after the backup, see docs/runbooks/ca-lost.md, part 2",
        ) from None
    if state.number <= record.number:
        return record
    missing = set(load_roots(state.roots_pem)) - set(load_roots(record.roots_pem))
    if missing:
        raise precondition(
            "the root was changed after this backup, and what it holds is trusted by nobody much longer",
            "use a newer backup, or see docs/runbooks/ca-lost.md, part 2",
        )
    known = {(denial.kind, denial.name, denial.serial): denial for denial in record.denials}
    known |= {(denial.kind, denial.name, denial.serial): denial for denial in _denials(state)}
    return record.model_copy(
        update={
            "denials": tuple(known.values()),
            "number": state.number,
            "renew_issued_before_s": max(record.renew_issued_before_s, state.renew_issued_before_s),
        }
    )


def _denials(state: TrustState) -> list[Denial]:
    return [Denial(**denied.model_dump(exclude={"v"})) for denied in state.denied]


def _with_nats_keys(record: Record, identities: tuple[Known, ...]) -> Record:
    """Trust states don't name NATS keys; the ledger does."""
    owners = {(known.kind, known.name): known for known in identities}
    denials = []
    for denial in record.denials:
        known = owners.get((denial.kind, denial.name))
        if known is not None and not denial.serial:
            keys = {one.nats_key: denial.issued_before_s - 1 for one in known.certificates if one.nats_key}
            denials.append(denial.model_copy(update={"nats_keys": keys | denial.nats_keys}))
        else:
            denials.append(denial)
    return record.model_copy(update={"denials": tuple(denials)})


def _revoked_by(record: Record, known: Known) -> Known:
    moments = [
        denial.issued_before_s
        for denial in record.denials
        if (denial.kind, denial.name) == (known.kind, known.name) and not denial.serial
    ]
    return known.model_copy(update={"revoked_s": max([known.revoked_s, *moments])})
