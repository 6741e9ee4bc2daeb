"""The shell around `driver.Node`: it performs the node's orders on links, disks and the bus, and reports back.

Everything happens in the event loop's thread and nothing here waits; the disk's waiting is done in lanes. After
every wake-up `settle` performs what the node ordered, hands collected acknowledgements to the links and sets the
one timer. A payload is a window into a link's receive buffer; it is copied only if the node still holds its token
when the frame has been handled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from services.replica import codec
from services.replica.brain.messages import BrainMessage
from services.replica.brain.messages import encode as encode_brain
from services.replica.clock import boot_time_ns
from services.replica.codec import Envelope, Parts
from services.replica.driver import (
    Data,
    Decided,
    DropHome,
    Erase,
    FindHome,
    HangUp,
    Node,
    Order,
    RecordChanged,
    Remove,
    Reply,
    Save,
    TellServing,
    ToBrain,
    ToPeer,
)
from services.replica.hosted import Failure, Hosted, SyncWait
from services.replica.peers import (
    Link,
    PeerNetwork,
    Type,
    pack,
    pack_copies,
)
from services.replica.replication import effects as fx
from services.replica.replication import messages as ms
from services.replica.resyncing import Resyncing
from services.replica.rot import Rot
from services.replica.seals import Seals
from services.replica.store import CorruptBlocks, StoreError
from services.replica.traced import Traced, Work, flushing, keep_if_slow, syncing, zeroing
from stoscore.metrics import RATIO, Histogram
from stoscore.telemetry import get_logger

log = get_logger("replica")
HAND_OVER_S = 3.0
"""How long an ending process waits for its volumes to be led elsewhere."""
HAND_OVER_LOOK_S = 0.005


class Counted:
    """What only counting can tell, for metrics."""

    def __init__(self) -> None:
        self.syncs = Histogram()
        """seconds from the order to the answer"""
        self.seals = Histogram()
        """seconds for which new writes waited for a seal"""
        self.rotten_blocks = self.healed_blocks = 0
        self.resyncs = 0
        self.resync_sent_blocks = 0
        self.resync_compared_blocks = 0
        self.resync_spared_bytes = 0
        self.estimate_errors = Histogram(RATIO)
        self.duration_errors = Histogram(RATIO)


class Surroundings(Protocol):
    """What lies beyond links and disks; the app implements it."""

    def brain_by_bus(self, message: BrainMessage, encoded: bytes) -> None: ...
    def pair_by_bus(self, node: str, encoded: bytes) -> None: ...
    def decided(self, order: Decided) -> None: ...
    def record_changed(self, order: RecordChanged) -> None: ...
    def replied(self, order: Reply) -> None: ...
    def remove(self, hosted: Hosted) -> None: ...
    def find_home(self, order: FindHome) -> None: ...
    def drop_home(self, order: DropHome) -> None: ...
    def damaged(self, volume: str, epoch: int, damage: fx.Damage) -> None: ...


class Shell:
    """One node's orders, performed."""

    def __init__(self, node: Node, network: PeerNetwork, around: Surroundings, loop: asyncio.AbstractEventLoop):
        self.node = node
        self.network = network
        self.counted = Counted()
        self.on_resync: Callable[[str, fx.ResyncBegins], None] = lambda volume, begins: None
        self.on_resynced: Callable[[str, fx.ResyncDone], None] = lambda volume, done: None
        self.hosted: dict[str, Hosted] = {}
        self.by_raw: dict[bytes, Hosted] = {}
        self.payloads: dict[int, Parts] = {}
        self._windows: list[int] = []
        """Tokens of payloads that lie in a receive buffer."""
        self.around = around
        self.loop = loop
        self.links: dict[int, Link] = {}
        self._numbers: dict[Link, int] = {}
        self._next_link = 1
        self._settling = False
        self.stopped = False
        self.traced = Traced()
        self._acks: dict[tuple[int, str], tuple[Envelope, list[int]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._token = 0
        self.rot = Rot(self)
        self.seals = Seals(self)
        self._orders: dict[type, Callable[[Any], None]] = {
            Data: self._data,
            ToPeer: self._to_peer,
            ToBrain: self._to_brain,
            Save: self._save,
            Reply: around.replied,
            Decided: around.decided,
            RecordChanged: self._record_changed,
            Erase: self._erase,
            Remove: self._remove,
            TellServing: self._tell_serving,
            HangUp: self.hang_up,
            FindHome: around.find_home,
            DropHome: around.drop_home,
        }
        self._effects: dict[type, Callable[[Hosted, Data, Any], None]] = {
            fx.Tell: self._tell,
            fx.Answer: self._answer,
            fx.AnswerRead: self._answer_read,
            fx.AnswerReadMany: self._answer_read_many,
            fx.AnswerStatus: self._answer_status,
            fx.StoreWrite: self._store_write,
            fx.StoreWriteMany: self._store_write_many,
            fx.StoreZero: self._store_zero,
            fx.MarkRegions: self._mark,
            fx.UnmarkRegions: self._unmark,
            fx.SyncStore: self._sync,
            fx.CommitTail: self._commit_tail,
            fx.Release: self._release,
            fx.StartedServing: self._started_serving,
            **Resyncing(self).performs(),
            **self.rot.performs(),
            **self.seals.performs(),
        }

    # ---- what comes in --------------------------------------------------------------------------------

    def add(self, hosted: Hosted) -> None:
        self.hosted[hosted.volume] = hosted
        if hosted.store is not None:
            hosted.layers.on_failure = lambda error: self.disk_failed(hosted, str(error))
        self.by_raw[hosted.raw] = hosted

    def link_number(self, link: Link) -> int:
        """The number by which the node knows an incoming link; never used again."""
        number = self._numbers.get(link)
        if number is None:
            number = self._next_link
            self._next_link += 1
            if link.up:
                self._numbers[link] = number
                self.links[number] = link
        return number

    def forget_link(self, link: Link) -> int:
        number = self._numbers.pop(link, 0)
        self.links.pop(number, None)
        return number

    def hold(self, *parts: bytes | memoryview) -> int:
        """A token for a payload in a receive buffer, until all is settled."""
        self._token = token = self._token + 1
        self.payloads[token] = parts
        self._windows.append(token)
        return token

    def _keep(self) -> None:
        """The frames have been handled: what is still wanted is copied out of the receive buffer."""
        if self.payloads:
            for token in self._windows:
                parts = self.payloads.get(token)
                if parts is not None:
                    self.payloads[token] = tuple(bytes(part) for part in parts)
        self._windows.clear()

    def settle(self) -> None:
        """Perform all orders, then set the timer. A link that ends under an order calls here again: its orders wait
        for their turn, or they would overtake what was ordered before."""
        if self.stopped:
            return
        self.perform()
        if self._acks:
            self._send_acks()
        if self._windows:
            self._keep()
        due_ns = self.node.next_deadline_ns()
        if due_ns is not None and (self._timer is None or due_ns < self._timer_ns):
            self._ring_at(due_ns)

    def perform(self) -> None:
        node, table = self.node, self._orders
        if self._settling or not node.ordered:
            return
        self._settling = True
        try:
            while node.ordered:
                for order in node.take():
                    try:
                        table[type(order)](order)
                    except Exception as error:
                        self._broke(order, error)
        finally:
            self._settling = False

    def _broke(self, order: Order, error: Exception) -> None:
        """An order raised what nobody foresaw. The rest of this wake-up, other volumes' orders as well, is performed. A
        message counts as lost. Where data or a hard state may not be stored, that copy fails: what follows must not be
        told as done."""
        volume = order.message.volume if isinstance(order, ToBrain) else getattr(order, "volume", "")
        what = f"{type(order).__name__} could not be performed: {type(error).__name__}: {error}"
        log.error("%s", what, exc_info=error, extra={"volume": volume})
        hosted = self.hosted.get(volume)
        if hosted is not None and isinstance(order, Data | Save):
            self.fail(hosted, what, votes=not isinstance(order, Save))

    def _ring_at(self, due_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = due_ns
        self._timer = self.loop.call_later(max(0, due_ns - boot_time_ns()) / 1e9, self._timer_rang)

    def _timer_rang(self) -> None:
        self._timer = None
        self.node.time_passed(boot_time_ns())
        self.settle()

    async def hand_over(self) -> None:
        """Give the volumes that are led here to other nodes, as far as there are any, before the process ends."""
        self.node.hand_over(boot_time_ns())
        self.settle()
        try:
            async with asyncio.timeout(HAND_OVER_S):
                while self.node.handing_over:
                    await asyncio.sleep(HAND_OVER_LOOK_S)
        except TimeoutError:
            log.warning("not every volume found another primary in time; the others elect one")

    def stop(self) -> None:
        """Let go of every volume, tell the others, and do nothing from then on."""
        self.node.resign(boot_time_ns())
        self.settle()
        self.stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # ---- orders ---------------------------------------------------------------------------------------

    def _to_peer(self, order: ToPeer) -> None:
        parts = codec.pack_pair(order.message)
        if order.by_bus:
            self.around.pair_by_bus(order.node, b"".join(bytes(part) for part in parts))
        else:
            self.network.send(order.node, *parts)

    def _to_brain(self, order: ToBrain) -> None:
        encoded = encode_brain(order.message)
        header = pack(Type.BRAIN, volume=bytes.fromhex(order.message.volume), length=len(encoded))
        if not self.network.send(order.message.target.node, header, encoded):
            self.around.brain_by_bus(order.message, encoded)

    def _save(self, order: Save) -> None:
        hosted = self.hosted.get(order.volume)
        if hosted is None:
            return

        def told(ticket: int, failure: Failure) -> None:
            if self.stopped:
                return
            if failure is None:
                self.node.disk.saved(order.volume, ticket, boot_time_ns())
            else:
                self.fail(hosted, f"hard state: {failure}", votes=False)
            self.settle()

        hosted.save(order.ticket, order.state, told)

    def _erase(self, order: Erase) -> None:
        hosted = self.hosted[order.volume]
        hosted.erased = True

        def told(failure: Failure) -> None:
            if failure is None:
                self.node.disk.erased(order.volume, boot_time_ns())
            else:
                log.error("could not give the space back: %s", failure, extra={"volume": order.volume})
            self.settle()

        hosted.layers.drop(hosted.blocks.sealed)
        hosted.run(lambda: hosted.blocks.zero(0, hosted.blocks.size_blocks), told)

    def _remove(self, order: Remove) -> None:
        hosted = self.hosted.pop(order.volume, None)
        if hosted is not None:
            self.by_raw.pop(hosted.raw, None)
            self.around.remove(hosted)

    def _tell_serving(self, order: TellServing) -> None:
        """Our own link there may not be up yet, when we have just become the primary; its link to us is."""
        copies = self._copies(order.volume)
        header = pack(Type.SERVING, volume=bytes.fromhex(order.volume), epoch=order.epoch, length=len(copies))
        if not self.network.send(order.node, header, copies):
            for link in self.links.values():
                if link.peer == order.node:
                    link.send(header, copies)

    def _copies(self, volume_id: str) -> bytes:
        """Who holds the volume, for whoever uses it."""
        volume = self.node.volumes.get(volume_id)
        record = volume.brain.record if volume is not None else None
        members = record.members if record is not None else ()
        return pack_copies({member.node: member.incarnation for member in members if member.kind == "data"})

    def hang_up(self, order: HangUp, reason: str = "the peer is silent") -> None:
        link = self.network.outgoing(order.node)
        if link is not None:
            self.loop.call_soon(link.close, reason)

    def _data(self, order: Data) -> None:
        hosted = self.hosted.get(order[0])
        if hosted is None:
            self._refuse_unhosted(order)
            return
        table = self._effects
        for effect in order[2]:
            if hosted.failure and not _after_failure(effect):
                continue  # what follows a failed store must not be told as done
            try:
                table[type(effect)](hosted, order, effect)
            except StoreError as error:
                self.fail(hosted, str(error))
            except Exception as error:
                self._broke(order, error)

    def _refuse_unhosted(self, order: Data) -> None:
        """The volume has no voter here: a frontend that asks is sent on."""
        envelope = Envelope(bytes.fromhex(order.volume), epoch=order.epoch)
        for effect in order.effects:
            if isinstance(effect, fx.Answer) and effect.link in self.links:
                self.links[effect.link].send(*codec.pack_message(envelope, effect.message))

    def fail(self, hosted: Hosted, reason: str, *, votes: bool = True) -> None:
        """This copy's disk failed: it counts for nothing from now on, durably if the disk still takes that (S3). Only
        one whose hard state can't be stored has no vote any more either."""
        if hosted.failure and (votes or not hosted.votes):
            return
        log.error("replica failed: %s", reason, extra={"volume": hosted.volume})
        if hosted.store is not None and not hosted.failure:
            hosted.run(hosted.store.set_unclean, lambda failure: None)
        hosted.failure, hosted.votes = reason, votes
        self.node.disk.store_changed(hosted.volume, boot_time_ns(), unclean=True, failure=reason, votes=votes)

    # ---- sending --------------------------------------------------------------------------------------

    def envelope(self, hosted: Hosted, epoch: int, target: str = "") -> Envelope:
        """The header of a message to `target`'s replica, or to whoever is at a link's end. The same one as long as
        record and epoch stay."""
        volume = self.node.volumes.get(hosted.volume)
        slot = volume.brain.local.state.slot if volume else None
        if slot is not hosted.seen:
            hosted.see(slot)
        known = hosted.envelopes.get((epoch, target))
        if known is None:
            voter = slot.record.member_on(target) if slot and target else None
            known = hosted.envelopes[epoch, target] = Envelope(
                hosted.raw,
                sender=hosted.number,
                target=int(voter.incarnation, 16) if voter else 0,
                generation=slot.stamp.generation if slot else 0,
                epoch=epoch,
            )
        return known

    def _tell(self, hosted: Hosted, order: Data, effect: fx.Tell) -> None:
        peers, message = effect
        payload = self.payloads[message.token] if isinstance(message, ms.Write | ms.WriteMany) else ()
        if self.traced.work and isinstance(message, codec.Followed):
            key = self.traced.key(self._work(hosted, message))
            if key:
                for peer in peers:
                    envelope = self.envelope(hosted, order.epoch, peer)
                    self.network.send(peer, *codec.pack_traced(envelope, message, payload, key))
                return
        for peer in peers:
            envelope = self.envelope(hosted, order.epoch, peer)
            self.network.send(peer, *codec.pack_message(envelope, message, payload))

    def _work(self, hosted: Hosted, message: codec.Followed) -> Work:
        """What a message to the copies is called here."""
        match message:
            case ms.Flush(ticket):
                return syncing(hosted.raw, ticket)
            case ms.Zero(_, _, block, count):
                return zeroing(hosted.raw, block, count)
            case _:
                return message.token

    def _answer(self, hosted: Hosted, order: Data, effect: fx.Answer) -> None:
        number, message = effect
        link = self.links.get(number)
        if link is None:
            return
        if isinstance(message, ms.Ack):
            self._collect_ack(hosted, order.epoch, number, message)
            return
        if self.traced.work and isinstance(message, ms.Flushed):
            self.traced.synced(flushing(hosted.raw, message.ticket), boot_time_ns())
        if self.traced.requests:
            if isinstance(message, ms.Done):
                self._answered(hosted, message.session, (message.request,), message.errno)
            elif isinstance(message, ms.DoneMany):
                self._answered(hosted, message.session, message.requests)
        envelope = self.envelope(hosted, order.epoch, link.peer)
        if isinstance(message, ms.Opened):
            primary = self.node.volumes[hosted.volume].primary
            # By the record: our copy is larger where it grew for one that was never committed.
            size_blocks = primary.size_blocks if primary is not None else hosted.blocks.size_blocks
            link.send(*codec.pack_opened(envelope, message, size_blocks, self._copies(hosted.volume)))
        else:
            link.send(*codec.pack_message(envelope, message))

    def _answered(self, hosted: Hosted, session: int, requests: Sequence[int], errno: int = 0) -> None:
        self.traced.answered(hosted.raw, session, requests, errno, boot_time_ns())

    def _collect_ack(self, hosted: Hosted, epoch: int, number: int, message: ms.Ack) -> None:
        """One frame for all writes of a wake-up."""
        key = (number, hosted.volume)
        known = self._acks.get(key)
        if known is not None and known[0].epoch == epoch:
            known[1].extend(message.seqs)
            return
        if known is not None:
            self._send_acks()
        self._acks[key] = (self.envelope(hosted, epoch, self.links[number].peer), list(message.seqs))

    def _send_acks(self) -> None:
        acks, self._acks = self._acks, {}
        for (number, _), (envelope, seqs) in acks.items():
            link = self.links.get(number)
            if link is not None:
                link.send(*codec.pack_message(envelope, ms.Ack(tuple(seqs))))

    def _answer_read(self, hosted: Hosted, order: Data, effect: fx.AnswerRead) -> None:
        link = self.links.get(effect.link)
        volume = self.node.volumes.get(hosted.volume)
        primary = volume.primary if volume else None
        if link is None or volume is None or primary is None or primary.epoch != order.epoch or not primary.serving:
            return
        envelope = self.envelope(hosted, order.epoch)
        try:
            sums, data = hosted.blocks.read(effect.block, effect.count)
        except CorruptBlocks as error:
            self.rot.saw(hosted, error.blocks)
            self.node.disk.unreadable(hosted.volume, order.epoch, effect, error.blocks, boot_time_ns())
            return
        if self.node.leases.until(volume) <= boot_time_ns():  # P4: after the disk, as the answer leaves
            self.node.leases.park(volume, effect)
            return
        link.send(*codec.pack_read(envelope, effect.session, effect.request, effect.block, sums, data))
        if self.traced.requests:
            self._answered(hosted, effect.session, (effect.request,))

    def _answer_read_many(self, hosted: Hosted, order: Data, effect: fx.AnswerReadMany) -> None:
        """Together; one by one where some of them meet rot, because these wait to be healed."""
        number, session, asks = effect
        link = self.links.get(number)
        volume = self.node.volumes.get(hosted.volume)
        primary = volume.primary if volume else None
        if link is None or volume is None or primary is None or primary.epoch != order.epoch or not primary.serving:
            return
        try:
            sums, data = hosted.blocks.read_scattered([(block, count) for _, block, count in asks])
        except CorruptBlocks:
            for request, block, count in asks:
                self._answer_read(hosted, order, fx.AnswerRead(number, session, request, block, count))
            return
        if self.node.leases.until(volume) <= boot_time_ns():  # P4, as for one
            self.node.leases.park(volume, effect)
            return
        link.send(*codec.pack_reads(self.envelope(hosted, order.epoch), session, asks, sums, memoryview(data)))
        if self.traced.requests:
            self._answered(hosted, session, [request for request, _, _ in asks])

    def _answer_status(self, hosted: Hosted, order: Data, effect: fx.AnswerStatus) -> None:
        link = self.links.get(effect.link)
        volume = self.node.volumes.get(hosted.volume)
        primary = volume.primary if volume else None
        if link is None or volume is None or primary is None or primary.epoch != order.epoch or not primary.serving:
            return
        extents = hosted.blocks.extents(effect.block, effect.count)
        if self.node.leases.until(volume) <= boot_time_ns():  # P4, as for a read
            self.node.leases.park(volume, effect)
            return
        envelope = self.envelope(hosted, order.epoch)
        link.send(*codec.pack_status(envelope, effect.session, effect.request, effect.block, extents))

    # ---- the store ------------------------------------------------------------------------------------

    def _store_write(self, hosted: Hosted, order: Data, effect: fx.StoreWrite) -> None:
        seq, block, count, token = effect
        sums, data = self.payloads.pop(token)
        store, began_ns = hosted.blocks, boot_time_ns() if self.traced.work else 0
        store.tail_append(seq, block, count)
        store.write(block, sums, data)
        if began_ns:
            self.traced.stored(token, began_ns, boot_time_ns(), count)
        if hosted.health.rotten:
            hosted.health.overwrite(block, count)

    def _store_write_many(self, hosted: Hosted, order: Data, effect: fx.StoreWriteMany) -> None:
        seq, ranges, token = effect
        sums, data = self.payloads.pop(token)
        began_ns = boot_time_ns() if self.traced.work else 0
        hosted.blocks.write_many(seq, ranges, sums, data)
        if began_ns:
            self.traced.stored(token, began_ns, boot_time_ns(), sum(count for _, count in ranges))
        if hosted.health.rotten:
            for block, count in ranges:
                hosted.health.overwrite(block, count)

    def _store_zero(self, hosted: Hosted, order: Data, effect: fx.StoreZero) -> None:
        began_ns = boot_time_ns() if self.traced.work else 0
        hosted.blocks.tail_append(effect.seq, effect.block, effect.count)
        hosted.blocks.zero(effect.block, effect.count)
        if began_ns:
            work = zeroing(hosted.raw, effect.block, effect.count)
            self.traced.stored(work, began_ns, boot_time_ns(), effect.count)
        if hosted.health.rotten:
            hosted.health.overwrite(effect.block, effect.count)

    def _commit_tail(self, hosted: Hosted, order: Data, effect: fx.CommitTail) -> None:
        hosted.blocks.tail_commit(effect.seq)

    def _unmark(self, hosted: Hosted, order: Data, effect: fx.UnmarkRegions) -> None:
        hosted.blocks.unmark(effect.regions)

    def _mark(self, hosted: Hosted, order: Data, effect: fx.MarkRegions) -> None:
        asked_ns = boot_time_ns()

        def told(regions: tuple[int, ...], failure: Failure) -> None:
            keep_if_slow("store.mark", hosted.volume, boot_time_ns() - asked_ns, failure)
            if failure is None:
                self.node.disk.marked(hosted.volume, regions, boot_time_ns())
            else:
                self.fail(hosted, str(failure))
            self.settle()

        hosted.mark(effect.regions, told)

    def _sync(self, hosted: Hosted, order: Data, effect: fx.SyncStore) -> None:
        asked_ns = boot_time_ns()
        if self.traced.requests:
            self._follow_flush(hosted, effect.ticket, asked_ns)

        def told(waits: list[SyncWait], failure: Failure) -> None:
            now_ns = boot_time_ns()
            self.counted.syncs.record((now_ns - asked_ns) / 1e9)
            keep_if_slow("store.sync", hosted.volume, now_ns - asked_ns, failure)
            if failure is not None:
                self.fail(hosted, str(failure))
            else:
                if any(wait.cleans for wait in waits):
                    self.node.disk.store_changed(hosted.volume, now_ns, unclean=hosted.blocks.unclean)
                for wait in waits:
                    if self.traced.work:
                        self.traced.synced(syncing(hosted.raw, wait.ticket), now_ns)
                    self.node.disk.synced(hosted.volume, wait.owner, wait.ticket, now_ns)
            self.settle()

        hosted.sync(SyncWait(order.owner, effect.ticket, effect.settles, effect.cleans), told)

    def _follow_flush(self, hosted: Hosted, ticket: int, now_ns: int) -> None:
        """A client's flush, if it is followed, is this sync from now on, here and at the other copies."""
        volume = self.node.volumes.get(hosted.volume)
        asked = volume.primary.flushes.asked_by(ticket) if volume is not None and volume.primary is not None else None
        if asked is not None:
            self.traced.became(hosted.raw, *asked, syncing(hosted.raw, ticket), now_ns)

    def _record_changed(self, order: RecordChanged) -> None:
        hosted = self.hosted.get(order.volume)
        if hosted is not None:
            self.seals.drop_unwanted(hosted)
        self.around.record_changed(order)

    # ---- rot ------------------------------------------------------------------------------------------

    def compare(self, volume: str, region: int, count: int) -> None:
        """The scrub has read these regions: with the other copies, if the volume is led here."""
        if not self.stopped:
            self.node.disk.compare(volume, region, count, boot_time_ns())
            self.settle()

    def disk_failed(self, hosted: Hosted, reason: str) -> None:
        """What nobody waits for could not be read or written: the scrub, a fold."""
        if not self.stopped:
            self.fail(hosted, reason)
            self.settle()

    def rot_found(self, volume: str, blocks: Sequence[int]) -> None:
        """The scrub read blocks that do not match their checksum."""
        hosted = self.hosted.get(volume)
        if hosted is not None and not hosted.failure and not self.stopped:
            self.rot.saw(hosted, blocks)
            self.node.disk.rotten(volume, blocks, boot_time_ns())
            self.settle()

    def _release(self, hosted: Hosted, order: Data, effect: fx.Release) -> None:
        self.payloads.pop(effect.token, None)

    def _started_serving(self, hosted: Hosted, order: Data, effect: fx.StartedServing) -> None:
        log.info(
            "serving after take-over: compared %d blocks, copied %d",
            effect.compared_blocks,
            effect.copied_blocks,
            extra={"volume": hosted.volume, "epoch": order.epoch},
        )


def _after_failure(effect: fx.Effect) -> bool:
    """What a failed copy may still do: let go of payloads, say that it failed, send a frontend on."""
    match effect:
        case fx.Release() | fx.Answer(_, ms.Failed()) | fx.Answer(_, ms.OpenRefused()):
            return True
    return False
