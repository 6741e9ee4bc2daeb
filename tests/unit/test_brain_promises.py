"""Promises between two nodes, X leading and Y voting, message by message (P1, P2)."""

from __future__ import annotations

from collections.abc import Callable

from services.replica.brain import Beat, BeatAnswer, Claims, Confirm, PairMessage, Promises
from services.replica.brain.promises import FOREVER_NS
from services.replica.brain.quorum import majority, majority_until
from tests.support.voters import LEASE, TIMING

COUNTED = TIMING.counted_ns(LEASE)
Stores = Callable[[str, int, int], bool]


def stores(**epochs: int) -> Stores:
    return lambda volume, generation, epoch: epochs.get(volume) == epoch


def pair(epoch: int = 3) -> tuple[Promises, Promises]:
    """X leads v in `epoch`, Y has stored it and confirmed the claim."""
    x, y = Promises(TIMING, 11), Promises(TIMING, 22)
    deliver(x.claim("v", 0, epoch, ("y",)), x, y, stores(v=epoch))
    return x, y


def deliver(messages: list, x: Promises, y: Promises, known: Stores) -> list[str]:  # type: ignore[type-arg]
    """X's claims to Y, Y's confirmations back."""
    lost: list[str] = []
    for _, message in messages:
        if isinstance(message, Claims):
            answers, gone = y.on_claims("x", message, known)
            lost += gone
            for _, answer in answers:
                x.on_confirm("y", answer)  # type: ignore[arg-type]
        else:
            assert isinstance(message, Confirm)
            x.on_confirm("y", message)
    return lost


def lease(x: Promises, epoch: int = 3) -> int:
    return x.lease_until("v", epoch, "x", ("x", "y", "z"))


def test_a_lease_is_counted_from_when_the_beat_was_sent() -> None:
    x, y = pair()
    assert lease(x) == 0
    beat = x.beat("y", 1000)
    assert x.on_answer("y", y.on_beat("x", beat, 5_000_000))
    assert lease(x) == 1000 + COUNTED
    assert y.promised_until("v") == 5_000_000 + LEASE
    assert lease(x) < y.promised_until("v"), "the promise ends later than the lease that rests on it"


def test_one_promise_of_three_is_enough_and_of_five_is_not() -> None:
    assert majority_until([FOREVER_NS, 70, 0], 3) == 70
    assert majority_until([FOREVER_NS, 70, 0, 0, 0], 5) == 0
    assert majority_until([FOREVER_NS, 70, 90, 0, 0], 5) == 70
    assert majority_until([FOREVER_NS], 1) == FOREVER_NS
    assert [majority(voters) for voters in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]


def test_an_epoch_that_is_not_stored_is_not_promised_until_it_is() -> None:
    x, y = Promises(TIMING, 11), Promises(TIMING, 22)
    deliver(x.claim("v", 0, 3, ("y",)), x, y, stores(v=2))
    x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    assert (lease(x), y.promised_until("v")) == (0, 0)
    deliver(y.stored("v", 0, 3, lambda peer: peer == "x"), x, y, stores(v=3))
    x.on_answer("y", y.on_beat("x", x.beat("y", 30), 40))
    assert lease(x) == 30 + COUNTED


def test_p1_a_late_beat_promises_nothing_after_the_promiser_voted_for_another() -> None:
    """X votes for Z; a late beat of Y arrives and X answers "promised": Y would serve stale reads while Z serves."""
    x, y = pair()
    late = x.beat("y", 1000)
    withdrawn = y.raised("v", 4)  # before Y's vote leaves
    answer = y.on_beat("x", late, 2000)
    x.on_answer("y", answer)  # overtakes nothing: here the CONFIRM before it was lost
    assert lease(x) == 0
    for _, message in withdrawn:
        x.on_confirm("y", message)  # type: ignore[arg-type]
    x.on_answer("y", y.on_beat("x", x.beat("y", 3000), 4000))
    assert lease(x) == 0


def test_a_raised_epoch_leaves_the_live_promise_binding() -> None:
    x, y = pair()
    x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    y.raised("v", 4)
    assert y.promised_until("v") == 20 + LEASE


def test_a_beat_of_before_the_claim_promises_nothing() -> None:
    x, y = Promises(TIMING, 11), Promises(TIMING, 22)
    early = x.beat("y", 10)
    deliver(x.claim("v", 0, 3, ("y",)), x, y, stores(v=3))
    x.on_answer("y", y.on_beat("x", early, 20))
    assert lease(x) == 0


