"""Runs any set of services in one process: settings, identity, bus, signals, exit code.

A service is an object with a name and `run(context)`; it is found through the entry points of the group
`stos.services`. Each service of a process has its own identity and its own connection to the bus, because
what the bus permits is pinned to the identity.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

from stoscore import plugins, telemetry
from stoscore.confinement import confine_process
from stoscore.errors import EXIT_CODE, Code, StosError, invalid
from stoscore.health import Health
from stoscore.settings import COMMON, CommonSettings, load
from stoscore.tls import only_tls_1_3_for_grpc

if TYPE_CHECKING:
    from stoscore.bus import Bus
    from stoscore.identity import Identity

R = TypeVar("R")

STOP_TIMEOUT_S = 20
log = telemetry.get_logger("host")


@dataclass(frozen=True, slots=True)
class BootstrapContext:
    """What a service is given that makes its own identity."""

    common: CommonSettings
    stopping: asyncio.Event
    ready: Callable[[], None]
    """To be called once, when the service does its work."""


@dataclass(frozen=True, slots=True)
class HostContext:
    """What a service is given."""

    common: CommonSettings
    identity: Identity
    bus: Bus
    stopping: asyncio.Event
    ready: Callable[[], None]
    """To be called once, when the service does its work."""


class Service(Protocol):
    """What an entry point names."""

    name: str

    async def run(self, context: HostContext) -> None:
        """Work until `context.stopping` is set, then clean up and return. Raises StosError when it can't."""


class BootstrapService(Protocol):
    """A service that must run before there is any identity, and makes its own (certs)."""

    name: str
    bootstrap: Literal[True]

    async def run(self, context: BootstrapContext) -> None:
        """As `Service.run`."""


AnyService = Service | BootstrapService


def serve(names: list[str]) -> int:
    """Run these services until SIGTERM or SIGINT, or until one fails. Returns the exit code; a failure is one
    clear line on standard error."""
    confine_process()
    only_tls_1_3_for_grpc()
    try:
        services = _find(names)
        common = load(CommonSettings, COMMON)
        telemetry.setup("+".join(names), common)
        return _run(services, common)
    except StosError as error:
        print(f"stos serve {' '.join(names)}: {error}", file=sys.stderr, flush=True)
        return EXIT_CODE[error.code]
    finally:
        telemetry.shutdown()


def keep_for_good() -> None:
    """What was made until now is looked at once more and then never again. A full collection pauses the process while
    it looks at every old object, for a tenth of a second after start-up, and leases are short: a service that others
    wait for before it is ready calls this before they do."""
    gc.collect()
    gc.freeze()


def _find(names: list[str]) -> list[AnyService]:
    if not names:
        raise invalid("name at least one service", "for example: stos serve replica")
    if len(set(names)) != len(names):
        raise invalid(f"a service is named twice: {' '.join(names)}")
    return [plugins.load("stos.services", name) for name in names]


def _run(services: list[AnyService], common: CommonSettings) -> int:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(services, common))


async def _main(services: list[AnyService], common: CommonSettings) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    waiting = {service.name for service in services}
    health = Health(common.health_dir)

    def ready(name: str) -> None:
        waiting.discard(name)
        log.info("%s is ready", name)
        if not waiting:
            health.ready()
            keep_for_good()

    from stoscore.process_metrics import ProcessMetrics

    counted = ProcessMetrics(version("stos"))
    counted.start()
    pushing = asyncio.create_task(_push(common, services), name="otlp metrics")
    try:
        async with health.shown():
            tasks = {
                asyncio.create_task(
                    _host(service, settings, stopping, ready, alone=len(services) == 1), name=service.name
                )
                for service, settings in zip(services, _one_endpoint(common, len(services)), strict=True)
            }
            return await _watch(tasks, stopping, health)
    finally:
        pushing.cancel()
        counted.stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _one_endpoint(common: CommonSettings, services: int) -> list[CommonSettings]:
    """A process has one place where Prometheus reads it: the first service's."""
    return [common, *[common.model_copy(update={"metrics_listen": ""})] * (services - 1)]


async def _push(common: CommonSettings, services: list[AnyService]) -> None:
    if common.otel_exporter == "otlp":
        from stoscore.otlp import metric_exporter
        from stoscore.process_metrics import push

        await push(metric_exporter("+".join(service.name for service in services), common.otel_endpoint))


