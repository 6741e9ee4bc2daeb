"""Logs and traces: one JSON object a line, and ids that join the lines of all processes."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from stoscore import telemetry
from stoscore.errors import Code, StosError
from stoscore.settings import CommonSettings
from stoscore.spans import SpanRecord
from stoscore.telemetry import (
    JsonFormatter,
    PlainFormatter,
    current_traceparent,
    get_logger,
    span,
    valid_traceparent,
)

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def record(**extra: object) -> logging.LogRecord:
    return get_logger("test").makeRecord("stos.test", 20, "f", 1, "said %s", ("x",), None, extra=extra)


def test_spans_nest_and_end() -> None:
    assert current_traceparent() == ""
    with span("outer") as outer:
        assert current_traceparent() == outer.traceparent
        with span("inner") as inner:
            assert inner.trace_id == outer.trace_id
            assert inner.traceparent != outer.traceparent
        assert current_traceparent() == outer.traceparent
        with span("joined", PARENT) as joined:
            assert joined.trace_id == "a" * 32
    assert current_traceparent() == ""


def test_a_span_ends_with_its_error() -> None:
    with pytest.raises(ValueError, match="x"), span("failing"):
        raise ValueError("x")
    assert current_traceparent() == ""


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (Code.NOT_FOUND, ("", {"stos.answer": "NOT_FOUND"})),
        (Code.UNAVAILABLE, ("said", {"error.type": "UNAVAILABLE"})),
    ],
)
def test_that_there_is_none_is_an_answer_and_no_failure(
    code: Code, told: tuple[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[SpanRecord] = []
    monkeypatch.setattr(telemetry, "_sinks", [heard.append])
    with pytest.raises(StosError), span("request") as asked:
        error = StosError(code, "said")
        asked.refuse(error)
        raise error
    assert [(one.error, one.attributes) for one in heard] == [told]


@pytest.mark.parametrize("text", ["", "00-xyz", PARENT + "0", PARENT.upper(), PARENT + "\n"])
def test_what_is_no_traceparent(text: str) -> None:
    assert valid_traceparent(text) == ""
    with span("root", text) as current:
        assert current.trace_id != "a" * 32


def test_a_json_line() -> None:
    with span("work", PARENT):
        line = JsonFormatter("replica").format(record(volume="v1", epoch=3))
    fields = json.loads(line)
    assert "\n" not in line
    assert fields["message"] == "said x"
    assert fields["service"] == "replica"
    assert (fields["volume"], fields["epoch"], fields["trace_id"]) == ("v1", 3, "a" * 32)


def test_a_plain_line() -> None:
    assert PlainFormatter().format(record(volume="v1")).endswith("stos.test: said x  volume=v1")


def test_exceptions_stay_in_the_line() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        broken = record()
        broken.exc_info = sys.exc_info()
    assert "boom" in json.loads(JsonFormatter("x").format(broken))["exception"]


def test_the_sdk_is_not_imported_without_an_exporter() -> None:
    import subprocess

    program = (
        "import sys, stoscore.host, stoscore.bus, stoscore.catalogue, stoscore.enrolment, stoscore.renewal\n"
        "from stoscore import telemetry\nfrom stoscore.settings import CommonSettings\n"
        "telemetry.setup('x', CommonSettings())\n"
        "heavy = ('grpc', 'opentelemetry', 'kubernetes', 'aiohttp', 'nats')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert CommonSettings().otel_exporter == "none"
