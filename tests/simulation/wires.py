"""What reaches one machine over its links and the bus, believed and handed to its node as the production handlers do.

The judgements are production's (`services/replica/permits.py`): a frame counts only as far as its link and the
volume's record go, here as there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EINVAL
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from services.replica import permits
from services.replica.brain import Beat, PairMessage, Slot
from services.replica.brain import messages as ms
from services.replica.brain.promises import Claims
from services.replica.driver import Volume
from services.replica.replication.messages import (
    Ack,
    CommitPoint,
    Copied,
    Copy,
    Digest,
    Digests,
    Done,
    Failed,
    Fetch,
    Fetched,
    Flush,
    Flushed,
    Io,
    Join,
    Joined,
    OpenRefused,
    Prepared,
    Refusal,
    Request,
    RequestMany,
    Rooted,
    Rotten,
    Seal,
    Sealed,
    Write,
    WriteMany,
    Zero,
)
from stoscore.units import MS
from tests.simulation.network import Link

if TYPE_CHECKING:
    from tests.simulation.machine import Machine

TO_PRIMARY = (Joined, Ack, Flushed, Digests, Copied, Fetched, Rotten, Failed, Prepared, Sealed, Rooted)
NO_BLOCKS = frozenset({Ack, CommitPoint, Copied, Digest, Digests, Failed, Flush, Flushed, Prepared, Rooted, Sealed})
"""What names none, or none that could lie outside."""
OF_ONE_RANGE = (Write, Zero)
OF_RANGES = (Copy, Fetch, Fetched, Rotten, WriteMany)
HERE = -1
"""The number of the link to oneself: the frontend of a volume whose primary is on the same node."""
HERE_NS = MS // 20
ENCODED = 8
"""One brain message in so many is encoded and decoded on its way: that it stays the same is what unit tests are for."""
number_of = lru_cache(1024)(partial(int, base=16))
"""An incarnation as frames have it."""
Envelope = tuple[int, int, int]
"""(sender's incarnation, target's, generation), as a frame's header has them; 0 where it is not known."""


