"""A cluster that only talks: nodes which answer what they were told to, over the real bus, catalogue and authority.

What looks at a cluster can be shown any cluster this way, the same to the byte each time, and one of fifty nodes and a
thousand volumes on a small machine. The nodes' answers are the real messages; nothing of the looking side is replaced.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from services.replica.status import page
from stoscore import subjects
from stoscore.bus import Bus, RequestContext
from stoscore.catalogue import Catalogue
from stoscore.errors import Code, StosError, not_found
from stoscore.messages import (
    Attached,
    AttachmentModel,
    AttachVolume,
    CatalogueEntry,
    CloseFrontend,
    DecisionEvent,
    DeleteVolume,
    DescribeReplica,
    DescribeReplicas,
    DetachVolume,
    DropSnapshot,
    Empty,
    ExpandVolume,
    FrontendOpened,
    Message,
    MetricModel,
    MetricsPage,
    MetricsRequest,
    NodeEntry,
    NodeStatus,
    NodeStatusRequest,
    OpenFrontend,
    PolicySet,
    RankRequest,
    RecordModel,
    ReplicaStatus,
    ReplicaStatuses,
    SetPolicy,
    SnapshotView,
    SpansPage,
    SpansRequest,
    TakeSnapshot,
    TracesPage,
    TracesRequest,
    VolumeExpanded,
)
from stoscore.observing import SAMPLES_MAX, summaries
from stoscore.observing import page as span_page
from stoscore.spans import SpanRecord
from tests.support.control_plane import ControlPlane

T = TypeVar("T")
AT_ONCE = 8
TAKEN_MS = 1_800_000_100_000
"""When a snapshot is taken, whenever that is."""


@dataclass
class Told:
    """What one node says of itself."""

    status: NodeStatus
    metrics: list[MetricModel] = field(default_factory=list)
    later: list[MetricModel] = field(default_factory=list)
    """what its metrics are from the second look on; none: as before"""
    spans: list[SpanRecord] = field(default_factory=list)
    decisions: list[DecisionEvent] = field(default_factory=list)


class Feed:
    """Use it in a `with` block: the nodes talk from a thread of their own, until the end of the block."""

    def __init__(self, plane: ControlPlane, nodes: Sequence[Told], entries: Sequence[CatalogueEntry]):
        self.plane = plane
        self.nodes = {told.status.node: told for told in nodes}
        self.hanging = False
        """Requests are heard and never answered."""
        self.heard = threading.Event()
        """Set by each request of a node."""
        self._entries = entries
        self._looked: dict[str, int] = {}
        self._buses: list[Bus] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="feed", daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    async def _start(self) -> None:
        limit = asyncio.Semaphore(AT_ONCE)

        async def node(told: Told) -> None:
            async with limit:
                await self._node(told)

        await asyncio.gather(*(node(told) for told in self.nodes.values()))
        await self._placement()
        admin = await self._connect("user", "feeder")

        async def volume(entry: CatalogueEntry) -> None:
            async with limit:
                made = await Catalogue(admin).create(entry)
            assert made == entry

        await asyncio.gather(*(volume(entry) for entry in self._entries))

    async def _stop(self) -> None:
        waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*(bus.close() for bus in self._buses))
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _connect(self, kind: str, name: str) -> Bus:
        identity = self.plane.identity(kind, name)
        bus = await Bus.connect(identity, self.plane.nats_urls, name=f"feed {name}", wait=True)
        self._buses.append(bus)
        return bus

    async def _node(self, told: Told) -> None:
        name = told.status.node
        bus = await self._connect("node", name)
        held = {one.record.volume: one for one in told.status.replicas if one.record is not None}
        statuses = sorted(held.items())

        async def status(request: NodeStatusRequest, context: RequestContext) -> NodeStatus:
            copies, following = page(statuses, request.after)
            return told.status.model_copy(update={"replicas": copies, "next": following})

        async def describe(request: DescribeReplica, context: RequestContext) -> ReplicaStatus:
            if request.volume not in held:
                raise not_found(f"node {name} has no copy of it")
            return held[request.volume]

        async def describe_all(request: DescribeReplicas, context: RequestContext) -> ReplicaStatuses:
            return ReplicaStatuses(statuses=[held[volume] for volume in request.volumes if volume in held])

        async def metrics(request: MetricsRequest, context: RequestContext) -> MetricsPage:
            if not request.after:
                self._looked[name] = self._looked.get(name, 0) + 1
            samples = told.later if told.later and self._looked[name] % 2 == 0 else told.metrics
            wanted = [one for one in samples if one.name.startswith(tuple(request.prefixes) or ("",))]
            following = request.after + SAMPLES_MAX if len(wanted) > request.after + SAMPLES_MAX else 0
            part = wanted[request.after : request.after + SAMPLES_MAX]
            return MetricsPage(process=f"node/{name}", at_unix_ns=time.time_ns(), samples=part, next=following)

        async def traces(request: TracesRequest, context: RequestContext) -> TracesPage:
            return TracesPage(process=f"node/{name}", traces=summaries(told.spans, 0, request.limit))

        async def spans(request: SpansRequest, context: RequestContext) -> SpansPage:
            found = [span for span in told.spans if span.trace_id.startswith(request.trace)]
            lines, following = span_page(found, request.trace, request.after)
            return SpansPage(process=f"node/{name}", spans=lines, next=following)

        await self._serve(bus, subjects.node(name, "status"), NodeStatusRequest, status)
        await self._serve(bus, subjects.node(name, "describe"), DescribeReplica, describe)
        await self._serve(bus, subjects.node(name, "describe-all"), DescribeReplicas, describe_all)
        await self._serve(bus, subjects.observe("node", "metrics"), MetricsRequest, metrics)
        await self._serve(bus, subjects.observe("node", "traces"), TracesRequest, traces)
        await self._serve(bus, subjects.observe("node", "spans"), SpansRequest, spans)
        await self._changes(bus, told)
        entry = NodeEntry(node=name, zone=told.status.zone, address=f"{name}.example:7770")
        await bus.request(subjects.catalogue("announce"), entry, Empty)
        for event in told.decisions:
            assert await bus.publish(subjects.event(name, subjects.DECISION), event)
        await bus.flush()

    async def _changes(self, bus: Bus, told: Told) -> None:
        """Whoever asks for a change is told that it is done; what is shown afterwards stays as it was. Like a real node
        it hears each verb once for all its volumes."""
        name = told.status.node
        led = {one.record.volume: one for one in told.status.replicas if one.serving and one.record is not None}

        def served(context: RequestContext) -> tuple[ReplicaStatus, RecordModel]:
            one = led.get(context.subject.split(".")[-2])
            if one is None or one.record is None:
                raise StosError(Code.NOT_PRIMARY, f"{name} does not serve it")
            return one, one.record

        async def opened(request: OpenFrontend, context: RequestContext) -> FrontendOpened:
            socket = f"/run/stos/{request.name}.sock"
            return FrontendOpened(node=name, socket=socket, uri=f"nbd+unix:///{request.name}?socket={socket}")

        async def done(request: Message, context: RequestContext) -> Empty:
            if not isinstance(request, CloseFrontend):
                served(context)
            return Empty()

        async def attach(request: AttachVolume, context: RequestContext) -> Attached:
            attachment = AttachmentModel(node=request.node, attach_epoch=2)
            return Attached(record=served(context)[1].model_copy(update={"attachment": attachment}), attach_epoch=2)

        async def policy(request: SetPolicy, context: RequestContext) -> PolicySet:
            asked = request.model_dump(exclude={"v"}, exclude_none=True)
            return PolicySet(record=served(context)[1].model_copy(update=asked))

        async def expand(request: ExpandVolume, context: RequestContext) -> VolumeExpanded:
            record = served(context)[1].model_copy(update={"size_bytes": request.size_bytes})
            return VolumeExpanded(record=record)

        async def snapshot(request: TakeSnapshot, context: RequestContext) -> SnapshotView:
            one, record = served(context)
            known = {view.snapshot: view for view in one.snapshots}
            holders = tuple(voter.node for voter in record.in_sync)
            taken = SnapshotView(
                volume=record.volume,
                snapshot=request.snapshot,
                size_bytes=record.size_bytes,
                created_ms=TAKEN_MS,
                ready=True,
                holders=holders,
                root=f"{sum(request.snapshot.encode()):016x}",
            )
            return known.get(request.snapshot, taken)

        await self._serve(bus, subjects.node(name, "open"), OpenFrontend, opened)
        await self._serve(bus, subjects.node(name, "close"), CloseFrontend, done)
        verbs: dict[str, tuple[type[Message], Callable[..., Awaitable[Any]]]] = {
            "attach": (AttachVolume, attach),
            "detach": (DetachVolume, done),
            "policy": (SetPolicy, policy),
            "expand": (ExpandVolume, expand),
            "delete": (DeleteVolume, done),
            "snapshot": (TakeSnapshot, snapshot),
            "unsnapshot": (DropSnapshot, done),
        }
        for verb, (request, answer) in verbs.items():
            await self._serve(bus, subjects.volume(name, "*", verb), request, answer)

    async def _placement(self) -> None:
        """There is one, and it never has an answer: whoever creates a volume waits for it."""
        bus = await self._connect("svc", "placement-1")

        async def rank(request: RankRequest, context: RequestContext) -> Empty:
            self.heard.set()
            return await asyncio.Event().wait() and Empty()

        await bus.serve(subjects.placement("rank"), RankRequest, rank)
        await bus.flush()

    async def _serve(
        self, bus: Bus, subject: str, request: Any, answer: Callable[[Any, RequestContext], Awaitable[Any]]
    ) -> None:
        async def heard(asked: Any, context: RequestContext) -> Any:
            self.heard.set()
            if self.hanging:
                await asyncio.Event().wait()
            return await answer(asked, context)

        await bus.serve(subject, request, heard)
