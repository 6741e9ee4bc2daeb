"""What an instance of certs does by itself, every second or so: it looks what changed, and goes on with it.

No instance leads. Each of them looks at the record, takes the steps that are due (`steps`), keeps its own identity,
and tells everybody the trust state whenever it is another one than it told last: also when it was an instance that
died right after it had revoked somebody.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

from services.certs import steps
from services.certs.administration import BACKUP_ENTRY
from services.certs.authority import Authority
from services.certs.publication import publication
from services.certs.record import Record
from services.certs.views import state_of
from stoscore import subjects
from stoscore.bus import Bus
from stoscore.certs_messages import TrustRequest
from stoscore.errors import StosError
from stoscore.identity import Identity
from stoscore.telemetry import get_logger

STEPS_EVERY_S = 5.0
"""Between two full looks, when nothing changed; while the root is being changed, each time."""
TELL_EVERY_S = 30.0
"""The trust state is told again, for those who missed it."""
PUSH_EVERY_S = 60.0
"""The NATS servers are asked what they know of the account, for one that was not there."""
LEDGER_EVERY_FRACTION = 0.02
"""Of a certificate's life: how often the ledger is searched for identities that do not renew."""
BACKUP_EVERY_S = 5.0
FORGET_EVERY_S = 3600.0
PUBLISH_EVERY_S = 60.0
"""What newcomers are told is looked at again, in case somebody changed or removed it."""
ERROR_WAIT_S = 1.0

log = get_logger("certs")


class Upkeep:
    """The work of one instance beside answering. `push` brings the NATS servers what they must know: the account with
    its revocations."""

    def __init__(self, authority: Authority, own: Identity, bus: Bus, push: Callable[[Record], Awaitable[None]]):
        self._authority = authority
        self._own = own
        self._bus = bus
        self._push = push
        self._wake = asyncio.Event()
        self._seen = 0
        self._told = 0
        self._pushed: dict[str, int] | None = None
        self._next: dict[str, float] = {}
        self._warned: set[str] = set()
        self._backup: str | None = None
        self._publication = publication(authority.settings)
        self._published = 0
        bus.on_connected.append(self._connected)

    def look(self) -> None:
        """Something was changed just now."""
        self._wake.set()

    async def _connected(self) -> None:
        # Another server, or one that was started anew: it may know nothing.
        self._told, self._pushed = 0, None
        self._wake.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            pause_s = self._authority.vault.poll_s
            self._wake.clear()
            try:
                await self._once()
            except StosError as error:
                log.error("%s; trying on", error)
                pause_s = max(pause_s, ERROR_WAIT_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_s)

    def _is_time(self, what: str, every_s: float) -> bool:
        now = asyncio.get_running_loop().time()
        if now < self._next.get(what, 0.0):
            return False
        self._next[what] = now + every_s
        return True

    async def _once(self) -> None:
        record = await asyncio.to_thread(self._authority.record)
        if record.number != self._seen:
            await asyncio.to_thread(steps.remember_revocations, self._authority, record)
            self._seen = record.number
        if record.rotation is not None or self._is_time("steps", STEPS_EVERY_S):
            record = await asyncio.to_thread(steps.keep_going, self._authority)
        await self._publish(record)
        await self._keep_own()
        await self._tell(record)
        if self._is_time("ledger", self._authority.settings.certificate_life_s * LEDGER_EVERY_FRACTION):
            await self._warn(record)
        if self._is_time("backup", BACKUP_EVERY_S):
            await self._report_backup()
        if self._is_time("forget", FORGET_EVERY_S):
            await asyncio.to_thread(self._forget)

    async def _publish(self, record: Record) -> None:
        """What newcomers must know. That it can't be told keeps nobody from his renewal: the next look tries again."""
        due = record.number != self._published or self._is_time("publish", PUBLISH_EVERY_S)
        if self._publication is None or not due:
            return
        try:
            await asyncio.to_thread(self._publication.publish, record)
            self._published = record.number
        except StosError as error:
            self._published = 0
            log.error("newcomers are not told of the authority: %s", error)

    # --- our own identity ---

    async def _keep_own(self) -> None:
        """Issued by ourselves, and new before old, as everybody's."""
        if not await asyncio.to_thread(self._authority.is_due, self._own):
            return
        before = self._own.certificate
        async with self._own.changing:
            await asyncio.to_thread(self._authority.own_identity, self._own.directory, self._own.kind, self._own.name)
            self._own.reload()
        if self._own.certificate != before and self._bus.connected:
            await self._bus.renew()

    # --- telling ---

    async def _tell(self, record: Record) -> None:
        signed = await asyncio.to_thread(self._authority.signed_trust, record)
        if signed is None:
            return
        if self._own.trust_state is None or self._own.trust_state.number != record.number:
            await self._own.follow_trust(signed)
            request = TrustRequest(serial=self._own.peer.serial, number=record.number)
            await asyncio.to_thread(self._authority.in_use, self._own.kind, self._own.name, request)
        if not self._bus.connected:
            return
        due = record.number != self._told or self._is_time("tell", TELL_EVERY_S)
        if due and self._bus.send(subjects.certs("trust"), signed):
            self._told = record.number
        revocations = record.nats_revocations()
        if revocations != self._pushed or self._is_time("push", PUSH_EVERY_S):
            try:
                await self._push(record)
                self._pushed = revocations
            except StosError as error:
                # What else there is to do does not wait for it; the next look tries again.
                self._pushed = None
                log.error("the NATS servers do not know who is revoked: %s", error)

    # --- the ledger ---

    async def _warn(self, record: Record) -> None:
        """Loudly, while there is time: a node whose certificate ends leaves the cluster."""
        now_s = self._authority.now_s()
        overdue: set[str] = set()
        for known in await asyncio.to_thread(self._authority.ledger.all):
            latest = known.latest
            if latest is None or state_of(record, known, now_s) != "overdue":
                continue
            overdue.add(latest.serial)
            if latest.serial not in self._warned:
                self._bus.audit.record(
                    who=str(known),
                    action="certs.overdue",
                    target=str(known),
                    outcome="failed",
                    reason=f"it did not renew its certificate, which ends in {_words(latest.ends_s - now_s)}",
                )
        self._warned = overdue

    async def _report_backup(self) -> None:
        """Whoever makes a backup holds the authority's keys. It is made beside us, on the vault itself."""
        entry = await asyncio.to_thread(self._authority.vault.get, BACKUP_ENTRY)
        before, self._backup = self._backup, entry.revision if entry else ""
        if entry is not None and before not in (None, entry.revision):
            uid = json.loads(entry.data)["uid"]
            self._bus.audit.record(who=f"local/uid-{uid}", action="certs.backup", outcome="done")

    def _forget(self) -> None:
        now_s = self._authority.now_s()
        forgotten = self._authority.ledger.forget_old(now_s)
        self._authority.ledger.forget_old_tokens(now_s)
        if forgotten:
            log.info("identities that ended long ago are forgotten", extra={"identities": forgotten})


def _words(seconds: int) -> str:
    """ "2 d 3 h", "14 min", "9 s"."""
    if seconds >= 86_400:
        return f"{seconds // 86_400} d {seconds % 86_400 // 3600} h"
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"
