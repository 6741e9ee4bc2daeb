"""Frames of the peer links become facts for the node, requests for the primary, answers for a frontend.

A frame is believed only as far as its link and the volume's record go (`permits`). What does not fit is dropped,
counted, told as a refusal and charged to its link; bytes of an impossible shape, or a frame that goes the wrong way,
end the link.

A node that is no voter of a volume and not attached to it hears exactly what it would hear were the volume not here:
no size, no epoch, no primary, not even that it exists.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from services.replica import codec, permits
from services.replica.brain import BeatAnswer, Claims, PairMessage, messages
from services.replica.brain.messages import BadMessage, Newer
from services.replica.causes import Causes
from services.replica.clock import boot_time_ns
from services.replica.codec import Envelope
from services.replica.driver import Node, Volume
from services.replica.frontends import Frontends
from services.replica.hosted import Hosted
from services.replica.peers import (
    COMPARED_NODES_MAX,
    HEALED_BLOCKS_MAX,
    MANY_BLOCKS_MAX,
    TRACED,
    Frame,
    FrameError,
    Link,
    Type,
    present_sums,
    split_asks,
    split_blocks,
    split_copy,
    split_writes,
    unpack_asks,
    unpack_u64s,
)
from services.replica.replication import messages as ms
from services.replica.replication.primary import Primary
from services.replica.replication.tree import HIGHEST, nodes_over
from services.replica.shell import Shell
from services.replica.store import verify_sums
from services.replica.traced import flushing, zeroing
from services.replica.trail import Trail
from stoscore.limits import REQUEST_BYTES_MAX
from stoscore.units import BLOCK_BYTES, GIB, KIB, REGION_BLOCKS, SUM_BYTES

_WITH_RANGE = frozenset({Type.IO_WRITE, Type.IO_READ, Type.IO_ZERO, Type.IO_STATUS})
_WITHOUT_DATA = frozenset({Type.IO_ZERO, Type.IO_STATUS})
_UNCHARGED = (
    codec.TO_REPLICA
    | codec.TO_PRIMARY
    | codec.FROM_FRONTEND
    | {Type.IO_DONE, Type.IO_DONES, Type.IO_DATA, Type.IO_DATAS, Type.IO_EXTENTS}
) - {Type.JOIN, Type.PREPARE, Type.SEAL}
"""What moves data is bounded by windows and by the link's turns, all else by its number."""
_JOIN_CHARGE = 50
"""Its answer lists what this copy may hold unconfirmed, which is a walk over thousands of entries."""
_READ_BLOCKS_MAX = REQUEST_BYTES_MAX // BLOCK_BYTES + 1
"""The largest read of a client touches one block more when it does not start at one's beginning."""
_ZERO_BLOCKS_MAX = 4 * GIB // BLOCK_BYTES
"""The longest range that NBD can name, so nobody honest asks for more at once."""
assert MANY_BLOCKS_MAX <= REGION_BLOCKS, "the gate looks at the first and the last region of each range"
WINDOW_REQUESTS_MAX = 4096
"""Of one session: four times what a frontend ever leaves unanswered."""


Handle = Callable[[Link, Frame, int], None]


