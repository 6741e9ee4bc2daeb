"""The driver alone: what must not overtake what, and who counts as up."""

from __future__ import annotations

from dataclasses import replace

from services.replica.brain import Beat, BeatAnswer, HardState
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.driver import Data, Decided, HangUp, Node, Order, Save, TellServing, ToBrain, ToPeer
from services.replica.replication import effects as fx
from services.replica.replication.messages import Join
from services.replica.replication.replica import Share
from tests.support.voters import LEASE, TIMING, A, B, C, record, slot

NOTHING = Share((), 0, 0, unclean=False)


def make(accepted=None) -> Node:  # type: ignore[no-untyped-def]
    node = Node("a", TIMING, 7, lambda volume: NOTHING, 0)
    state = HardState(A, 0, None, accepted, TIMING.lease_ns)
    node.open("v", state, 0, marked=frozenset(), unclean=False, fresh=True)
    node.take()
    return node


def kinds(orders: list[Order]) -> list[type]:
    return [type(order) for order in orders if not isinstance(order, Decided)]


def up(node: Node, peer: str, now_ns: int = 0) -> None:
    node.link_up(peer, now_ns)
    (beat,) = [o.message for o in node.take() if isinstance(o, ToPeer) and isinstance(o.message, Beat)]
    node.pair_message(peer, BeatAnswer(beat.number, 7, 0, 0, LEASE, 9), now_ns)


def save_all(node: Node) -> None:
    """The disk is quick: until nothing waits for it."""
    while saves := [order for order in node.take() if isinstance(order, Save)]:
        for save in saves:
            node.disk.saved("v", save.ticket, 0)


def test_what_depends_on_the_hard_state_waits_for_it() -> None:
    node = make(slot(record(A, B, C)))
    node.brain_message(ms.Vote("v", B, A, 1, slot(record(A, B, C)).stamp), 0)
    (save,) = [order for order in node.take() if not isinstance(order, Decided)]
    assert isinstance(save, Save) and save.state.voted_for == B
    node.brain_message(ms.Vote("v", B, A, 1, slot(record(A, B, C)).stamp), 0)
    assert kinds(node.take()) == [], "nothing newer overtakes it"
    node.disk.saved("v", save.ticket, 0)
    assert kinds(node.take()) == [ToBrain, ToBrain]


def test_who_is_about_to_store_a_record_follows_afterwards() -> None:
    """It may be a larger volume's, and the store has no room before."""
    node = make(slot(record(A, B, C)))
    agreed = slot(record(A, B, C, primary=B), 1, 2)
    node.brain_message(ms.Propose("v", B, A, 1, agreed, None), 0)
    save_all(node)
    larger = slot(replace(agreed.record, size_bytes=2 * agreed.record.size_bytes), 1, 3)
    node.brain_message(ms.Propose("v", B, A, 1, larger, None), 0)
    (save,) = [order for order in node.take() if isinstance(order, Save)]
    node.to_replica("v", 1, "b", 1, Join(1), 0)
    assert not [order for order in node.take() if isinstance(order, Data)]
    node.disk.saved("v", save.ticket, 0)
    effects = [effect for order in node.take() if isinstance(order, Data) for effect in order.effects]
    assert [effect.message.number for effect in effects if isinstance(effect, fx.Answer)] == [1]


def test_who_may_stay_after_all_is_a_member_until_the_change_is_committed() -> None:
    """{A,C} without B is on its way, and may be taken back: what replication says of B is for the brain to judge."""
    node = make(slot(record(A, B, C)))
    volume = node.volumes["v"]
    agreed = slot(record(A, B, C, primary=C), 1, 2)
    node.brain_message(ms.Propose("v", C, A, 1, agreed, None), 0)
    save_all(node)
    node.brain_message(ms.Committed("v", C, A, 1, agreed.stamp), 0)
    node.brain_message(ms.Propose("v", C, A, 1, slot(record(A, C, primary=C), 1, 3), agreed.stamp), 0)
    save_all(node)
    assert volume.member_on("b") == B
    assert volume.member_on("d") is None
    node.brain_message(ms.Committed("v", C, A, 1, slot(record(A, C, primary=C), 1, 3).stamp), 0)
    assert volume.member_on("b") is None


def test_every_save_holds_what_came_before_it() -> None:
    node = make()
    node.ask("v", ev.Founded(record(A)), 0)
    node.time_passed(0)
    epochs = []
    for _ in range(10):
        saves = [order for order in node.take() if isinstance(order, Save)]
        for save in saves:
            epochs.append((save.ticket, save.state.epoch, save.state.slot.stamp.version))  # type: ignore[union-attr]
            node.disk.saved("v", save.ticket, 0)
    assert epochs == sorted(epochs) and epochs[-1][1:] == (1, 2)
    assert node.role(node.volumes["v"]) == "primary"


