"""What administrators ask for, whichever door they come through: the bus, or the Unix socket of this machine.

Everything here blocks, as the vault does; the doors call it in threads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from services.certs import issue, revocation, steps
from services.certs.authority import Authority
from services.certs.ledger import Issued, Known
from services.certs.record import Record
from services.certs.views import certificate_view, identity_view, root_view, rotation_view
from stoscore.certs_messages import (
    AuthorityView,
    Denied,
    IdentityDetail,
    IdentityPage,
    ListIdentities,
    Revoked,
    RevokeIdentity,
    RotateAuthority,
    Rotated,
    ShowIdentity,
)
from stoscore.enrolment import IssuedToken, IssueToken
from stoscore.errors import Code, StosError, not_found
from stoscore.messages import Message
from stoscore.spiffe import role_of

BACKUP_ENTRY = "backup"
"""Says when the keys were last backed up, and which they were."""
PAGE = 400
REVOKED_AGAIN_MAX = 8


class Administration:
    """The verbs of `stos certs` over one authority."""

    def __init__(self, authority: Authority):
        self._authority = authority

    # --- looking ---

    def ls(self, request: ListIdentities) -> IdentityPage:
        record, now_s = self._authority.record(), self._authority.now_s()
        known = sorted(self._authority.ledger.all(), key=str)
        after = [one for one in known if str(one) > request.after]
        return IdentityPage(
            authority=self.authority_view(record, known),
            identities=[identity_view(record, one, now_s) for one in after[:PAGE]],
            more=len(after) > PAGE,
        )

    def show(self, request: ShowIdentity) -> IdentityDetail:
        record, now_s = self._authority.record(), self._authority.now_s()
        known = self._find(request.kind, request.name)
        return IdentityDetail(
            identity=identity_view(record, known, now_s),
            certificates=[certificate_view(record, known, one) for one in known.certificates if one.ends_s > now_s],
            denied=[
                denied for denied in record.trust().denied if (denied.kind, denied.name) == (known.kind, known.name)
            ],
        )

    def _find(self, kind: str, name: str) -> Known:
        known = self._authority.ledger.find(kind, name)
        if known is None:
            raise not_found(f"certs knows no {kind}/{name}", "see `stos certs ls`")
        return known

    def authority_view(self, record: Record, known: list[Known]) -> AuthorityView:
        now_s = self._authority.now_s()
        tokens = self._authority.ledger.tokens()
        backup_s, backed_up = self._backup()
        issuer = issue.load(record.issuer(record.signer).certificate_pem)
        return AuthorityView(
            cluster=record.cluster,
            instance=self._authority.settings.name,
            addresses=self._authority.settings.addresses,
            trust_number=record.number,
            roots=[root_view(root.key, root.certificate_pem) for root in record.roots],
            issuer=record.signer,
            issuer_ends_unix_s=int(issuer.not_valid_after_utc.timestamp()),
            rotation=rotation_view(record, known, now_s),
            open_tokens=sum(1 for token in tokens if not token.used_by and now_s < token.expires_s),
            denied=len(record.denials),
            backup_unix_s=backup_s,
            backup_is_current=backed_up == record.made,
        )

    def _backup(self) -> tuple[int, int]:
        """When, and the number of the newest key that it holds."""
        entry = self._authority.vault.get(BACKUP_ENTRY)
        if entry is None:
            return 0, 0
        found = json.loads(entry.data)
        return int(found["at_s"]), int(found["made"])

    # --- changing ---

    def token(self, request: IssueToken) -> IssuedToken:
        text = self._authority.make_token(request.kind, request.name, request.valid_s, request.role)
        return IssuedToken(token=text)

    def revoke(self, request: RevokeIdentity) -> Revoked:
        known = self._authority.ledger.find(request.kind, request.name)
        if known is None and not request.unlisted:
            raise not_found(
                f"certs knows no {request.kind}/{request.name}",
                "see `stos certs ls`; --unlisted revokes it all the same, as after an old backup was restored",
            )
        known = known or Known(kind=request.kind, name=request.name, role=role_of(request.kind, request.name))
        return self._revoke_one(known, request) if request.serial else self._revoke_all(known, request)

    def _revoke_one(self, known: Known, request: RevokeIdentity) -> Revoked:
        now_s = self._authority.now_s()
        record = self._authority.change(
            lambda current: revocation.deny_serial(current, known, request.serial, now_s, request.reason)
        )
        return Revoked(trust_number=record.number, denied=_denied(record, known, request.serial), tokens=0)

    def _revoke_all(self, known: Known, request: RevokeIdentity) -> Revoked:
        """First the record, by which everybody refuses it; then the ledger, which remembers it for longer. What another
        instance issued meanwhile is found in the ledger, and the line is drawn again after it."""
        tokens = 0
        for _ in range(REVOKED_AGAIN_MAX):
            record = self._draw_line(known, request.reason)
            denied = _denied(record, known, "")
            self._authority.ledger.revoked(known.kind, known.name, known.role, denied.issued_before_s)
            tokens += self._forget_tokens(known, denied.issued_before_s)
            known = self._find(known.kind, known.name)
            if not any(_came_between(one, denied, record) for one in known.certificates):
                return Revoked(trust_number=record.number, denied=denied, tokens=tokens)
        raise StosError(Code.ABORTED, f"{known} is issued certificates all the time", next_step="revoke it again")

    def _draw_line(self, known: Known, reason: str) -> Record:
        now_s, life_s = self._authority.now_s(), self._authority.settings.certificate_life_s
        return self._authority.change(lambda current: revocation.deny_identity(current, known, now_s, life_s, reason))

    def _forget_tokens(self, known: Known, until_s: int) -> int:
        return self._authority.ledger.forget_tokens(
            lambda token: (token.kind, token.name) == (known.kind, known.name) and token.made_s < until_s
        )

    def rotate(self, request: RotateAuthority) -> Rotated:
        if request.what == "root":
            record = steps.begin_root(self._authority, request.reason)
        else:
            record = steps.replace_issuer(self._authority, renew_all=True)
        view = self.authority_view(record, self._authority.ledger.all())
        return Rotated(trust_number=record.number, authority=view)


def _came_between(issued: Issued, denied: Denied, record: Record) -> bool:
    """Issued by an instance that did not know of the revocation, and not matched by it."""
    return issued.trust < record.number and issued.issued_s >= denied.issued_before_s


def _denied(record: Record, known: Known, serial: str) -> Denied:
    return next(
        denied
        for denied in record.trust().denied
        if (denied.kind, denied.name, denied.serial) == (known.kind, known.name, serial)
    )


@dataclass(frozen=True, slots=True)
class Verb:
    """One of the requests above: its name on the bus and on the socket, and the method that does it."""

    name: str
    request: type[Message]
    method: str
    privileged: bool = False
    """Every use is an audit event."""
    changes: bool = False
    """Everybody is to be told at once what became of it."""

    def act(self, administration: Administration, request: Message) -> Message:
        done: Message = getattr(administration, self.method)(request)
        return done

    @staticmethod
    def target(request: Message) -> str:
        """What it is about, in words."""
        kind, name = getattr(request, "kind", ""), getattr(request, "name", "")
        return f"{kind}/{name}" if kind else str(getattr(request, "what", ""))


VERBS = (
    Verb("ls", ListIdentities, "ls"),
    Verb("show", ShowIdentity, "show"),
    Verb("token", IssueToken, "token", privileged=True),
    Verb("revoke", RevokeIdentity, "revoke", privileged=True, changes=True),
    Verb("rotate", RotateAuthority, "rotate", privileged=True, changes=True),
)
