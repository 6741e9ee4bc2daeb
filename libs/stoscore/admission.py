"""Coming in, and coming in again: when a process needs a new identity, and which invitation it may use for it.

A process whose identity is good uses no invitation, however many lie about: a token that was used, or was made before
the roots were rotated, must not send it away from a working cluster. It uses one when there is no identity or none
that can be read, when its certificate has expired or was revoked, and when the invitation is of an authority that is
younger than all that this directory knows: then the old one was lost and made anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from stoscore.bus import Bus
from stoscore.enrolment import RETRY_MIN_S, WAIT_FOR, enrol, enrol_once
from stoscore.errors import Code, StosError
from stoscore.identity import Identity, revoked_error
from stoscore.identity_files import read_joined
from stoscore.invitations import Invitation, read_tokens, service_account
from stoscore.renewal import go_over
from stoscore.settings import CommonSettings
from stoscore.spiffe import role_of
from stoscore.telemetry import get_logger
from stoscore.trust import load_roots

LOOK_S = 5.0
"""How often the invitations are looked at while a process runs."""
SERVICE_ROLE = {"replica": "node", "csi": "csi", "placement": "placement", "certs": "certs"}
"""Which identity a service runs under."""

log = get_logger("identity")


async def ensure_identity(settings: CommonSettings, directory: Path, role: str) -> Identity:
    """The identity of that role in the directory. Where there is no good one, it waits for an invitation of the
    settings and for certs. Raises StosError UNAUTHENTICATED."""
    try:
        identity = Identity.load(directory)
    except StosError as reason:
        await _enter(settings, directory, role, reason)
        identity = Identity.load(directory)
    else:
        await _follow_new_authority(settings, identity)
    if role_of(identity.kind, identity.name) != role:
        raise StosError(Code.PERMISSION_DENIED, f"{directory} is the identity of {identity.uri}, not of a {role}")
    if settings.cluster and identity.cluster != settings.cluster:
        raise StosError(
            Code.UNAUTHENTICATED,
            f"the identity in {directory} is of cluster {identity.cluster!r}, not {settings.cluster!r}",
        )
    return identity


async def _enter(settings: CommonSettings, directory: Path, role: str, reason: StosError) -> None:
    """Enrol with the first invitation that certs accepts. Raises `reason` when there is none."""
    account = service_account(settings)
    if settings.join_token_file is None and account is None:
        raise reason
    if settings.join_token_file is not None and account is None:
        await _file_is_there(settings.join_token_file)
    known = _readable(directory)
    refusal = reason if known is not None else _no_token(settings, role)
    for invitation in _fitting(list(_invitations(settings, directory, role)), known):
        try:
            await enrol(directory, invitation, uri=known.uri if known else "")
            return
        except StosError as error:
            if error.code is not Code.UNAUTHENTICATED:
                raise
            refusal = error
    raise refusal


def _no_token(settings: CommonSettings, role: str) -> StosError:
    return StosError(
        Code.UNAUTHENTICATED,
        f"{settings.join_token_file} has no token for the role {role!r}",
        next_step=f"`stos certs token` makes one for a {role}",
    )


def _readable(directory: Path) -> Identity | None:
    """What is there, though it may have expired or been revoked."""
    try:
        return Identity(directory)
    except StosError:
        return None


def _invitations(settings: CommonSettings, directory: Path, role: str) -> Iterator[Invitation]:
    """The ones that may be used now: tokens for that role that this directory has not used, then the pod's own.
    Raises StosError INVALID_ARGUMENT for a file that holds no tokens."""
    path = settings.join_token_file
    used = read_joined(directory).token_id
    if path is not None and path.exists():
        yield from (t for t in read_tokens(path) if role_of(t.kind, t.name) == role and t.token_id != used)
    account = service_account(settings)
    if account is not None:
        yield account


def _fitting(invitations: list[Invitation], known: Identity | None) -> list[Invitation]:
    """Those for the identity that is there. Raises StosError when there are only others: who changed its name or its
    cluster would find data that is not its own."""
    if known is None:
        return invitations
    fitting = [one for one in invitations if one.cluster == known.cluster and one.uri in ("", known.uri)]
    if invitations and not fitting:
        other = invitations[0]
        raise StosError(
            Code.FAILED_PRECONDITION,
            f"the invitation is for {other.uri or other.cluster}, and {known.directory} is {known.uri}",
            next_step="use a token for that identity, or an empty identity directory",
        )
    return fitting


async def _file_is_there(path: Path) -> None:
    """A token may be made only after this process was started: by certs in the same process, or by hand."""
    if not path.exists():
        log.warning("waiting for a join token in %s", path)
    while not path.exists():
        await asyncio.sleep(RETRY_MIN_S)


# ---- coming in again, while running ------------------------------------------------------------------


async def _follow_new_authority(settings: CommonSettings, identity: Identity) -> None:
    """At the start: once, and the identity that is there still serves when that fails."""
    try:
        await rejoin(settings, identity)
    except StosError as error:
        log.error("not enrolled again, going on with the identity that is there: %s", error)


async def rejoin(settings: CommonSettings, identity: Identity) -> bool:
    """Enrol anew if this identity needs it and an invitation is there. False when it does not need it, or there is
    none. Raises StosError when certs can't be asked now, or refuses."""
    now, role = datetime.now(UTC), role_of(identity.kind, identity.name)
    wanted = [one for one in _invitations(settings, identity.directory, role) if needs(identity, one, now)]
    refusal: StosError | None = None
    for invitation in _fitting(wanted, identity):
        try:
            async with identity.changing:
                await enrol_once(identity.directory, invitation, uri=identity.uri)
                identity.reload()
            return True
        except StosError as error:
            if error.code is not Code.UNAUTHENTICATED:
                raise
            refusal = error
    if refusal is not None:
        raise refusal
    return False


async def keep_admitted(settings: CommonSettings, identity: Identity, bus: Bus) -> None:
    """Look for an invitation when one is needed, until it is cancelled: a token may be brought at any time, and a
    process that has one need not be restarted. Raises StosError when this identity is revoked and there is none."""
    changed = asyncio.Event()
    identity.on_trust_change.append(changed.set)
    told = ""
    while True:
        changed.clear()
        problem: StosError | None = None
        try:
            if await rejoin(settings, identity):
                log.warning("this process has a new identity", extra={"serial": identity.peer.serial})
                await go_over(bus)
        except StosError as error:
            problem = error
            if error.message != told:
                log.error("not enrolled again: %s", error)
                told = error.message
        if identity.revoked is not None and (problem is None or problem.code not in WAIT_FOR):
            raise revoked_error(identity, identity.revoked)
        with suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), LOOK_S)


def needs(identity: Identity, invitation: Invitation, now: datetime) -> bool:
    """A good identity uses no invitation but one of a younger authority."""
    return identity.revoked is not None or now >= identity.not_after or _is_younger(invitation, identity)


def _is_younger(invitation: Invitation, identity: Identity) -> bool:
    """Nobody whom this directory trusts signed it, and all of them are older."""
    try:
        roots = load_roots(invitation.roots())
    except StosError:
        return False
    if set(roots) & set(identity.roots):
        return False
    return max(root.not_valid_before_utc for root in roots) > max(root.not_valid_before_utc for root in identity.roots)
