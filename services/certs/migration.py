"""Taking over a certs directory of the older layout, in which the keys lay open.

    DIR/cluster  DIR/ca/root.{key,pem}  DIR/ca/issuer-<n>.{key,pem}  DIR/nats-keys/*.seed
    DIR/tokens/<id>.json  DIR/issued/<kind>.<name>.json  DIR/lock

Everything is read first and found to fit together; then it is brought into the vault, the record last, and only then
the old files are removed. Whoever is killed in between is followed by one that does the same again: keys that are in
the vault already stay as they are.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from services.certs import record as records
from services.certs.founding import new_seal
from services.certs.keyring import Keyring, check_keys, load_key, match, signed_by
from services.certs.ledger import Issued, Ledger
from services.certs.record import Issuer, Record, Root
from services.certs.settings import CertsSettings
from services.certs.tokens import Token
from services.certs.vault import NEW, Conflict, Vault
from stoscore.errors import StosError, precondition
from stoscore.nkey import public_key
from stoscore.spiffe import role_of
from stoscore.telemetry import get_logger

OLD_BACKDATED = timedelta(minutes=5)
LOCK_WAIT_S = 10.0
OLD = ("nats-keys", "tokens", "issued", "identity", "identity-system", "admin.sock", "cluster")

log = get_logger("certs")


def migrate(settings: CertsSettings, vault: Vault, now: Callable[[], datetime]) -> bool:
    """True when there was something to take over. Raises StosError FAILED_PRECONDITION, and leaves the old files as
    they are, when an older certs process still runs there or a file is damaged."""
    directory = settings.data_dir.absolute()
    if settings.vault != "directory" or not (directory / "ca" / "root.pem").exists():
        return False
    with _nobody_else(directory):
        if not (directory / "ca" / "root.pem").exists():
            return True  # another instance was faster
        known = vault.get(records.NAME)
        if known is not None:
            _check_same(directory, records.decode(known.data))
        else:
            now_s = int(now().timestamp())
            try:
                old = _read(directory, now_s)
            except (OSError, ValueError, KeyError, TypeError, StosError) as error:
                raise _damaged(directory, f"{error}") from None
            _take_over(old, settings, vault, now_s)
            log.info("took over the older layout of %s", directory, extra={"cluster": old.cluster})
        _remove_old(directory)
    return True


def _check_same(directory: Path, record: Record) -> None:
    """What is removed was taken over: two authorities in one directory are somebody's mistake."""
    if (directory / "ca" / "root.pem").read_text("ascii") not in record.roots_pem:
        raise precondition(
            f"{directory} holds an authority of the older layout, and the vault another one, of {record.cluster}",
            "move away the one that is not wanted; nothing was changed",
        )


def _remove_old(directory: Path) -> None:
    """The old files, which hold keys that are not sealed. The root's certificate goes last: while it is there, the
    next start goes on here."""
    for name in OLD:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for path in (directory / "ca").iterdir():
        if path.name != "root.pem":
            path.unlink()
    (directory / "ca" / "root.pem").unlink()
    (directory / "ca").rmdir()
    (directory / "lock").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Old:
    """All that is taken over, read and found to fit together."""

    cluster: str
    founded_s: int
    root_pem: str
    issuers: tuple[tuple[str, str], ...]
    """(name, certificate), oldest first"""
    keys: dict[str, bytes]
    """private keys and seeds, by their names in the keyring"""
    nats_account: str
    issued: tuple[tuple[str, str, str, Issued], ...]
    """(kind, name, role, certificate)"""
    tokens: tuple[Token, ...]


