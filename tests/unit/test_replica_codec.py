"""Replication and pair messages survive the wire, and what does not fit is the one error of the room."""

from __future__ import annotations

import pytest

from services.replica import codec
from services.replica.brain import Beat, BeatAnswer, Claims, Confirm, PairMessage
from services.replica.codec import Envelope
from services.replica.peers import (
    FrameError,
    Type,
    pack,
    pack_asks,
    pack_ranges,
    split_asks,
    split_writes,
    unpack_asks,
    unpack_u64s,
)
from services.replica.replication import messages as ms
from tests.support.over_the_wire import over_the_wire

VOLUME = bytes(range(16))
ENVELOPE = Envelope(VOLUME, sender=7, target=8, generation=0, attach_epoch=2, epoch=5)


@pytest.mark.parametrize(
    "message",
    [
        Beat(41, 2**62, 7),
        BeatAnswer(41, 2**62, 7, 3, 500_000_000, 2**61),
        Claims(2**62, 7, {VOLUME.hex(): (0, 3)}),
        Claims(2**62, 8, {}),
        Confirm(2**62, 7, 2, {VOLUME.hex(): (1, 2**40)}, 2**61),
    ],
)
def test_pair_messages(message: PairMessage) -> None:
    assert codec.unpack_pair(over_the_wire(codec.pack_pair(message))) == message


@pytest.mark.parametrize("message", [BeatAnswer(1, 2, -1, 0, 5, 6), Confirm(2, -1, 0, {}, 6)])
def test_no_claims_seen_is_never_taken_for_a_version(message: BeatAnswer | Confirm) -> None:
    """A peer may beat and claim nothing: the answers to it have to fit into a frame all the same."""
    answer = codec.unpack_pair(over_the_wire(codec.pack_pair(message)))
    assert isinstance(answer, BeatAnswer | Confirm)
    assert answer.version == 2**64 - 1


@pytest.mark.parametrize(
    "message",
    [
        ms.Join(3),
        ms.Zero(2**44 + 1, 2**44, 5, 9),
        ms.Flush(4, 17, cleans=True),
        ms.Flush(4, 17),
        ms.CommitPoint(2**44),
        ms.Digest(9, 1, ((0, 256), (512, 1))),
        ms.Prepare(3),
        ms.Seal(2**44 + 1, 2**44, 2**34, "a-snapshot"),
        ms.Seal(2**44 + 1, 2**44, 1, "s" * 64),
    ],
)
def test_to_replica(message: ms.ToReplica) -> None:
    frame = over_the_wire(codec.pack_message(ENVELOPE, message))
    assert (frame.volume, frame.sender, frame.target, frame.epoch) == (VOLUME, 7, 8, 5)
    assert codec.unpack_to_replica(frame, 0) == message


def test_a_write_and_a_copy_bring_their_payload() -> None:
    write = ms.Write(2**44 + 1, 2**44, 5, 1, token=1)
    frame = over_the_wire(codec.pack_message(ENVELOPE, write, (b"s" * 8, b"d" * 4096)))
    assert codec.unpack_to_replica(frame, 1) == write
    assert bytes(frame.payload) == b"s" * 8 + b"d" * 4096
    copy = ms.Copy(6, 2**44, ((3, 2),), token=1)
    frame = over_the_wire(codec.pack_message(ENVELOPE, copy, (bytes(16),)))
    assert codec.unpack_to_replica(frame, 1) == copy


@pytest.mark.parametrize(
    "message",
    [
        ms.Joined(3, 2**44 + 9, 2**44, ((0, 4), (1024, 1024)), unclean=True),
        ms.Joined(3, 0, 0, (), unclean=False),
        ms.Joined(3, 0, 0, (), unclean=False, takes_many=False),
        ms.Joined(3, 0, 0, (), unclean=False, takes_packed=False),
        ms.Joined(3, 0, 0, (), unclean=False, takes_levels=False),
        ms.Joined(3, 0, 0, (), unclean=True, takes_many=False, takes_packed=True),
        ms.Ack((1, 2**44 + 1)),
        ms.Flushed(4),
        ms.Copied(6),
        ms.Failed("no space left"),
        ms.Prepared(3, ready=True),
        ms.Prepared(3, ready=False),
        ms.Sealed(2**44 + 1),
        ms.Rooted(2**44 + 1, 2**64 - 1),
        ms.Rooted(2**44 + 1, 0),
        ms.Rooted(2**44 + 1, None),
    ],
)
def test_to_primary(message: ms.ToPrimary) -> None:
    assert codec.unpack_to_primary(over_the_wire(codec.pack_message(ENVELOPE, message)), 0) == message