class Wires:
    def __init__(self, machine: Machine):
        self.name = machine.name
        self._machine = machine
        self.out: dict[str, Link] = {}
        self.incoming: dict[int, Link] = {}
        self._said = 0
        self._judged: dict[tuple[str, str], tuple[Slot | None, Envelope, str]] = {}
        """(volume, sender) -> the latest record and frame header that were judged, and the verdict: it is a function
        of these, and most frames are like the one before."""
        self._handlers: dict[str, Callable[[int, str, tuple[Any, ...]], None]] = {
            "pair": self._pair,
            "brain": self._brain,
            "data": self._data,
            "open": self._open,
            "request": self._request,
            "serving": self._serving,
        }

    # ---- life -----------------------------------------------------------------------------------------

    def listening(self) -> bool:
        return self._machine.listening()

    def begin(self) -> None:
        machine = self._machine
        for peer in machine.world.names:
            if peer != machine.name:
                self._redial(peer, machine.rng.randint(0, 20 * MS))

    def end(self) -> None:
        self.out.clear()
        self.incoming.clear()
        self._judged.clear()

    def _redial(self, node: str, delay_ns: int) -> None:
        machine = self._machine

        def dial() -> None:
            if node not in self.out and machine.world.network.dial(self, node) is None:
                self._redial(node, machine.rng.randint(20 * MS, 150 * MS))

        machine.later(delay_ns, dial)

    def dialled(self, link: Link) -> None:
        machine, peer = self._machine, link.acceptor.name
        self.out[peer] = link
        machine.log("link up to", peer, link.number)
        machine.live.link_up(peer, machine.clock_ns())
        for frontend in list(machine.frontends.values()):
            frontend.link_up(peer)

    def accepted(self, link: Link) -> None:
        machine = self._machine
        for older in list(self.incoming.values()):
            if older.dialler is link.dialler:  # W5
                older.acceptor_knows = True
                machine.world.network.break_link(older)
                machine.run(lambda older=older: self._incoming_lost(older))  # type: ignore[misc]
        self.incoming[link.number] = link

    def dialler_end(self, link: Link) -> None:
        self._machine.run(lambda: self._ended(link))

    def _ended(self, link: Link) -> None:
        machine, peer = self._machine, link.acceptor.name
        if self.out.get(peer) is not link:
            return
        del self.out[peer]
        machine.log("link down to", peer, link.number)
        machine.live.link_down(peer, machine.clock_ns())
        for frontend in list(machine.frontends.values()):
            frontend.link_down(peer)
        self._redial(peer, machine.rng.randint(5 * MS, 150 * MS))

    def acceptor_end(self, link: Link) -> None:
        self._machine.run(lambda: self._incoming_lost(link))

    def _incoming_lost(self, link: Link) -> None:
        machine = self._machine
        if self.incoming.pop(link.number, None) is not None:
            machine.live.incoming_link_lost(link.number, machine.clock_ns())

    # ---- what comes in --------------------------------------------------------------------------------

    def from_dialler(self, link: Link, message: Any) -> None:
        self._machine.run(self._arrives, link, message)

    def _arrives(self, link: Link, message: tuple[Any, ...]) -> None:
        if link.number in self.incoming:
            sender = link.dialler.name
            self._machine.hears(sender)
            self._handlers[message[0]](link.number, sender, message)

    def from_acceptor(self, link: Link, message: Any) -> None:
        self._machine.run(self._answer_arrives, link, message)

    def _answer_arrives(self, link: Link, message: tuple[Any, ...]) -> None:
        sender = link.acceptor.name
        if self.out.get(sender) is link:
            self._machine.hears(sender)
            self._on_answer(sender, message)

    def _on_incoming(self, link: int, sender: str, message: tuple[Any, ...]) -> None:
        self._handlers[message[0]](link, sender, message)

    def _pair(self, link: int, sender: str, message: tuple[Any, ...]) -> None:
        self.hear_pair(sender, message[1], by_bus=False)

    def hear_pair(self, sender: str, message: PairMessage, *, by_bus: bool) -> None:
        machine = self._machine
        machine.hears_beat(sender)
        if not isinstance(message, Beat):
            machine.promises_heard += 1
        if isinstance(message, Claims):
            here = {volume: entry for volume, entry in message.entries.items() if volume in machine.live.volumes}
            message = replace(message, entries=here)
        machine.live.pair_message(sender, message, machine.clock_ns(), by_bus=by_bus)

    def _brain(self, link: int, sender: str, message: tuple[Any, ...]) -> None:
        self.hear_brain(message[1])

    def hear_brain(self, message: ms.BrainMessage) -> None:
        machine = self._machine
        why = machine.live.objection(message)
        if not why:
            machine.live.brain_message(message, machine.clock_ns())
            return
        machine.log("does not believe", message, why)
        if why == permits.STRANGER:
            machine.live.say_unknown(message)

    def _data(self, link: int, sender: str, message: tuple[Any, ...]) -> None:
        _, volume_id, envelope, epoch, data, payload = message
        machine = self._machine
        volume = self._member(volume_id, sender, envelope)
        is_join = isinstance(data, Join)
        if volume is None or (machine.orders.failed(volume_id) and not is_join):
            return
        if is_join and epoch == volume.brain.epoch:
            why = permits.lead(volume.brain.state, volume.brain.leader, sender)
            if why:
                machine.log("does not believe", sender, volume_id, epoch, data, why)
                return
        if not self._is_inside(volume_id, data):
            self.ends(link, "writes beyond the end")
            return
        machine.log("hears of", sender, volume_id, epoch, data)
        machine.live.to_replica(volume_id, link, sender, epoch, self._received(data, payload), machine.clock_ns())

    def _is_inside(self, volume_id: str, message: Any) -> bool:
        if type(message) in NO_BLOCKS:
            return True
        disk = self._machine.disks[volume_id]
        if isinstance(message, OF_ONE_RANGE):
            return disk.holds(message.block, message.count)
        if isinstance(message, Seal):
            return disk.holds(0, message.size_blocks)
        told = message.share if isinstance(message, Joined) else ()
        if isinstance(message, OF_RANGES):
            told = message.ranges
        return all(disk.holds(*part) for part in told)

    def ends(self, link: int, why: str) -> None:
        """What came on it is impossible here; the production handlers raise FrameError."""
        if link in self.incoming:
            self._machine.log("ends", self.incoming[link], why)
            self._machine.world.network.close_acceptor(self.incoming[link])

    def _member(self, volume_id: str, sender: str, envelope: Envelope) -> Volume | None:
        """Our copy, if the record names both ends with these incarnations in this generation (I1, I4)."""
        machine = self._machine
        volume = machine.live.volumes.get(volume_id)
        if volume is None:
            return None
        slot = volume.brain.local.state.slot
        known = self._judged.get((volume_id, sender))
        if known is None or known[0] is not slot or known[1] != envelope:
            source, target, generation = envelope
            mine = int(volume.brain.me.incarnation, 16)
            why = permits.data(slot, mine=mine, node=sender, sender=source, target=target, generation=generation)
            known = self._judged[volume_id, sender] = slot, envelope, why
        why = known[2]
        if why:
            machine.log("does not believe data of", sender, volume_id, why)
        return None if why else volume

    def _knows(self, volume_id: str, sender: str, target: int) -> bool:
        """The node at the link's end may learn that the volume is here."""
        volume = self._machine.live.volumes.get(volume_id)
        if volume is None:
            return False
        mine = number_of(volume.brain.local.state.me.incarnation)
        return permits.knows(volume.brain.record, mine=mine, node=sender, target=target)

    def _open(self, link: int, sender: str, message: tuple[Any, ...]) -> None:
        _, volume, target, attach_epoch, opened = message
        machine = self._machine
        if not self._knows(volume, sender, target):
            self._refuse_session(link, volume, opened.session)
            return
        machine.log("hears of", sender, volume, opened, "attach epoch", attach_epoch)
        machine.live.open_session(volume, link, sender, attach_epoch, opened, machine.clock_ns())

    def _refuse_session(self, link: int, volume: str, session: int, code: Refusal = Refusal.NOT_PRIMARY) -> None:
        primary = self._machine.live.volumes[volume].primary if code is Refusal.NOT_READY else None
        newest = primary.newest_session if primary is not None else 0
        epoch = primary.epoch if primary is not None else 0
        self.answer(link, (volume, (0, 0, 0), epoch, OpenRefused(session, code, newest=newest), ()))

    def _request(self, link: int, sender: str, message: tuple[Any, ...]) -> None:
        """Of the session that this link opened, and of the attachment under which it opened it (W1, W2)."""
        _, volume, target, attach_epoch, request, payload = message
        machine = self._machine
        if not self._knows(volume, sender, target):
            self._refuse_session(link, volume, request.session)
            return
        primary = machine.live.volumes[volume].primary
        if primary is not None and not primary.serves(link, request.session, attach_epoch):
            self._refuse_session(link, volume, request.session, Refusal.NOT_READY)
            return
        if isinstance(request, RequestMany):
            self._request_many(link, sender, message)
            return
        if primary is not None and request.io is not Io.FLUSH and request.block + request.count > self._size(volume):
            if machine.live.leases.until(machine.live.volumes[volume]) <= machine.clock_ns():
                self._refuse_session(link, volume, request.session, Refusal.NOT_READY)
                return
            self.answer(link, (volume, (0, 0, 0), primary.epoch, Done(request.session, request.request, EINVAL), ()))
            return
        machine.log("hears of", sender, volume, request, payload)
        machine.orders.asked(link, request, payload)
        machine.live.request(volume, link, self._received(request, payload), machine.clock_ns())

    def _request_many(self, link: int, sender: str, message: tuple[Any, ...]) -> None:
        """As one, unless one lies outside or a copy does not know many: then one by one."""
        kind, volume, target, attach_epoch, many, payload = message
        machine, contents, singles = self._machine, iter(payload), []
        for request, block, count in many.asks:
            part = tuple(next(contents) for _ in range(count)) if many.token else ()
            singles.append((Request(many.session, request, many.io, block, count, False, many.token), part))
        primary = machine.live.volumes[volume].primary
        outside = any(block + count > self._size(volume) for _, block, count in many.asks)
        if primary is None or outside or not (many.io is Io.READ or primary.peers.takes_many):
            for single, part in singles:
                self._request(link, sender, (kind, volume, target, attach_epoch, single, part))
            return
        machine.log("hears of", sender, volume, many, payload)
        for single, part in singles:
            machine.orders.asked(link, single, part)
        machine.live.request(volume, link, self._received(many, payload), machine.clock_ns())

    def _size(self, volume: str) -> int:
        return self._machine.disks[volume].size_blocks

    def _serving(self, link: int, sender: str, message: tuple[Any, ...]) -> None:
        _, volume, epoch, copies = message
        frontend = self._machine.frontends.get(volume)
        if frontend is not None and frontend.uses(sender):
            frontend.serving(sender, epoch, copies)

    def _on_answer(self, sender: str, message: tuple[Any, ...]) -> None:
        volume_id, envelope, epoch, data, payload = message
        machine = self._machine
        if isinstance(data, TO_PRIMARY):
            volume = self._member(volume_id, sender, envelope)
            if volume is None or (isinstance(data, Joined) and not _is_asked_to_join(volume, sender, data.number)):
                return
            if not self._is_inside(volume_id, data):
                machine.log("hangs up on", sender, "which tells of blocks beyond the end")
                machine.world.network.close_dialler(self.out[sender])
                return
            machine.log("hears of", sender, volume_id, epoch, data)
            machine.live.to_primary(volume_id, sender, epoch, self._received(data, payload), machine.clock_ns())
        elif volume_id in machine.frontends and machine.frontends[volume_id].uses(sender):
            machine.frontends[volume_id].answer(sender, epoch, data, payload)

    def _received(self, message: Any, payload: tuple[int, ...]) -> Any:
        """The payload of a message gets a token of its own in this process."""
        if not getattr(message, "token", 0):
            return message
        token = self._machine.orders.hold(payload)
        # A tuple's token is its last.
        return type(message)(*message[:-1], token) if isinstance(message, tuple) else replace(message, token=token)

    # ---- what goes out --------------------------------------------------------------------------------

    def send(self, node: str, message: tuple[Any, ...]) -> bool:
        """On our link to that node, or to ourselves."""
        if node == self._machine.name:
            self._machine.later(HERE_NS, self._on_incoming, HERE, node, message)
            return True
        link = self.out.get(node)
        if link is None:
            return False
        self._machine.world.network.send(link, message)
        return True

    def answer(self, link: int, message: tuple[Any, ...]) -> None:
        if link == HERE:
            self._machine.later(HERE_NS, self._on_answer, self._machine.name, message)
        elif link in self.incoming:
            self._machine.world.network.send(self.incoming[link], message, back=True)

    def peer_at(self, link: int) -> str:
        return self.incoming[link].dialler.name if link in self.incoming else self._machine.name

    def pair(self, node: str, message: PairMessage, *, by_bus: bool) -> None:
        if by_bus:
            sender, target = self._machine.name, self._machine.world.machines[node]
            self._publish(target, lambda: target.wires.hear_pair(sender, message, by_bus=True))
        elif node in self.out:
            self._machine.world.network.send(self.out[node], ("pair", message))

    def brain(self, message: ms.BrainMessage) -> None:
        """By the link, over NATS when there is none."""
        machine = self._machine
        self._said += 1
        if not self._said % ENCODED:
            message = ms.decode(ms.encode(message))
        machine.log("says", message)
        if self.send(message.target.node, ("brain", message)):
            return
        target = machine.world.machines[message.target.node]
        self._publish(target, lambda: target.wires.hear_brain(message))

    def _publish(self, target: Machine, hear: Callable[[], None]) -> None:
        world, sender = self._machine.world, self._machine.name

        def arrive() -> None:
            target.hears(sender)
            hear()

        world.network.publish(sender, target.name, lambda: target.run(arrive), lossy=world.faulty)


def _is_asked_to_join(volume: Volume, node: str, join_number: int) -> bool:
    peer = volume.primary.peers.get(node) if volume.primary is not None else None
    return peer is not None and peer.phase == "joining" and peer.join_number == join_number
