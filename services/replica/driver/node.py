"""All volumes of one node, pure: turns an effect of one core into an event of another, and into orders to the shell.

    shell --fact, now--> Node --> Brain / Primary / Replica / Promises --> orders --> shell

The simulator runs it unchanged with other adapters. Here is what the cores are made of and who is told what; what a
brain's step and its effects come to is `stepping` and `performing`, what the disk answers `disk`, whether a read may be
answered `leases`, and when time alone is a fact `deadlines`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from services.replica import permits
from services.replica.brain import Beat, Brain, Claims, Detector, HardState, PairMessage, Promises, Timing
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.messages import BrainMessage
from services.replica.driver.deadlines import Deadlines
from services.replica.driver.disk import Disk
from services.replica.driver.leases import Leases
from services.replica.driver.neighbours import Neighbours
from services.replica.driver.news import News, Seen
from services.replica.driver.orders import REPLICA_OWNER, Data, Order, TellServing, ToBrain, ToPeer
from services.replica.driver.pairs import Pairs
from services.replica.driver.performing import Performing
from services.replica.driver.reports import REPORTS, Report, event_of
from services.replica.driver.stepping import Stepping
from services.replica.driver.volume import EarlyJoin, Volume
from services.replica.replication import effects as fx
from services.replica.replication.messages import (
    Failed,
    Join,
    Open,
    OpenRefused,
    Refusal,
    Request,
    RequestMany,
    Serving,
    ToPrimary,
    ToReplica,
)
from services.replica.replication.recovery import Recovery, RecoveryLimits
from services.replica.replication.replica import Replica, Share

_ASKS_A_MEMBER = ms.PreVote | ms.Propose | ms.Committed | ms.Excluded | ms.Enquire
"""Said to a member; where there is none, it is answered so. Who is lost, not removed, is no answer (I1). *A member
heard from the others, and not from its leader, that their data are gone, and forgot the volume; the leader, which waits
for that member's word, repeats that the tombstone is committed, and nobody told it.*"""
_PLAIN = frozenset({
    fx.Tell, fx.Answer, fx.AnswerRead, fx.AnswerReadMany, fx.StoreWrite, fx.StoreWriteMany, fx.CommitTail,
})  # fmt: skip
"""Effects that are the shell's alone: nearly all."""


