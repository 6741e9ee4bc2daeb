"""Spans on disk: bounded, whole lines only, and never a wait for whoever adds one."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoscore import telemetry
from stoscore.span_store import BEFORE, CURRENT, WAITING_MAX, SpanStore, read
from stoscore.spans import BadSpan, Link, SpanRecord, decode, encode
from stoscore.units import KIB

TRACE = "a" * 32


def span(number: int = 1, **more: object) -> SpanRecord:
    return SpanRecord(TRACE, f"{number:016x}", "", str(more.pop("name", "work")), 5, 7, **more)  # type: ignore[arg-type]


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    telemetry.keep(tmp_path / "traces", 64 * KIB)
    yield tmp_path / "traces"
    telemetry.shutdown()


def test_a_line_tells_everything() -> None:
    one = span(attributes={"a": 1, "b": "x\n", "c": True, "d": 0.5}, error="no", links=(Link(TRACE, "b" * 16, "why"),))
    line = encode(one)
    assert "\n" not in line
    assert decode(line) == one


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x, max_size=11)))
def test_anything_else_is_refused(content: object) -> None:
    line = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(BadSpan):
        decode(line)


@pytest.mark.parametrize(
    "field,value", [(0, "A" * 32), (1, "b"), (2, 7), (4, -1), (5, 1 << 70), (6, "x"), (9, [["a"]])]
)
def test_a_field_that_can_not_be(field: int, value: object) -> None:
    parts = json.loads(encode(span()))
    parts[field] = value
    with pytest.raises(BadSpan):
        decode(json.dumps(parts))


def test_spans_are_kept_in_order_and_found_by_id(tmp_path: Path) -> None:
    store = SpanStore(tmp_path / "traces", 64 * KIB)
    for number in range(100):
        store.add(span(number))
    store.close()
    assert [one.span_id for one in read(tmp_path / "traces")] == [f"{number:016x}" for number in range(100)]
    assert len(list(read(tmp_path / "traces", f"{7:016x}"))) == 1
    assert store.kept == 100
    assert (tmp_path / "traces").stat().st_mode & 0o077 == 0
    assert (tmp_path / "traces" / CURRENT).stat().st_mode & 0o077 == 0


def test_a_torn_line_costs_itself(tmp_path: Path) -> None:
    tmp_path.joinpath(CURRENT).write_text(
        f'{encode(span(1))}\n["{TRACE}","b\x00\n{encode(span(2))}\n{encode(span(3))[:-9]}'
    )
    assert [int(one.span_id, 16) for one in read(tmp_path)] == [1, 2]


def test_the_oldest_make_room(tmp_path: Path) -> None:
    for number in range(400):
        store = SpanStore(tmp_path, 32 * KIB)
        store.add(span(number, name="x" * 300))
        store.close()
    found = [int(one.span_id, 16) for one in read(tmp_path)]
    assert found == list(range(found[0], 400))
    assert found[0] > 0
    assert sum(tmp_path.joinpath(name).stat().st_size for name in (BEFORE, CURRENT)) < 40 * KIB


def test_nobody_waits_for_a_disk_that_hangs(tmp_path: Path) -> None:
    """A FIFO without a reader blocks whoever opens it."""
    os.mkfifo(tmp_path / CURRENT)
    store = SpanStore(tmp_path, 64 * KIB)
    begun = time.thread_time()
    for number in range(2 * WAITING_MAX + 10):
        store.add(span(number))
    assert time.thread_time() - begun < 5
    assert store.dropped > 0
    reader = os.open(tmp_path / CURRENT, os.O_RDONLY | os.O_NONBLOCK)
    threading.Thread(target=store.close).start()
    os.close(reader)


def test_a_disk_that_refuses_costs_spans_only(tmp_path: Path) -> None:
    (tmp_path / "traces").write_text("a file where the directory should be")
    store = SpanStore(tmp_path / "traces", 64 * KIB)
    store.add(span())
    store.close()
    assert (store.kept, store.dropped) == (0, 1)


def test_work_under_a_span_is_kept(kept: Path) -> None:
    with telemetry.span("outer", volume="v", rpc_method="Create") as outer, pytest.raises(ValueError, match="no room"):
        outer.link(f"00-{TRACE}-{'c' * 16}-01", "because")
        with telemetry.span("inner", span_kind="client"):
            raise ValueError("no room")
    telemetry.shutdown()
    inner, first = read(kept)
    assert (first.name, first.parent_id, first.error, first.kind) == ("outer", "", "", "internal")
    assert first.attributes == {"stos.volume": "v", "rpc.method": "Create"}
    assert first.links == (Link(TRACE, "c" * 16, "because"),)
    assert (inner.parent_id, inner.error, inner.kind) == (first.span_id, "no room", "client")
    assert inner.attributes == {"error.type": "ValueError"}


def test_who_only_looks_leaves_no_trace(kept: Path) -> None:
    with telemetry.span("look", sampled=False) as look, telemetry.span("request"):
        told = telemetry.current_traceparent()
    with telemetry.span("serve", told) as served:
        assert served.trace_id == look.trace_id
    telemetry.shutdown()
    assert list(read(kept)) == []
