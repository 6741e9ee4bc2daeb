"""Bringing one peer up to date: the tree descends only where it differs, neighbours travel together."""

from __future__ import annotations

from services.replica.peers import HEADER_BYTES
from services.replica.replication.blockmap import BlockMap
from services.replica.replication.effects import SendCopy, Tell
from services.replica.replication.messages import Digest
from services.replica.replication.resync import COMPARES_IN_FLIGHT, COPIES_IN_FLIGHT, COPY_BLOCKS, SAMPLES, Resync
from services.replica.replication.tree import COMPARE_BLOCKS, COMPARE_SPAN, FANOUT, GROUPS, span_of, top_level
from stoscore.units import BLOCK_BYTES, KIB, SUM_BYTES, TIB
from tests.support.replicas import as_of


def test_top_level() -> None:
    assert [top_level(size) for size in (1, FANOUT, FANOUT + 1, FANOUT**2, FANOUT**2 + 1)] == [0, 0, 1, 1, 2]


def test_one_block_in_a_tebibyte_costs_less_than_100_kib_of_hashes_and_no_long_turn_of_the_loop() -> None:
    """A node of the third level is a hash over 128 MiB of checksums: sixteen of them in one turn outlast a lease."""
    blocks, lost = TIB // BLOCK_BYTES, 123_456_789
    resync = Resync("b", blocks, BlockMap(), everything=True, finer=True)
    frames = hashes = 0
    while not resync.done():
        for effect in resync.pump(as_of(0)):
            if isinstance(effect, SendCopy):
                assert effect.ranges == ((lost, 1),)
                resync.copied(effect.number)
                continue
            assert isinstance(effect, Tell) and isinstance(effect.message, Digest)
            asked = effect.message
            nodes = sum(count for _, count in asked.ranges)
            assert nodes * span_of(asked.level) <= COMPARE_SPAN
            frames += 2 * HEADER_BYTES + 16 * len(asked.ranges)
            hashes += nodes * SUM_BYTES
            node = lost // span_of(asked.level)
            differs = any(first <= node < first + count for first, count in asked.ranges)
            resync.compared(asked.number, [(node, 1)] if differs else [])
    assert resync.blocks_sent == 1
    assert frames + hashes < 100 * KIB


def test_candidates_are_compared_and_what_differs_is_copied() -> None:
    resync = Resync("b", 1000, BlockMap([(3, 2), (10, 1)]), everything=False)
    assert resync.pump(as_of(42)) == [Tell(("b",), Digest(1, 0, ((3, 2), (10, 1))))]
    assert not resync.done()
    resync.compared(1, [(4, 1), (10, 1)])
    assert resync.pump(as_of(43)) == [SendCopy("b", 2, 43, ((4, 1), (10, 1)))]
    assert not resync.done()
    resync.copied(2)
    assert resync.done()
    assert (resync.blocks_compared, resync.blocks_sent) == (3, 2)


def test_the_tree_descends_only_into_what_differs() -> None:
    size = FANOUT * FANOUT + 10
    resync = Resync("b", size, BlockMap(), everything=True)
    assert resync.pump(as_of(0)) == [Tell(("b",), Digest(1, 2, ((0, 2),)))]
    resync.compared(1, [(1, 1)])
    assert resync.pump(as_of(0)) == [Tell(("b",), Digest(2, 1, ((FANOUT, 1),)))]
    resync.compared(2, [(FANOUT, 1)])
    assert resync.pump(as_of(0)) == [Tell(("b",), Digest(3, 0, ((FANOUT * FANOUT, 10),)))], "cut at the volume's end"
    resync.compared(3, [])
    assert resync.done()


def test_single_blocks_in_many_leaves_do_not_bring_the_checksums_of_their_neighbours() -> None:
    """In a volume of 100 GiB these were half as many bytes again as the blocks."""
    leaves, lost = 64, {leaf * FANOUT + leaf % FANOUT for leaf in range(64)}
    asked = {}
    for finer in (False, True):
        resync = Resync("b", leaves * FANOUT, BlockMap(), everything=True, finer=finer)
        asked[finer] = 0
        while not resync.done():
            for effect in resync.pump(as_of(0)):
                if isinstance(effect, SendCopy):
                    resync.copied(effect.number)
                    continue
                assert isinstance(effect, Tell) and isinstance(effect.message, Digest)
                number, level, ranges = effect.message.number, effect.message.level, effect.message.ranges
                nodes = [node for first, count in ranges for node in range(first, first + count)]
                asked[finer] += len(nodes)
                differ = {block // span_of(level) for block in lost}
                resync.compared(number, [(node, 1) for node in nodes if node in differ])
        assert resync.blocks_sent == len(lost)
    assert asked == {False: leaves * (1 + FANOUT), True: leaves * (1 + 2 * span_of(GROUPS))}


def test_a_group_at_the_end_of_a_volume_is_as_short_as_the_volume() -> None:
    resync = Resync("b", FANOUT * 2 + 3, BlockMap(), everything=True, finer=True)
    assert resync.pump(as_of(0)) == [Tell(("b",), Digest(1, 1, ((0, 3),)))]
    resync.compared(1, [(0, 1), (2, 1)])
    first = 2 * FANOUT // span_of(GROUPS)
    assert resync.pump(as_of(0)) == [Tell(("b",), Digest(2, GROUPS, ((0, span_of(GROUPS)), (first, 1))))]
    resync.compared(2, [(first, 1)])
    assert resync.pump(as_of(0)) == [Tell(("b",), Digest(3, 0, ((2 * FANOUT, 3),)))]


def test_equal_trees_are_done_at_once_and_doubled_answers_change_nothing() -> None:
    resync = Resync("b", 5000, BlockMap(), everything=True)
    resync.pump(as_of(0))
    resync.compared(1, [])
    assert resync.done()
    resync.compared(1, [(0, 1)])
    resync.copied(9)
    assert resync.done()


def test_what_is_in_flight_is_bounded() -> None:
    resync = Resync("b", 100 * COMPARE_BLOCKS, BlockMap([(0, 20 * COMPARE_BLOCKS)]), everything=False)
    assert len(resync.pump(as_of(0))) == COMPARES_IN_FLIGHT
    for number in range(1, SAMPLES + 1):
        out = resync.pump(as_of(0))
        assert not [effect for effect in out if isinstance(effect, SendCopy)], "before the sample is known"
        resync.compared(number, [(0, 20 * COPY_BLOCKS)] if number == 1 else [])
    copies = [effect for effect in resync.pump(as_of(0)) if isinstance(effect, SendCopy)]
    assert len(copies) == COPIES_IN_FLIGHT
    assert all(sum(count for _, count in copy.ranges) == COPY_BLOCKS for copy in copies)


def test_an_unfinished_one_says_what_is_left() -> None:
    resync = Resync("b", 1000, BlockMap([(3, 2), (10, 1)]), everything=False)
    resync.pump(as_of(0))
    resync.compared(1, [(4, 1)])
    resync.pump(as_of(0))
    rest, everything = resync.unfinished()
    assert (rest, everything) == (BlockMap([(4, 1)]), False)
    tree = Resync("b", 5000, BlockMap(), everything=True)
    tree.pump(as_of(0))
    assert tree.unfinished()[1]
