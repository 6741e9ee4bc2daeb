"""What the concerns of one voter share: its hard state, whom it follows, whom it can reach, and the step in progress.

A step collects effects in two lists: what is done at once, and what waits until the hard state is durable (A4). Only
what stands under "the hard state" changes it, so nothing that depends on it can be forgotten to be made durable.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Literal

from services.replica.brain import events as ev
from services.replica.brain.ballot import Ballot
from services.replica.brain.decisions import Question, Verdict, inputs_of
from services.replica.brain.election import Election, Facts, Standing, Timing, may_stand
from services.replica.brain.messages import BrainMessage, said_in
from services.replica.brain.quorum import majority
from services.replica.brain.record import HardState, Record, Slot, Stamp, Voter
from services.replica.brain.reign import Reign

TOLD_ONCE_MAX = 16
Role = Literal["follower", "pre-voting", "voting", "leader"]


class Local:
    """One voter as it sees itself."""

    def __init__(self, state: HardState, timing: Timing, silent_until_ns: int, *, now_ns: int, unclean: bool):
        self.state = state
        self.timing = timing
        self.role: Role = "follower"
        self.leader: Voter | None = None
        self.committed: Stamp | None = None
        self.unclean = unclean
        self.silent_until_ns = silent_until_ns
        self.up: set[str] = set()
        """Nodes that answer beats on our link to them."""
        self.heard: set[str] = set()
        """Nodes whose link is down and whose beats reach us over the bus: they vote and promise, and take no data."""
        self.failure = ""
        """Why our copy counts for nothing until this process ends: its disk failed. It votes all the same."""
        self.cause = ""
        self.led_since_ns = 0
        self.now_ns = now_ns
        self.facts = Facts()
        """Time and facts of the step in progress."""
        self.began_ns = now_ns
        self._gone_ns: dict[str, int] = {}
        self._now: list[ev.Effect] = []
        self._after: list[ev.Effect] = []
        self._dirty = False
        self._told_once: list[tuple[Question, str]] = []
        """Without their times, the latest last."""

    # ---- the step in progress -------------------------------------------------------------------------

    def begin(self, now_ns: int, facts: Facts) -> None:
        self.now_ns, self.facts = now_ns, facts
        self._now, self._after, self._dirty = [], [], False

    def batch(self) -> ev.Batch:
        now, after = self._of_generation(self._now), self._of_generation(self._after)
        return ev.Batch(tuple(now), self.state if self._dirty else None, tuple(after))

    def _of_generation(self, effects: list[ev.Effect]) -> list[ev.Effect]:
        """What a voter says is of its generation (I4), whichever way it takes."""
        generation = self.generation
        if not generation:
            return effects
        return [
            ev.Send(said_in(effect.message, generation)) if isinstance(effect, ev.Send) else effect
            for effect in effects
        ]

    def at_once(self, effect: ev.Effect) -> None:
        self._now.append(effect)

    def when_durable(self, effect: ev.Effect) -> None:
        self._after.append(effect)

    def send(self, message: BrainMessage) -> None:
        """It leaves when the hard state of this step is durable."""
        self._after.append(ev.Send(message))

    def decide(self, question: Question) -> Verdict:
        """Judge, and tell what it rested on."""
        verdict = question.judge()
        self.tell(question, verdict)
        return verdict

    def tell(self, question: Question, verdict: Verdict, *, unasked: bool = False) -> None:
        """A decision that was judged before. `unasked`: it came of itself, and has no cause."""
        if verdict.kind:
            self._after.append(self._told(question, verdict, unasked=unasked))

    def tell_once(self, question: Question, verdict: Verdict) -> None:
        """What is asked again and again, in vain, is told when something other than the time has changed: two of three
        that wait for the third would tell of every try, for as long as it is away."""
        times = {field.name: 0 for field in fields(question) if field.name.endswith("_ns")}  # type: ignore[arg-type]
        told = (replace(question, **times), verdict.outcome)  # type: ignore[type-var]
        if told not in self._told_once:
            self._told_once = [*self._told_once[1 - TOLD_ONCE_MAX :], told]
            self.tell(question, verdict)

    def decide_at_once(self, question: Question) -> None:
        """Told without waiting for the hard state, which may never be stored again."""
        self._now.append(self._told(question, question.judge()))

    def _told(self, question: Question, verdict: Verdict, *, unasked: bool = False) -> ev.Explain:
        """The first election is what whoever made the volume waits for. A later one nobody asked for: *a failover was
        shown as a part of the volume's creation, whenever that had been.*"""
        slot = self.state.slot
        version = slot.stamp.version if slot else 0
        inputs, alternatives = inputs_of(question), verdict.alternatives
        later = self.committed is not None and isinstance(question, Standing | Ballot | Election | Reign)
        cause = "" if unasked or later else self.cause
        return ev.Explain(verdict.kind, verdict.outcome, inputs, alternatives, self.epoch, version, cause)

    def lift_promise(self, node: str, epoch: int) -> None:
        """The leader on that node released its promise for this epoch: it led in it and does not any more (P5)."""
        self.at_once(ev.LiftPromise(node, epoch))

    # ---- who is there ---------------------------------------------------------------------------------

    def gone(self, node: str) -> None:
        """Neither a link nor the bus brings a word of it any more."""
        if not self.reaches(node):
            self._gone_ns[node] = self.now_ns

    def reaches(self, node: str) -> bool:
        """Messages get there, one way or the other."""
        return node in self.up or node in self.heard

    def reaches_majority(self) -> bool:
        """By links, over which data goes as well."""
        record = self.record
        if record is None:
            return False
        linked = sum(voter == self.me or voter.node in self.up for voter in record.voters)
        return linked >= majority(len(record.voters))

    def absent_ns(self, node: str) -> int:
        """How long it has been silent on every way. While we were paused its words waited in our sockets."""
        if self.reaches(node):
            return 0
        return self.now_ns - max(self._gone_ns.get(node, self.began_ns), self.facts.awake_since_ns)

    def followed(self) -> Voter | None:
        """Whom we follow, or followed last as far as the record tells."""
        return self.leader or (self.record.primary if self.record is not None else None)

    def leader_absent_ns(self) -> int:
        """How long ago the last word of whom we follow came; 0 while it is there, or when it is us."""
        leader, facts = self.followed(), self.facts
        if leader is None or leader == self.me or self.reaches(leader.node):
            return 0
        return self.now_ns - max(facts.leader_heard_ns, facts.awake_since_ns, self.began_ns)

    def attached_absent_ns(self) -> int:
        """The same for the node that the volume is attached to, which need not be a voter (P6). We listen to it since
        we lead."""
        return self._silent_ns(self.facts.attached_heard_ns)

    def attached_unlinked_ns(self) -> int:
        """The same by links alone, over which its requests come."""
        return self._silent_ns(self.facts.attached_linked_ns)

    def _silent_ns(self, heard_ns: int) -> int:
        return max(0, self.now_ns - max(heard_ns, self.facts.awake_since_ns, self.led_since_ns))

    # ---- the hard state -------------------------------------------------------------------------------

    @property
    def me(self) -> Voter:
        return self.state.me

    @property
    def epoch(self) -> int:
        return self.state.epoch

    @property
    def generation(self) -> int:
        return self.state.slot.stamp.generation if self.state.slot else 0

    @property
    def record(self) -> Record | None:
        return self.state.slot.record if self.state.slot else None

    def may_not_stand(self, stood_with: Slot | None = None) -> str:
        """Why, or "" when it may. With another record than its own: one that it was told of."""
        if self.failure:
            return f"its disk failed: {self.failure}"
        return may_stand(self.state if stood_with is None else replace(self.state, slot=stood_with))

    def alone(self) -> bool:
        return self.record is not None and self.record.voters == (self.me,)

    def others(self) -> tuple[Voter, ...]:
        return self.record.others(self.me) if self.record is not None else ()

    def other_members(self) -> tuple[Voter, ...]:
        """The other voters, and those who are to become some."""
        record = self.record
        return tuple(member for member in record.members if member != self.me) if record else ()

    def store(self, slot: Slot) -> None:
        self.state = self.state.with_slot(slot)
        self._dirty = True

    def vote_for(self, candidate: Voter) -> None:
        """In the epoch that is stored already, in which nobody has our vote yet."""
        assert self.state.voted_for is None
        self.state = replace(self.state, voted_for=candidate)
        self._dirty = True

    def give_back(self) -> None:
        """The data of a deleted volume are gone."""
        self.state = replace(self.state, erased=True)
        self._dirty = True

    def raise_epoch(self, epoch: int, voted_for: Voter | None) -> None:
        """Whoever leads in a lower epoch has stopped before."""
        assert epoch > self.epoch
        assert self.role != "leader"
        self.role = "follower"
        lease_max_ns = max(self.state.lease_max_ns, self.timing.lease_ns)
        self.state = replace(self.state, epoch=epoch, voted_for=voted_for, lease_max_ns=lease_max_ns)
        self._dirty = True
        self.at_once(ev.RaiseEpoch(epoch))
