"""The certs service: certificate authority, enrolment and renewal of every identity of the cluster.

It starts before everything else, makes its own identity and the NATS server's, then opens its doors, and
connects to NATS when that is up. Nothing waits for certs but newcomers: identities outlive three days of its
absence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Literal

from services.certs.attestors import Claim
from services.certs.authority import Authority
from services.certs.nats_files import write_nats_files
from services.certs.nats_orders import reload_servers
from services.certs.server import serve_admin, serve_enrolment
from services.certs.settings import CertsSettings
from services.certs.streams import events_config
from services.certs.vault import Vault
from stoscore import subjects
from stoscore.bus import Bus, RequestContext
from stoscore.catalogue import bucket_config, ensure_stream
from stoscore.enrolment import EnrolRequest
from stoscore.errors import StosError
from stoscore.host import BootstrapContext
from stoscore.identity import Identity
from stoscore.messages import Credentials, RenewRequest
from stoscore.settings import load
from stoscore.telemetry import get_logger

OWN_CHECK_FRACTION = 0.05
"""Of a certificate's life: how often our own identities are looked at."""
CLOSE_GRACE_S = 2.0
RETRY_WAIT_S = 1.0

log = get_logger("certs")


def wall_clock() -> datetime:
    return datetime.now(UTC)


class CertsService:
    name = "certs"
    bootstrap: Literal[True] = True

    async def run(self, context: BootstrapContext) -> None:
        settings = load(CertsSettings, "certs")
        vault = Vault(settings.data_dir.absolute())
        try:
            await self._run(Authority(settings, vault, wall_clock), context)
        finally:
            vault.close()

    async def _run(self, authority: Authority, context: BootstrapContext) -> None:
        directory = authority.vault.directory / "identity"
        own = authority.own_identity(directory, "svc", "certs")
        changed = write_nats_files(authority)
        log.info("NATS files are there", extra={"changed": changed, "cluster": authority.cluster})
        enrolment = await serve_enrolment(authority, own)
        admin = await serve_admin(authority)
        bus = await Bus.connect(own, context.common.nats_urls, name="certs")
        await serve_renewals(authority, bus)
        bus.on_connected.append(_until_done(lambda: make_streams(authority, bus)))
        servers = context.common.nats_urls
        upkeep = asyncio.create_task(keep_own_identities(authority, own, bus, servers, tell_server=changed))
        context.ready()
        try:
            await context.stopping.wait()
        finally:
            upkeep.cancel()
            await asyncio.gather(upkeep, return_exceptions=True)
            await bus.close()
            await asyncio.gather(enrolment.stop(CLOSE_GRACE_S), admin.stop(CLOSE_GRACE_S))


async def serve_renewals(authority: Authority, bus: Bus) -> None:
    """certs.renew: a new certificate for who holds a valid one, and asks from its own inbox."""

    async def renew(request: RenewRequest, context: RequestContext) -> Credentials:
        kind, _, name = context.sender.partition("/")
        evidence = {"certificate_pem": request.certificate_pem, "proof": request.proof}
        return await authority.enrol(
            EnrolRequest(
                attestor="certificate",
                evidence=evidence,
                csr_pem=request.csr_pem,
                nats_public_key=request.nats_public_key,
            ),
            only=Claim(kind, name),
        )

    await bus.serve(subjects.certs("renew"), RenewRequest, renew, queue="certs")


async def make_streams(authority: Authority, bus: Bus) -> None:
    """The catalogue's bucket and the events' stream: made by certs, since nobody else may make any."""
    settings = authority.settings
    await ensure_stream(bus, bucket_config())
    await ensure_stream(bus, events_config(settings.events_bytes, settings.events_age_s))
    log.info("streams are there")


def _until_done(work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """JetStream may need a moment after the server accepts connections."""

    async def attempt() -> None:
        while True:
            try:
                await work()
                return
            except StosError as error:
                log.warning("%s; trying on", error)
            await asyncio.sleep(RETRY_WAIT_S)

    return attempt


async def keep_own_identities(
    authority: Authority, own: Identity, bus: Bus, servers: list[str], *, tell_server: bool
) -> None:
    """Renew what this process issued to itself and to the NATS servers, and tell those. With `tell_server`
    their files changed while we were away."""
    interval_s = authority.settings.certificate_life_s * OWN_CHECK_FRACTION
    while True:
        try:
            if authority.now() >= own.renew_at:
                authority.own_identity(own.directory, "svc", "certs")
                own.reload()
                await bus.renew()
            tell_server = write_nats_files(authority) or tell_server
            if tell_server and bus.connected:
                await reload_servers(authority, servers)
                tell_server = False
        except StosError as error:
            log.error("own identities: %s; trying on", error)
        await asyncio.sleep(RETRY_WAIT_S if tell_server else interval_s)


service = CertsService()
