"""Taking turns: nobody waits for the flood of another."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from stoscore.turns import Shares, Turns

SHARES = Shares(running_max=4, running_each_max=2, waiting_max=8, waiting_each_max=5)


def taken(turns: Turns[int]) -> list[tuple[str, int]]:
    found = []
    while (turn := turns.take()) is not None:
        found.append(turn)
    return found


def test_callers_take_turns() -> None:
    turns: Turns[int] = Turns(Shares(running_max=10, running_each_max=10, waiting_max=99, waiting_each_max=9))
    for number in range(5):
        assert turns.offer("loud", number)
    assert turns.offer("quiet", 100)
    assert turns.offer("other", 200)
    assert [caller for caller, _ in taken(turns)][:3] == ["loud", "quiet", "other"]


def test_one_caller_has_neither_all_places_nor_the_whole_queue() -> None:
    turns: Turns[int] = Turns(SHARES)
    assert [turns.offer("loud", number) for number in range(6)] == [True] * 5 + [False]
    assert [number for _, number in taken(turns)] == [0, 1]
    assert turns.offer("quiet", 100)
    assert taken(turns) == [("quiet", 100)]
    assert len(turns) == 6
    turns.done("loud")
    assert taken(turns) == [("loud", 2)]


def test_the_queue_is_bounded_whoever_fills_it() -> None:
    turns: Turns[int] = Turns(SHARES)
    accepted = [turns.offer(f"caller{number}", number) for number in range(12)]
    assert accepted.count(True) == SHARES.waiting_max


class Model:
    """What must hold after every step, kept beside it in the simplest form."""

    def __init__(self) -> None:
        self.turns: Turns[int] = Turns(SHARES)
        self.waiting: list[tuple[str, int]] = []
        self.running: list[str] = []

    def check(self) -> None:
        waiting, running = Counter(caller for caller, _ in self.waiting), Counter(self.running)
        assert len(self.turns) == len(self.waiting) + len(self.running)
        assert waiting.total() <= SHARES.waiting_max
        assert running.total() <= SHARES.running_max
        assert max(waiting.values(), default=0) <= SHARES.waiting_each_max
        assert max(running.values(), default=0) <= SHARES.running_each_max


@given(st.lists(st.one_of(st.sampled_from("abcd"), st.just("take"), st.integers(0, 9)), max_size=80))
def test_the_shares_hold_and_nothing_is_lost(steps: list[str | int]) -> None:
    model = Model()
    for number, step in enumerate(steps):
        if isinstance(step, int):
            if step < len(model.running):
                model.turns.done(model.running.pop(step))
        elif step == "take":
            turn = model.turns.take()
            if turn is None:
                running = Counter(model.running)
                full = len(model.running) == SHARES.running_max
                assert full or all(running[caller] == SHARES.running_each_max for caller, _ in model.waiting)
            else:
                # Of one caller, the first that came.
                assert turn == next(item for item in model.waiting if item[0] == turn[0])
                model.waiting.remove(turn)
                model.running.append(turn[0])
        elif model.turns.offer(step, number):
            model.waiting.append((step, number))
        model.check()


def test_a_quiet_caller_waits_for_one_turn_of_each_other() -> None:
    turns: Turns[int] = Turns(Shares(running_max=1, running_each_max=1, waiting_max=1000, waiting_each_max=200))
    for number in range(200):
        assert turns.offer("loud", number)
        assert turns.offer("louder", number)
    assert turns.offer("quiet", 0)
    order = []
    while (turn := turns.take()) is not None:
        order.append(turn[0])
        turns.done(turn[0])
    assert order.index("quiet") <= 2
