"""An authority that only talks, for `tests.support.feed`: a few identities, one of them shut out for a reason that
attacks a terminal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from stoscore.bus import RequestContext
from stoscore.certs_messages import (
    AuthorityView,
    CertificateView,
    Denied,
    IdentityDetail,
    IdentityPage,
    IdentityView,
    ListIdentities,
    Revoked,
    RevokeIdentity,
    RootView,
    RotateAuthority,
    Rotated,
    RotationView,
    ShowIdentity,
)
from stoscore.enrolment import IssuedToken, IssueToken
from stoscore.errors import not_found

BEGAN_S = 1_800_000_000
DAY_S = 86_400
Answers = dict[str, tuple[type, Callable[[Any, RequestContext], Awaitable[Any]]]]


def certificate(number: int, *, denied: bool = False) -> CertificateView:
    return CertificateView(
        serial=f"{number:04x}",
        issued_unix_s=BEGAN_S,
        ends_unix_s=BEGAN_S + 4 * DAY_S,
        attestor="join-token",
        issuer="ca-1",
        denied=denied,
    )


class Authority:
    """`reason`: why node/n9 was shut out."""

    def __init__(self, reason: str):
        self._denied = Denied(
            kind="node", name="n9", issued_before_s=BEGAN_S, expires_s=BEGAN_S + 4 * DAY_S, reason=reason
        )
        self._identities = [
            IdentityView(kind="node", name="n1", role="node", state="valid", certificate=certificate(0x11)),
            IdentityView(kind="node", name="n2", role="node", state="overdue", certificate=certificate(0x12)),
            IdentityView(kind="node", name="n9", role="node", state="revoked", certificate=certificate(0x19)),
            IdentityView(kind="svc", name="placement-1", role="placement", state="expired"),
            IdentityView(kind="user", name="eve", role="viewer", state="valid", certificate=certificate(0x21)),
        ]

    def answers(self) -> Answers:
        return {
            "ls": (ListIdentities, self._ls),
            "show": (ShowIdentity, self._show),
            "token": (IssueToken, self._token),
            "revoke": (RevokeIdentity, self._revoke),
            "rotate": (RotateAuthority, self._rotate),
        }

    def _view(self, rotation: RotationView | None = None) -> AuthorityView:
        return AuthorityView(
            cluster="example.stos",
            instance="certs-1",
            addresses=["certs-1.example:7443"],
            trust_number=7,
            roots=[RootView(key="root-1", sha256="5" * 64, ends_unix_s=BEGAN_S + 3650 * DAY_S)],
            issuer="ca-1",
            issuer_ends_unix_s=BEGAN_S + 90 * DAY_S,
            rotation=rotation,
            open_tokens=1,
            denied=1,
            backup_unix_s=BEGAN_S,
            backup_is_current=rotation is None,
        )

    async def _ls(self, request: ListIdentities, context: RequestContext) -> IdentityPage:
        return IdentityPage(authority=self._view(), identities=self._identities, more=False)

    async def _show(self, request: ShowIdentity, context: RequestContext) -> IdentityDetail:
        for one in self._identities:
            if (one.kind, one.name) == (request.kind, request.name):
                shut_out = one.state == "revoked"
                held = [certificate(0x18, denied=shut_out), certificate(0x19, denied=shut_out)]
                return IdentityDetail(identity=one, certificates=held, denied=[self._denied] if shut_out else [])
        raise not_found(f"nobody was ever {request.kind}/{request.name}", "see `stos certs ls`")

    async def _token(self, request: IssueToken, context: RequestContext) -> IssuedToken:
        return IssuedToken(token=f"stos-join-1.of-{request.kind}-{request.name}")

    async def _revoke(self, request: RevokeIdentity, context: RequestContext) -> Revoked:
        denied = self._denied.model_copy(
            update={"kind": request.kind, "name": request.name, "serial": request.serial, "reason": request.reason}
        )
        return Revoked(trust_number=8, denied=denied, tokens=1)

    async def _rotate(self, request: RotateAuthority, context: RequestContext) -> Rotated:
        rotation = RotationView(
            phase="announce", root="root-2", since_unix_s=BEGAN_S, waiting_for=["node/n2"], waiting_count=1
        )
        return Rotated(trust_number=8, authority=self._view(rotation))
