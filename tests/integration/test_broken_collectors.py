"""A collector that is killed, refuses or hangs, in a real cluster whose nodes follow every single request: applications
notice nothing, the nodes' memory is bounded, and what comes after is heard when it is back.

What an application sees is compared with what it saw of the same cluster a moment before, with a healthy collector:
this machine may be busy. A node that waited for its collector in the event loop, even once, would show its timeout.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from services.dev.cluster import Cluster
from services.dev.demo.recorder import Recorder
from stoscore.otlp import EXPORT_TIMEOUT_MS
from stoscore.units import MIB
from tests.support import follow_all
from tests.support.cluster import AlteredCluster, RunningCluster
from tests.support.nats_service import free_port

pytestmark = [pytest.mark.slow, pytest.mark.long]
NODES = ("n1", "n2", "n3", "app")
PHASE_S = 8.0
GAP_S_MAX = EXPORT_TIMEOUT_MS / 1000 - 0.5
"""Whatever the healthy one's was: less than one call to the collector takes until it is given up."""
TIMES_MAX = 5
GROWTH_BYTES_MAX = 48 * MIB
"""Of one node, over all faults; a queue of spans that is full takes ten or so."""
STOP_S_MAX = 30.0
"""For the whole cluster, as long as Kubernetes waits for one pod."""


class Sink(trace_service_pb2_grpc.TraceServiceServicer):
    """Counts the spans of each process; refuses what comes while it is full, holds it while it is asleep."""

    def __init__(self) -> None:
        self.heard: dict[str, int] = {}
        """host-pid -> spans"""
        self.full = self.asleep = False

    def Export(self, request: Any, context: Any) -> Any:
        while self.asleep and context.is_active():
            time.sleep(0.1)
        if self.full:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        for resource in request.resource_spans:
            names = {item.key: item.value.string_value for item in resource.resource.attributes}
            who = names["service.instance.id"]
            self.heard[who] = self.heard.get(who, 0) + sum(len(scope.spans) for scope in resource.scope_spans)
        return trace_service_pb2.ExportTraceServiceResponse()


class Collector:
    """At one port: a gRPC server with a sink behind it, somebody who accepts and says nothing, or nobody."""

    def __init__(self) -> None:
        self.port = free_port()
        self.sink = Sink()
        self._server: grpc.Server | None = None
        self._silent: socket.socket | None = None

    def healthy(self) -> None:
        self.kill()
        self.sink.full = self.sink.asleep = False
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self.sink, self._server)
        assert self._server.add_insecure_port(f"127.0.0.1:{self.port}") == self.port
        self._server.start()

    def refuses(self) -> None:
        self.sink.full = True

    def sleeps(self) -> None:
        self.sink.asleep = True

    def says_nothing(self) -> None:
        """It hangs before gRPC's first frame; whoever connects sees an open connection."""
        self.kill()
        self._silent = socket.create_server(("127.0.0.1", self.port), backlog=64)

    def kill(self) -> None:
        self.sink.asleep = False
        if self._server is not None:
            self._server.stop(None).wait(30)
        if self._silent is not None:
            self._silent.close()
        self._server = self._silent = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What an application saw, and what the nodes held in the end."""

    writes: int
    gap_s: float
    resident: dict[str, int]


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.kill()


async def test_no_broken_collector_is_noticed_by_an_application(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOS_OTEL_EXPORTER", "otlp")
    monkeypatch.setenv("STOS_OTEL_ENDPOINT", f"http://127.0.0.1:{collector.port}")
    cluster = AlteredCluster(tmp_path / "dev", programs=dict.fromkeys(NODES, follow_all.PROGRAM))
    collector.healthy()
    await asyncio.to_thread(cluster.up)
    try:
        running = RunningCluster(cluster)
        assert running.stos("volume", "create", "db", "--size", "64MiB").code == 0
        await running.in_sync("db", 3)
        async with running.writing("db") as recorder:
            await _every_fault(collector, cluster, recorder)
        assert recorder.history.errors == 0
        collector.sleeps()
    finally:
        began = time.monotonic()
        await asyncio.to_thread(cluster.stop)
    assert time.monotonic() - began < STOP_S_MAX


async def _every_fault(collector: Collector, cluster: Cluster, recorder: Recorder) -> None:
    # The first round fills what is bounded: queues, allocators, rings on disk.
    await _phase(cluster, recorder)
    healthy = await _phase(cluster, recorder)
    await _heard_again(collector, cluster)
    gap_s_max = max(GAP_S_MAX, TIMES_MAX * healthy.gap_s)
    faults: list[Callable[[], None]] = [collector.refuses, collector.sleeps, collector.says_nothing, collector.kill]
    for fault in faults:
        await asyncio.to_thread(fault)
        seen = await _phase(cluster, recorder)
        told = f"{fault.__name__}: {seen}, healthy: {healthy}"
        assert seen.gap_s <= gap_s_max, told
        assert seen.writes >= healthy.writes / TIMES_MAX, told
        assert all(seen.resident[node] - healthy.resident[node] <= GROWTH_BYTES_MAX for node in NODES), told
        await asyncio.to_thread(collector.healthy)
        await _heard_again(collector, cluster)


async def _phase(cluster: Cluster, recorder: Recorder) -> Seen:
    before = recorder.history.completed
    recorder.gap.take()
    await asyncio.sleep(PHASE_S)
    resident = {node: _resident_bytes(pid) for node, pid in _pids(cluster).items()}
    return Seen(recorder.history.completed - before, recorder.gap.take() / 1e9, resident)


async def _heard_again(collector: Collector, cluster: Cluster) -> None:
    """Of all nodes, spans that arrive from now on."""
    collector.sink.heard.clear()
    wanted = {f"{os.uname().nodename}-{pid}" for pid in _pids(cluster).values()}
    async with asyncio.timeout(60):
        while not wanted <= collector.sink.heard.keys():
            await asyncio.sleep(0.1)


def _pids(cluster: Cluster) -> dict[str, int]:
    return {member.name: member.pid for member in cluster.status() if member.name in NODES}


def _resident_bytes(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024