class Handlers:
    """Implements `PeerHandler` for one node."""

    def __init__(self, node: Node, frontends: Frontends, audit: Trail):
        self._node = node
        self._frontends = frontends
        self._audit = audit
        self.shell: Shell
        """Set once by the app: shell and handlers need each other."""
        self.causes = Causes()
        self.dropped: Counter[str] = Counter()
        """Frames that were not believed, by reason."""
        self._asked = {int(kind): self._handler(kind) for kind in codec.ASKED}
        self._answers = {int(kind): self._handler(kind) for kind in codec.ANSWERS}
        """What is said on the link that the other dialled, and on the one that we dialled."""

    # ---- links ----------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        if link.outgoing:
            if link.peer != self._node.name:
                self.causes.link_up(link.peer)
                self._node.link_up(link.peer, boot_time_ns())
            self._frontends.link_up(link.peer)
        else:
            self.shell.link_number(link)
        self.shell.settle()

    def link_down(self, link: Link, reason: str) -> None:
        now_ns = boot_time_ns()
        if self.shell.stopped:
            return
        if link.outgoing:
            self._frontends.link_down(link.peer)
            self.causes.link_down(link.peer, reason)
            self._node.link_down(link.peer, now_ns)
        else:
            self._node.incoming_link_lost(self.shell.forget_link(link), now_ns)
        self.shell.settle()

    def frames(self, link: Link, frames: list[Frame]) -> None:
        shell = self.shell
        if shell.stopped:
            return
        now_ns = boot_time_ns()
        handlers = self._answers if link.outgoing else self._asked
        try:
            for frame in frames:
                handle = handlers.get(frame.type)
                if handle is None:
                    way = "on the link that we dialled" if link.outgoing else "on the link that it dialled"
                    raise FrameError(f"{Type(frame.type).name} {way}, where it has no meaning")
                handle(link, frame, now_ns)
        finally:
            shell.settle()

    # ---- frames ---------------------------------------------------------------------------------------

    def _handler(self, kind: Type) -> Handle:
        """Requests, writes and their confirmations are performed together, when all that arrived has been heard."""
        if kind in (Type.IO_READS, Type.IO_WRITES):
            return self._request_many
        if kind in codec.FROM_FRONTEND:
            return self._request
        if kind == Type.WRITE:
            return self._write
        if kind == Type.WRITES:
            return self._write_many
        if kind == Type.ACK:
            return self._ack
        if kind in codec.TO_FRONTEND:
            return self._to_frontend
        if kind in codec.TO_REPLICA:
            return self._alone(kind, self._to_replica)
        if kind in codec.TO_PRIMARY:
            return self._alone(kind, self._to_primary)
        if kind in codec.PAIR:
            return self._alone(kind, self._pair)
        if kind == Type.BRAIN:
            return self._alone(kind, self._brain)
        if kind == Type.FELT:
            return self._alone(kind, self._felt)
        return self._alone(kind, self._open if kind == Type.OPEN else self._ignore)

    def _alone(self, kind: Type, handle: Handle) -> Handle:
        """After all that was ordered before it, because it may look into the store; and charged, unless it moves
        data."""
        charged, price = kind not in _UNCHARGED, _JOIN_CHARGE if kind == Type.JOIN else 1

        def handle_alone(link: Link, frame: Frame, now_ns: int) -> None:
            if charged:
                link.charge(price + len(frame.payload) // KIB)
            self.shell.perform()
            handle(link, frame, now_ns)
            self.shell.perform()

        return handle_alone

    def _ignore(self, link: Link, frame: Frame, now_ns: int) -> None:
        """A frontend has closed its session: the next one ends it anyway."""

    def _to_frontend(self, link: Link, frame: Frame, now_ns: int) -> None:
        if frame.type not in _UNCHARGED:
            link.charge(1 + len(frame.payload) // KIB)
        if not self._frontends.frame(link.peer, frame):
            self._drop(link, frame, "an answer from a node that the frontend does not use")

    def _drop(self, link: Link, frame: Frame, why: str) -> None:
        link.charge(1 + len(frame.payload) // BLOCK_BYTES)
        self.refuse(link.peer, Type(frame.type).name, frame.volume.hex(), why)

    def refuse(self, node: str, what: str, volume: str, why: str) -> None:
        self.dropped[why] += 1
        self._audit.record(
            who=f"node/{node}", action=f"link.{what.lower()}", outcome="refused", target=volume, reason=why
        )

    def _pair(self, link: Link, frame: Frame, now_ns: int) -> None:
        """About two nodes and all their volumes. Whoever claims a volume has to lead it, which the node looks at when
        it promises; volumes that are not here are not even remembered."""
        self._pair_message(link.peer, codec.unpack_pair(frame), now_ns, by_bus=False)

    def pair_by_bus(self, peer: str, raw: bytes, now_ns: int) -> None:
        """What `peer` says as one of a pair when its link is down; only `peer` can have sent it."""
        try:
            self._pair_message(peer, codec.unpack_pair_bytes(raw), now_ns, by_bus=True)
        except FrameError:
            self.refuse(peer, "pair", "", "a malformed message between a pair")

    def _pair_message(self, peer: str, message: PairMessage, now_ns: int, *, by_bus: bool) -> None:
        if isinstance(message, Claims):
            here = {volume: entry for volume, entry in message.entries.items() if volume in self._node.volumes}
            message = replace(message, entries=here)
        elif isinstance(message, BeatAnswer) and message.promised_ns > permits.PROMISE_NS_MAX:
            raise FrameError("a promise that is longer than any lease")
        self._node.pair_message(peer, message, now_ns, by_bus=by_bus)

    # ---- the brain ------------------------------------------------------------------------------------

    def _brain(self, link: Link, frame: Frame, now_ns: int) -> None:
        self.brain(link.peer, frame.volume.hex(), frame.payload, now_ns)

    def is_member(self, peer: str, volume_id: str) -> bool:
        """That node holds a copy or a vote of the volume, by the record that is here."""
        volume = self._node.volumes.get(volume_id)
        return volume is not None and permits.member(volume.brain.record, peer)

    def brain(self, peer: str, volume_id: str, raw: bytes | memoryview, now_ns: int) -> None:
        """A brain's message about that volume, by link or by bus; only `peer` can have sent it."""
        try:
            message = messages.decode(raw)
        except Newer as error:
            self.refuse(peer, "brain", volume_id, "a brain message of another version")
            if (
                self.is_member(peer, volume_id)
                and error.answer.target.node == peer
                and error.answer.volume == volume_id
            ):
                self._node.not_understood(error.answer)
            return
        except BadMessage:
            self.refuse(peer, "brain", volume_id, "a malformed brain message")
            return
        if message.sender.node != peer or message.volume != volume_id:
            self.refuse(peer, "brain", volume_id, "a brain message in another's name")
            return
        why = self._node.objection(message)
        if not why:
            self._node.brain_message(message, now_ns)
            return
        self.refuse(peer, "brain", volume_id, why)
        if why == permits.STRANGER:
            self._node.say_unknown(message)

    # ---- data between copies --------------------------------------------------------------------------

    def _member(self, link: Link, frame: Frame) -> tuple[Hosted, Volume] | None:
        """Our copy, if the record names both ends with these incarnations in this generation (I1, I4)."""
        hosted = self.shell.by_raw.get(frame.volume)
        volume = self._node.volumes.get(hosted.volume) if hosted is not None else None
        if hosted is None or volume is None:
            # Deleted here a moment ago, most likely: nothing that anybody has to be told of.
            link.charge(1 + len(frame.payload) // BLOCK_BYTES)
            self.dropped["data of a volume that is not here"] += 1
            return None
        slot = volume.brain.local.state.slot
        if slot is not hosted.seen:
            hosted.see(slot)
        said = (link.peer, frame.sender, frame.target, frame.generation)
        if said not in hosted.believed:
            node, sender, target, generation = said
            why = permits.data(slot, mine=hosted.number, node=node, sender=sender, target=target, generation=generation)
            if why:
                self._drop(link, frame, why)
                return None
            hosted.believed.add(said)
        return (hosted, volume) if hosted.store is not None else None

    def _write(self, link: Link, frame: Frame, now_ns: int) -> None:
        member = self._member(link, frame)
        if member is None or member[0].failure:
            return
        hosted = member[0]
        sums, data = split_blocks(frame)
        self._check_inside(hosted, frame.y, frame.z)
        if verify_sums(data, sums):
            raise FrameError("a write does not match its checksums")
        token = self.shell.hold(sums, data)
        if frame.flags & TRACED:
            self.shell.traced.sent(frame.volume, frame.attach_epoch, token, now_ns)
        message = codec.unpack_to_replica(frame, token)
        number = self.shell.link_number(link)
        self._node.to_replica(hosted.volume, number, link.peer, frame.epoch, message, now_ns)

    def _write_many(self, link: Link, frame: Frame, now_ns: int) -> None:
        member = self._member(link, frame)
        if member is None or member[0].failure:
            return
        hosted = member[0]
        ranges, sums, data = split_writes(frame)
        size_blocks = hosted.blocks.size_blocks
        if max(map(sum, ranges)) > size_blocks:
            for block, count in ranges:
                self._check_inside(hosted, block, count)
        if verify_sums(data, sums):
            raise FrameError("a write does not match its checksums")
        token = self.shell.hold(sums, data)
        if frame.flags & TRACED:
            self.shell.traced.sent(frame.volume, frame.y, token, now_ns)
        message = ms.WriteMany(frame.id, frame.x, ranges, token)
        number = self.shell.link_number(link)
        self._node.to_replica(hosted.volume, number, link.peer, frame.epoch, message, now_ns)

    def _to_replica(self, link: Link, frame: Frame, now_ns: int) -> None:
        member = self._member(link, frame)
        if member is None or (member[0].failure and frame.type != Type.JOIN):
            return
        hosted, volume = member
        token = 0
        if frame.type == Type.COPY:
            token = self._hold_copy(hosted, frame)
        elif frame.type == Type.ZERO:
            self._check_inside(hosted, frame.y, frame.z)
            if frame.z > _ZERO_BLOCKS_MAX:
                raise FrameError(f"{frame.z} blocks to zero where at most {_ZERO_BLOCKS_MAX} are allowed")
        elif frame.type == Type.JOIN:
            why = permits.lead(volume.brain.state, volume.brain.leader, link.peer)
            if why and frame.epoch == volume.brain.epoch:
                self._drop(link, frame, why)
                return
        message = codec.unpack_to_replica(frame, token)
        if isinstance(message, ms.Digest):
            _check_comparison(message, hosted.blocks.size_blocks)
        elif isinstance(message, ms.Fetch):
            self._check_healing(hosted, message.ranges)
        elif isinstance(message, ms.Seal):
            _check_seal(message, frame.epoch, hosted.blocks.size_blocks)
        elif isinstance(message, ms.Zero | ms.Flush) and frame.flags & TRACED:
            self._follow_here(frame, message, now_ns)
        number = self.shell.link_number(link)
        self._node.to_replica(hosted.volume, number, link.peer, frame.epoch, message, now_ns)

    def _ack(self, link: Link, frame: Frame, now_ns: int) -> None:
        member = self._member(link, frame)
        if member is not None:
            acked = ms.Ack(unpack_u64s(frame.payload))
            self._node.to_primary(member[0].volume, link.peer, frame.epoch, acked, now_ns)

    def _to_primary(self, link: Link, frame: Frame, now_ns: int) -> None:
        member = self._member(link, frame)
        if member is None:
            return
        hosted, volume = member
        if frame.type == Type.JOINED and not _is_asked_to_join(volume, link.peer, frame.id):
            return  # before it costs anything: its list may be long
        token = 0
        if frame.type == Type.DIGESTS:
            token = self.shell.hold(frame.payload)
        elif frame.type == Type.FETCHED:
            token = self._hold_copy(hosted, frame)
        message = codec.unpack_to_primary(frame, token)
        if isinstance(message, ms.Rotten):
            self._check_healing(hosted, message.ranges)
        elif isinstance(message, ms.Joined):
            for block, count in message.share:
                self._check_inside(hosted, block, count)
        self._node.to_primary(hosted.volume, link.peer, frame.epoch, message, now_ns)
        if token:
            self.shell.perform()
            self.shell.payloads.pop(token, None)

    def _hold_copy(self, hosted: Hosted, frame: Frame) -> int:
        """A token for verified blocks of another copy. Raises FrameError."""
        ranges, sums, data = split_copy(frame)
        for block, count in ranges:
            self._check_inside(hosted, block, count)
        if verify_sums(data, present_sums(sums)):
            raise FrameError("a copy does not match its checksums")
        return self.shell.hold(sums, data)

    def _check_healing(self, hosted: Hosted, ranges: tuple[tuple[int, int], ...]) -> None:
        for block, count in ranges:
            self._check_inside(hosted, block, count)
        if sum(count for _, count in ranges) > HEALED_BLOCKS_MAX:
            raise FrameError("more blocks to heal at once than one may ask for")

    def _check_inside(self, hosted: Hosted, block: int, count: int) -> None:
        if not count or block + count > hosted.blocks.size_blocks:
            raise FrameError(f"blocks {block} to {block + count} lie outside the volume")

    # ---- frontends ------------------------------------------------------------------------------------

    def _acquainted(self, link: Link, frame: Frame, target: int) -> tuple[Hosted, Volume] | None:
        """The volume, if the node at the link's end may learn that it is here."""
        hosted = self.shell.by_raw.get(frame.volume)
        volume = self._node.volumes.get(hosted.volume) if hosted is not None else None
        if hosted is None or volume is None:
            return None
        if permits.knows(volume.brain.record, mine=hosted.number, node=link.peer, target=target):
            return hosted, volume
        self._drop(link, frame, "it is neither attached to the volume nor a voter of it")
        return None

    def _refuse_session(self, link: Link, frame: Frame, session: int) -> None:
        """The answer of a node that has no such volume."""
        refused = ms.OpenRefused(session, ms.Refusal.NOT_PRIMARY)
        link.send(*codec.pack_message(Envelope(frame.volume), refused))

    def _open(self, link: Link, frame: Frame, now_ns: int) -> None:
        known = self._acquainted(link, frame, frame.target)
        if known is None:
            self._refuse_session(link, frame, frame.id)
            return
        number = self.shell.link_number(link)
        self._node.open_session(known[0].volume, number, link.peer, frame.attach_epoch, ms.Open(frame.id), now_ns)

    def _felt(self, link: Link, frame: Frame, now_ns: int) -> None:
        """Of the session that this link opened: nobody else slows recovery down, and below its floor nobody does."""
        found = self._admitted(link, frame)
        if found is not None and found[1] is not None:
            self._node.felt(unpack_u64s(frame.payload), now_ns)

    def _request(self, link: Link, frame: Frame, now_ns: int) -> None:
        """Of the session that this link opened, and of the attachment under which it opened it (W1, W2)."""
        found = self._admitted(link, frame)
        if found is None:
            return
        hosted, primary, number = found
        token = 0
        if primary is not None and frame.type in _WITH_RANGE:
            wrong = _wrong_range(frame, primary.size_blocks)
            if wrong:
                self._answer_wrong(link, frame, hosted, primary, wrong, now_ns)
                return
            if frame.type == Type.IO_WRITE:
                sums, data = split_blocks(frame)
                if verify_sums(data, sums):
                    self._drop(link, frame, "a write that does not match its checksums")
                    self._answer_error(link, frame, errno.EIO)
                    return
                token = self.shell.hold(sums, data)
        if frame.flags & TRACED:
            self._follow(frame, token, now_ns)
        self._node.request(hosted.volume, number, codec.unpack_request(frame, token), now_ns)

    def _answer_wrong(
        self, link: Link, frame: Frame, hosted: Hosted, primary: Primary, wrong: int, now_ns: int
    ) -> None:
        """Under the lease, as a read is answered (P4). *It slept while its successor grew the volume, and told who
        writes there that it has no such place.*"""
        if self._node.leases.until(self._node.volumes[hosted.volume]) > now_ns:
            self._answer_error(link, frame, wrong)
        else:
            self._turn_away(link, frame, hosted, primary)

    def _follow_here(self, frame: Frame, message: ms.Zero | ms.Flush, now_ns: int) -> None:
        if isinstance(message, ms.Zero):
            work = zeroing(frame.volume, message.block, message.count)
        else:
            work = flushing(frame.volume, message.ticket)
        self.shell.traced.sent(frame.volume, frame.attach_epoch, work, now_ns)

    def _follow(self, frame: Frame, token: int, now_ns: int) -> None:
        work = zeroing(frame.volume, frame.y, frame.z) if frame.type == Type.IO_ZERO else token
        self.shell.traced.asked(frame.volume, frame.x, frame.id, Type(frame.type), work, now_ns)

    def _admitted(self, link: Link, frame: Frame) -> tuple[Hosted, Primary | None, int] | None:
        """(our copy, its primary if it is led here, the link's number), if its frontend may ask; else it is told."""
        hosted = self.shell.by_raw.get(frame.volume)
        volume = self._node.volumes.get(hosted.volume) if hosted is not None else None
        number = self.shell.link_number(link)
        primary = volume.primary if volume is not None else None
        serves = primary is not None and primary.serves(number, frame.x, frame.attach_epoch)
        if not serves and self._acquainted(link, frame, frame.target) is None:
            self._refuse_session(link, frame, frame.x)
            return None
        assert hosted is not None and volume is not None
        if primary is not None and not serves:
            # Before its range is looked at: what lies outside the volume tells its size.
            self._turn_away(link, frame, hosted, primary)
            return None
        if primary is not None and primary.unanswered + len(volume.parked) >= WINDOW_REQUESTS_MAX:
            raise FrameError(f"more than {WINDOW_REQUESTS_MAX} requests without waiting for an answer")
        return hosted, primary, number

    def _turn_away(self, link: Link, frame: Frame, hosted: Hosted, primary: Primary) -> None:
        """Whoever asks looks for the primary, and asks it again."""
        refused = ms.OpenRefused(frame.x, ms.Refusal.NOT_READY, newest=primary.newest_session)
        link.send(*codec.pack_message(self.shell.envelope(hosted, primary.epoch, link.peer), refused))

    def _request_many(self, link: Link, frame: Frame, now_ns: int) -> None:
        """As one, unless anything is wrong with one of them or a copy does not know many: then one by one."""
        found = self._admitted(link, frame)
        if found is None:
            return
        hosted, primary, number = found
        sums = data = memoryview(b"")
        if frame.type == Type.IO_READS:
            asks, io = unpack_asks(frame.payload), ms.Io.READ
        else:
            (asks, sums, data), io = split_asks(frame), ms.Io.WRITE
        size = primary.size_blocks if primary is not None else 0
        if primary is None or max([block + count for _, block, count in asks]) > size:
            together = False
        else:
            together = io is ms.Io.READ or (primary.peers.takes_many and not verify_sums(data, sums))
        if together:
            token = self.shell.hold(sums, data) if data else 0
            if frame.flags & TRACED:
                self._follow(frame, token, now_ns)
            self._node.request(hosted.volume, number, ms.RequestMany(frame.x, io, asks, token), now_ns)
            return
        for single in _one_by_one(frame, asks, sums, data):
            self._request(link, single, now_ns)

    def _answer_error(self, link: Link, frame: Frame, error: int) -> None:
        envelope = Envelope(frame.volume, epoch=frame.epoch)
        link.send(*codec.pack_message(envelope, ms.Done(frame.x, frame.id, error)))


def _one_by_one(frame: Frame, asks: Sequence[ms.Ask], sums: memoryview, data: memoryview) -> Iterator[Frame]:
    """The frames that its requests would have been."""
    at = 0
    for request, block, count in asks:
        end, payload, kind = at + count, memoryview(b""), Type.IO_READ
        if data:
            parts = sums[at * SUM_BYTES : end * SUM_BYTES], data[at * BLOCK_BYTES : end * BLOCK_BYTES]
            payload, kind = memoryview(b"".join(parts)), Type.IO_WRITE
        at = end
        flags = frame.flags if request == frame.id else 0
        yield frame._replace(type=int(kind), flags=flags, id=request, y=block, z=count, payload=payload)


def _check_comparison(message: ms.Digest, size_blocks: int) -> None:
    if message.level > HIGHEST:
        raise FrameError(f"a comparison at level {message.level} of a tree that is never as high")
    if sum(count for _, count in message.ranges) > COMPARED_NODES_MAX:
        raise FrameError("a comparison of more nodes than one may ask for")
    _, nodes = nodes_over(message.level, 0, size_blocks)
    if any(first + count > nodes for first, count in message.ranges):
        raise FrameError(f"a comparison beyond the {nodes} nodes of level {message.level}")


def _check_seal(message: ms.Seal, epoch: int, size_blocks: int) -> None:
    if not 0 < message.size_blocks <= size_blocks:
        raise FrameError(f"a seal of {message.size_blocks} blocks of a copy that has {size_blocks}")
    if message.seq >> ms.SEQ_BITS > epoch:
        raise FrameError("a seal whose number is of a later epoch")


def _is_asked_to_join(volume: Volume, node: str, join_number: int) -> bool:
    peer = volume.primary.peers.get(node) if volume.primary is not None else None
    return peer is not None and peer.phase == "joining" and peer.join_number == join_number


def _wrong_range(frame: Frame, size_blocks: int) -> int:
    """The errno for what no frontend asks for, or 0."""
    if not frame.z or frame.y + frame.z > size_blocks:
        return errno.EINVAL
    most = _ZERO_BLOCKS_MAX if frame.type in _WITHOUT_DATA else _READ_BLOCKS_MAX
    return errno.EINVAL if frame.z > most else 0