def _read(directory: Path, now_s: int) -> _Old:
    """Raises OSError, ValueError, KeyError, TypeError or StosError for what is damaged."""
    authority = directory / "ca"
    issuers = sorted(authority.glob("issuer-*.pem"), key=_number)
    if not issuers:
        raise ValueError("there is no issuer in it")
    signer = issuers[-1].stem
    keys = {"root-1": (authority / "root.key").read_bytes(), signer: (authority / f"{signer}.key").read_bytes()}
    root_pem = (authority / "root.pem").read_text("ascii")
    root = match("root-1", root_pem, load_key("root-1", keys["root-1"]))
    issuer = match(signer, issuers[-1].read_text("ascii"), load_key(signer, keys[signer]))
    if not signed_by(issuer.certificate, root.certificate):
        raise ValueError(f"{signer} was not signed by the root")
    seeds = {path.stem: path.read_bytes().strip() for path in sorted((directory / "nats-keys").glob("*.seed"))}
    public = {name: _public(name, seed) for name, seed in seeds.items()}
    return _Old(
        cluster=(directory / "cluster").read_text("ascii").strip(),
        founded_s=int((directory / "cluster").stat().st_mtime),
        root_pem=root_pem,
        issuers=tuple((path.stem, path.read_text("ascii")) for path in issuers),
        keys=keys | {f"nats-{name}": seed for name, seed in seeds.items() if name != "account"},
        nats_account=public["account"],
        issued=tuple(_issued(_object(path)) for path in sorted((directory / "issued").glob("*.json"))),
        tokens=tuple(_token(_object(path), now_s) for path in sorted((directory / "tokens").glob("*.json"))),
    )


def _public(name: str, seed: bytes) -> str:
    try:
        return public_key(seed)
    except Exception as error:
        # The library has many ways to say that a seed is none.
        raise ValueError(f"nats-keys/{name}.seed: {type(error).__name__}") from None


def _issued(old: dict[str, Any]) -> tuple[str, str, str, Issued]:
    begins = datetime.fromisoformat(old["not_before"]) + OLD_BACKDATED
    ends = datetime.fromisoformat(old["not_after"])
    issued = Issued(
        serial=old["serial"],
        issued_s=int(begins.timestamp()),
        ends_s=int(ends.timestamp()),
        attestor=old["attestor"],
    )
    return old["kind"], old["name"], old["role"], issued


def _token(old: dict[str, Any], now_s: int) -> Token:
    return Token(**old, role=role_of(old["kind"], old["name"]), made_s=now_s)


def _take_over(old: _Old, settings: CertsSettings, vault: Vault, now_s: int) -> Record:
    seal = new_seal(settings, vault)
    keyring, ledger = Keyring(vault, seal), Ledger(vault)
    for name, secret in old.keys.items():
        keyring.put_secret(name, secret)
    for kind, name, role, issued in old.issued:
        ledger.issued(kind, name, role, issued)
    for token in old.tokens:
        if ledger.token(token.token_id) is None:
            ledger.add_token(token)
    signer = old.issuers[-1][0]
    record = Record(
        cluster=old.cluster,
        kek=seal.fingerprint,
        founded_s=old.founded_s,
        made=int(signer.partition("-")[2]),
        number=now_s,
        nats_account=old.nats_account,
        roots=(Root(key="root-1", certificate_pem=old.root_pem),),
        issuers=tuple(
            Issuer(key=name, root="root-1", certificate_pem=pem, replaced_s=0 if name == signer else now_s)
            for name, pem in old.issuers
        ),
        signer=signer,
    )
    check_keys(keyring, record)
    try:
        vault.put(records.NAME, record.encode(), NEW)
    except Conflict:
        log.debug("another instance was faster")
    return record


def _object(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text("utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no JSON object")
    return found


def _number(path: Path) -> int:
    return int(path.stem.partition("-")[2])


@contextmanager
def _nobody_else(directory: Path) -> Iterator[None]:
    """Holds the older layout's lock, which a process of that version keeps for its whole life. Another instance of
    ours that takes the directory over at the same moment is done in a second."""
    path = directory / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end:
                    raise precondition(
                        f"a certs process of an older version uses {directory}", "stop it, and start this one again"
                    ) from None
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _damaged(directory: Path, what: str) -> StosError:
    return precondition(
        f"can't take over {directory}, which has an older layout: {what}",
        "its files were left as they are; restore the directory from a backup",
    )
