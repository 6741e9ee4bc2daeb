"""What one node tells another of all volumes that they share: whole lists, and no more of them than are needed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from services.replica.brain import Beat, BeatAnswer, Claims, Confirm, HardState
from services.replica.brain import messages as ms
from services.replica.driver import Node, Save, ToPeer
from services.replica.replication.replica import Share
from tests.support.busy_cluster import BusyCluster
from tests.support.voters import LEASE, TIMING, A, B, C, record, slot

VOLUMES = [f"{number:032x}" for number in range(20)]


class Listening(BusyCluster):
    """Counts what its nodes tell each other in pairs, once it listens."""

    def listen(self) -> Counter[tuple[str, str, type]]:
        self.said: Counter[tuple[str, str, type]] = Counter()
        return self.said

    def _perform(self, name: str, node: Node, order: Any) -> None:
        if isinstance(order, ToPeer) and hasattr(self, "said"):
            self.said[(name, order.node, type(order.message))] += 1
        super()._perform(name, node, order)


def led_by_a() -> Listening:
    cluster = Listening((A, B, C), volumes=VOLUMES)
    cluster.found()
    cluster.until(lambda: all(cluster.primary(name) == "a" for name in VOLUMES))
    return cluster


def test_who_lets_go_of_all_its_volumes_in_one_turn_says_so_once() -> None:
    cluster = led_by_a()
    said = cluster.listen()
    cluster.nodes["a"].resign(cluster.now_ns)
    claims = [order for order in cluster.nodes["a"].take() if isinstance(order, ToPeer)]
    assert [(order.node, order.message.entries) for order in claims if isinstance(order.message, Claims)] == [
        ("b", {}),
        ("c", {}),
    ]
    assert not said


def test_who_only_uses_a_volume_is_answered_by_its_leader_alone() -> None:
    """The other copies have no link to it, and told it over the bus, ten times a second, what nobody there asks."""
    cluster = led_by_a()
    follower = cluster.nodes["b"]
    follower.take()
    follower.pair_message("app", Beat(1, 7, 0), cluster.now_ns)
    assert not follower.take()
    follower.pair_message("app", Beat(2, 7, 0), cluster.now_ns, by_bus=True)
    follower.pair_message("a", Beat(1, 7, 0), cluster.now_ns)
    answered = [order.node for order in follower.take() if isinstance(order, ToPeer)]
    assert answered == ["app", "a"]


def test_claims_never_replace_those_before_a_beat() -> None:
    """The beat counts for the list that it quotes: after another one it would promise nothing."""
    cluster = led_by_a()
    node = cluster.nodes["a"]
    first, second = list(node.volumes.values())[:2]
    node.take()
    node.pairs.claim(node.promises.unclaim(first.id))
    node.pairs.beat(frozenset(), cluster.now_ns)
    node.pairs.claim(node.promises.unclaim(second.id))
    said = [order.message for order in node.take() if isinstance(order, ToPeer) and order.node == "b"]
    assert [type(message) for message in said] == [Claims, Beat, Claims]
    assert isinstance(said[0], Claims) and isinstance(said[1], Beat) and said[0].version == said[1].version


def test_a_dead_primarys_node_is_told_nothing() -> None:
    """Two lists for each volume went over the bus to a node that was not there."""
    cluster = led_by_a()
    cluster.kill("a")
    said = cluster.listen()
    cluster.until(lambda: all(cluster.primary(name) in ("b", "c") for name in VOLUMES))
    assert not [key for key in said if key[1] == "a" and key[2] in (Claims, Confirm)]


def test_who_is_heard_again_is_told_the_claims_that_it_missed() -> None:
    cluster = led_by_a()
    cluster.cut("a", "b")
    cluster.nodes["a"].resign(cluster.now_ns)
    cluster.until(lambda: all(cluster.primary(name) in ("b", "c") for name in VOLUMES))
    cluster.run(1000)
    leads = {name: cluster.primary(name) for name in VOLUMES}
    for name, leader in leads.items():
        assert cluster.nodes["a"].promises.bound(name, 0).claimed_by == leader


def follower() -> Node:
    node = Node("a", TIMING, 7, lambda volume: Share((), 0, 0, unclean=False), 0)
    state = HardState(A, 0, None, slot(record(A, B, C, primary=B), 0), TIMING.lease_ns)
    node.open("v", state, 0, marked=frozenset(), unclean=False, fresh=True)
    node.link_up("b", 0)
    return node


def to_b(node: Node) -> list[Any]:
    return [order.message for order in node.take() if isinstance(order, ToPeer) and order.node == "b"]


def test_what_is_stored_late_is_confirmed_right_before_the_next_answer_to_a_beat() -> None:
    """An answer that quotes a list which the leader has not seen would promise nothing."""
    node = follower()
    node.pair_message("b", Claims(9, 1, {"v": (0, 1)}), 0)
    (early,) = [message for message in to_b(node) if isinstance(message, Confirm) and message.version == 1]
    assert early.entries == {}
    node.brain_message(ms.Propose("v", B, A, 1, slot(record(A, B, C, primary=B), 1, 2), None), 0)
    for save in [order for order in node.take() if isinstance(order, Save)]:
        node.disk.saved("v", save.ticket, 0)
    assert to_b(node) == []
    node.pair_message("b", Beat(1, 9, 1), 0)
    confirm, answer = to_b(node)
    assert isinstance(confirm, Confirm) and confirm.entries == {"v": (0, 1)}
    assert answer == BeatAnswer(1, 9, 1, confirm.revision, LEASE, 7)
    node.pair_message("b", Beat(2, 9, 1), 0)
    assert [type(message) for message in to_b(node)] == [BeatAnswer], "told once"
