"""Letting a new process in: a one-time join token for everyone who has no identity yet.

Tokens come from the certs service's own Unix socket, which only the user who runs the cluster can open. Each
lies in a file that only this user can read until its process has used it up. The administrator's identity,
which the `stos` command takes, is enrolled here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from services.dev.layout import ADMIN, Layout
from services.dev.members import Member
from stoscore.enrolment import JoinToken, enrol, issue_token
from stoscore.errors import StosError
from stoscore.files import write_private
from stoscore.identity import Identity

CERTS_STAGE = 0
NATS_STAGE = 1
"""Neither needs a token: certs makes its own identity and that of the NATS server."""


def usable(layout: Layout, name: str) -> bool:
    """There is an identity, whole and not expired."""
    with suppress(StosError):
        Identity.load(layout.identity(name))
        return True
    return False


def admit(layout: Layout, wanted: Sequence[Member]) -> None:
    """Leaves a token for each of these that needs one, and enrols the administrator if there is none yet.
    Raises StosError when certs is needed and does not answer."""
    asyncio.run(_admit(layout, [member for member in wanted if member.stage > NATS_STAGE]))


async def _admit(layout: Layout, wanted: Sequence[Member]) -> None:
    socket = layout.certs_admin_socket
    for member in wanted:
        if not usable(layout, member.process):
            token = await issue_token(socket, member.kind, member.name)
            write_private(layout.token(member.process), token.encode("ascii") + b"\n")
    if wanted and not usable(layout, ADMIN):
        token = await issue_token(socket, "user", ADMIN)
        await enrol(layout.identity(ADMIN), JoinToken.decode(token))