def test_unclaim_releases_the_promise_and_says_who_lost_its_leader() -> None:
    x, y = pair()
    x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    assert deliver(x.unclaim("v"), x, y, stores(v=3)) == ["v"]
    assert (lease(x), y.promised_until("v")) == (0, 0)


def test_a_member_that_came_is_asked_and_one_that_went_is_not_and_the_others_go_on_promising() -> None:
    x, y = pair()
    x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    told = x.claim("v", 0, 3, ("y", "z"))
    assert [node for node, _ in told] == ["z"]
    assert lease(x) == 10 + COUNTED, "y is not asked again: its promise holds all the time"
    told = x.claim("v", 0, 3, ("z",))
    assert [node for node, _ in told] == ["y"]
    assert deliver(told, x, y, stores(v=3)) == ["v"]
    assert lease(x) == 0


def test_a_new_process_of_the_leader_does_not_lift_the_promise_to_the_old_one() -> None:
    x, y = pair()
    x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    again = Promises(TIMING, 12)
    deliver(again.link_up("y"), again, y, stores(v=3))
    assert y.promised_until("v") == 20 + LEASE


def test_p1_late_claims_of_the_process_before_take_back_no_promise_to_the_new_one() -> None:
    known = stores(v=3)
    old = Promises(TIMING, 10)
    (late,) = old.claim("u", 0, 1, ("y",))
    x, y = Promises(TIMING, 11), Promises(TIMING, 22)
    deliver(x.link_up("y"), x, y, known)
    assert x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    deliver([late], x, y, known)
    deliver(x.claim("v", 0, 3, ("y",)), x, y, known)
    assert lease(x) == 10 + COUNTED
    assert y.promised_until("v") == 20 + LEASE


def test_answers_to_another_process_are_not_ours() -> None:
    x, y = pair()
    beat = x.beat("y", 10)
    again = Promises(TIMING, 12)
    assert not again.on_answer("y", y.on_beat("x", beat, 20))
    assert x.on_answer("y", BeatAnswer(beat.number, 11, 0, 0, LEASE, 22))
    assert not x.on_answer("y", BeatAnswer(beat.number, 11, 0, 0, LEASE, 22)), "each beat is answered once"


def test_a_confirmation_lost_with_its_link_is_said_again_on_the_next() -> None:
    x, y = Promises(TIMING, 11), Promises(TIMING, 22)
    (claims,) = [message for _, message in x.claim("v", 0, 3, ("y",))]
    y.on_claims("x", claims, stores(v=3))  # type: ignore[arg-type]  # and the CONFIRM is lost
    x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    assert lease(x) == 0
    deliver([entry for entry in y.link_up("x") if isinstance(entry[1], Confirm)], x, y, stores(v=3))
    x.on_answer("y", y.on_beat("x", x.beat("y", 30), 40))
    assert lease(x) == 30 + COUNTED


def test_stale_claims_are_ignored() -> None:
    x, y = Promises(TIMING, 11), Promises(TIMING, 22)
    (first,) = x.claim("v", 0, 3, ("y",))
    (second,) = x.claim("u", 0, 5, ("y",))
    known = stores(v=3, u=5)
    deliver([second], x, y, known)
    assert y.on_claims("x", first[1], known) == ([], [])  # type: ignore[arg-type]
    x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    assert x.lease_until("u", 5, "x", ("x", "y")) == lease(x) == 10 + COUNTED


# ---- over the bus, which keeps no order and does not end with a process ---------------------------------


def test_a_confirmation_that_was_overtaken_covers_nothing_again() -> None:
    """Y confirms v, raises its epoch and says so; the first CONFIRM arrives last. Believed, the answers to later beats
    would count for v as well, where Y votes for Z."""
    x, y = Promises(TIMING, 11), Promises(TIMING, 22)
    (claims,) = [message for _, message in x.claim("v", 0, 3, ("y",))]
    answers, _ = y.on_claims("x", claims, stores(v=3))  # type: ignore[arg-type]
    (late,) = [message for _, message in answers]
    (withdrawn,) = [message for _, message in y.raised("v", 4)]
    x.on_confirm("y", withdrawn)  # type: ignore[arg-type]
    x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    x.on_confirm("y", late)  # type: ignore[arg-type]
    assert lease(x) == 0


