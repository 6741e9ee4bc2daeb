"""What came back from the primary's node: verified before a client sees it, and kept until it is passed on.

A read's blocks come with the checksums that the primary has for them. Blocks that do not match are counted and told to
the log, and the read that asked for one fails; the core is told the rest.
"""

from __future__ import annotations

import errno as os_errno
import logging

from services.replica.nbd.figures import IoFigures
from services.replica.nbd.in_flight import InFlight
from services.replica.peers.frames import Frame
from services.replica.peers.payloads import split_asks, split_blocks, unpack_extents
from services.replica.replication.frontend import Data, DataMany, DataReads, Done, FrontendCore, RequestKind
from services.replica.store.sums import verify
from stoscore.units import BLOCK_BYTES

_READ, _STATUS = int(RequestKind.READ), int(RequestKind.STATUS)


class Verified:
    """Of one volume. Raises FrameError where a frame has an impossible shape."""

    def __init__(
        self, volume_id: str, core: FrontendCore, in_flight: InFlight, figures: IoFigures, logger: logging.Logger
    ):
        self._volume_id = volume_id
        self._core = core
        self._in_flight = in_flight
        self._contents = in_flight.contents
        self._figures = figures
        self._log = logger

    def read(self, peer: str, frame: Frame) -> Done | Data:
        sums, view = split_blocks(frame)
        data = bytes(view)
        wrong = verify(data, sums)
        if wrong:
            return self._rotten(peer, frame, frame.id, frame.y, wrong)
        token = self._in_flight.token()
        self._contents[token] = data
        return Data(peer, frame.x, frame.id, frame.epoch, token, _READ, frame.z)

    def read_many(self, peer: str, frame: Frame) -> list[Done | DataReads | DataMany]:
        asks, sums, view = split_asks(frame)
        content = bytes(view)
        wrong = verify(content, sums)
        if not wrong and self._core.is_run(asks):
            token = self._in_flight.token()
            self._contents[token] = content
            return [DataReads(peer, frame.x, asks[0][0], frame.epoch, token)]
        data = memoryview(content)
        contents, token, at = self._contents, self._in_flight.next_number, 0
        events: list[Done | DataReads | DataMany] = []
        reads: list[tuple[int, int, int]] = []
        for request, block, count in asks:
            end = at + count
            here = [index - at for index in wrong if at <= index < end] if wrong else wrong
            if here:
                events.append(self._rotten(peer, frame, request, block, here))
            else:
                contents[token] = data[at * BLOCK_BYTES : end * BLOCK_BYTES]
                reads.append((request, count, token))
                token += 1
            at = end
        self._in_flight.next_number = token
        events.append(DataMany(peer, frame.x, frame.epoch, reads))
        return events

    def status(self, peer: str, frame: Frame) -> Data:
        """Extents have no checksums."""
        extents = unpack_extents(frame.payload)
        blocks = sum(count for count, _ in extents)
        token = self._in_flight.token()
        self._in_flight.extents[token] = extents
        return Data(peer, frame.x, frame.id, frame.epoch, token, _STATUS, blocks)

    def _rotten(self, peer: str, frame: Frame, request: int, block: int, wrong: list[int]) -> Done:
        self._figures.rotten += len(wrong)
        self._log.error(
            "read from %s does not match its checksums in blocks %s",
            peer,
            [block + index for index in wrong[:8]],
            extra={"volume": self._volume_id, "epoch": frame.epoch},
        )
        return Done(peer, frame.x, request, frame.epoch, os_errno.EIO)
