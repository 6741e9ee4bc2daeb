"""The operator's override: a volume whose majority is lost goes on with one copy, in a new generation (I4).

asked --PREVOTE--> every other voter            two leases later, or after our silence (P3)
            answers, and who does not  -------> judge --> generation + 1: this voter alone, nobody attached
                                                  |
                                                  +-----> refused: the volume elects by itself, or the word is not given

No voter can tell a lost majority from one that it can't reach, so a person says which nodes are lost, and that they are
fenced: powered off, or cut from the network. Whoever they name and still answers proves the person wrong. Of the old
generation nothing is heard any more; its voters are told that it is over and remove themselves, and they return as new
incarnations, with a whole copy. The copy that goes on may lack writes that were acknowledged after it was last heard:
nobody is left who knows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from services.replica.brain.candidacy import Candidacy
from services.replica.brain.decisions import Verdict, recorded
from services.replica.brain.election import Facts
from services.replica.brain.local import Local
from services.replica.brain.parting import Parting
from services.replica.brain.quorum import majority
from services.replica.brain.record import GENERATION_MAX, Record, Slot, Stamp, Voter
from services.replica.brain.snapshots import held_by_members

EPOCHS_APART = 1 << 12
ATTACH_EPOCHS_APART = 1 << 16
"""Where the generation does not stand beside them (sequence numbers, a frontend's newest epoch and its sessions) epochs
alone tell old from new: those of a new generation begin above all that the lost voters can have used unheard by us."""
LEASES = 2
"""How long answers are waited for: a live leader's promise would be over as well."""


@recorded
@dataclass(frozen=True, slots=True)
class Answer:
    """What another voter said of itself."""

    voter: Voter
    stamp: Stamp
    in_sync: tuple[Voter, ...]
    unclean: bool


@recorded
@dataclass(frozen=True, slots=True)
class Overriding:
    """Whether the operator's word is taken."""

    me: Voter
    stamp: Stamp
    voters: tuple[Voter, ...]
    in_sync: tuple[Voter, ...]
    unclean: bool
    failure: str
    leads: bool
    promised_ns: int
    promised_to: str
    lost: tuple[str, ...]
    """Nodes that the operator names."""
    accept_loss: bool
    answers: tuple[Answer, ...]
    reason: str

    def judge(self) -> Verdict:
        objection = self.objection()
        if objection:
            return Verdict("refuse", f"no override: {objection}")
        lost = ", ".join(self.lost) or "nobody"
        outcome = f"begins generation {self.stamp.generation + 1} alone; given up: {lost} ({self.reason})"
        waiting = tuple(f"to wait for {node}" for node in self.lost)
        return Verdict("override", outcome, waiting)

    def objection(self) -> str:
        """Why not, or ""."""
        return self._unfit() or self._unfounded() or self._doubtful()

    def _unfit(self) -> str:
        if self.me not in self.voters or self.me.kind != "data":
            return f"{self.me.node} holds no copy with a vote: choose another node"
        if self.failure:
            return f"the disk of {self.me.node} failed ({self.failure}): choose another node"
        if self.stamp.generation >= GENERATION_MAX:
            return "there are no generations left"
        return ""

    def _unfounded(self) -> str:
        """The volume is not lost, or the operator names the wrong nodes."""
        if self.leads:
            return f"{self.me.node} leads the volume: nothing is lost"
        if self.promised_ns > 0:
            return f"{self.promised_to or 'another voter'} leads the volume: nothing is lost"
        others = {voter.node for voter in self.voters if voter != self.me}
        answered = {answer.voter.node for answer in self.answers}
        if strangers := sorted(set(self.lost) - others):
            return f"not among the other voters: {', '.join(strangers)} (they are {', '.join(sorted(others))})"
        if alive := sorted(answered & set(self.lost)):
            return f"named as lost, and it answers: {', '.join(alive)}"
        if silent := sorted(others - answered - set(self.lost)):
            return f"silent, and not named as lost: {', '.join(silent)}"
        if (len(answered) + 1 >= majority(len(self.voters))) and self._elects():
            return "a majority answers, and one of them may lead: the volume elects by itself"
        return ""

    def _elects(self) -> bool:
        """By the newest record that is left: somebody in sync is clean, or all in sync are here and unclean (S3)."""
        in_sync = self._newest_in_sync()
        unclean = {answer.voter: answer.unclean for answer in self.answers} | {self.me: self.unclean}
        here = [voter for voter in in_sync if voter in unclean]
        return any(not unclean[voter] for voter in here) or len(here) == len(in_sync)

    def _newest_in_sync(self) -> tuple[Voter, ...]:
        known = [(self.stamp, self.in_sync), *((answer.stamp, answer.in_sync) for answer in self.answers)]
        return max(known, key=lambda each: each[0])[1]

    def _doubtful(self) -> str:
        """What this copy is known to lack has to be said before it is given up."""
        if self.accept_loss:
            return ""
        if self.me not in self._newest_in_sync():
            return f"{self.me.node} is behind and lacks acknowledged writes: another copy, or accept the loss"
        if self.unclean:
            return f"{self.me.node} may have lost writes that were not flushed: another copy, or accept the loss"
        return ""


class Override:
    """One voter's part: the question under way, and what comes of it."""

    def __init__(self, local: Local, candidacy: Candidacy, parting: Parting):
        self._local = local
        self._candidacy = candidacy
        self._parting = parting
        self._asked: ev.OverrideAsked | None = None
        self._answers: dict[Voter, Answer] = {}
        self._due_ns = 0

    def asked(self, asked: ev.OverrideAsked) -> None:
        local, slot = self._local, self._local.state.slot
        if slot is None or self._asked is not None:
            error = "it has no record yet" if slot is None else "another override is being judged"
            local.at_once(ev.Reply(asked.request, "ABORTED", error))
            return
        self._asked, self._answers = asked, {}
        if local.role == "leader":
            self._due_ns = local.now_ns
            return
        self._due_ns = max(local.now_ns + LEASES * local.timing.lease_ns, local.silent_until_ns)
        epoch = max(local.epoch, self._candidacy.seen_epoch) + 1
        for voter in local.others():
            local.send(ms.PreVote(slot.record.volume, local.me, voter, epoch, slot.stamp, local.unclean))

    def answered(self, message: ms.PreVoteAnswer) -> None:
        """Whatever it was asked for: it is alive."""
        if self._asked is not None and message.stamp is not None:
            self._answers[message.sender] = Answer(message.sender, message.stamp, message.in_sync, message.unclean)

    def next_deadline_ns(self) -> int | None:
        return self._due_ns if self._asked is not None else None

    def time_passed(self, facts: Facts) -> None:
        local, asked, slot = self._local, self._asked, self._local.state.slot
        if asked is None or slot is None or local.now_ns < self._due_ns:
            return
        self._asked = None
        local.cause = asked.cause or local.cause
        record = slot.record
        question = Overriding(
            me=local.me,
            stamp=slot.stamp,
            voters=record.voters,
            in_sync=record.in_sync,
            unclean=local.unclean,
            failure=local.failure,
            leads=local.role == "leader",
            promised_ns=max(0, facts.promised_until_ns - local.now_ns),
            promised_to=facts.promised_to,
            lost=tuple(sorted(asked.lost)),
            accept_loss=asked.accept_loss,
            answers=tuple(answer for voter, answer in sorted(self._answers.items()) if voter in record.voters),
            reason=asked.reason,
        )
        objection = question.objection()
        if not objection:
            self._begin(slot)
        local.decide(question)
        local.when_durable(ev.Reply(asked.request, "FAILED_PRECONDITION" if objection else "", objection))

    def _begin(self, old: Slot) -> None:
        """The next generation's first record; this voter is elected in it like any that is alone."""
        local = self._local
        epoch = max(local.epoch, self._candidacy.seen_epoch, old.stamp.epoch) + EPOCHS_APART
        gone = tuple(member for member in old.record.members if member != local.me)
        local.role = "follower"
        local.leader = local.committed = None
        local.raise_epoch(epoch, None)
        local.store(Slot(Stamp(old.stamp.generation + 1, epoch, old.stamp.version + 1), alone(old.record, local.me)))
        self._parting.superseded(gone)
        self._candidacy.election_at_ns = local.now_ns


def alone(record: Record, me: Voter) -> Record:
    """Nobody is attached: who was may have been fenced by a record that is lost with the others."""
    return held_by_members(
        replace(
            record,
            voters=(me,),
            in_sync=(me,),
            joining=(),
            primary=None,
            attachment=None,
            attach_epoch=record.attach_epoch + ATTACH_EPOCHS_APART,
        )
    )
