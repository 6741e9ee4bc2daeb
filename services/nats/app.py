"""The NATS service: runs a nats-server, keeps its files up to date, and speaks to JetStream for everybody else.

    certs ──identity, trust──> files ──> nats-server (our child) ──log──> audit events
                                             │
    catalogue.*, history.* <────requests─────┘        (as svc/nats, over the bus like any other service)

It enrols like everybody. A renewed certificate or a new trust state makes the running server read its files again;
connections stay. What certs says about our account (roles, revoked users) goes to the server directly.
"""

from __future__ import annotations

import asyncio
import logging

from services.nats.account_roles import AccountRoles
from services.nats.catalogue import CatalogueStore
from services.nats.child import NatsChild
from services.nats.files import ServerFiles
from services.nats.history import History
from services.nats.log_lines import LogReader
from services.nats.settings import SETTINGS, NatsSettings
from stoscore.errors import StosError
from stoscore.host import HostContext
from stoscore.settings import load
from stoscore.telemetry import get_logger

LOOK_S = 0.5
"""How often it is looked whether the identity was renewed; a change of trust is told at once."""
READY = "Server is ready"
_LEVEL = {
    "DBG": logging.DEBUG,
    "TRC": logging.DEBUG,
    "WRN": logging.WARNING,
    "ERR": logging.ERROR,
    "FTL": logging.CRITICAL,
}

log = get_logger("nats")
server_log = get_logger("nats.server")


class NatsService:
    """The plugin that `stos serve nats` runs."""

    name = "nats"

    async def run(self, context: HostContext) -> None:
        files = ServerFiles(load(NatsSettings, SETTINGS), context.identity)
        files.write()
        started = asyncio.Event()
        child = NatsChild(files.config, Listener(context, files.account_roles(), started).heard)
        await CatalogueStore(context.bus).serve()
        await History(context.bus).serve()
        work = [
            asyncio.create_task(child.keep_running(), name="nats-server"),
            asyncio.create_task(_keep_files(context, files, child), name="nats files"),
        ]
        ready = asyncio.create_task(_tell_ready(context, started), name="nats ready")
        stopping = asyncio.create_task(context.stopping.wait())
        try:
            # Neither ends by itself: the first that ends has failed.
            await asyncio.wait({stopping, *work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopping, ready, *work):
                task.cancel()
            ended = await asyncio.gather(*work, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, Exception):
                raise outcome


class Listener:
    """Passes the server's log on, and makes audit events of what it refused."""

    def __init__(self, context: HostContext, roles: AccountRoles, started: asyncio.Event):
        self._audit = context.bus.audit
        self._reader = LogReader(roles.role_of)
        self._started = started

    def heard(self, line: str) -> None:
        heard = self._reader.read(line)
        refusal = heard.refusal
        if refusal is not None:
            self._audit.record(
                who=refusal.who,
                action=refusal.action,
                target=refusal.target,
                outcome="refused",
                reason=refusal.reason,
            )
        else:
            server_log.log(_LEVEL.get(heard.level, logging.INFO), "%s", heard.text)
        if heard.text.endswith(READY):
            self._started.set()


async def _tell_ready(context: HostContext, started: asyncio.Event) -> None:
    """Once the server is up and what is asked of this service itself is heard there."""
    await started.wait()
    await context.bus.first_connected()
    context.ready()


async def _keep_files(context: HostContext, files: ServerFiles, child: NatsChild) -> None:
    """The server's files follow the identity and the trust state."""
    changed = asyncio.Event()
    context.identity.on_trust_change.append(changed.set)
    reported, operator = "", files.operator()
    while True:
        try:
            async with asyncio.timeout(LOOK_S):
                await changed.wait()
        except TimeoutError:
            pass
        changed.clear()
        try:
            if await asyncio.to_thread(files.write):
                if files.operator() == operator:
                    log.info("nats-server reads its files again")
                    child.reload()
                else:
                    log.warning("the authority was made anew: nats-server starts again")
                    await asyncio.to_thread(files.forget_accounts)
                    operator = files.operator()
                    child.restart()
            reported = ""
        except StosError as error:
            # A full disk: the server goes on with what it has.
            if str(error) != reported:
                log.error("the files of nats-server are not up to date: %s", error)
                reported = str(error)


service = NatsService()
