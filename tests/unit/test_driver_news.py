"""Whom a node sees come and go: told to its volumes a few at a time, and to each in the order in which it was."""

from __future__ import annotations

from services.replica.brain import Beat, BeatAnswer, HardState
from services.replica.driver import Node, ToPeer
from services.replica.driver.news import TOLD_AT_ONCE
from services.replica.replication.replica import Share
from tests.support.voters import LEASE, TIMING, A, B, C, record, slot

VOLUMES = 3 * TOLD_AT_ONCE + 1


def make() -> Node:
    node = Node("a", TIMING, 7, lambda volume: Share((), 0, 0, unclean=False), 0)
    for number in range(VOLUMES):
        state = HardState(A, 0, None, slot(record(A, B, C)), TIMING.lease_ns)
        node.open(f"{number:032x}", state, 0, marked=frozenset(), unclean=False, fresh=True)
    node.take()
    return node


def up(node: Node, peer: str, *, by_bus: bool = False) -> None:
    if by_bus:
        node.time_passed(0)
    else:
        node.link_up(peer, 0)
    beats = [order.message for order in node.take() if isinstance(order, ToPeer) and order.node == peer]
    (number,) = [beat.number for beat in beats if isinstance(beat, Beat)]
    node.pair_message(peer, BeatAnswer(number, 7, 0, 0, LEASE, 9), 0, by_bus=by_bus)


def told(node: Node) -> list[int]:
    """How many volumes know that the peer is up: now, and after each turn until none is due."""
    seen = [sum("b" in volume.brain.up for volume in node.volumes.values())]
    while node.news.due_ns is not None:
        due_ns = node.next_deadline_ns()
        assert due_ns is not None and due_ns <= 0, "the shell comes back at once"
        node.time_passed(0)
        seen.append(sum("b" in volume.brain.up for volume in node.volumes.values()))
    return seen


def test_a_turn_tells_a_few_volumes_and_the_next_ones_come_at_once() -> None:
    """A hundred brains in one turn of the loop, and nobody else was answered meanwhile."""
    node = make()
    up(node, "b")
    assert told(node) == [TOLD_AT_ONCE, 2 * TOLD_AT_ONCE, 3 * TOLD_AT_ONCE, VOLUMES]


def test_who_goes_before_all_were_told_that_it_came_is_gone_for_all() -> None:
    node = make()
    up(node, "b")
    node.link_down("b", 0)
    assert told(node)[-1] == 0


def test_who_is_heard_over_the_bus_after_its_link_went_is_heard_by_all() -> None:
    node = make()
    up(node, "b")
    node.link_down("b", 0)
    up(node, "b", by_bus=True)
    assert told(node)[-1] == 0
    assert all("b" in volume.brain.local.heard for volume in node.volumes.values())


def test_a_volume_that_is_gone_is_told_nothing() -> None:
    node = make()
    up(node, "b")
    for volume in list(node.volumes)[TOLD_AT_ONCE:]:
        node.forget(volume)
    assert told(node)[-1] == TOLD_AT_ONCE
