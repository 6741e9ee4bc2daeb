"""A peer that lies about its tree: hashes of nothing, answers in any order, twice, to questions that nobody asked.

What it can gain is to be sent blocks that it did not need, each once. It can't make the comparison endless, nor have
anything sent from beyond the volume, nor be admitted before everything that it owes an answer for is answered.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.replica.replication import effects as fx
from services.replica.replication.blockmap import BlockMap, Range
from services.replica.replication.messages import Copied, Digests, Joined
from services.replica.replication.resync import Resync
from services.replica.replication.tree import (
    COMPARE_BLOCKS,
    FANOUT,
    GROUPS,
    HIGHEST,
    LEAVES,
    REGIONS,
    span_of,
    top_level,
)
from tests.support.replicas import CLEAN, as_of, digests, join, make_primary, serving


def _lie(rng: Random, ranges: tuple[Range, ...], honest: float) -> list[Range]:
    """Which of the nodes that were asked for are said to differ."""
    nodes = [at for first, count in ranges for at in range(first, first + count)]
    return BlockMap((at, 1) for at in nodes if rng.random() < honest).ranges()


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 3 * FANOUT * FANOUT),
    everything=st.booleans(),
    finer=st.booleans(),
    seed=st.integers(0, 1 << 30),
    differs=st.sampled_from((0.0, 0.01, 0.5, 1.0)),
)
def test_it_ends_whatever_is_answered_in_whatever_order(
    size: int, everything: bool, finer: bool, seed: int, differs: float
) -> None:
    rng = Random(seed)
    candidates = BlockMap() if everything else BlockMap([(0, size)])
    resync = Resync("b", size, candidates, everything=everything, finer=finer)
    questions: list[tuple[int, tuple[Range, ...]]] = []
    copies: list[fx.SendCopy] = []
    sent = BlockMap()
    asked = 0
    while not resync.done():
        for effect in resync.pump(as_of(0)):
            if isinstance(effect, fx.SendCopy):
                copies.append(effect)
                for block, count in effect.ranges:
                    assert block + count <= size
                    assert not any(at in sent for at in range(block, block + count)), "each block once"
                    sent.add(block, count)
            else:
                assert isinstance(effect, fx.Tell)
                questions.append((effect.message.number, effect.message.ranges))  # type: ignore[union-attr]
                asked += 1
        resync.compared(rng.randrange(1 << 40), [(0, 1 << 30)])  # nobody asked
        resync.copied(rng.randrange(1 << 40))
        if questions:
            number, ranges = questions.pop(rng.randrange(len(questions)))
            resync.compared(number, _lie(rng, ranges, differs))
            resync.compared(number, [(0, size)])  # the same once more
        elif copies:
            resync.copied(copies.pop(rng.randrange(len(copies))).number)
    levels = [GROUPS, *range(LEAVES + 1), *range(REGIONS, HIGHEST + 1)] if finer else range(top_level(size) + 1)
    nodes = sum(-(-size // span_of(level)) for level in levels)
    assert asked <= nodes // 4 + 2 * top_level(size) + size // (COMPARE_BLOCKS // 4) + 8
    assert len(sent) <= size


def test_an_answer_of_another_level_or_number_is_not_even_compared() -> None:
    primary = make_primary(("b",), in_sync=("a",), share=CLEAN)
    primary.start(["b"], 0)
    join(primary, "b")
    (number,) = primary.peers["b"].resync._comparing  # type: ignore[union-attr]
    level, _ = primary.peers["b"].resync._comparing[number]  # type: ignore[union-attr]
    for wrong in (Digests(number, level + 1, 7), Digests(number + 1, level, 7), Digests(0, 0, 7)):
        assert primary.receive("b", wrong, 0) == [fx.Release(7)]
    (right,) = primary.receive("b", Digests(number, level, 7), 0)
    assert isinstance(right, fx.Compare)


@pytest.mark.parametrize(("takes_levels", "asked"), [(True, GROUPS), (False, 0)])
def test_who_does_not_know_groups_is_asked_for_none(takes_levels: bool, asked: int) -> None:
    """It would end the link at a level that it takes for one of a tree that is never as high."""
    primary = make_primary(("b",), in_sync=("a",), share=CLEAN)
    primary.start(["b"], 0)
    joined = Joined(primary.peers["b"].join_number, 0, 0, (), unclean=False, takes_levels=takes_levels)
    ((_, top),) = digests(primary.receive("b", joined, 0))
    assert top.level == 1
    ((_, below),) = digests(primary.compared("b", top.number, [(0, 1)]))
    assert below.level == asked


def test_confirming_copies_that_were_never_sent_admits_nobody_and_frees_no_budget() -> None:
    primary = make_primary(("b",), in_sync=("a",), share=CLEAN)
    primary.start(["b"], 0)
    join(primary, "b")
    for number in range(100):
        out = primary.receive("b", Copied(number), 0)
        assert not any(isinstance(effect, fx.ReportCaughtUp | fx.ResyncDone) for effect in out)
    assert primary.peers["b"].phase == "syncing"


def test_a_peer_that_is_in_sync_and_confirms_copies_changes_nothing() -> None:
    primary = serving(("b",))
    assert primary.receive("b", Copied(1), 0) == []
    assert primary.receive("b", Digests(1, 0, 7), 0) == [fx.Release(7)]
    assert primary.peers["b"].phase == "live"
