"""Letting a new process in: a one-time join token for everyone who has no identity yet.

Tokens come from the certs services' own Unix sockets, which only the user who runs the cluster can open; either of
them will do. Each token lies in a file that only this user can read until its process has used it up. The
administrator's identity, which the `stos` command takes, is enrolled here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from services.dev.layout import ADMIN, CERTS, Layout
from services.dev.members import Member
from stoscore.enrolment import enrol, issue_token
from stoscore.errors import StosError
from stoscore.files import write_private
from stoscore.identity import Identity
from stoscore.invitations import JoinToken

CERTS_STAGE = 0
"""certs needs no token: it makes its own identity."""


def usable(layout: Layout, name: str) -> bool:
    """There is an identity, whole and not expired."""
    with suppress(StosError):
        Identity.load(layout.identity(name))
        return True
    return False


def admit(layout: Layout, wanted: Sequence[Member]) -> None:
    """Leaves a token for each of these that needs one, and enrols the administrator if there is none yet.
    Raises StosError when certs is needed and does not answer."""
    asyncio.run(_admit(layout, [member for member in wanted if member.stage > CERTS_STAGE]))


async def _admit(layout: Layout, wanted: Sequence[Member]) -> None:
    for member in wanted:
        if not usable(layout, member.process):
            token = await _token(layout, member.kind, member.name)
            write_private(layout.token(member.process), token.encode("ascii") + b"\n")
    if wanted and not usable(layout, ADMIN):
        token = await _token(layout, "user", ADMIN, role=ADMIN)
        await enrol(layout.identity(ADMIN), JoinToken.decode(token))


async def _token(layout: Layout, kind: str, name: str, role: str = "") -> str:
    """From the first instance that answers."""
    for instance in CERTS[:-1]:
        with suppress(StosError):
            return await issue_token(layout.certs_socket(instance), kind, name, role=role)
    return await issue_token(layout.certs_socket(CERTS[-1]), kind, name, role=role)
