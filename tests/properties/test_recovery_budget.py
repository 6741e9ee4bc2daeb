"""The recovery budget against a plain account of what it let through: never more than it has, never idle while somebody
waits, the most urgent first, and nobody forgotten."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.replica.replication.budget import BURST_NS, COPY_BYTES_MAX, STUCK_NS, Budget, Key, Limits
from stoscore.units import BLOCK_BYTES, MIB, SECOND

KEYS: tuple[Key, ...] = tuple((volume, node) for volume in ("v1", "v2", "v3") for node in ("n2", "n3"))
BLOCKS = COPY_BYTES_MAX // BLOCK_BYTES

steps = st.lists(
    st.tuples(
        st.sampled_from(("ask", "arrived", "gone", "turn")),
        st.sampled_from(KEYS),
        st.integers(1, 3),
        st.integers(0, 1000),
        st.integers(0, STUCK_NS // 101),
    ),
    max_size=100,
)


@settings(max_examples=60, deadline=None)
@given(steps=steps, rate=st.integers(MIB // 4, 64 * MIB), in_flight=st.integers(1, 5))
def test_it_never_lets_through_more_than_it_has(steps, rate: int, in_flight: int) -> None:  # type: ignore[no-untyped-def]
    budget = Budget(Limits(rate, in_flight))
    now_ns = sent = 0
    flying: dict[Key, int] = {}
    for step, key, copies, left, passed_ns in steps:
        now_ns += passed_ns
        if step == "ask" and budget.ask(key, (copies, left), BLOCKS, now_ns):
            flying[key] = flying.get(key, 0) + 1
            sent += COPY_BYTES_MAX
        elif step == "arrived" and flying.get(key):
            flying[key] -= 1
            budget.arrived(key, now_ns)
        elif step == "gone":
            flying.pop(key, None)
            budget.gone(key)
        elif step == "turn":
            budget.turn(now_ns)
        assert sum(flying.values()) <= in_flight
        burst = max(COPY_BYTES_MAX, rate * BURST_NS // SECOND)
        assert sent <= burst + rate * now_ns // SECOND + COPY_BYTES_MAX


@settings(max_examples=60, deadline=None)
@given(
    work=st.dictionaries(st.sampled_from(KEYS), st.tuples(st.integers(1, 3), st.integers(1, 12)), min_size=1),
    rate=st.integers(MIB, 64 * MIB),
    in_flight=st.integers(1, 5),
)
def test_everybody_is_done_in_order_of_urgency_and_in_time(
    work: dict[Key, tuple[int, int]], rate: int, in_flight: int
) -> None:
    """Driven by `turn` and the deadline alone, as the node drives it, with confirmations that come at once."""
    budget = Budget(Limits(rate, in_flight))
    left = {key: count for key, (_, count) in work.items()}
    total = sum(left.values()) * COPY_BYTES_MAX
    done: list[Key] = []
    now_ns = 0

    def pump(key: Key) -> None:
        while left[key] and budget.ask(key, (work[key][0], left[key]), BLOCKS, now_ns):
            left[key] -= 1
            budget.arrived(key, now_ns)
        if not left[key] and key not in done:
            done.append(key)
            budget.gone(key)

    for key in sorted(work):
        pump(key)
    began = list(done)
    while any(left.values()):
        due_ns = budget.next_deadline_ns()
        assert due_ns is not None, "somebody waits, and nothing would wake it"
        now_ns = max(now_ns, due_ns)
        turn = budget.turn(now_ns)
        assert turn is not None
        pump(turn)
    waited = [key for key in done if key not in began]
    copies_in_sync = [work[key][0] for key in waited]
    assert copies_in_sync == sorted(copies_in_sync), "the fewest copies in sync first"
    burst_ns = max(BURST_NS, COPY_BYTES_MAX * SECOND // rate)
    assert now_ns <= total * SECOND // rate + burst_ns


def test_whoever_has_less_left_goes_first_and_room_is_not_kept_from_the_others() -> None:
    budget = Budget(Limits(copies_in_flight=1))
    large, small, other = KEYS[0], KEYS[2], KEYS[4]
    assert budget.ask(large, (2, 900), BLOCKS, 0)
    assert not budget.ask(large, (2, 836), BLOCKS, 0)
    assert not budget.ask(small, (2, 3), BLOCKS, 0)
    assert not budget.ask(other, (1, 5000), BLOCKS, 0)
    assert budget.turn(0) is None and budget.next_deadline_ns() == STUCK_NS, "a confirmation has to come first"
    budget.arrived(large, 0)
    assert budget.turn(0) == other, "it has one copy left in sync"
    assert budget.turn(0) == small
    assert budget.turn(0) == large
    assert budget.turn(0) is None


def test_a_lost_link_gives_back_what_was_under_way() -> None:
    budget = Budget(Limits(copies_in_flight=2))
    assert budget.ask(KEYS[0], (1, 9), BLOCKS, 0) and budget.ask(KEYS[0], (1, 9), BLOCKS, 0)
    assert not budget.ask(KEYS[1], (1, 9), BLOCKS, 0)
    budget.gone(KEYS[0])
    assert budget.turn(0) == KEYS[1]
    budget.arrived(KEYS[0], 0)
    assert budget.ask(KEYS[1], (1, 9), BLOCKS, 0) and budget.ask(KEYS[1], (1, 9), BLOCKS, 0)
    assert not budget.ask(KEYS[2], (1, 9), BLOCKS, 0), "a late confirmation makes no room"


def test_who_confirms_nothing_any_more_keeps_nobody_waiting() -> None:
    """A disk that hangs under a copy whose node lives."""
    budget = Budget(Limits(copies_in_flight=2))
    hung, other = KEYS[0], KEYS[1]
    assert budget.ask(hung, (1, 9), BLOCKS, 0) and budget.ask(hung, (1, 9), BLOCKS, 0)
    budget.arrived(hung, SECOND)
    assert budget.ask(hung, (1, 9), BLOCKS, SECOND)
    assert not budget.ask(other, (1, 9), BLOCKS, SECOND)
    due_ns = budget.next_deadline_ns()
    assert due_ns == SECOND + STUCK_NS
    assert budget.turn(due_ns - 1) is None
    assert budget.turn(due_ns) == other
    assert budget.ask(other, (1, 9), BLOCKS, due_ns)
    budget.arrived(hung, due_ns)
    assert budget.ask(other, (1, 9), BLOCKS, due_ns)
    assert not budget.ask(other, (1, 9), BLOCKS, due_ns), "what comes late after all makes no room again"
