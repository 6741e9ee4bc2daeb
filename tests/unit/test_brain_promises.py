"""Promises between two nodes, X leading and Y voting, message by message (P1, P2)."""

from __future__ import annotations

from collections.abc import Callable

from services.replica.brain import BeatAnswer, Claims, Confirm, Promises
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


def test_a_new_process_of_the_leader_does_not_lift_the_promise_to_the_old_one() -> None:
    x, y = pair()
    x.on_answer("y", y.on_beat("x", x.beat("y", 10), 20))
    again = Promises(TIMING, 12)
    deliver(again.link_up("y"), again, y, stores(v=3))
    assert y.promised_until("v") == 20 + LEASE


def test_answers_to_another_process_are_not_ours() -> None:
    x, y = pair()
    beat = x.beat("y", 10)
    again = Promises(TIMING, 12)
    assert not again.on_answer("y", y.on_beat("x", beat, 20))
    assert x.on_answer("y", BeatAnswer(beat.number, 11, 0, 0, LEASE))
    assert not x.on_answer("y", BeatAnswer(beat.number, 11, 0, 0, LEASE)), "each beat is answered once"


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
