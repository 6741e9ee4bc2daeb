"""One trace runs from CreateVolume through NATS to placement's bids, the replicas' creation and the brain's decisions;
a failover is linked to the silence before it and to the resync after it: seen by a real OTLP receiver, exported by the
real processes of an embedded cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from services.dev.cluster import Cluster
from services.dev.demo.csi import CsiClient, raw_block
from stoscore.units import MIB
from tests.support.cluster import AlteredCluster, RunningCluster
from tests.support.slow_road import SlowRoad

pytestmark = pytest.mark.slow
SERVER, CLIENT = 2, 3
"""Of opentelemetry.proto.trace.v1.Span.SpanKind."""
ON_THE_ROAD = ("certs", "placement", "csi", "n1", "n2", "n3", "app")
"""Everybody but NATS itself."""


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span with the name of its service."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            names = {item.key: item.value.string_value for item in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans.extend((names["service.name"], span) for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def trace_of(self, name: str) -> dict[str, set[str]]:
        """Service -> span names, of the trace in which a span of that name is."""
        ids = {span.trace_id for _, span in self.spans if span.name == name}
        found: dict[str, set[str]] = {}
        for service, span in list(self.spans):
            if span.trace_id in ids:
                found.setdefault(service, set()).add(span.name)
        return found

    def spans_of(self, name: str) -> list[tuple[str, Any]]:
        """(service, span) of the trace in which a span of that name is."""
        ids = {span.trace_id for _, span in self.spans if span.name == name}
        return [(service, span) for service, span in self.spans if span.trace_id in ids]

    def orphans(self, name: str) -> list[str]:
        """Spans of that trace whose parent is not among its spans; the root is none."""
        spans = [span for _, span in self.spans_of(name)]
        known = {span.span_id for span in spans}
        return [span.name for span in spans if span.parent_span_id and span.parent_span_id not in known]


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    receiver = Receiver()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield receiver, f"http://127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize(
    "share", [pytest.param(0.0, id="on time"), pytest.param(0.3, id="30 % late", marks=pytest.mark.long)]
)
async def test_one_trace_from_create_to_the_decision(
    receiver: tuple[Receiver, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """The tree is the same when NATS is slow: 30 % of what passes there is held back for up to a fifth of a second."""
    received, endpoint = receiver
    monkeypatch.setenv("STOS_OTEL_EXPORTER", "otlp")
    monkeypatch.setenv("STOS_OTEL_ENDPOINT", endpoint)
    with SlowRoad(lambda: Cluster(tmp_path / "dev").state().ports["nats"], share=share, delay_s=(0.02, 0.2)) as road:
        by_road = {"STOS_NATS_URLS": f"tls://127.0.0.1:{road.port}"}
        cluster = AlteredCluster(tmp_path / "dev", settings=dict.fromkeys(ON_THE_ROAD, by_road))
        ThreadPoolExecutor(1).submit(cluster.up).result()
        await _live(received, cluster)
    assert (road.delayed > 0) == (share > 0)


async def _live(received: Receiver, cluster: Cluster) -> None:
    """A volume is made, loses its primary and gets it back; then everything that was traced is looked at."""
    try:
        sockets = (cluster.layout.csi_socket("controller"), cluster.layout.csi_socket("node"))
        client = CsiClient(*sockets)
        await client.create("traced", 64 * MIB, raw_block(), {"replicas": "2"})
        await client.close()
        killed = await _failover_and_back(cluster)
    finally:
        # An orderly end flushes what is left to export.
        ThreadPoolExecutor(1).submit(cluster.stop).result()
    trace = received.trace_of("csi.CreateVolume")
    assert set(trace) >= {"stos-csi", "stos-placement", "stos-replica"}
    assert any("placement.rank" in name for name in trace["stos-placement"])
    made = trace["stos-replica"]
    assert any(name.endswith(".create") for name in made), "the replicas' creation"
    assert any("bid" in name for name in made), "the nodes' bids"
    assert {"brain found", "brain lead"} <= made, "the brains' decisions"
    assert received.orphans("csi.CreateVolume") == []
    _check_tree(received, "csi.CreateVolume")
    _check_failover(received, killed)


def _check_tree(received: Receiver, root: str) -> None:
    """Each span of the trace hangs below what caused it, and says what it is."""
    spans = received.spans_of(root)
    by_id = {span.span_id: (service, span) for service, span in spans}
    (volume,) = {_attribute(span, "stos.volume") for _, span in spans if span.name == "placement.plan"}
    for service, span in spans:
        caller, parent = by_id.get(span.parent_span_id, ("", None))
        above = parent.name if parent is not None else ""
        word, _, subject = span.name.partition(" ")
        if word in ("request", "scatter", "serve"):
            assert _attribute(span, "messaging.system") == "nats"
            assert _attribute(span, "messaging.destination.name") == subject
        if span.name == root:
            assert parent is None and span.kind == SERVER
            assert _attribute(span, "rpc.method") == "CreateVolume"
        elif span.name == "volume.create":
            assert above == root
            assert _attribute(span, "stos.volume_name") == "traced"
        elif word == "serve":
            assert above in (f"request {subject}", f"scatter {subject}"), span.name
            assert (span.kind, parent.kind) == (SERVER, CLIENT)
            assert _attribute(span, "stos.caller").startswith(caller.removeprefix("stos-"))
        elif word in ("request", "scatter"):
            assert above == ("volume.create" if service == "stos-csi" else "serve stos.v1.placement.rank"), span.name
        elif span.name == "placement.plan":
            assert above == "serve stos.v1.placement.rank"
        elif word == "brain":
            asking = above.startswith(("request stos.v1.node.", "serve stos.v1.node.")) and above.endswith(".found")
            assert asking or (span.name == "brain lead" and above == "brain stand"), (span.name, above)
            assert _attribute(span, "stos.volume") == volume
            assert _attribute(span, "stos.outcome")
        else:
            raise AssertionError(f"nobody expects {span.name} below {above}")


async def _failover_and_back(cluster: Cluster) -> str:
    """Kills the primary, starts it again when another leads, waits until it is in sync. Its name."""
    running = RunningCluster(cluster)
    await running.in_sync("traced", 3)
    killed = str(running.json("volume", "show", "traced")["primary"])
    assert running.stos("dev", "kill", killed).code == 0
    await running.wait(
        "another leads", lambda: running.json("volume", "show", "traced")["primary"] not in (None, killed)
    )
    assert running.stos("dev", "start", killed).code == 0
    await running.in_sync("traced", 3)
    return killed


def _check_failover(received: Receiver, killed: str) -> None:
    lead = next(
        span
        for _, span in received.spans
        if span.name == "brain lead" and "missed beats" in {_attribute(link, "stos.link") for link in span.links}
    )
    by_id = {span.span_id: span for _, span in received.spans}
    linked = {_attribute(link, "stos.link"): by_id.get(link.span_id) for link in lead.links}
    lost, resync = linked["missed beats"], linked["resync"]
    assert lost is not None and resync is not None, "both were exported as well"
    assert (lost.name, _attribute(lost, "stos.peer")) == ("peer.lost", killed)
    assert (resync.name, _attribute(resync, "stos.peer")) == ("resync", killed)
    assert lost.end_time_unix_nano <= lead.start_time_unix_nano <= resync.end_time_unix_nano
    assert lead.span_id in {link.span_id for link in resync.links}, "and back"


def _attribute(of: Any, key: str) -> str:
    return next((str(item.value.string_value) for item in of.attributes if item.key == key), "")