def test_a_frontends_node_that_comes_back_is_told_who_serves() -> None:
    """It may have been started again with voters in its list that were all replaced since."""
    node = make()
    node.ask("v", ev.Founded(record(A)), 0)
    node.time_passed(0)
    save_all(node)
    node.ask("v", ev.AttachAsked(1, "x"), 0)
    save_all(node)
    told: list[str] = []
    for peer in ("y", "x"):
        node.link_up(peer, 0)
        told += [f"{peer} {order.node}" for order in node.take() if isinstance(order, TellServing)]
    assert told == ["x x"]


def test_who_uses_a_volume_is_told_when_its_copies_move() -> None:
    """Else all of them could have moved by the time that this primary dies, and nobody would know whom to ask."""
    node = make()
    node.ask("v", ev.Founded(record(A)), 0)
    node.time_passed(0)
    save_all(node)
    node.ask("v", ev.AttachAsked(1, "x"), 0)
    save_all(node)
    volume = node.volumes["v"]
    assert volume.committed is not None
    same = volume.committed.next(volume.brain.epoch, volume.committed.record)
    more = same.next(volume.brain.epoch, replace(same.record, joining=(B,)))
    told = []
    for committed in (same, more):
        node.stepping._perform(volume, ev.RecordCommitted(committed), 0)
        told.append([order.node for order in node.take() if isinstance(order, TellServing)])
    assert told == [[], ["x"]]


def test_a_late_answer_after_the_links_end_is_no_news() -> None:
    node = make(slot(record(A, B, C)))
    up(node, "b")
    assert node.volumes["v"].brain.up == {"b"}
    node.time_passed(TIMING.beat_ns)
    (late,) = [o.message for o in node.take() if isinstance(o, ToPeer) and isinstance(o.message, Beat) and not o.by_bus]
    node.link_down("b", 1)
    node.pair_message("b", BeatAnswer(late.number, 7, 0, 0, LEASE, 9), 2)
    assert node.volumes["v"].brain.up == set()
    up(node, "b", 3)
    assert node.volumes["v"].brain.up == {"b"}


def hung_up_at(node: Node, until_ns: int, from_ns: int = 0) -> dict[str, int]:
    """Node -> when it was hung up on, looked at with each beat."""
    found: dict[str, int] = {}
    for now_ns in range(from_ns, until_ns, TIMING.beat_ns):
        node.time_passed(now_ns)
        for order in node.take():
            if isinstance(order, HangUp):
                assert order.node not in found, "told once"
                found[order.node] = now_ns
    return found


def test_a_link_on_which_nobody_ever_answers_is_ended_like_one_that_fell_silent() -> None:
    """A machine loses power between the handshake and its first answer. It was never up, so it never fell silent, and
    what was for its next process went into the dead link."""
    node = make(slot(record(A, B, C)))
    up(node, "b")
    node.link_up("c", 0)
    found = hung_up_at(node, 4 * TIMING.suspect_ns)
    assert set(found) == {"b", "c"} and found["b"] == found["c"] <= TIMING.suspect_ns + TIMING.beat_ns
    node.link_up("c", 0)
    node.link_down("c", 0)
    assert hung_up_at(node, 4 * TIMING.suspect_ns) == {}, "it ended by itself"


def test_a_copy_that_does_not_lead_owes_the_node_where_its_volume_is_used_no_answer() -> None:
    """It has no link to that node, so its answers go nowhere."""
    node = Node("app", TIMING, 7, lambda volume: Share((), 0, 0, unclean=False), 0)
    node.link_up("b", 0)
    assert hung_up_at(node, 4 * TIMING.suspect_ns) == {}


def test_who_was_paused_itself_gives_a_new_link_its_time_again() -> None:
    node = make(slot(record(A, B, C)))
    node.link_up("c", 0)
    node.time_passed(0)
    late_ns = 10 * TIMING.suspect_ns
    found = hung_up_at(node, 2 * late_ns, late_ns)
    assert late_ns + TIMING.suspect_ns < found["c"] <= late_ns + TIMING.suspect_ns + TIMING.beat_ns


def test_who_is_told_of_a_committed_record_and_has_no_such_volume_says_so() -> None:
    """Seed 1500006598: it had forgotten a deleted volume on the others' word, and its leader waits for its own."""
    node = make(slot(record(A, B, C)))
    node.brain_message(ms.Committed("gone", B, A, 1, slot(record(A, B, C), 1, 2).stamp), 0)
    (order,) = node.take()
    assert isinstance(order, ToBrain) and order.message == ms.Unknown("gone", A, B)
