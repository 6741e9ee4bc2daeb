"""The delta benchmark's own judgement: what holds, what does not, and which bytes it counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.delta import figures, traffic
from benchmarks.delta.cases import Cost
from benchmarks.delta.traffic import Traffic
from services.dev.demo.wire import Connection
from stoscore.units import KIB, MIB

MISSED = 64 * MIB


@pytest.mark.parametrize(
    ("cost", "link_seconds", "holds"),
    [
        (Cost("map", MISSED, int(MISSED * 1.02), 0.9, True), 0.7, True),
        (Cost("map", MISSED, int(MISSED * 1.04), 0.9, True), 0.7, False),
        (Cost("map", MISSED, int(MISSED * 1.02), 1.1, True), 0.7, False),
        (Cost("map", MISSED, int(MISSED * 1.02), 0.9, False), 0.7, False),
        (Cost("tree", MISSED, int(MISSED * 1.09), 9.0, True), 0.7, True),
        (Cost("power", MISSED, int(MISSED * 1.11), 9.0, True), 0.7, False),
        (Cost("nothing", 0, 60 * KIB, 0.2, True), 0.1, True),
        (Cost("nothing", 0, 70 * KIB, 0.2, True), 0.1, False),
        (Cost("nothing", 0, 60 * KIB, 0.4, True), 0.1, False),
    ],
)
def test_each_case_is_judged_by_its_own_bounds(cost: Cost, link_seconds: float, holds: bool) -> None:
    assert figures.judged(cost, link_seconds, 0.2)["holds"] is holds


def test_the_file_is_a_list_of_the_cases_and_the_table_names_what_did_not_hold(tmp_path: Path) -> None:
    results = [
        figures.judged(Cost("map", MISSED, 2 * MISSED, 1.0, True), 1.0, 0.2),
        figures.judged(Cost("nothing", 0, 1, 0.1, False), 1.0, 0.2),
    ]
    figures.save(tmp_path, results)
    saved = json.loads((tmp_path / "delta.json").read_text())
    fields = ["case", "bytes_missed", "bytes_sent", "seconds", "link_seconds", "bound", "holds", "copies_identical"]
    assert [list(one) for one in saved] == [fields, fields]
    assert (tmp_path / "delta.csv").read_text().splitlines()[0] == ",".join(fields)
    shown = figures.table(results)
    assert shown.count("NOT held") == 2 and "COPIES DIFFER" in shown


def test_a_connection_is_counted_once_from_the_beginning_and_only_on_peer_ports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """5000 is a peer port, 4222 the bus; 1 and 2 are sockets of ours, 3 is somebody else's, 4 only listens."""
    sent = {"bytes": 100}

    def table() -> list[Connection]:
        return [
            Connection(40001, 5000, 1, sent["bytes"], 7),
            Connection(5000, 40001, 2, 7, sent["bytes"]),
            Connection(40002, 5000, 3, 999, 999),
            Connection(40003, 4222, 1, 999, 999),
            Connection(5000, 0, 2, 999, 999),
        ]

    monkeypatch.setattr(traffic, "connections", table)
    monkeypatch.setattr(traffic, "socket_inodes", lambda pid: {1, 2})
    counted = Traffic([1], frozenset({5000}))
    assert counted.sample() == 0
    sent["bytes"] = 150
    assert counted.sample() == 50
    sent["bytes"] = 0
    assert counted.sample() == 50, "what a closed connection carried stays counted"
