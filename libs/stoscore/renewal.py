"""Renewing an identity while it is in use, new before old, so that no request is lost by it.

At a quarter of the certificate's life (with some jitter, so that a cluster does not renew in step), or when certs says
so in the trust state, the next one is asked for: over the bus, or at the door of certs while there is no bus. With it
come new TLS contexts, and the bus goes over to a new connection before the server ends the old one with its expired
credential. Three quarters of the life are a reserve for the time that certs is away, or the disk is full; what is left
of it decides how loudly a failure is told.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import serialization

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.certs_messages import Credentials, RenewRequest
from stoscore.enrolment import ENROL_METHOD, EnrolRequest, ask_door, certificate_request
from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from stoscore.identity_files import install, nats_public_key, next_key, read_joined
from stoscore.telemetry import get_logger

JITTER = 0.1
"""Of the reserve: a certificate is renewed this much later at most, drawn anew for each."""
RUSH_S, RUSH_MAX_S = 5.0, 60.0
"""When certs asks everybody to renew at once."""
LOOK_S = 60.0
"""The clock is looked at again at least this often: a machine may have been suspended, or its clock set."""
RETRY_FRACTION = 0.02
"""Of the remaining life: after a failure."""
RETRY_MIN_S, RETRY_MAX_S = 0.5, 600.0
LAST_DAY = timedelta(days=1)
TIMEOUT_S = 10.0
SWITCH_ATTEMPTS, SWITCH_PAUSE_S = 10, 0.5

log = get_logger("renewal")


async def keep_renewed(identity: Identity, bus: Bus) -> None:
    """Runs until it is cancelled."""
    changed = asyncio.Event()
    identity.on_trust_change.append(changed.set)
    rushes = 0
    try:
        while True:
            await _until_due(identity, changed, rushes)
            rushes = rushes + 1 if identity.must_renew else 0
            await _until_renewed(identity, bus)
    finally:
        identity.on_trust_change.remove(changed.set)


async def _until_due(identity: Identity, changed: asyncio.Event, rushes: int) -> None:
    """`rushes` is how often certs' wish was followed without satisfying it, as when its own clocks disagree."""
    dice = random.random()  # noqa: S311  (jitter, not a secret)
    while not identity.must_renew:
        left_s = (renewal_time(identity, dice) - datetime.now(UTC)).total_seconds()
        if left_s <= 0:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), min(left_s, LOOK_S))
        changed.clear()
    life_s = (identity.not_after - identity.renew_at).total_seconds()
    await asyncio.sleep(min(dice * RUSH_S * 2**rushes, RUSH_MAX_S, life_s * JITTER * (1 + rushes)))


def renewal_time(identity: Identity, dice: float) -> datetime:
    """At a quarter of the life and up to a tenth of the reserve later; `dice` is below 1."""
    return identity.renew_at + dice * JITTER * (identity.not_after - identity.renew_at)


async def _until_renewed(identity: Identity, bus: Bus) -> None:
    old = identity.certificate
    while identity.certificate == old:
        try:
            await renew(identity, bus)
        except StosError as error:
            pause_s = _tell_failure(identity, error)
            await asyncio.sleep(pause_s)


def _tell_failure(identity: Identity, error: StosError) -> float:
    """Say it as loudly as it is dangerous. Returns when to try again."""
    left = identity.not_after - datetime.now(UTC)
    level, advice = alarm(left, identity.not_after - identity.renew_at)
    log.log(
        level,
        "not renewed: %s%s",
        error,
        f"; {advice}" if advice else "",
        extra={"identity": identity.uri, "left_s": int(left.total_seconds())},
    )
    return min(max(left.total_seconds() * RETRY_FRACTION, RETRY_MIN_S), RETRY_MAX_S)


