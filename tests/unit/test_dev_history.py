"""The recorder's memory: what may be on disk after which answers, and the longest gap."""

from __future__ import annotations

from services.dev.demo.history import GapMeter, History, Pattern
from stoscore.units import BLOCK_BYTES

PATTERN = Pattern(b"12345678")


def test_every_write_has_content_of_its_own() -> None:
    contents = {PATTERN.content(number, block) for number in range(50) for block in range(20)}
    assert len(contents) == 1000
    assert {len(content) for content in contents} == {BLOCK_BYTES}


def test_another_run_writes_something_else() -> None:
    assert Pattern(b"abcdefgh").content(1, 1) != PATTERN.content(1, 1)
    assert Pattern(b"12345678").content(1, 1) == PATTERN.content(1, 1)


def test_a_confirmed_write_is_the_only_one_allowed() -> None:
    history = History()
    history.confirmed(history.sent(7))
    second = history.sent(7)
    history.confirmed(second)
    assert history.allowed(PATTERN) == {7: frozenset({PATTERN.sum_of(second, 7)})}


def test_an_unanswered_write_may_be_there_or_not() -> None:
    history = History()
    first = history.sent(7)
    history.confirmed(first)
    second = history.sent(7)
    assert history.busy(7)
    assert history.allowed(PATTERN)[7] == {PATTERN.sum_of(first, 7), PATTERN.sum_of(second, 7)}


def test_a_failed_first_write_may_have_left_zeros() -> None:
    history = History()
    number = history.sent(3)
    history.failed(number)
    assert history.errors == 1
    assert history.allowed(PATTERN)[3] == {0, PATTERN.sum_of(number, 3)}
    assert history.busy(3)


def test_blocks_written_since_a_mark_count_once() -> None:
    history = History()
    for block in (1, 2, 3):
        history.confirmed(history.sent(block))
    mark = len(history.blocks)
    for block in (3, 4, 4):
        history.confirmed(history.sent(block))
    assert history.written_since(mark) == 2
    assert history.completed == 6


def test_the_longest_gap_between_completions() -> None:
    gap = GapMeter()
    gap.started(0)
    for now in (10, 20, 120, 130):
        gap.completed(now)
    assert gap.longest_ns == 100
    assert gap.take() == 100
    assert gap.take() == 0


def test_a_pause_is_no_gap_but_the_wait_for_the_first_completion_is() -> None:
    gap = GapMeter()
    gap.started(0)
    gap.completed(5)
    gap.paused()
    gap.started(1000)
    gap.completed(1050)
    assert gap.longest_ns == 50