def test_a_confirmation_of_another_process_begins_anew() -> None:
    x, y = pair()
    x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    assert lease(x) == 10 + COUNTED
    again = Promises(TIMING, 33)
    late = again.on_beat("x", x.beat("y", 30), 40)
    x.on_answer("y", late)
    assert lease(x) == 10 + COUNTED, "it has confirmed nothing"
    assert not x.fits("y", late), "so the claims are announced again"
    deliver(x.announce("y"), x, again, stores(v=3))
    assert lease(x) == 0, "what the old process promised is not added to what the new one covers"
    x.on_answer("y", again.on_beat("x", x.beat("y", 50), 60))
    assert lease(x) == 50 + COUNTED


def test_volumes_won_faster_than_a_round_trip_do_not_cost_each_other_their_lease() -> None:
    """Each claim makes a new list; beats and answers of the lists before are under way all the time."""
    x, y = pair()
    known = stores(v=3, **{f"w{number}": 1 for number in range(30)})
    under_way: list[tuple[str, PairMessage]] = []
    beats: list[Beat] = []
    for number in range(30):
        under_way += x.claim(f"w{number}", 0, 1, ("y",))
        beats.append(x.beat("y", 1000 * number))
        if number >= 3:  # what X hears now answers what it said three claims ago
            heard = under_way.pop(0)[1]
            assert isinstance(heard, Claims)
            for _, confirm in y.on_claims("x", heard, known)[0]:
                assert isinstance(confirm, Confirm)
                x.on_confirm("y", confirm)
            x.on_answer("y", y.on_beat("x", beats.pop(0), 5_000_000))
    assert lease(x) >= 26_000 + COUNTED
    assert x.lease_until("w26", 1, "x", ("x", "y", "z")) == lease(x)
    assert x.lease_until("w27", 1, "x", ("x", "y", "z")) == 0, "nobody has confirmed it yet"


def test_an_older_confirmation_covers_nothing_that_is_not_claimed_any_more() -> None:
    x, y = pair()
    known = stores(v=3, w=1)
    ((_, claims),) = x.claim("w", 0, 1, ("y",))
    assert isinstance(claims, Claims)
    x.unclaim("v")
    ((_, confirm),) = y.on_claims("x", claims, known)[0]
    assert isinstance(confirm, Confirm) and set(confirm.entries) == {"v", "w"}
    x.on_confirm("y", confirm)
    assert x.on_answer("y", y.on_beat("x", x.beat("y", 1000), 5_000_000))
    assert lease(x) == 0


def test_claims_said_again_do_not_spoil_the_answers_under_way() -> None:
    x, y = pair()
    beat = x.beat("y", 10)
    answer = y.on_beat("x", beat, 20)
    deliver(x.announce("y"), x, y, stores(v=3))
    x.on_answer("y", answer)
    assert lease(x) == 10 + COUNTED


def test_a_lease_outlives_a_new_link() -> None:
    """The promiser goes on to keep what it promised, its next process too (P3)."""
    x, y = pair()
    x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    deliver(x.link_up("y"), x, y, stores(v=3))
    assert lease(x) == 10 + COUNTED


def test_p5_a_release_lifts_the_promise_of_its_volume_and_epoch_alone() -> None:
    x, y = Promises(TIMING, 11), Promises(TIMING, 22)
    known = stores(v=3, u=3)
    deliver(x.claim("v", 0, 3, ("y",)), x, y, known)
    deliver(x.claim("u", 0, 3, ("y",)), x, y, known)
    x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    assert y.lift("v", "x", 2) == y.lift("v", "z", 3) == []
    assert y.promised_until("v") == 20 + LEASE
    deliver(y.lift("v", "x", 3), x, y, known)
    assert y.promised_until("v") == 0 and y.promised_until("u") == 20 + LEASE
    assert lease(x) == 0
    y.raised("v", 4)
    assert y.promised_until("v") == 0, "lifted, it does not linger either"


def test_what_lingers_of_an_earlier_leader_is_not_released_by_a_later_one() -> None:
    x, y = pair()
    x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    y.raised("v", 4)
    z = Promises(TIMING, 44)
    for _, claims in z.claim("v", 0, 4, ("y",)):
        y.on_claims("z", claims, stores(v=4))  # type: ignore[arg-type]
    y.on_beat("z", z.beat("y", 30), 40)
    assert y.promised_until("v") == 40 + LEASE
    assert y.bound("v", 4).besides_ns == 20 + LEASE
