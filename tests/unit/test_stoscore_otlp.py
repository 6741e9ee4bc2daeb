"""A collector that hangs, refuses or is killed costs what it would have heard: nobody waits, and memory is bounded."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan

from stoscore import otlp
from stoscore.metrics import Sample
from stoscore.spans import SpanRecord
from stoscore.units import MS
from tests.support.nats_service import free_port

SPANS = 30_000
WAIT_S = 60
END_S = otlp.QUEUE_MAX / otlp.BATCH_MAX * otlp.EXPORT_TIMEOUT_MS / 1000 / 2
"""Half of what a full queue takes when each batch has its timeout."""


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Listens at a port, and hangs while `go_on` is not set."""

    def __init__(self, port: int) -> None:
        self.names: list[str] = []
        self.called, self.heard, self.go_on = threading.Event(), threading.Event(), threading.Event()
        self.go_on.set()
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        assert self._server.add_insecure_port(f"127.0.0.1:{port}") == port
        self._server.start()

    def Export(self, request: Any, context: Any) -> Any:
        self.called.set()
        self.go_on.wait(WAIT_S)
        spans = [span for of in request.resource_spans for scope in of.scope_spans for span in scope.spans]
        self.names += [span.name for span in spans]
        self.heard.set()
        return trace_service_pb2.ExportTraceServiceResponse()

    def kill(self) -> None:
        self.go_on.set()
        self._server.stop(None).wait(WAIT_S)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def collector(port: int) -> Iterator[Collector]:
    collector = Collector(port)
    yield collector
    collector.kill()


def span(name: str = "work") -> SpanRecord:
    return SpanRecord("a" * 32, "b" * 16, "", name, 1, MS)


def seconds(work: Callable[[], None]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def waiting() -> int:
    """Spans in the SDK's shape that anybody still holds."""
    gc.collect()
    return sum(type(thing) is ReadableSpan for thing in gc.get_objects())


def test_while_a_collector_hangs_spans_go_on_and_memory_does_not_grow(port: int, collector: Collector) -> None:
    collector.go_on.clear()
    send, end = otlp.span_exporter("test", "otlp", f"http://127.0.0.1:{port}")
    for _ in range(SPANS):
        send(span())
    assert collector.called.wait(WAIT_S)
    assert waiting() <= otlp.QUEUE_MAX + 2 * otlp.BATCH_MAX
    assert collector.names == [], "nobody waited until it had heard one"
    assert seconds(end) < END_S
    assert collector.names == [], "and nobody waits at the end"


def test_a_collector_that_refuses_holds_nobody_up(port: int) -> None:
    send, end = otlp.span_exporter("test", "otlp", f"http://127.0.0.1:{port}")
    for _ in range(SPANS):
        send(span())
    assert waiting() <= otlp.QUEUE_MAX + 2 * otlp.BATCH_MAX
    assert seconds(end) < END_S


def test_a_process_that_ends_sends_what_is_left(port: int, collector: Collector) -> None:
    send, end = otlp.span_exporter("test", "otlp", f"http://127.0.0.1:{port}")
    for number in range(3 * otlp.BATCH_MAX):
        send(span(f"{number}"))
    end()
    assert sorted(map(int, collector.names)) == list(range(3 * otlp.BATCH_MAX))


def test_who_is_killed_and_comes_back_hears_what_comes_after(port: int, collector: Collector) -> None:
    send, end = otlp.span_exporter("test", "otlp", f"http://127.0.0.1:{port}")
    send(span("before"))
    assert collector.heard.wait(WAIT_S)
    collector.kill()
    send(span("meanwhile"))
    again = Collector(port)
    try:
        for number in range(WAIT_S * 10):
            send(span(f"after {number}"))
            if again.heard.wait(0.1):
                break
        assert again.names
        end()
    finally:
        again.kill()


def test_metrics_wait_for_no_collector_longer_than_for_one_call(port: int) -> None:
    """Nobody is there; then somebody who accepts and never says a word."""
    send = otlp.metric_exporter("test", f"http://127.0.0.1:{port}")
    assert seconds(lambda: send([Sample("stos.node.used", 5)])) < END_S
    with socket.create_server(("127.0.0.1", port)):
        assert seconds(lambda: send([Sample("stos.node.used", 6)])) < END_S
