"""A copy's rotten blocks are counted once each, and too many of them within the window wear it out."""

from __future__ import annotations

from services.replica.health import Health


def test_a_block_is_news_once_until_it_is_healed() -> None:
    health = Health(10, 1000)
    assert health.see([3, 1, 3], 0) == [1, 3]
    assert health.see([1, 2], 1) == [2]
    health.heal([1, 7])
    assert (health.found, health.healed, health.rotten) == (3, 1, {2, 3})
    assert health.see([1], 2) == [1], "it has rotten again"


def test_what_is_written_anew_was_not_healed() -> None:
    health = Health(10, 1000)
    health.see([1, 2, 3], 0)
    health.overwrite(2, 5)
    assert (health.rotten, health.healed) == ({1}, 0)


def test_what_nobody_has_is_news_once() -> None:
    health = Health(10, 1000)
    health.see([1, 2], 0)
    assert health.lose([1]) and not health.lose([1]) and health.lose([1, 2])
    health.overwrite(1, 1)
    assert health.lost == 1


def test_too_many_within_the_window_wear_it_out() -> None:
    health = Health(2, 1000)
    health.see([1, 2], 0)
    assert not health.worn_out(0)
    health.see([3], 900)
    assert health.worn_out(900)
    assert not health.worn_out(1500), "the first two are long ago"