def alarm(left: timedelta, reserve: timedelta) -> tuple[int, str]:
    """(log level, what to do) for a certificate that should have been renewed and has this much left. The last day is
    a third of the reserve, whatever the lifetimes are."""
    if left <= timedelta(0):
        return logging.CRITICAL, (
            "the certificate has expired: connections that exist go on, new ones are refused. Start certs, and give "
            "this process a new token (`stos certs token`) in its STOS_JOIN_TOKEN_FILE; it need not be restarted"
        )
    if left <= min(LAST_DAY, reserve / 3):
        return logging.ERROR, (
            f"the certificate ends in {hours(left)}, and then nobody accepts this process any more: start certs "
            "(`stos certs ls` shows whether it answers), and make room on this disk if it is full"
        )
    if left <= reserve / 2:
        return logging.ERROR, f"more than half of the reserve is used up, {hours(left)} are left: is certs running?"
    return logging.WARNING, ""


def hours(left: timedelta) -> str:
    """ "71 h 59 min", "4 min 3 s"."""
    seconds = int(left.total_seconds())
    return (
        f"{seconds // 3600} h {seconds // 60 % 60} min" if seconds >= 3600 else f"{seconds // 60} min {seconds % 60} s"
    )


# ---- one renewal -------------------------------------------------------------------------------------


async def renew(identity: Identity, bus: Bus) -> None:
    """Once, now. Raises StosError; the old identity stays in use then."""
    await renew_files(identity, bus)
    await go_over(bus)


async def renew_files(identity: Identity, bus: Bus) -> None:
    """As `renew`, without another connection to NATS."""
    request = await asyncio.to_thread(renewal_request, identity)
    addresses = (await asyncio.to_thread(read_joined, identity.directory)).addresses
    if bus.connected or not addresses:
        credentials = await bus.request(subjects.certs("renew"), request, Credentials, timeout_s=TIMEOUT_S)
    else:
        credentials = await _renew_at_the_door(identity, request, addresses)
    await put_to_use(identity, credentials)
    log.info("renewed", extra={"identity": identity.uri, "until": identity.not_after.isoformat()})


async def _renew_at_the_door(identity: Identity, request: RenewRequest, addresses: tuple[str, ...]) -> Credentials:
    enrolment = EnrolRequest(
        attestor="certificate",
        evidence={"certificate_pem": request.certificate_pem, "proof": request.proof},
        csr_pem=request.csr_pem,
        nats_public_key=request.nats_public_key,
    )
    credentials: Credentials = await ask_door(addresses, identity.trust_pem, ENROL_METHOD, enrolment, Credentials)
    return credentials


def renewal_request(identity: Identity) -> RenewRequest:
    """For a new key; the current one signs for it."""
    csr_pem = certificate_request(next_key(identity.directory), identity.uri)
    certificate = identity.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
    return RenewRequest(
        csr_pem=csr_pem,
        certificate_pem=certificate,
        proof=base64.b64encode(identity.sign(csr_pem.encode("ascii"))).decode("ascii"),
        nats_public_key=nats_public_key(identity.directory),
    )


async def put_to_use(identity: Identity, credentials: Credentials) -> None:
    """On disk, then in all connections that are made from now on. Roots come only from a signed trust state: whoever
    could answer a renewal in the place of certs would otherwise hand out his own."""
    if credentials.trust is not None:
        try:
            await identity.follow_trust(credentials.trust)
        except StosError as error:
            # A newer state overtook this one on its way.
            if error.code is not Code.FAILED_PRECONDITION:
                raise
    async with identity.changing:
        proved = credentials.model_copy(update={"trust_pem": identity.trust_pem, "trust": identity.trust})
        await asyncio.to_thread(install, identity.directory, proved, uri=identity.uri)
        identity.reload()


async def go_over(bus: Bus) -> None:
    """To a connection with the new credential. Where none can be made now there is nothing to lose: the next one
    that the bus opens has it anyway."""
    for _ in range(SWITCH_ATTEMPTS):
        if not bus.connected:
            return
        try:
            await bus.renew()
            return
        except StosError as error:
            log.warning("not gone over to the new credential yet: %s", error)
        await asyncio.sleep(SWITCH_PAUSE_S)