class Node:
    """Every volume's voter on this node, and what they share: the pairs with other nodes."""

    def __init__(
        self,
        name: str,
        timing: Timing,
        nonce: int,
        share_of: Callable[[str], Share],
        now_ns: int,
        limits: RecoveryLimits | None = None,
    ):
        """`share_of(volume)`: what the store may hold unconfirmed, at this moment."""
        self.name = name
        self.recovery = Recovery(limits or RecoveryLimits())
        self.timing = timing
        self.pairs = Pairs(timing, nonce, now_ns, self._say)
        self.volumes: dict[str, Volume] = {}
        self.lost: set[str] = set()
        """Volumes whose directory here can't be used: lost voters, which is not the same as none (I1)."""
        self._share_of = share_of
        self.ordered: list[Order] = []
        """What nobody has taken yet."""
        self._claims: dict[tuple[str, bool], int] = {}
        """(node, by the bus) -> which of these orders claims from it and may be replaced."""
        self.neighbours = Neighbours(name)
        """The nodes to exchange beats with."""
        self.news = News()
        self.leases = Leases(name, self.promises, self.volumes, self._order)
        self.deadlines = Deadlines(self.volumes, self.leases)
        performing = Performing(
            self, order=self._order, share_of=share_of, data=self._data, tell_serving=self._tell_serving
        )
        self.stepping = Stepping(self, self._order, performing.perform)
        self._step = self.stepping.step
        self.disk = Disk(self, self.stepping, self._data)

    # ---- volumes --------------------------------------------------------------------------------------

    def open(
        self, volume: str, state: HardState, now_ns: int, *, marked: frozenset[int], unclean: bool, fresh: bool
    ) -> None:
        """A voter of this node: found on disk, or just made (`fresh`)."""
        brain = Brain(state, self.timing, now_ns=now_ns, fresh=fresh, unclean=unclean)
        replica = Replica(marked) if state.me.kind == "data" else None
        if replica is not None:
            replica.epoch = state.epoch
        self.stepping.steps += 1
        self.volumes[volume] = Volume(volume, brain, replica, state.epoch)
        self.deadlines.touched.add(volume)
        self.neighbours.see(volume, brain.record, led=False)
        brain.up.update(peer for peer in sorted(self.pairs.linked) if self.detector.up(peer))

    @property
    def promises(self) -> Promises:
        return self.pairs.promises

    @property
    def detector(self) -> Detector:
        """Who is there on our links."""
        return self.pairs.links

    def forget(self, volume: str) -> None:
        self.neighbours.forget(volume)
        self.stepping.steps += 1
        self.volumes.pop(volume, None)
        self.deadlines.touched.add(volume)
        self.promises.forget(volume)
        self.pairs.claim(self.promises.unclaim(volume))

    def peers(self) -> frozenset[str]:
        """The nodes that share a volume with this one."""
        return self.neighbours.sharing

    def _order(self, order: Order) -> None:
        self.ordered.append(order)

    def _say(self, order: Order) -> None:
        """Claims replace those to the same node that still wait here, because each list is whole: but never across a
        beat, which counts for the list that it quotes. *A node that stopped let go of a thousand volumes in one turn,
        and told each of its peers a thousand lists.*"""
        if isinstance(order, ToPeer):
            key = order.node, order.by_bus
            if isinstance(order.message, Beat):
                self._claims.pop(key, None)
            elif isinstance(order.message, Claims):
                at = self._claims.setdefault(key, len(self.ordered))
                if at < len(self.ordered):
                    self.ordered[at] = order
                    return
        self.ordered.append(order)

    def take(self) -> list[Order]:
        """The orders since the last call, in order."""
        self._claims.clear()
        orders, self.ordered = self.ordered, []
        return orders

    # ---- facts from the links and the bus -------------------------------------------------------------

    def link_up(self, node: str, now_ns: int) -> None:
        """A frontend there may have been started again, with a list of voters that were all replaced since."""
        self.pairs.link_up(node, now_ns)
        for volume in self.volumes.values():
            attachment = volume.brain.record.attachment if volume.brain.record is not None else None
            if attachment is not None and attachment.node == node and volume.primary and volume.primary.serving:
                self._tell_serving(volume)

    def link_down(self, node: str, now_ns: int) -> None:
        if self.pairs.link_down(node, now_ns):
            self._spread(ev.PeerDown(node), now_ns, "its link ended")

    def pair_message(self, node: str, message: PairMessage, now_ns: int, *, by_bus: bool = False) -> None:
        stores, others = partial(self._stores, node), self.neighbours.all
        heard = self.pairs.received(node, message, now_ns, stores, others, by_bus=by_bus)
        if heard.up:
            self._spread(ev.PeerUp(node), now_ns)
        elif heard.on_bus:
            self._spread(ev.HeardOnBus(node), now_ns)
        for volume_id in heard.lost:
            if volume_id in self.volumes:
                self._step(self.volumes[volume_id], ev.ClaimLost(node), now_ns)
        for volume_id in heard.uncovered:
            if volume_id in self.volumes:
                self._step(self.volumes[volume_id], ev.PromiseEnded(node), now_ns)
        if heard.answered:
            self.leases.unpark()

    def _stores(self, node: str, volume_id: str, generation: int, epoch: int) -> bool:
        """This epoch is stored here, and by all that is known here it is `node` that leads it."""
        volume = self.volumes.get(volume_id)
        return (
            volume is not None
            and volume.durable_epoch == epoch == volume.brain.epoch
            and volume.brain.state.slot is not None
            and volume.brain.state.slot.stamp.generation == generation
            and not permits.lead(volume.brain.state, volume.brain.leader, node)
        )

    def _spread(self, seen: Seen, now_ns: int, reason: str = "") -> None:
        """To those that share a volume with the node, and those that do not know yet with whom they do."""
        concerned = (v for v in self.volumes.values() if v.brain.record is None or v.shares_with(seen.node))
        self.news.add(concerned, seen, reason, now_ns)
        self._tell_news(now_ns)

    def _tell_news(self, now_ns: int) -> None:
        for volume, seen, reason in self.news.take():
            if self.volumes.get(volume.id) is volume:
                self._tell(volume, seen, reason, now_ns)

    def _tell(self, volume: Volume, seen: Seen, reason: str, now_ns: int) -> None:
        node, up = seen.node, volume.brain.up
        if volume.brain.record is None:
            if isinstance(seen, ev.PeerUp | ev.PeerDown):
                (up.add if isinstance(seen, ev.PeerUp) else up.discard)(node)
        elif volume.shares_with(node):
            # First, because whether a failed member may be let go depends on who is there.
            self._step(volume, seen, now_ns)
            if volume.primary is None:
                return
            if isinstance(seen, ev.PeerUp):
                self._data(volume, volume.primary.peer_up(node, now_ns), now_ns)
            elif isinstance(seen, ev.PeerDown):
                self._data(volume, volume.primary.peer_down(node, reason), now_ns)

    def objection(self, message: BrainMessage) -> str:
        """Why a brain's message is not heard, or ""."""
        volume = self.volumes.get(message.volume)
        if volume is None:
            return permits.brain(None, message)
        return permits.brain(volume.brain.state, message, volume.brain.candidacy.heard)

    def brain_message(self, message: BrainMessage, now_ns: int) -> None:
        volume = self.volumes.get(message.volume)
        if volume is not None:
            self._step(volume, ev.Received(message), now_ns)
            return
        if message.volume not in self.lost:
            self.say_unknown(message)

    def say_unknown(self, message: BrainMessage) -> None:
        """What a node hears of a volume that is not here, and who has no business with it of one that is."""
        if message.target.node == self.name and isinstance(message, _ASKS_A_MEMBER):
            self.ordered.append(ToBrain(ms.Unknown(message.volume, message.target, message.sender)))

    def not_understood(self, answer: ms.NotUnderstood) -> None:
        """Another voter said what this version does not know: tell it so."""
        if answer.volume in self.volumes:
            self.ordered.append(ToBrain(answer))

    # ---- data -----------------------------------------------------------------------------------------

    def to_replica(self, volume_id: str, link: int, node: str, epoch: int, message: ToReplica, now_ns: int) -> None:
        volume = self.volumes.get(volume_id)
        if volume is None or volume.replica is None:
            return
        if type(message) is not Join:
            self._data(volume, volume.replica.receive(link, message, epoch, now_ns), now_ns)
            return
        brain = volume.brain
        if epoch < brain.epoch == volume.durable_epoch and brain.record is not None:
            # A5: the leader of an older epoch should know, or it would ask for ever.
            voter = brain.record.member_on(node)
            if voter is not None:
                refused = ms.Refused(volume_id, brain.me, voter, brain.epoch)
                self.ordered.append(ToBrain(ms.said_in(refused, brain.generation)))
            return
        if brain.failure:
            self.ordered.append(Data(volume_id, epoch, (fx.Answer(link, Failed(brain.failure)),)))
            return
        known = epoch == brain.epoch and not brain.silent and not brain.erased
        if not known or brain.role == "leader" or (brain.leader is not None and brain.leader.node != node):
            return
        if epoch != volume.durable_epoch or volume.pending:
            # Only when the epoch is durable an answer may depend on it (invariant 4). That is a matter of milliseconds,
            # and the primary, which serves nobody without us, would ask again after a hundred. A record on its way to
            # the disk may be of a larger volume: compared beyond its end, we would have to end the link of all volumes.
            volume.early_join = EarlyJoin(link, node, epoch, message)
            return
        share = self._share_of(volume_id)
        self._data(volume, volume.replica.join(link, message, epoch, share), now_ns)

    def to_primary(self, volume_id: str, node: str, epoch: int, message: ToPrimary, now_ns: int) -> None:
        volume = self.volumes.get(volume_id)
        if volume is not None and volume.primary is not None and volume.primary.epoch == epoch:
            self._data(volume, volume.primary.receive(node, message, now_ns), now_ns)
        if self.recovery.budget.hungry:
            self._share_out(now_ns)

    def _share_out(self, now_ns: int) -> None:
        """Who was refused by the recovery budget goes on, the most urgent first, as long as there is room."""
        while (key := self.recovery.budget.turn(now_ns)) is not None:
            volume_id, node = key
            volume = self.volumes.get(volume_id)
            if volume is not None and volume.primary is not None:
                self._data(volume, volume.primary.go_on_with(node, now_ns), now_ns)

    def felt(self, took_ns: Sequence[int], now_ns: int) -> None:
        """Requests to a volume that is led here were answered after so long, by the frontend's word."""
        self.recovery.pace.felt(took_ns, now_ns)

    def incoming_link_lost(self, link: int, now_ns: int) -> None:
        for volume in self.volumes.values():
            if volume.replica is not None:
                self._data(volume, volume.replica.link_lost(link), now_ns)

    def open_session(self, volume_id: str, link: int, node: str, attach_epoch: int, message: Open, now_ns: int) -> None:
        volume = self.volumes.get(volume_id)
        if volume is None or volume.primary is None:
            leader = volume.brain.leader if volume else None
            hint = leader.node if leader and leader.node != self.name else ""
            refused = OpenRefused(message.session, Refusal.NOT_PRIMARY, hint)
            epoch = volume.brain.epoch if volume else 0
            self.ordered.append(Data(volume_id, epoch, (fx.Answer(link, refused),)))
            if volume is not None:
                self._step(volume, ev.SessionRefused(node, attach_epoch), now_ns)
            return
        self._data(volume, volume.primary.open(link, node, message.session, attach_epoch), now_ns)

    def request(self, volume_id: str, link: int, request: Request | RequestMany, now_ns: int) -> None:
        """A request within the volume's bounds; many only while the primary `takes_many`."""
        volume = self.volumes.get(volume_id)
        if volume is None or volume.primary is None:
            refused = OpenRefused(request.session, Refusal.NOT_PRIMARY)
            released = (fx.Release(request.token),) if request.token else ()
            self.ordered.append(Data(volume_id, 0, (fx.Answer(link, refused), *released)))
            return
        primary = volume.primary
        if isinstance(request, RequestMany):
            self._data(volume, primary.request_many(link, request, now_ns), now_ns)
        else:
            self._data(volume, primary.request(link, request, now_ns), now_ns)

    def _data(self, volume: Volume, effects: list[fx.Effect], now_ns: int) -> None:
        """Pass a core's effects on: to the brain what is the brain's, the rest to the shell."""
        (self.deadlines.busy if self.pairs.linked else self.deadlines.touched).add(volume.id)
        if not effects:
            return
        primary = volume.primary
        owner = primary.epoch if primary is not None else REPLICA_OWNER
        epoch = owner if primary is not None else (volume.replica.epoch if volume.replica else 0)
        if _PLAIN.issuperset(map(type, effects)):
            self.ordered.append(Data(volume.id, epoch, effects, owner))
            return
        plain: list[fx.Effect] = []
        reports: list[Report] = []
        for effect in effects:
            if isinstance(effect, REPORTS):
                reports.append(effect)
                continue
            plain.append(effect)
            if isinstance(effect, fx.SyncStore):
                volume.disk_asked(("sync", owner, effect.ticket), now_ns)
            elif isinstance(effect, fx.MarkRegions):
                for region in effect.regions:
                    volume.disk_asked(("mark", 0, region), now_ns)
            elif isinstance(effect, fx.SealStore):
                volume.disk_asked(("seal", 0, effect.seq), now_ns)
            elif isinstance(effect, fx.StartedServing):
                self.ordered.append(Data(volume.id, epoch, plain, owner))
                plain = []
                self._tell_serving(volume)
        if plain:
            self.ordered.append(Data(volume.id, epoch, plain, owner))
        for report in reports:
            # After the other effects: what the brain makes of it must not overtake them on a link.
            event = event_of(report, volume, epoch)
            if event is not None:
                self._step(volume, event, now_ns)

    def _tell_serving(self, volume: Volume) -> None:
        record = volume.brain.record
        if record is not None and record.attachment is not None and volume.primary is not None:
            order = TellServing(volume.id, record.attachment.node, volume.primary.epoch, Serving())
            self.ordered.append(order)

    # ---- requests -------------------------------------------------------------------------------------

    def ask(self, volume_id: str, event: ev.Event, now_ns: int) -> None:
        """A request to the volume's voter, or the answer to FindHome."""
        self._step(self.volumes[volume_id], event, now_ns)

    def hand_over(self, now_ns: int) -> None:
        """The process is about to end: give every volume that is led here to another node, as far as there is one."""
        for volume in list(self.volumes.values()):
            if volume.brain.role == "leader":
                self._step(volume, ev.MoveAsked(0, reason="its process ends"), now_ns)

    @property
    def handing_over(self) -> bool:
        return any(volume.brain.handover.under_way for volume in self.volumes.values())

    def resign(self, now_ns: int) -> None:
        """The process ends in order: let go of every volume; the claims that are withdrawn tell the others."""
        for volume in list(self.volumes.values()):
            self._step(volume, ev.Stopping(), now_ns)

    # ---- time -----------------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When `time_passed` is due. Without links and deadlines: None."""
        deadlines = self.deadlines
        if deadlines.touched:
            deadlines.look()
        if self.news.due_ns is not None:
            return self.news.due_ns
        soonest = deadlines.soonest_ns
        if self.recovery.budget.hungry:
            room_ns = self.recovery.budget.next_deadline_ns()
            if room_ns is not None and (soonest is None or room_ns < soonest):
                soonest = room_ns
        if self.pairs.linked or self.neighbours.all:
            beat_ns = self.pairs.next_beat_ns
            return beat_ns if soonest is None or beat_ns < soonest else soonest
        return soonest

    def time_passed(self, now_ns: int) -> None:
        pairs, deadlines = self.pairs, self.deadlines
        self._tell_news(now_ns)
        if pairs.beats_due(now_ns):
            deadlines.touch_busy()
        deadlines.look()
        if pairs.beats_due(now_ns):
            if pairs.overslept(now_ns):
                self._excuse(now_ns)
            pairs.beat(self.neighbours.all, now_ns)
            self._look_at_disks(now_ns)
        for node in pairs.silent(self.neighbours.all, now_ns):
            self._spread(ev.PeerDown(node), now_ns, "it is silent")
        for node in pairs.silent_on_bus(now_ns):
            self._spread(ev.SilentOnBus(node), now_ns)
        for volume_id in deadlines.due(now_ns):
            volume = self.volumes[volume_id]
            self._step(volume, ev.TimePassed(), now_ns)
            if volume.primary is not None:
                self._data(volume, volume.primary.time_passed(now_ns), now_ns)
            elif volume.replica is not None:
                self._data(volume, volume.replica.time_passed(now_ns), now_ns)
        self._share_out(now_ns)

    def _excuse(self, now_ns: int) -> None:
        """We were paused ourselves: what the others said meanwhile still waits in our sockets."""
        self.pairs.excuse(now_ns)
        for volume in self.volumes.values():
            if volume.primary is not None:
                volume.primary.excuse(now_ns)
            for key in volume.disk_waits:
                volume.disk_waits[key] = now_ns

    def _look_at_disks(self, now_ns: int) -> None:
        """A leader whose disk makes no progress resigns (A5)."""
        for volume in list(self.volumes.values()):
            if volume.brain.role == "leader" and volume.disk_stalled(now_ns):
                self._step(volume, ev.TimePassed(), now_ns)

    # ---- looking in -----------------------------------------------------------------------------------

    def role(self, volume: Volume) -> str:
        brain = volume.brain
        if brain.erased:
            return "removed"
        if brain.failure or brain.silent:
            return "failed"
        if volume.primary is not None:
            return "primary" if volume.primary.serving else "taking-over"
        if brain.role == "leader":
            return "taking-over"
        if brain.role in ("pre-voting", "voting"):
            return "candidate"
        if brain.me.kind == "witness":
            return "witness"
        in_sync = brain.record is not None and brain.me in brain.record.in_sync
        return "replica" if in_sync else "catching-up"