async def _watch(tasks: set[asyncio.Task[None]], stopping: asyncio.Event, health: Health) -> int:
    """Until all have ended; the first that ends ends all. One that does not stop in time is cancelled."""
    code = 0
    pending = set(tasks)
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({*pending, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    asked = stopping.is_set()
    done = {task for task in pending if task.done()}
    stopping.set()
    health.unready()
    _, late = await asyncio.wait(pending, timeout=STOP_TIMEOUT_S)
    for task in late:
        log.error("%s does not stop; cancelled", task.get_name())
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    # The first failure is the reason; what others say while they are stopped comes after it.
    for task in sorted(pending, key=lambda item: item not in done):
        code = code or _outcome(task, expected=asked or task not in done)
    return code


def _outcome(task: asyncio.Task[None], *, expected: bool) -> int:
    """The exit code that one ended service asks for; its reason as one line."""
    if task.cancelled():
        return EXIT_CODE[Code.ABORTED]
    error = task.exception()
    if error is None:
        if expected:
            return 0
        log.error("%s ended by itself", task.get_name())
        return 1
    if isinstance(error, OSError):
        error = explain_os_error(error)
    if isinstance(error, StosError):
        print(f"stos serve {task.get_name()}: {error}", file=sys.stderr, flush=True)
        return EXIT_CODE[error.code]
    log.error("%s failed", task.get_name(), exc_info=error)
    return 1


def explain_os_error(error: OSError) -> StosError:
    """One clear line for what the operating system refused."""
    if error.errno == errno.EADDRINUSE:
        return StosError(
            Code.FAILED_PRECONDITION,
            f"address already in use: {error.strerror or error}",
            next_step="another process listens there; stop it or choose another port",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StosError(Code.PERMISSION_DENIED, str(error))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StosError(Code.RESOURCE_EXHAUSTED, str(error))
    return StosError(Code.INTERNAL, f"{type(error).__name__}: {error}")


async def _host(
    service: AnyService,
    common: CommonSettings,
    stopping: asyncio.Event,
    ready: Callable[[str], None],
    *,
    alone: bool,
) -> None:
    """One service from its identity to its end."""
    name = service.name
    if getattr(service, "bootstrap", False):
        context = BootstrapContext(common, stopping, lambda: ready(name))
        await cast(BootstrapService, service).run(context)
        return
    from stoscore.admission import SERVICE_ROLE, ensure_identity
    from stoscore.bus import Bus
    from stoscore.files import locked
    from stoscore.observing import Observed

    directory = common.identity_dir if alone else common.identity_dir / name
    role = SERVICE_ROLE.get(name, name)
    with locked(directory, "the identity", "stop it, or set STOS_IDENTITY_DIR: one process an identity"):
        identity = await _unless_stopped(ensure_identity(common, directory, role), stopping)
        if identity is None:
            return
        bus = await Bus.connect(identity, common.nats_urls, name=f"{name} {identity.name}")
        observed = Observed(bus, common.metrics_listen)
        host_context = HostContext(common, identity, bus, stopping, lambda: ready(name))
        try:
            await observed.start()
            await _run_while_admitted(cast(Service, service), host_context)
        finally:
            await observed.stop()
            await bus.close()


async def _run_while_admitted(service: Service, context: HostContext) -> None:
    """The service with all that keeps its identity good. When that is lost for good, the service is stopped in its
    own order (a node hands its volumes over and keeps its data) and the reason is raised."""
    from stoscore.admission import keep_admitted
    from stoscore.following import Follower
    from stoscore.renewal import keep_renewed

    identity, bus = context.identity, context.bus
    upkeep = [
        asyncio.create_task(keep_admitted(context.common, identity, bus), name=f"admit {service.name}"),
        asyncio.create_task(keep_renewed(identity, bus), name=f"renew {service.name}"),
        asyncio.create_task(Follower(identity, bus).run(), name=f"trust {service.name}"),
    ]
    for task in upkeep:
        task.add_done_callback(partial(_upkeep_ended, stopping=context.stopping))
    try:
        await service.run(context)
        for task in upkeep:
            if task.done() and isinstance(lost := task.exception(), StosError):
                raise lost
    finally:
        for task in upkeep:
            task.cancel()
        await asyncio.gather(*upkeep, return_exceptions=True)


def _upkeep_ended(task: asyncio.Task[None], *, stopping: asyncio.Event) -> None:
    error = None if task.cancelled() else task.exception()
    if isinstance(error, StosError):
        stopping.set()
    elif error is not None:
        log.critical("%s failed: this process's identity will not last", task.get_name(), exc_info=error)


async def _unless_stopped(work: Coroutine[Any, Any, R], stopping: asyncio.Event) -> R | None:
    """The result, or None when the process is to stop first: enrolment waits for certs for ever."""
    task = asyncio.create_task(work)
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for other in (task, stop):
            other.cancel()
        await asyncio.gather(task, stop, return_exceptions=True)
