"""Following the trust state: heard from certs, asked for after each connection, and asked for at its door.

A revocation must be known everywhere within seconds, also where a message was lost and where NATS is down, or lets
the revoked in no more: its own revocation is the one thing that a process can't hear on the bus. So besides listening,
the follower asks: once over each new connection, and, while there is none, at the door of certs again and again.
Whatever comes is believed for its signature, never for where it came from.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime

from stoscore import subjects
from stoscore.bus import Bus
from stoscore.certs_messages import SignedTrust, TrustRequest
from stoscore.enrolment import TRUST_METHOD, WAIT_FOR, ask_door
from stoscore.envelope import decode_request
from stoscore.errors import Code, StosError
from stoscore.files import locked
from stoscore.identity import Identity
from stoscore.identity_files import read_joined
from stoscore.messages import Empty
from stoscore.renewal import alarm, hours, renew_files
from stoscore.telemetry import get_logger

ASK_S = 60.0
"""Between two questions on the bus: what is told there may be lost."""
DOOR_S = 5.0
"""Between two questions at the door of certs, while there is no bus: nothing is told then."""
RETRY_MIN_S, RETRY_MAX_S = 1.0, 30.0
"""Between two questions, while nobody answers."""
KEEP_S = 10.0
"""Between two attempts to keep a state on a disk that refused it."""
HEARD_MAX = 8
ASK_TIMEOUT_S, COMMAND_TIMEOUT_S = 5.0, 1.0
COMPLAIN_S = 60.0
"""The same complaint is not repeated sooner."""

log = get_logger("trust")


class Follower:
    """Keeps one identity's trust state the newest."""

    def __init__(self, identity: Identity, bus: Bus):
        self._identity = identity
        self._bus = bus
        self._heard: deque[bytes] = deque(maxlen=HEARD_MAX)
        self._has_heard = asyncio.Event()
        self._must_ask = asyncio.Event()
        self._complaint = ("", 0.0)

    async def run(self) -> None:
        """Until it is cancelled."""
        self._bus.on_connected.append(self._connected)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._keep_asking())
            tasks.create_task(self._keep_on_disk())

    # --- hearing ---

    async def _listen(self) -> None:
        try:
            await self._bus.subscribe(subjects.certs("trust"), self._arrived)
        except StosError as error:
            log.error("can't listen to certs, and ask it instead: %s", error)
        while True:
            await self._has_heard.wait()
            self._has_heard.clear()
            while self._heard:
                data = self._heard.popleft()
                try:
                    if await self._take(decode_request(SignedTrust, data)):
                        self._must_ask.set()  # which tells certs that this one has arrived
                except StosError as error:
                    self._complain(error)

    def _arrived(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        self._heard.append(data)
        self._has_heard.set()

    # --- asking ---

    async def _connected(self) -> None:
        self._must_ask.set()

    async def _keep_asking(self) -> None:
        retry_s = RETRY_MIN_S
        while True:
            try:
                await self._take(await self._ask())
                retry_s, pause_s = RETRY_MIN_S, ASK_S if self._bus.connected else DOOR_S
            except StosError as error:
                if error.code not in WAIT_FOR:
                    self._complain(error)
                retry_s, pause_s = min(2 * retry_s, RETRY_MAX_S), retry_s
            # All of a cluster lost the same NATS server, and would all knock in the same moment.
            pause_s *= random.uniform(0.5, 1.0)  # noqa: S311  (jitter, not a secret)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._must_ask.wait(), pause_s)
            self._must_ask.clear()

    async def _ask(self) -> SignedTrust:
        if self._bus.connected:
            return await ask_trust(self._identity, self._bus)
        addresses = (await asyncio.to_thread(read_joined, self._identity.directory)).addresses
        signed: SignedTrust = await ask_door(addresses, self._identity.trust_pem, TRUST_METHOD, Empty(), SignedTrust)
        return signed

    # --- using ---

    async def _take(self, signed: SignedTrust) -> bool:
        """False when it is known."""
        return await self._identity.follow_trust(signed)

    async def _keep_on_disk(self) -> None:
        identity = self._identity
        while True:
            await asyncio.sleep(KEEP_S)
            async with identity.changing:
                if not identity.trust_is_kept and identity.trust is not None and identity.trust_state is not None:
                    await asyncio.to_thread(identity.keep_trust, identity.trust, identity.trust_state)

    def _complain(self, error: StosError) -> None:
        """An older state may have been overtaken by a newer one on its way. Anything else nobody says by accident."""
        now = asyncio.get_running_loop().time()
        told, at = self._complaint
        if error.message == told and now - at < COMPLAIN_S:
            return
        self._complaint = (error.message, now)
        if error.code is Code.FAILED_PRECONDITION:
            log.warning("%s", error)
            return
        log.error("%s", error, extra={"identity": self._identity.uri})
        self._bus.audit.record(
            who="certs",
            action="certs.trust",
            target=str(self._identity.peer),
            outcome="refused",
            reason=error.message,
        )


# ---- once --------------------------------------------------------------------------------------------


async def ask_trust(identity: Identity, bus: Bus, *, timeout_s: float = ASK_TIMEOUT_S) -> SignedTrust:
    """Over the bus. certs learns by it what this identity has in use. Raises StosError."""
    state = identity.trust_state
    request = TrustRequest(serial=identity.peer.serial, number=state.number if state else 0)
    return await bus.request(subjects.certs("trust"), request, SignedTrust, timeout_s=timeout_s)


async def refresh(identity: Identity, bus: Bus) -> str:
    """What a service does all the time, for a command that lives for a second: ask for the trust state, and renew when
    it is time or certs wants it, for the next command to use. Returns what the user should know."""
    try:
        with locked(identity.directory, "the identity", "wait for it"):
            if await identity.follow_trust(await ask_trust(identity, bus, timeout_s=COMMAND_TIMEOUT_S)):
                await ask_trust(identity, bus, timeout_s=COMMAND_TIMEOUT_S)
            if identity.must_renew or datetime.now(UTC) >= identity.renew_at:
                await renew_files(identity, bus)
                await ask_trust(identity, bus, timeout_s=COMMAND_TIMEOUT_S)  # a change of the root waits for that
    except StosError as error:
        left = identity.not_after - datetime.now(UTC)
        if alarm(left, identity.not_after - identity.renew_at)[0] > logging.WARNING:
            return f"your identity {identity.name} ends in {hours(left)} and was not renewed: {error}"
        log.debug("not refreshed: %s", error)
    return ""
