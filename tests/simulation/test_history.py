"""The linearizability check itself: it accepts what an order explains, and nothing else."""

from __future__ import annotations

from tests.simulation.history import History


def history(*events: tuple[str, int, int | None]) -> History:
    """("w", request, content), ("r", request, None), ("ok", request, content or None) of block 0, in order."""
    made = History()
    for now, (kind, request, content) in enumerate(events):
        if kind == "w":
            made.write_asked(0, request, content or 0, now)
        elif kind == "r":
            made.read_asked(0, request, now)
        else:
            made.answered(0, request, now, content)
    return made


def test_a_read_after_an_answered_write_returns_it() -> None:
    assert history(("w", 1, 17), ("ok", 1, None), ("r", 2, None), ("ok", 2, 17)).contradiction() == ""
    assert "read 0" in history(("w", 1, 17), ("ok", 1, None), ("r", 2, None), ("ok", 2, 0)).contradiction()


def test_a_read_beside_a_write_returns_either() -> None:
    for content in (0, 17):
        events = (("w", 1, 17), ("r", 2, None), ("ok", 1, None), ("ok", 2, content))
        assert history(*events).contradiction() == ""


def test_a_write_without_an_answer_may_happen_late_but_not_be_taken_back() -> None:
    late = (("w", 1, 17), ("r", 2, None), ("ok", 2, 0), ("r", 3, None), ("ok", 3, 17))
    assert history(*late).contradiction() == ""
    assert history(*late, ("r", 4, None), ("ok", 4, 0)).contradiction() != ""


def test_two_reads_see_two_writes_in_one_order() -> None:
    both = (("w", 1, 17), ("w", 2, 23), ("ok", 1, None), ("ok", 2, None))
    assert history(*both, ("r", 3, None), ("ok", 3, 23), ("r", 4, None), ("ok", 4, 23)).contradiction() == ""
    assert history(*both, ("r", 3, None), ("ok", 3, 23), ("r", 4, None), ("ok", 4, 17)).contradiction() != ""


def test_after_a_power_loss_a_block_holds_what_the_loss_may_have_left() -> None:
    lost = history(("w", 1, 17), ("ok", 1, None))
    lost.fell_back(0, {0, 17}, 5)
    lost.read_asked(0, 2, 6)
    lost.answered(0, 2, 7, 0)
    assert lost.contradiction() == ""
    lost.read_asked(0, 3, 8)
    lost.answered(0, 3, 9, 17)
    assert lost.contradiction() != ""
