"""Who was let in: each identity with its certificates, and the join tokens that are open.

    identities/<kind>/<name>    what certs remembers of one identity
    tokens/<id>                 one join token; `tokens` says what it means

An identity's certificates are kept while they are valid, because revoking must name them, their NATS keys and their
ends, and because a change of the root must know who holds which.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields

from pydantic import BaseModel, ConfigDict, ValidationError

from services.certs.tokens import Token, is_over
from services.certs.vault import NEW, Conflict, Vault, change
from stoscore.errors import StosError, precondition

IDENTITIES, TOKENS = "identities", "tokens"
CERTIFICATES_MAX = 32
"""Kept of one identity, the newest. It renews once a day; more is somebody who asks again and again."""
FORGOTTEN_AFTER_S = 30 * 86_400
"""An identity whose last certificate ended so long ago. One that was revoked is not forgotten."""

_TOKEN_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)


class Issued(BaseModel):
    """One certificate. Times are Unix seconds by certs' clock."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    serial: str
    issued_s: int
    ends_s: int
    attestor: str
    issuer: str = ""
    """the issuer's key"""
    trust: int = 0
    """number of the trust state that was handed out with it"""
    used: int = 0
    """number of the newest trust state that its owner said to use with it. An answer may be lost on its way, and its
    owner be off for a day then; what counts for a change of the root is what arrived"""
    nats_key: str = ""


class Known(BaseModel):
    """One identity."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    name: str
    role: str
    revoked_s: int = 0
    readmitted_s: int = 0
    """The later one of the two counts. Both only grow, so that nobody's order matters."""
    certificates: tuple[Issued, ...] = ()
    """oldest first"""

    @property
    def revoked(self) -> bool:
        return self.revoked_s > self.readmitted_s

    @property
    def ends_s(self) -> int:
        return max((one.ends_s for one in self.certificates), default=0)

    @property
    def latest(self) -> Issued | None:
        return self.certificates[-1] if self.certificates else None

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class Ledger:
    """Reads and writes both kinds of entries. Its calls block, as the vault's."""

    def __init__(self, vault: Vault):
        self._vault = vault

    # --- identities ---

    def find(self, kind: str, name: str) -> Known | None:
        entry = self._vault.get(_identity(kind, name))
        return _known(entry.name, entry.data) if entry else None

    def all(self) -> list[Known]:
        return [_known(entry.name, entry.data) for entry in self._vault.below(IDENTITIES)]

    def put(self, known: Known) -> None:
        """As it was in a backup."""
        change(self._vault, _identity(known.kind, known.name), lambda _: known.model_dump_json().encode())

    def issued(self, kind: str, name: str, role: str, issued: Issued, readmitted_s: int = 0) -> None:
        """Write down a certificate before it leaves. `readmitted_s`: an administrator let the identity in again,
        then."""

        def add(known: Known) -> Known:
            valid = [one for one in known.certificates if one.ends_s > issued.issued_s]
            kept = sorted([*valid, issued], key=lambda one: one.issued_s)[-CERTIFICATES_MAX:]
            return known.model_copy(
                update={
                    "role": role,
                    "certificates": tuple(kept),
                    "readmitted_s": max(known.readmitted_s, readmitted_s),
                }
            )

        self._change(kind, name, role, add)

    def in_use(self, kind: str, name: str, serial: str, number: int) -> None:
        def mark(known: Known) -> Known:
            marked = tuple(
                one.model_copy(update={"used": max(one.used, number)}) if one.serial == serial else one
                for one in known.certificates
            )
            return known.model_copy(update={"certificates": marked})

        self._change(kind, name, "", mark)

    def withdraw(self, kind: str, name: str, serial: str) -> None:
        """A certificate that was written down and never handed out."""

        def remove(known: Known) -> Known:
            kept = tuple(one for one in known.certificates if one.serial != serial)
            return known.model_copy(update={"certificates": kept})

        self._change(kind, name, "", remove)

    def revoked(self, kind: str, name: str, role: str, revoked_s: int) -> None:
        self._change(
            kind, name, role, lambda known: known.model_copy(update={"revoked_s": max(known.revoked_s, revoked_s)})
        )

    def _change(self, kind: str, name: str, role: str, decide: Callable[[Known], Known]) -> None:
        entry = _identity(kind, name)

        def work(before: bytes | None) -> bytes:
            known = Known(kind=kind, name=name, role=role) if before is None else _known(entry, before)
            return decide(known).model_dump_json().encode()

        change(self._vault, entry, work)

    def forget_old(self, now_s: int) -> list[str]:
        forgotten = []
        for entry in self._vault.below(IDENTITIES):
            known = _known(entry.name, entry.data)
            if (
                not known.revoked
                and known.ends_s + FORGOTTEN_AFTER_S < now_s
                and self._delete(entry.name, entry.revision)
            ):
                forgotten.append(str(known))
        return forgotten

    # --- join tokens ---

    def token(self, token_id: str) -> Token | None:
        if not _TOKEN_ID.fullmatch(token_id):
            return None
        entry = self._vault.get(f"{TOKENS}/{token_id}")
        return _token(entry.name, entry.data) if entry else None

    def add_token(self, token: Token) -> None:
        self._vault.put(f"{TOKENS}/{token.token_id}", _encode_token(token), NEW)

    def use_token(self, token_id: str, redeem: Callable[[Token | None], Token]) -> Token:
        """The token as `redeem` leaves it, stored before this returns. Of two instances that are shown one token at
        the same moment, one stores its answer and the other one looks again, and finds it used."""
        if not _TOKEN_ID.fullmatch(token_id):
            return redeem(None)
        name = f"{TOKENS}/{token_id}"
        used: list[Token] = []

        def work(before: bytes | None) -> bytes:
            used[:] = [redeem(None if before is None else _token(name, before))]
            return _encode_token(used[0])

        change(self._vault, name, work)
        return used[0]

    def tokens(self) -> list[Token]:
        return [_token(entry.name, entry.data) for entry in self._vault.below(TOKENS)]

    def forget_tokens(self, which: Callable[[Token], bool]) -> int:
        """Returns how many."""
        found = [entry for entry in self._vault.below(TOKENS) if which(_token(entry.name, entry.data))]
        return sum(self._delete(entry.name, entry.revision) for entry in found)

    def forget_old_tokens(self, now_s: int) -> int:
        return self.forget_tokens(lambda token: is_over(token, now_s))

    def _delete(self, name: str, revision: str) -> bool:
        try:
            self._vault.delete(name, revision)
        except Conflict:
            return False
        return True


def live(known: Iterable[Known], now_s: int) -> list[Known]:
    """Those with a certificate that has not ended."""
    return [one for one in known if one.ends_s > now_s]


def _identity(kind: str, name: str) -> str:
    return f"{IDENTITIES}/{kind}/{name}"


def _known(entry: str, data: bytes) -> Known:
    try:
        return Known.model_validate_json(data)
    except ValidationError as error:
        raise _damaged(entry, f"{error.error_count()} errors") from None


def _encode_token(token: Token) -> bytes:
    return json.dumps(asdict(token)).encode()


def _token(entry: str, data: bytes) -> Token:
    try:
        values = json.loads(data)
        return Token(**{field.name: values[field.name] for field in fields(Token)})
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(entry, type(error).__name__) from None


def _damaged(entry: str, what: str) -> StosError:
    return precondition(f"the vault's entry {entry} is damaged: {what}", "restore it from a backup, or remove it")
