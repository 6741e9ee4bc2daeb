"""`stos events`: which time is meant, and what one event looks like."""

from __future__ import annotations

import json

import pytest

from services.cli.events import _event, _line, document, since_ms
from stoscore.errors import StosError

NOW_S = 2_000_000_000.0
REFUSED = {
    "v": 1,
    "who": "node/n1",
    "action": "nats.publish",
    "target": "stos.v1.vol.x.brain.n2",
    "outcome": "refused",
    "reason": "Publish Violation",
    "count": 3,
    "at_unix_ms": 1,
    "reporter": "svc:nats",
}


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("30s", (NOW_S - 30) * 1000),
        ("15m", (NOW_S - 900) * 1000),
        ("2h", (NOW_S - 7200) * 1000),
        ("7d", (NOW_S - 604_800) * 1000),
        ("999999999d", 0),
        ("2030-01-31T12:00Z", 1_896_091_200_000),
        ("2030-01-31T12:00+01:00", 1_896_087_600_000),
    ],
)
def test_since(text: str, ms: float) -> None:
    assert since_ms(text, NOW_S) == int(ms)


@pytest.mark.parametrize("text", ["", "h", "1", "1w", "-1h", "1.5h", "yesterday", "١h", "2030-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(StosError, match="no time"):
        since_ms(text, NOW_S)


def test_a_refusal_on_one_line() -> None:
    line = _line(_event(0, "audit", "svc:nats", json.dumps(REFUSED)))
    assert line.endswith("node/n1 refused nats.publish stos.v1.vol.x.brain.n2 ×3: Publish Violation")
    assert "svc:nats" in line


def test_a_decision_on_one_line() -> None:
    """What it rested on is a page, with its record and all voters: it is in the JSON."""
    body = {"v": 1, "name": "data", "kind": "lead", "outcome": "elected", "inputs": {"votes": "n1 n2"}, "node": "n1"}
    assert _line(_event(0, "decision", "n1", json.dumps(body))).endswith("  data lead elected")
    assert document(_event(5, "decision", "n1", json.dumps(body)))["decision"] == "lead"


def test_the_reporter_is_the_servers_word() -> None:
    """Whoever writes an event writes its content; below whose name it was kept, the server has proved."""
    told = document(_event(7, "audit", "n1", json.dumps(REFUSED | {"reporter": "svc:certs", "at_unix_ms": 9})))
    assert (told["reporter"], told["at_unix_ms"], told["kind"]) == ("n1", 7, "audit")


@pytest.mark.parametrize("body", ["", "rubbish", "[]", "null", '"x"', "\x1b[2J\n"])
def test_rubbish_is_shown_harmless(body: str) -> None:
    line = _line(_event(0, "audit", "n1", body))
    assert line.isprintable()
