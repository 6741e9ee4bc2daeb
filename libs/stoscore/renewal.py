"""Renewing an identity while it is in use, new before old, so that no request is lost by it.

At a quarter of the certificate's life (with some jitter, so that a cluster does not renew in step) certs is
asked for the next one over the bus. With it the TLS contexts are updated in place, and the bus goes over to
a new connection before the server ends the old one with its expired credential. When certs is away it is
asked again and again; three quarters of the life are left for that.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.enrolment import install_renewal, renewal_request
from stoscore.errors import StosError
from stoscore.identity import Identity
from stoscore.messages import Credentials
from stoscore.telemetry import get_logger

JITTER = 0.1
RETRY_FRACTION = 0.02
"""Of the remaining life: after a refusal."""
RETRY_MIN_S, RETRY_MAX_S = 0.5, 600.0

log = get_logger("renewal")


async def keep_renewed(identity: Identity, bus: Bus) -> None:
    """Runs until it is cancelled."""
    while True:
        left_s = (identity.renew_at - datetime.now(UTC)).total_seconds()
        life_s = (identity.not_after - identity.renew_at).total_seconds()
        # Not before its time: a tenth of the life later at most, drawn anew for every certificate.
        await asyncio.sleep(max(0.0, left_s + random.random() * JITTER * life_s))  # noqa: S311
        while True:
            try:
                await renew(identity, bus)
                break
            except StosError as error:
                remaining_s = (identity.not_after - datetime.now(UTC)).total_seconds()
                level = log.warning if remaining_s > life_s / 2 else log.error
                level("not renewed: %s", error, extra={"identity": identity.uri, "left_s": int(remaining_s)})
                await asyncio.sleep(min(max(remaining_s * RETRY_FRACTION, RETRY_MIN_S), RETRY_MAX_S))


async def renew(identity: Identity, bus: Bus) -> None:
    """Once, now. Raises StosError; the old identity stays in use then."""
    request = await asyncio.to_thread(renewal_request, identity)
    credentials = await bus.request(subjects.certs("renew"), request, Credentials, timeout_s=10.0)
    await asyncio.to_thread(install_renewal, identity, credentials)
    log.info("renewed", extra={"identity": identity.uri, "until": identity.not_after.isoformat()})
    await bus.renew()
