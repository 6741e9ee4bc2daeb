"""A primary's core on its own, with peers played by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from services.replica.replication import effects as fx
from services.replica.replication.blockmap import Range
from services.replica.replication.gate import Gate
from services.replica.replication.messages import Digest, Io, Joined, Request, first_seq
from services.replica.replication.primary import Primary
from services.replica.replication.replica import Share
from stoscore.units import REGION_BLOCKS

EPOCH = 3
BASE = first_seq(EPOCH)
CLEAN = Share((), 0, 0, unclean=False)
LINK = 50
"""The frontend's."""


def make_primary(
    peers: Iterable[str] = ("b", "c"),
    *,
    in_sync: Iterable[str] | None = None,
    share: Share = CLEAN,
    size_blocks: int = 2 * REGION_BLOCKS,
    marked: Iterable[int] = (0, 1),
) -> Primary:
    names = tuple(peers)
    return Primary(
        me="a",
        epoch=EPOCH,
        peers=names,
        in_sync=("a", *names) if in_sync is None else tuple(in_sync),
        size_blocks=size_blocks,
        gate=Gate(marked),
        share=share,
        attach_epoch=1,
        attached_node="n",
    )


def join(primary: Primary, node: str, share: Share = CLEAN) -> list[fx.Effect]:
    """The peer answers the newest JOIN."""
    message = Joined(primary.peers[node].join_number, share.last_seq, share.commit, share.ranges, share.unclean)
    return primary.receive(node, message, 0)


def serving(peers: Iterable[str] = ("b", "c"), **named) -> Primary:  # type: ignore[no-untyped-def]
    """A primary that has taken over with every peer in sync and one session open."""
    primary = make_primary(peers, **named)
    primary.start(primary.peers, 0)
    for node in primary.peers:
        join(primary, node)
    assert primary.serving
    primary.open(LINK, "n", 1, 1)
    return primary


def write(primary: Primary, number: int, block: int = 0, count: int = 1, **named) -> list[fx.Effect]:  # type: ignore[no-untyped-def]
    return primary.request(LINK, Request(1, number, Io.WRITE, block, count, token=100 + number, **named), 0)


def of(kind: type, effects: Iterable[fx.Effect]) -> list:  # type: ignore[type-arg]
    """Those of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def as_of(seq: int) -> Callable[[Iterable[Range]], int]:
    """All that is in our store is as of that write."""
    return lambda ranges: seq


def digests(effects: list[fx.Effect]) -> list[tuple[str, Digest]]:
    """(who is asked, what) of comparisons."""
    return [
        (effect.peers[0], effect.message)
        for effect in effects
        if isinstance(effect, fx.Tell) and isinstance(effect.message, Digest)
    ]
