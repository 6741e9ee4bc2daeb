"""All volumes of one node, pure: turns an effect of one core into an event of another, and into orders to the shell.

    shell --fact, now--> Node --> Brain / Primary / Replica / Promises --> orders --> shell

The simulator runs this file unchanged with other adapters. An order of a brain that depends on its hard state waits
here until that state is durable, and so does everything after it (invariant 4).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import get_args

from services.replica import permits
from services.replica.brain import Beat, Brain, Claims, Detector, Facts, HardState, PairMessage, Promises, Timing
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.messages import BrainMessage
from services.replica.driver.neighbours import Neighbours
from services.replica.driver.news import News, Seen
from services.replica.driver.orders import (
    REPLICA_OWNER,
    Data,
    Order,
    Save,
    TellServing,
    ToBrain,
    ToPeer,
)
from services.replica.driver.pairs import Pairs
from services.replica.driver.performing import Performing
from services.replica.driver.snapshots import snapshot_event
from services.replica.driver.volume import EarlyJoin, Lease, Pending, Volume
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
from services.replica.replication.past import Moment
from services.replica.replication.recovery import Recovery, RecoveryLimits
from services.replica.replication.replica import Replica, Share

NO_FACTS = Facts()
_ASKS_A_MEMBER = ms.PreVote | ms.Propose | ms.Committed | ms.Excluded | ms.Enquire
"""Said to a member; where there is none, it is answered so. Who is lost, not removed, is no answer (I1). *A member
heard from the others, and not from its leader, that their data are gone, and forgot the volume; the leader, which waits
for that member's word, repeats that the tombstone is committed, and nobody told it.*"""
Report = (
    fx.ReportFailed
    | fx.ReportFollows
    | fx.ReportCaughtUp
    | fx.ReportSettled
    | fx.ReportSealed
    | fx.ReportNotSealed
    | fx.ReportStep
    | fx.ReportGiven
)
"""Effects for the brain."""
_REPORTS = get_args(Report)
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
        self.steps = 0
        """Rises with whatever a brain here may have changed by."""
        self._parked: set[str] = set()
        """Volumes with reads that wait for their lease."""
        self._due: dict[str, int] = {}
        self._soonest_ns: int | None = None
        """The first of these."""
        self._touched: set[str] = set()
        self._busy: set[str] = set()
        """Volumes with data since the last beat: their deadlines, none of them shorter than a beat, are looked at
        with the next one, because a busy volume's move all the time."""
        self._events: deque[tuple[Volume, ev.Event]] = deque()
        self._stepping = False
        self._perform = Performing(
            self,
            order=self._order,
            share_of=share_of,
            data=self._data,
            step=self._step,
            tell_serving=self._tell_serving,
        ).perform

    # ---- volumes --------------------------------------------------------------------------------------

    def open(
        self, volume: str, state: HardState, now_ns: int, *, marked: frozenset[int], unclean: bool, fresh: bool
    ) -> None:
        """A voter of this node: found on disk, or just made (`fresh`)."""
        brain = Brain(state, self.timing, now_ns=now_ns, fresh=fresh, unclean=unclean)
        replica = Replica(marked) if state.me.kind == "data" else None
        if replica is not None:
            replica.epoch = state.epoch
        self.steps += 1
        self.volumes[volume] = Volume(volume, brain, replica, state.epoch)
        self._touched.add(volume)
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
        self.steps += 1
        self.volumes.pop(volume, None)
        self._touched.add(volume)
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
        heard = self.pairs.received(node, message, now_ns, partial(self._stores, node), by_bus=by_bus)
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
            self._unpark()

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
        (self._busy if self.pairs.linked else self._touched).add(volume.id)
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
            if isinstance(effect, _REPORTS):
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
            if isinstance(report, fx.ReportSettled):
                self._step(volume, ev.Settled(epoch), now_ns)
                continue
            if isinstance(report, fx.ReportStep):
                self._step(volume, ev.StepReached(report.asked, report.step), now_ns)
                continue
            if isinstance(report, fx.ReportSealed | fx.ReportNotSealed):
                self._step(volume, snapshot_event(report, volume.brain.record), now_ns)
                continue
            member = volume.member_on(report.node)
            if member is None:
                continue
            if isinstance(report, fx.ReportFailed):
                self._step(volume, ev.MemberFailed(member, report.reason), now_ns)
            elif isinstance(report, fx.ReportFollows):
                self._step(volume, ev.MemberFollows(member), now_ns)
            elif isinstance(report, fx.ReportGiven):
                self._step(volume, ev.SnapshotGiven(*report.moment, member), now_ns)
            else:
                self._step(volume, ev.MemberCaughtUp(member), now_ns)

    def _tell_serving(self, volume: Volume) -> None:
        record = volume.brain.record
        if record is not None and record.attachment is not None and volume.primary is not None:
            order = TellServing(volume.id, record.attachment.node, volume.primary.epoch, Serving())
            self.ordered.append(order)

    # ---- facts from the disk --------------------------------------------------------------------------

    def saved(self, volume_id: str, ticket: int, now_ns: int) -> None:
        """The hard state of this ticket is durable: perform what waited for it."""
        volume = self.volumes.get(volume_id)
        if volume is None:
            return
        volume.disk_answered(("save", 0, ticket))
        while volume.pending and volume.pending[0].ticket <= ticket:
            done = volume.pending.popleft()
            volume.durable_epoch = done.epoch
            self._confirm_claims(volume)
            self._stepping = True
            try:
                for effect in done.after:
                    self._perform(volume, effect, now_ns)
            finally:
                self._stepping = False
            self._drain(now_ns)
        early, volume.early_join = volume.early_join, None
        if early is not None:
            self.to_replica(volume_id, early.link, early.node, early.epoch, early.message, now_ns)

    def _confirm_claims(self, volume: Volume) -> None:
        slot = volume.brain.state.slot
        if slot is not None and volume.durable_epoch == volume.brain.epoch:

            def leads(node: str) -> bool:
                return not permits.lead(volume.brain.state, volume.brain.leader, node)

            self.pairs.owe(self.promises.stored(volume.id, slot.stamp.generation, volume.brain.epoch, leads))

    def marked(self, volume_id: str, regions: tuple[int, ...], now_ns: int) -> None:
        volume = self.volumes.get(volume_id)
        if volume is None or volume.replica is None:
            return
        for region in regions:
            volume.disk_answered(("mark", 0, region))
        core = volume.primary or volume.replica
        self._data(volume, core.marked(regions, now_ns), now_ns)

    def synced(self, volume_id: str, owner: int, ticket: int, now_ns: int) -> None:
        volume = self.volumes.get(volume_id)
        if volume is None or volume.replica is None:
            return
        volume.disk_answered(("sync", owner, ticket))
        if owner == REPLICA_OWNER:
            self._data(volume, volume.replica.synced(ticket), now_ns)
        elif volume.primary is not None and volume.primary.epoch == owner:
            self._data(volume, volume.primary.synced(ticket, now_ns), now_ns)

    def seal_prepared(self, volume_id: str, owner: int, number: int, failure: str, now_ns: int) -> None:
        """The next layer is there; `failure`: why there can't be one."""
        volume = self.volumes.get(volume_id)
        if volume is None or volume.replica is None:
            return
        if owner == REPLICA_OWNER:
            self._data(volume, volume.replica.seal_prepared(number, ready=not failure), now_ns)
        elif volume.primary is not None and volume.primary.epoch == owner:
            self._data(volume, volume.primary.seal_prepared(number, failure, now_ns), now_ns)

    def sealed(self, volume_id: str, seq: int, now_ns: int) -> None:
        """Whoever asked for it may not lead, or be led, any more: the store takes writes again."""
        volume = self.volumes.get(volume_id)
        if volume is None or volume.replica is None:
            return
        volume.disk_answered(("seal", 0, seq))
        primary = volume.primary
        done = primary.sealed(seq, now_ns) if primary is not None else volume.replica.sealed(seq)
        self._data(volume, done, now_ns)

    def hashed(self, volume_id: str, owner: int, seq: int, root: int | None, now_ns: int) -> None:
        """`root`: None when this copy's checksums are not proved."""
        volume = self.volumes.get(volume_id)
        if volume is None or volume.replica is None:
            return
        if owner == REPLICA_OWNER:
            self._data(volume, volume.replica.hashed(seq, root), now_ns)
        elif volume.primary is not None and volume.primary.epoch == owner:
            self._data(volume, volume.primary.hashed(seq, root, now_ns), now_ns)

    def store_changed(
        self, volume_id: str, now_ns: int, *, unclean: bool, failure: str = "", votes: bool = True
    ) -> None:
        """The store's unclean mark as it is now; `failure`: its disk failed; `votes`: its hard state can be stored."""
        volume = self.volumes.get(volume_id)
        if volume is None:
            return
        if failure and volume.replica is not None:
            self._data(volume, volume.replica.failed(failure), now_ns)
        self._step(volume, ev.StoreChanged(unclean, failure, votes), now_ns)

    def compared(
        self, volume_id: str, epoch: int, node: str, number: int, differing: list[tuple[int, int]], now_ns: int
    ) -> None:
        volume = self.volumes.get(volume_id)
        if volume is not None and volume.primary is not None and volume.primary.epoch == epoch:
            self._data(volume, volume.primary.compared(node, number, differing), now_ns)

    def unreadable(
        self, volume_id: str, epoch: int, waits: fx.AnswerRead | fx.SendCopy, blocks: Iterable[int], now_ns: int
    ) -> None:
        """A read, or a copy for a peer, met blocks of our store that do not match their checksum."""
        volume = self.volumes.get(volume_id)
        if volume is not None and volume.primary is not None and volume.primary.epoch == epoch:
            self._data(volume, volume.primary.rotten(blocks, waits, now_ns), now_ns)

    def past_unreadable(self, volume_id: str, epoch: int, node: str, moment: Moment, now_ns: int) -> None:
        """What the volume was then is not to be had here, though the record says so: it is rotten, or gone."""
        volume = self.volumes.get(volume_id)
        if volume is not None and volume.primary is not None and volume.primary.epoch == epoch:
            self._data(volume, volume.primary.past_unreadable(node, moment, now_ns), now_ns)

    def rotten(self, volume_id: str, blocks: Iterable[int], now_ns: int) -> None:
        """Such blocks were found though nobody waits for them."""
        volume = self.volumes.get(volume_id)
        if volume is None or volume.replica is None:
            return
        primary, replica = volume.primary, volume.replica
        found = primary.rotten(blocks, None, now_ns) if primary is not None else replica.rotten(blocks)
        self._data(volume, found, now_ns)

    def healed(self, volume_id: str, epoch: int, number: int, blocks: Iterable[int], now_ns: int) -> None:
        """Of what a peer gave, these blocks match their checksum now."""
        volume = self.volumes.get(volume_id)
        if volume is not None and volume.primary is not None and volume.primary.epoch == epoch:
            self._data(volume, volume.primary.healed(number, blocks, now_ns), now_ns)

    def compare(self, volume_id: str, region: int, count: int, now_ns: int) -> None:
        """The scrub has come to these regions: does every copy hold the same?"""
        volume = self.volumes.get(volume_id)
        if volume is not None and volume.primary is not None:
            self._data(volume, volume.primary.compare(region, count, now_ns), now_ns)

    def erased(self, volume_id: str, now_ns: int) -> None:
        volume = self.volumes.get(volume_id)
        if volume is not None:
            self._step(volume, ev.DataErased(), now_ns)

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

    # ---- leases ---------------------------------------------------------------------------------------

    def lease_until(self, volume: Volume) -> int:
        """Asked for with every read, so what it follows from is looked at first."""
        return self._lease(volume).until_ns

    def _lease(self, volume: Volume) -> Lease:
        state, promises = volume.brain.local.state, self.pairs.promises
        known = volume.lease
        if known is not None and known.changes == promises.changes and known.state is state:
            return known
        nodes = tuple([voter.node for voter in state.slot.record.voters]) if state.slot is not None else ()
        until_ns = promises.lease_until(volume.id, state.epoch, self.name, nodes) if nodes else 0
        others = tuple([node for node in nodes if node != self.name])
        unpromised = promises.unpromised(volume.id, state.epoch, others)
        volume.lease = Lease(promises.changes, state, until_ns, unpromised)
        return volume.lease

    def park(self, volume_id: str, read: fx.AnswerRead | fx.AnswerReadMany | fx.AnswerStatus) -> None:
        """The lease does not hold at this moment: the read waits for the next promise."""
        self.volumes[volume_id].parked.append(read)
        self._parked.add(volume_id)

    def _unpark(self) -> None:
        """Asked for at every answer to a beat, and there is nearly never anything."""
        for volume_id in sorted(self._parked):
            volume = self.volumes.get(volume_id)
            if volume is None:
                self._parked.discard(volume_id)
            elif volume.primary is not None:
                self._parked.discard(volume_id)
                reads, volume.parked = volume.parked, []
                epoch = volume.primary.epoch
                self.ordered.append(Data(volume.id, epoch, reads, epoch))

    def _facts(self, volume: Volume, now_ns: int) -> Facts:
        pairs, local = self.pairs, volume.brain.local
        bound = pairs.promises.bound(volume.id, local.state.epoch)
        leader, record = local.followed(), local.record
        attached = record.attachment.node if record is not None and record.attachment is not None else ""
        here, leads = attached == self.name, local.role == "leader"
        return Facts(
            promised_until_ns=bound.until_ns,
            lease_until_ns=self._lease(volume).until_ns if leads else 0,
            promised_to=bound.to,
            disk_stalled=volume.disk_stalled(now_ns),
            other_promise_until_ns=bound.besides_ns,
            awake_since_ns=pairs.awake_since_ns,
            unpromised=self._lease(volume).unpromised if leads else (),
            leader_heard_ns=pairs.heard_ns.get(leader.node, 0) if leader is not None else 0,
            attached_heard_ns=now_ns if here else pairs.heard_ns.get(attached, 0),
            attached_linked_ns=now_ns if here else pairs.linked_ns.get(attached, 0),
            claimed_by=bound.claimed_by,
        )

    # ---- the brain ------------------------------------------------------------------------------------

    def _step(self, volume: Volume, event: ev.Event, now_ns: int) -> None:
        """One event at a time, each to its end: were an event handled in the middle of another one's effects, the
        newer hard state would be saved before the older one."""
        self.steps += 1
        self._events.append((volume, event))
        if not self._stepping:
            self._drain(now_ns)

    def _drain(self, now_ns: int) -> None:
        while self._events:
            volume, event = self._events.popleft()
            if self.volumes.get(volume.id) is not volume:
                continue
            self._stepping = True
            try:
                self._step_now(volume, event, now_ns)
            finally:
                self._stepping = False

    def _step_now(self, volume: Volume, event: ev.Event, now_ns: int) -> None:
        batch = volume.brain.step(event, now_ns, self._facts(volume, now_ns))
        self._touched.add(volume.id)
        for effect in batch.now:
            self._perform(volume, effect, now_ns)
        if self.volumes.get(volume.id) is volume:
            self.neighbours.see(volume.id, volume.brain.record, led=volume.brain.role == "leader")
        if batch.durable is not None:
            volume.tickets += 1
            volume.pending.append(Pending(volume.tickets, batch.durable.epoch, list(batch.after)))
            volume.disk_asked(("save", 0, volume.tickets), now_ns)
            self.ordered.append(Save(volume.id, volume.tickets, batch.durable))
        elif volume.pending:
            volume.pending[-1].after.extend(batch.after)
        else:
            for effect in batch.after:
                self._perform(volume, effect, now_ns)

    # ---- time -----------------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        """When `time_passed` is due. Without links and deadlines: None."""
        if self._touched:
            self._look_at_deadlines()
        if self.news.due_ns is not None:
            return self.news.due_ns
        soonest = self._soonest_ns
        if self.recovery.budget.hungry:
            room_ns = self.recovery.budget.next_deadline_ns()
            if room_ns is not None and (soonest is None or room_ns < soonest):
                soonest = room_ns
        if self.pairs.linked or self.neighbours.all:
            beat_ns = self.pairs.next_beat_ns
            return beat_ns if soonest is None or beat_ns < soonest else soonest
        return soonest

    def _look_at_deadlines(self) -> None:
        for volume_id in self._touched:
            due = self._volume_due(self.volumes[volume_id]) if volume_id in self.volumes else None
            if due is None:
                self._due.pop(volume_id, None)
            else:
                self._due[volume_id] = due
        self._touched.clear()
        self._soonest_ns = min(self._due.values(), default=None)

    def _volume_due(self, volume: Volume) -> int | None:
        facts = NO_FACTS
        if volume.brain.role == "leader":  # of all facts, only what is promised to a leader moves a deadline
            lease = self._lease(volume)
            facts = Facts(lease_until_ns=lease.until_ns, unpromised=lease.unpromised)
        ends = [volume.brain.next_deadline_ns(facts)]
        if volume.primary is not None:
            ends.append(volume.primary.next_deadline_ns())
        elif volume.replica is not None:
            ends.append(volume.replica.next_deadline_ns())
        return min([end for end in ends if end is not None], default=None)

    def time_passed(self, now_ns: int) -> None:
        pairs = self.pairs
        self._tell_news(now_ns)
        if pairs.beats_due(now_ns):
            self._touched |= self._busy
            self._busy.clear()
        self.next_deadline_ns()
        if pairs.beats_due(now_ns):
            if pairs.overslept(now_ns):
                self._excuse(now_ns)
            pairs.beat(self.neighbours.all, now_ns)
            self._look_at_disks(now_ns)
        for node in pairs.silent(self.neighbours.all, now_ns):
            self._spread(ev.PeerDown(node), now_ns, "it is silent")
        for node in pairs.silent_on_bus(now_ns):
            self._spread(ev.SilentOnBus(node), now_ns)
        for volume_id in sorted(volume_id for volume_id, due in self._due.items() if due <= now_ns):
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
