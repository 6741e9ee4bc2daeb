"""An election is linked to the silence before it and to the resync after it, by ids that were promised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.replica import causes as room
from services.replica.causes import FAILOVER, MISSED, RESYNC, Causes
from services.replica.replication.effects import ResyncDone
from stoscore import telemetry
from stoscore.span_store import read
from stoscore.spans import SpanRecord
from stoscore.units import MIB

VOLUME = "ab" * 16


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    telemetry.keep(tmp_path, MIB)
    yield tmp_path
    telemetry.shutdown()


def spans(directory: Path) -> dict[str, SpanRecord]:
    telemetry.shutdown()
    return {span.name: span for span in read(directory)}


def elect(causes: Causes, kind: str, *voters: str) -> None:
    parent = causes.parent(kind, VOLUME) or None
    with telemetry.span(f"brain {kind}", parent, links=causes.of(kind, VOLUME, voters)) as opened:
        pass
    causes.decided(kind, VOLUME, opened.traceparent)


def test_a_failover_and_what_it_had_to_do_with(kept: Path) -> None:
    causes = Causes()
    causes.link_up("n1")
    causes.link_down("n1", "the peer is silent")
    elect(causes, "stand", "n1", "n2", "n3")
    elect(causes, "lead", "n1", "n2", "n3")
    causes.link_up("n1")
    causes.resynced(VOLUME, ResyncDone("n1", 10, 3))
    told = spans(kept)
    lost, stand, lead, resync = (told[name] for name in ("peer.lost", "brain stand", "brain lead", "resync"))
    assert (stand.parent_id, lead.parent_id) == ("", stand.span_id), "one trace, and no part of any other"
    assert (lost.error, lost.attributes["stos.peer"]) == ("the peer is silent", "n1")
    assert [(link.span_id, link.why) for link in stand.links] == [(lost.span_id, MISSED)]
    assert [(link.span_id, link.why) for link in lead.links] == [(lost.span_id, MISSED), (resync.span_id, RESYNC)]
    assert lead.links[1].trace_id == resync.trace_id
    assert [(link.span_id, link.why) for link in resync.links] == [(lead.span_id, FAILOVER)]
    assert (resync.attributes["stos.compared_blocks"], resync.attributes["stos.sent_blocks"]) == (10, 3)


def test_other_decisions_and_nodes_that_are_there_have_no_links(kept: Path) -> None:
    causes = Causes()
    causes.link_down("n1", "reset")
    assert causes.of("grant", VOLUME, ("n1", "n2")) == ()
    causes.link_up("n1")
    assert causes.of("lead", VOLUME, ("n1", "n2")) == ()


def test_promises_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PROMISED_MAX", 3)
    causes = Causes()
    causes.link_down("n1", "reset")
    for number in range(10):
        causes.of("lead", f"{number:032x}", ("n1",))
    assert len(causes._promised) == 3
