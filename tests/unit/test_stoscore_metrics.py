"""Metrics: the table, what is gathered, and what Prometheus and OTLP are told."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

from stoscore import metrics
from stoscore.metrics import BY_NAME, INSTRUMENTS, LATENCY_S, Histogram, Sample, sampled
from stoscore.otlp import metrics_data, resource
from stoscore.prometheus import prometheus_name, render

EVIL = 'a"b\\c\nd'


def everything() -> list[Sample]:
    """One sample of each instrument."""
    samples = []
    for instrument in INSTRUMENTS:
        values = tuple(EVIL for _ in instrument.attributes)
        if instrument.kind == "histogram":
            histogram = Histogram(instrument.bounds)
            for value in (0.0, 0.0003, 0.5, 1e9):
                histogram.record(value)
            samples.append(sampled(instrument.name, histogram, *values))
        else:
            samples.append(Sample(instrument.name, 1.5, values))
    return samples


def test_names_follow_the_conventions() -> None:
    assert len(BY_NAME) == len(INSTRUMENTS)
    for instrument in INSTRUMENTS:
        assert re.fullmatch(r"(stos|process)(\.[a-z_]+)+", instrument.name)
        assert re.fullmatch(r"s|By|By/s|1|\{[a-z]+\}", instrument.unit)
        assert (instrument.kind == "histogram") == bool(instrument.bounds)
        assert not instrument.description.endswith(".")
    assert len({prometheus_name(instrument) for instrument in INSTRUMENTS}) == len(INSTRUMENTS)


@pytest.mark.parametrize("value,bucket", [(0.0, 0), (0.0001, 0), (0.00011, 1), (10.0, 15), (10.1, 16), (1e12, 16)])
def test_a_value_is_in_the_bucket_that_it_does_not_exceed(value: float, bucket: int) -> None:
    histogram = Histogram()
    histogram.record(value)
    assert histogram.counts.index(1) == bucket
    assert (sum(histogram.counts), histogram.total) == (1, value)


def test_what_prometheus_reads() -> None:
    text = render(
        [
            Sample("stos.volume.epoch", 7, ("id", EVIL)),
            sampled("stos.store.sync.duration", _one(0.3)),
            Sample("stos.volume.epoch", 8, ("other", "b")),
        ]
    )
    lines = text.splitlines()
    assert 'stos_volume_epoch{volume="id",name="a\\"b\\\\c\\nd"} 7' in lines
    assert 'stos_store_sync_duration_seconds_bucket{le="0.25"} 0' in lines
    assert 'stos_store_sync_duration_seconds_bucket{le="0.5"} 1' in lines
    assert 'stos_store_sync_duration_seconds_bucket{le="+Inf"} 1' in lines
    assert "stos_store_sync_duration_seconds_sum 0.3" in lines
    assert "stos_store_sync_duration_seconds_count 1" in lines
    assert sum(line.startswith("# TYPE") for line in lines) == 2
    assert lines.index("# TYPE stos_volume_epoch gauge") + 2 == lines.index(
        'stos_volume_epoch{volume="other",name="b"} 8'
    )


def _one(value: float) -> Histogram:
    histogram = Histogram(LATENCY_S)
    histogram.record(value)
    return histogram


def test_prometheus_own_tool_accepts_it() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=render(everything()), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_a_collector_is_sent() -> None:
    sent = encode_metrics(metrics_data(everything(), resource("test"), 1, 2))
    told = sent.resource_metrics[0].scope_metrics[0].metrics
    assert {metric.name for metric in told} == BY_NAME.keys()
    (duration,) = [metric for metric in told if metric.name == "stos.volume.io.duration"]
    (point,) = duration.histogram.data_points
    assert (point.count, list(point.explicit_bounds)) == (4, list(LATENCY_S))
    assert {item.key for item in point.attributes} == {"stos.volume", "stos.name", "stos.operation"}


def test_a_source_that_fails_takes_nothing_along() -> None:
    def good() -> Iterator[Sample]:
        yield Sample("stos.node.used", 5)

    def bad() -> Iterator[Sample]:
        yield Sample("stos.node.used", 6)
        raise RuntimeError("broken")

    for source in (bad, good):
        metrics.register(source)
    try:
        assert [sample.value for sample in metrics.collect() if sample.name == "stos.node.used"] == [5]
    finally:
        for source in (bad, good):
            metrics.unregister(source)


def test_there_is_a_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SAMPLES_MAX", 10)

    def many() -> Iterator[Sample]:
        yield from [Sample("stos.node.used", 5)] * 25

    metrics.register(many)
    try:
        told = metrics.collect()
    finally:
        metrics.unregister(many)
    assert len(told) == 11
    assert told[-1].value >= 15
