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

from services.replica.status import in_short, page
from stoscore import subjects
from stoscore.bus import Bus, RequestContext
from stoscore.catalogue import Catalogue
from stoscore.certs_messages import SignedTrust, TrustRequest
from stoscore.errors import not_found
from stoscore.messages import (
    CatalogueEntry,
    DecisionEvent,
    DescribeReplica,
    DescribeReplicas,
    Empty,
    NodeEntry,
    NodeStatus,
    NodeStatusRequest,
    Ranking,
    RankRequest,
    ReplicaStatus,
    ReplicaStatuses,
)
from stoscore.observing import SAMPLES_MAX, summaries
from stoscore.observing import page as span_page
from stoscore.process_messages import (
    MetricModel,
    MetricsPage,
    MetricsRequest,
    SpansPage,
    SpansRequest,
    TracesPage,
    TracesRequest,
)
from stoscore.spans import SpanRecord
from tests.support.control_plane import ControlPlane
from tests.support.feed_certs import Authority
from tests.support.feed_changes import Afterwards, Changes, ranked

T = TypeVar("T")
AT_ONCE = 8


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

    def __init__(
        self,
        plane: ControlPlane,
        nodes: Sequence[Told],
        entries: Sequence[CatalogueEntry],
        authority: Authority | None = None,
    ):
        self.plane = plane
        self._authority = authority
        self.nodes = {told.status.node: told for told in nodes}
        self.hanging = False
        """Requests are heard and never answered."""
        self.heard = threading.Event()
        """Set by each request of a node."""
        self._entries = entries
        self._afterwards = Afterwards()
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
        if self._authority is not None:
            await self._certs(self._authority)
        self._admin = Catalogue(await self._connect("user", "feeder"))

        async def volume(entry: CatalogueEntry) -> None:
            async with limit:
                made = await self._admin.create(entry)
            assert made == entry

        await asyncio.gather(*(volume(entry) for entry in self._entries))

    def restore(self) -> None:
        """What was changed is as before."""
        self._afterwards.forget()
        self._run(self._restore())

    async def _restore(self) -> None:
        found = {entry.volume: entry for entry in await self._admin.list()}
        wanted = {entry.volume: entry for entry in self._entries}
        for volume in found.keys() - wanted.keys():
            await self._admin.remove(found[volume])
        for volume in wanted.keys() - found.keys():
            await self._admin.create(wanted[volume])

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
            wanted = [one for one in statuses if one[1].resyncs or not request.resyncing]
            copies, following = page(wanted, request.after)
            return told.status.model_copy(update={"replicas": copies, "next": following})

        def copy(volume: str) -> ReplicaStatus | None:
            return self._afterwards.copies.get((name, volume)) or held.get(volume)

        async def describe(request: DescribeReplica, context: RequestContext) -> ReplicaStatus:
            found = copy(request.volume)
            if found is None:
                raise not_found(f"node {name} has no copy of it")
            return found

        async def describe_all(request: DescribeReplicas, context: RequestContext) -> ReplicaStatuses:
            found = [status for volume in request.volumes if (status := copy(volume))]
            return ReplicaStatuses(
                statuses=[in_short(status) for status in found if status.serving or not request.serving]
            )

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
        """As a real node it hears each verb once for all its volumes."""
        changes = Changes(told.status, self._afterwards)
        for verb, (request, answer) in changes.of_the_node().items():
            await self._serve(bus, subjects.node(told.status.node, verb), request, answer)
        for verb, (request, answer) in changes.of_its_volumes().items():
            await self._serve(bus, subjects.volume(told.status.node, "*", verb), request, answer)

    async def _placement(self) -> None:
        bus = await self._connect("svc", "placement-1")

        async def rank(request: RankRequest, context: RequestContext) -> Ranking:
            return ranked(request, [told.status for told in self.nodes.values()])

        await self._serve(bus, subjects.placement("rank"), RankRequest, rank)
        await bus.flush()

    async def _certs(self, authority: Authority) -> None:
        bus = await self._connect("svc", "certs-1")
        for verb, (request, answer) in authority.answers().items():
            await self._serve(bus, subjects.certs(verb), request, answer)

        async def trust(request: TrustRequest, context: RequestContext) -> SignedTrust:
            assert bus.identity.trust is not None
            return bus.identity.trust

        # Not among what hangs: every command asks for it first.
        await bus.serve(subjects.certs("trust"), TrustRequest, trust)
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
