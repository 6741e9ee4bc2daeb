"""What a primary tells about a copy that catches up, and how people read it."""

from __future__ import annotations

from services.cli.resync import _row
from services.cli.volume import _resync_note
from services.replica.replication.messages import Copied
from services.replica.replication.primary import Primary
from services.replica.status import _resyncs
from stoscore.units import MS
from tests.support.replicas import join, make_primary


def _compare(primary: Primary, differing: list[tuple[int, int]]) -> None:
    resync = primary.peers["b"].resync
    assert resync is not None
    for number in list(resync._comparing):
        primary.compared("b", number, differing)


def test_before_anything_was_compared_nothing_is_foretold() -> None:
    primary = make_primary(("b",), in_sync=("a",))
    primary.start(["b"], 0)
    join(primary, "b")
    (status,) = _resyncs(primary, 0)
    assert status.estimate is None and status.foretold is None
    row = _row({**status.model_dump(mode="json"), "name": "v", "primary": "a"})
    assert row[-2:] == ("-", "-")


def test_what_is_left_is_told_with_its_band_and_shrinks_while_the_promise_stays() -> None:
    primary = make_primary(("b",), in_sync=("a",))
    primary.start(["b"], 0)
    join(primary, "b")
    _compare(primary, [(0, 2)])
    _compare(primary, [(0, 7)])
    _compare(primary, [(0, 100)])
    (status,) = _resyncs(primary, 5 * MS)
    assert status.estimate == status.foretold is not None
    assert status.estimate.bytes_low <= status.estimate.bytes <= status.estimate.bytes_high
    told = status.model_dump(mode="json")
    assert "400.0 KiB left, about 402" in _resync_note(told)
    primary.receive("b", Copied(next(iter(primary.peers["b"].resync._copying))), 0)  # type: ignore[union-attr]
    (later,) = _resyncs(primary, 10 * MS)
    assert later.estimate is not None and later.estimate.bytes < status.estimate.bytes
    assert later.foretold == status.foretold