def test_writes_and_reads_that_come_together() -> None:
    ranges = ((3, 2), (900, 1))
    sums, data = b"s" * 24, b"d" * 3 * 4096
    many = ms.WriteMany(2**44 + 1, 2**44, ranges, token=1)
    frame = over_the_wire(codec.pack_message(ENVELOPE, many, (sums, data)))
    assert (frame.id, frame.x, frame.z) == (2**44 + 1, 2**44, 2)
    assert split_writes(frame) == (ranges, sums, data)
    asks = ((7, 3, 2), (9, 900, 1))
    frame = over_the_wire(codec.pack_reads(ENVELOPE, 4, asks, sums, data))
    assert (frame.type, frame.x) == (Type.IO_DATAS, 4)
    assert split_asks(frame) == (asks, sums, data)
    frame = over_the_wire(codec.pack_message(ENVELOPE, ms.DoneMany(4, (7, 9))))
    assert (frame.type, frame.x, unpack_u64s(frame.payload)) == (Type.IO_DONES, 4, (7, 9))


@pytest.mark.parametrize(
    ("count", "body"),
    [
        (0, b""),
        (1, b""),
        (1, pack_ranges([(3, 1)])),
        (1, pack_ranges([(3, 0)])),
        (1, pack_ranges([(2**63, 2**63)])),
        (2, pack_ranges([(3, 1)]) + bytes(8 + 4096)),
        (1, pack_ranges([(3, 1)]) + bytes(8 + 4097)),
        (2**60, pack_ranges([(3, 1)]) + bytes(8 + 4096)),
        (1, pack_ranges([(3, 257)]) + bytes(64)),
    ],
)
def test_writes_of_an_impossible_shape_are_an_error(count: int, body: bytes) -> None:
    with pytest.raises(FrameError):
        split_writes(over_the_wire((pack(Type.WRITES, z=count, length=len(body)), body)))


@pytest.mark.parametrize(
    "body", [b"", bytes(23), pack_asks([(1, 2, 0)]), pack_asks([(1, 2, 200), (2, 900, 57)]), pack_asks([(1, 2**63, 1)])]
)
def test_asks_of_an_impossible_shape_are_an_error(body: bytes) -> None:
    with pytest.raises(FrameError):
        unpack_asks(body)


def test_a_refusal_names_the_newest_session() -> None:
    refused = ms.OpenRefused(12, ms.Refusal.NOT_READY, hint="n2", newest=40)
    frame = over_the_wire(codec.pack_message(ENVELOPE, refused))
    assert (frame.id, frame.x, frame.z) == (12, ms.Refusal.NOT_READY, 40)


def test_a_frame_for_somebody_else_is_an_error() -> None:
    frame = over_the_wire(codec.pack_message(ENVELOPE, ms.Join(3)))
    with pytest.raises(FrameError):
        codec.unpack_to_primary(frame, 0)
    with pytest.raises(FrameError):
        codec.unpack_to_replica(over_the_wire(codec.pack_message(ENVELOPE, ms.Flushed(1))), 0)


@pytest.mark.parametrize("name", [b"", b"Monday", b"a/b", b"\xff", b"a\n"])
def test_a_seal_has_a_name_that_a_snapshot_can_have(name: bytes) -> None:
    seal = over_the_wire((ENVELOPE.pack(Type.SEAL, id=2**44 + 1, y=1, length=len(name)), name))
    with pytest.raises(FrameError):
        codec.unpack_to_replica(seal, 0)
