"""Frames of the peer links become facts for the node, requests for the primary, answers for a frontend.

A frame is believed only as far as its link: brain messages and data come from a voter of the volume with the
incarnations that the record names (I1), requests from whoever opened the session. What does not fit is dropped and
counted; bytes of an impossible shape end the link.
"""

from __future__ import annotations

import errno
from collections import Counter

from services.replica import codec
from services.replica.brain.messages import BadMessage, Newer
from services.replica.brain.messages import decode as decode_brain
from services.replica.codec import Envelope
from services.replica.driver import Node
from services.replica.frontends import Frontends
from services.replica.hosted import Hosted
from services.replica.peers import Frame, FrameError, Link, Type, split_blocks, split_copy
from services.replica.replication import messages as ms
from services.replica.shell import Shell, boot_time_ns
from services.replica.store import verify_sums
from stoscore.telemetry import get_logger

log = get_logger("peers")

_WITH_RANGE = frozenset({Type.IO_WRITE, Type.IO_READ, Type.IO_ZERO})


class Handlers:
    """Implements `PeerHandler` for one node."""

    def __init__(self, node: Node, frontends: Frontends):
        self._node = node
        self._frontends = frontends
        self.shell: Shell
        """Set once by the app: shell and handlers need each other."""
        self.dropped: Counter[str] = Counter()
        """Frames that were not believed, by reason."""

    # ---- links ----------------------------------------------------------------------------------------

    def link_up(self, link: Link) -> None:
        if link.outgoing:
            if link.peer != self._node.name:
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
            self._node.link_down(link.peer, now_ns)
        else:
            self._node.incoming_link_lost(self.shell.forget_link(link), now_ns)
        self.shell.settle()

    def frames(self, link: Link, frames: list[Frame]) -> None:
        if self.shell.stopped:
            return
        now_ns = boot_time_ns()
        try:
            for frame in frames:
                self._frame(link, frame, now_ns)
        finally:
            self.shell.settle()

    # ---- frames ---------------------------------------------------------------------------------------

    def _frame(self, link: Link, frame: Frame, now_ns: int) -> None:
        kind = frame.type
        if kind in codec.FROM_FRONTEND:
            self._request(link, frame, now_ns)
        elif kind in codec.TO_REPLICA:
            self._to_replica(link, frame, now_ns)
        elif kind in codec.TO_PRIMARY:
            self._to_primary(link, frame, now_ns)
        elif kind in codec.TO_FRONTEND:
            self._frontends.frame(link.peer, frame)
        elif kind in codec.PAIR:
            self._node.pair_message(link.peer, codec.unpack_pair(frame), now_ns)
        elif kind == Type.BRAIN:
            self.brain(link.peer, frame.payload, now_ns)
        elif kind == Type.OPEN:
            volume = frame.volume.hex()
            message = ms.Open(frame.id)
            number = self.shell.link_number(link)
            self._node.open_session(volume, number, link.peer, frame.attach_epoch, message, now_ns)
        self.shell.perform()

    def brain(self, peer: str, raw: bytes | memoryview, now_ns: int) -> None:
        """A brain's message, by link or by bus; only `peer` can have sent it."""
        try:
            message = decode_brain(raw)
        except Newer as error:
            self._drop("brain message of another version", peer, str(error))
            if error.answer.target.node == peer:
                self._node.not_understood(error.answer)
            return
        except BadMessage as error:
            self._drop("malformed brain message", peer, str(error))
            return
        if message.sender.node != peer:
            self._drop("brain message in another's name", peer, f"it claims to be {message.sender.node}")
            return
        self._node.brain_message(message, now_ns)

    def pair(self, peer: str, raw: bytes, now_ns: int) -> None:
        """What `peer` says as one of a pair, by bus."""
        try:
            message = codec.unpack_pair_bytes(raw)
        except FrameError as error:
            self._drop("malformed message between a pair", peer, str(error))
            return
        self._node.pair_message(peer, message, now_ns, by_bus=True)

    def _drop(self, why: str, peer: str, detail: str = "") -> None:
        self.dropped[why] += 1
        log.warning("dropped: %s", why, extra={"peer": peer, "detail": detail, "dropped": self.dropped[why]})

    def _member(self, link: Link, frame: Frame) -> Hosted | None:
        """Our replica, if both incarnations are the ones that the record names (I1)."""
        hosted = self.shell.by_raw.get(frame.volume)
        volume = self._node.volumes.get(hosted.volume) if hosted else None
        record = volume.brain.record if volume else None
        voter = record.member_on(link.peer) if record else None
        if hosted is None or voter is None:
            self.dropped["data of a stranger"] += 1
            return None
        if frame.target != hosted.number or frame.sender != int(voter.incarnation, 16):
            self.dropped["data of another incarnation"] += 1
            return None
        if volume is not None and frame.generation != volume.generation:
            self.dropped["data of another generation"] += 1
            return None
        return hosted

    def _to_replica(self, link: Link, frame: Frame, now_ns: int) -> None:
        hosted = self._member(link, frame)
        if hosted is None or hosted.store is None or (hosted.failure and frame.type != Type.JOIN):
            return
        token = 0
        if frame.type == Type.WRITE:
            sums, data = split_blocks(frame)
            self._check_inside(hosted, frame.y, frame.z)
            if verify_sums(data, sums):
                raise FrameError("a write does not match its checksums")
            token = self.shell.hold(sums, data)
        elif frame.type == Type.COPY:
            ranges, sums, data = split_copy(frame)
            for block, count in ranges:
                self._check_inside(hosted, block, count)
            present = b"".join(bytes(sums[at : at + 8]) for at in range(0, len(sums), 8) if any(sums[at : at + 8]))
            if verify_sums(data, present):
                raise FrameError("a copy does not match its checksums")
            token = self.shell.hold(sums, data)
        elif frame.type == Type.ZERO:
            self._check_inside(hosted, frame.y, frame.z)
        message = codec.unpack_to_replica(frame, token)
        number = self.shell.link_number(link)
        self._node.to_replica(hosted.volume, number, link.peer, frame.epoch, message, now_ns)
        if token:
            self.shell.perform()
            self.shell.keep(token)

    def _to_primary(self, link: Link, frame: Frame, now_ns: int) -> None:
        hosted = self._member(link, frame)
        if hosted is None:
            return
        token = self.shell.hold(frame.payload) if frame.type == Type.DIGESTS else 0
        message = codec.unpack_to_primary(frame, token)
        if isinstance(message, ms.Joined):
            for block, count in message.share:
                self._check_inside(hosted, block, count)
        self._node.to_primary(hosted.volume, link.peer, frame.epoch, message, now_ns)
        if token:
            self.shell.perform()
            self.shell.payloads.pop(token, None)

    def _check_inside(self, hosted: Hosted, block: int, count: int) -> None:
        if not count or block + count > hosted.blocks.size_blocks:
            raise FrameError(f"blocks {block} to {block + count} lie outside the volume")

    def _request(self, link: Link, frame: Frame, now_ns: int) -> None:
        hosted = self.shell.by_raw.get(frame.volume)
        number = self.shell.link_number(link)
        token = 0
        if hosted is not None and hosted.store is not None and frame.type in _WITH_RANGE:
            if not frame.z or frame.y + frame.z > hosted.blocks.size_blocks:
                self._answer_error(link, frame, errno.EINVAL)
                return
            if frame.type == Type.IO_WRITE:
                sums, data = split_blocks(frame)
                if verify_sums(data, sums):
                    self._drop("write that does not match its checksums", link.peer)
                    self._answer_error(link, frame, errno.EIO)
                    return
                token = self.shell.hold(sums, data)
        volume = frame.volume.hex()
        self._node.request(volume, number, codec.unpack_request(frame, token), now_ns)
        if token:
            self.shell.perform()
            self.shell.keep(token)

    def _answer_error(self, link: Link, frame: Frame, error: int) -> None:
        envelope = Envelope(frame.volume, epoch=frame.epoch)
        link.send(*codec.pack_message(envelope, ms.Done(frame.x, frame.id, error)))
