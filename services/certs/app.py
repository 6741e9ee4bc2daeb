"""The certs service: certificate authority, enrolment and renewal of every identity of the cluster.

It starts before everything else, makes its own identity, then opens its doors, and connects to NATS when that is up.
Nothing waits for certs but newcomers: identities outlive three days of its absence. Several instances work on one
vault, each with an identity of its own, and any of them will do.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Literal

from services.certs.administration import VERBS, Administration, Verb
from services.certs.authority import Authority
from services.certs.nats_orders import push_account
from services.certs.record import Record
from services.certs.server import serve_admin, serve_enrolment
from services.certs.settings import CertsSettings
from services.certs.streams import make_streams
from services.certs.upkeep import Upkeep
from services.certs.vault import open_vault
from stoscore import subjects
from stoscore.bus import Bus, RequestContext
from stoscore.certs_messages import Credentials, RenewRequest, SignedTrust, TrustRequest
from stoscore.enrolment import EnrolRequest
from stoscore.errors import precondition, unavailable
from stoscore.files import private_directory
from stoscore.host import BootstrapContext
from stoscore.messages import Message
from stoscore.observing import Observed
from stoscore.settings import load
from stoscore.telemetry import get_logger

CLOSE_GRACE_S = 2.0
QUEUE = "certs"

log = get_logger("certs")


def wall_clock() -> datetime:
    return datetime.now(UTC)


class CertsService:
    name = "certs"
    bootstrap: Literal[True] = True

    async def run(self, context: BootstrapContext) -> None:
        settings = load(CertsSettings, "certs")
        lock = take_lock(settings)
        try:
            vault = await asyncio.to_thread(open_vault, settings)
            try:
                await self._run(await asyncio.to_thread(Authority, settings, vault, wall_clock), context)
            finally:
                vault.close()
        finally:
            os.close(lock)

    async def _run(self, authority: Authority, context: BootstrapContext) -> None:
        name, servers = authority.settings.name, context.common.nats_urls
        directory = authority.settings.instance_dir / "identity"
        own = await asyncio.to_thread(authority.own_identity, directory, "svc", name)
        authority.own = own
        log.info("the authority is open", extra={"cluster": authority.cluster, "instance": name})
        administration = Administration(authority)

        async def push(record: Record) -> None:
            await push_account(authority, servers)

        async with AsyncExitStack() as end:
            bus = await Bus.connect(own, servers, name=name)
            end.push_async_callback(bus.close)
            upkeep = Upkeep(authority, own, bus, push)
            enrolment = await serve_enrolment(authority, own, bus.audit)
            end.push_async_callback(enrolment.stop, CLOSE_GRACE_S)
            admin = await serve_admin(authority, administration, bus.audit, upkeep.look)
            end.push_async_callback(admin.stop, CLOSE_GRACE_S)
            await serve_identities(authority, bus)
            observed = Observed(bus, context.common.metrics_listen)
            end.push_async_callback(observed.stop)
            await observed.start()
            await serve_administration(administration, bus, upkeep.look)
            bus.whenever_connected(lambda: _make_streams(authority.settings, bus))
            work = asyncio.create_task(upkeep.run(), name="certs upkeep")
            end.push_async_callback(_end, work)
            context.ready()
            await _until_stopped(context.stopping, work)


async def _end(work: asyncio.Task[None]) -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def _until_stopped(stopping: asyncio.Event, work: asyncio.Task[None]) -> None:
    """Raises what ended the work: an instance that no longer looks after the authority is no instance."""
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({stop, work}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if work.done():
        work.result()


def take_lock(settings: CertsSettings) -> int:
    """Held while this process lives: two of one name would share an identity, a socket and a key in the making.
    Raises StosError FAILED_PRECONDITION."""
    private_directory(settings.data_dir.absolute())
    path = private_directory(settings.instance_dir) / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise precondition(f"can't open {path}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise precondition(
            f"another certs process called {settings.name!r} uses {settings.data_dir}",
            "stop it; a second instance needs a name of its own (STOS_CERTS_NAME)",
        ) from None
    return descriptor


# ---- on the bus --------------------------------------------------------------------------------------


async def serve_identities(authority: Authority, bus: Bus) -> None:
    """What everybody asks: the next certificate, and whom to trust."""

    async def renew(request: RenewRequest, context: RequestContext) -> Credentials:
        evidence = {"certificate_pem": request.certificate_pem, "proof": request.proof}
        return await authority.enrol(
            EnrolRequest(
                attestor="certificate",
                evidence=evidence,
                csr_pem=request.csr_pem,
                nats_public_key=request.nats_public_key,
            ),
            only=(context.caller.kind, context.caller.name),
        )

    async def trust(request: TrustRequest, context: RequestContext) -> SignedTrust:
        await asyncio.to_thread(authority.in_use, context.caller.kind, context.caller.name, request)
        signed = await asyncio.to_thread(authority.signed_trust)
        if signed is None:
            raise unavailable("this instance of certs is about to renew its own identity")
        return signed

    await bus.serve(subjects.certs("renew"), RenewRequest, renew, queue=QUEUE)
    await bus.serve(subjects.certs("trust"), TrustRequest, trust, queue=QUEUE)


async def serve_administration(administration: Administration, bus: Bus, changed: Callable[[], None]) -> None:
    """The same verbs as on the socket, for who may use them (`stoscore.access`)."""

    async def serve(verb: Verb) -> None:
        async def act(request: Message, context: RequestContext) -> Message:
            done = await asyncio.to_thread(verb.act, administration, request)
            if verb.changes:
                changed()
            return done

        await bus.serve(subjects.certs(verb.name), verb.request, act, queue=QUEUE)

    for verb in VERBS:
        await serve(verb)


async def _make_streams(settings: CertsSettings, bus: Bus) -> None:
    await make_streams(bus, settings.events_bytes, settings.events_age_s, settings.stream_replicas)
    log.info("streams are there")


service = CertsService()
