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
from services.replica.brain.election import Facts, votes_needed
from services.replica.brain.leading import Leading
from services.replica.brain.local import Local
from services.replica.brain.parting import Parting
from services.replica.brain.quorum import majority
from services.replica.brain.record import ATTACH_EPOCH_MAX, EPOCH_MAX, GENERATION_MAX, Record, Slot, Stamp, Voter
from services.replica.brain.snapshots import held_by_members
from services.replica.brain.unclean import may_win

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
    epoch: int
    """In which it would begin."""
    voters: tuple[Voter, ...]
    """By our own record and by every newer one that an answer brought."""
    in_sync: tuple[Voter, ...]
    unclean: bool
    deleted: bool
    attach_epoch: int
    failure: str
    leads: bool
    promised_ns: int
    promised_to: str
    lost: tuple[str, ...]
    """Nodes that the operator names."""
    above: int
    """A generation that is known to have begun elsewhere."""
    accept_loss: bool
    answers: tuple[Answer, ...]
    reason: str

    def judge(self) -> Verdict:
        objection = self.objection()
        if objection:
            return Verdict("refuse", f"no override: {objection}")
        lost = ", ".join(self.lost) or "nobody"
        outcome = f"begins generation {self.generation} alone; given up: {lost} ({self.reason})"
        waiting = tuple(f"to wait for {node}" for node in self.lost)
        return Verdict("override", outcome, waiting)

    @property
    def generation(self) -> int:
        return max(self.stamp.generation, self.above) + 1

    def objection(self) -> str:
        """Why not, or ""."""
        return self._unfit() or self._unfounded() or self._doubtful()

    def _unfit(self) -> str:
        if self.me not in self.voters or self.me.kind != "data":
            return f"{self.me.node} holds no copy with a vote: choose another node"
        if self.failure:
            return f"the disk of {self.me.node} failed ({self.failure}): choose another node"
        if self.stamp.generation >= GENERATION_MAX or self.above >= GENERATION_MAX:
            return "there are no generations left"
        if self.epoch > EPOCH_MAX // 2 or self.attach_epoch > ATTACH_EPOCH_MAX - ATTACH_EPOCHS_APART:
            return "there are no epochs left"
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
        """One of those who are here would win, by what they say of themselves (S3). *A let go of N in a record that it
        stored alone, and lost power; W is lost for good. A's record is newer than N's, and A may have lost what N,
        clean, has not: neither could lead, and the operator was told to wait.*"""
        words = {answer.voter: answer for answer in self.answers}
        words[self.me] = Answer(self.me, self.stamp, self.in_sync, self.unclean)
        return any(self._wins(candidate, words) or self._regains(candidate, words) for candidate in words)

    def _regains(self, candidate: Voter, words: dict[Voter, Answer]) -> bool:
        """With an older record than its own (`election.Regaining`)."""
        own, others = words[candidate], [word for voter, word in words.items() if voter != candidate]
        naming = [word.stamp for word in others if word.stamp < own.stamp and candidate in word.in_sync]
        if own.unclean or candidate in own.in_sync or not naming:
            return False
        votes = 1 + sum(word.stamp <= max(naming) for word in others)
        return votes >= votes_needed(len(self.voters), regained=True)

    def _wins(self, candidate: Voter, words: dict[Voter, Answer]) -> bool:
        own, newest = words[candidate], max(words.values(), key=lambda word: word.stamp)
        stood_with = newest if candidate in newest.in_sync else own
        if candidate not in stood_with.in_sync:
            return False
        others = {voter: word for voter, word in words.items() if voter != candidate}
        votes = 1 + sum(word.stamp <= stood_with.stamp for word in others.values())
        if votes < majority(len(self.voters)):
            return False
        lent = () if stood_with is own else stood_with.in_sync
        return not own.unclean or may_win(candidate, own, lent, len(self.voters), others, {})

    def _newest_in_sync(self) -> tuple[Voter, ...]:
        known = [(self.stamp, self.in_sync), *((answer.stamp, answer.in_sync) for answer in self.answers)]
        return max(known, key=lambda each: each[0])[1]

    def _doubtful(self) -> str:
        """What this copy is known to lack has to be said before it is given up."""
        if self.accept_loss:
            return ""
        if self.deleted:
            return "the volume is being deleted, and alone it would be: accept the loss, if that is meant"
        if self.me not in self._newest_in_sync():
            return f"{self.me.node} is behind and lacks acknowledged writes: another copy, or accept the loss"
        if self.unclean:
            return f"{self.me.node} may have lost writes that were not flushed: another copy, or accept the loss"
        return ""


class Override:
    """One voter's part: the question under way, and what comes of it."""

    def __init__(self, local: Local, leading: Leading, candidacy: Candidacy, parting: Parting):
        self._local = local
        self._leading = leading
        self._candidacy = candidacy
        self._parting = parting
        self._asked: ev.OverrideAsked | None = None
        self._answers: dict[Voter, Answer] = {}
        self._others: tuple[Voter, ...] = ()
        """All voters but us that any record names which we heard of."""
        self._due_ns = 0
        self._again_ns = 0

    def asked(self, asked: ev.OverrideAsked, facts: Facts) -> None:
        local, slot = self._local, self._local.state.slot
        if slot is None or self._asked is not None:
            error = "it has no record yet" if slot is None else "another override is being judged"
            local.at_once(ev.Reply(asked.request, "ABORTED", error))
            return
        self._asked, self._answers, self._others = asked, {}, local.others()
        self._due_ns = max(local.now_ns + LEASES * local.timing.lease_ns, local.silent_until_ns)
        if self._leads(facts):
            self._judge(asked, slot, facts)
        else:
            self._ask(slot, self._others)

    def _leads(self, facts: Facts) -> bool:
        """With a majority's promises. *The nodes of all other voters were there, their directories gone: a leader that
        nobody followed any more took that for no reason to resign, and refused to be helped.*"""
        return self._local.role == "leader" and facts.lease_until_ns > self._local.now_ns

    def _ask(self, slot: Slot, voters: tuple[Voter, ...]) -> None:
        local = self._local
        self._again_ns = local.now_ns + local.timing.resend_ns
        epoch = max(local.epoch, self._candidacy.seen_epoch) + 1
        for voter in voters:
            asked = ms.PreVote(slot.record.volume, local.me, voter, epoch, slot.stamp, local.unclean, 0, local.began_ns)
            local.send(asked)

    def answered(self, message: ms.PreVoteAnswer) -> None:
        """Whatever it was asked for: it is alive. A newer record may name voters that ours does not."""
        local, slot = self._local, self._local.state.slot
        if self._asked is None or slot is None or message.stamp is None:
            return
        self._answers[message.sender] = Answer(message.sender, message.stamp, message.in_sync, message.unclean)
        if message.slot is not None:
            known = {local.me, *self._others}
            more = tuple(voter for voter in message.slot.record.voters if voter not in known)
            self._others += more
            self._ask(slot, more)

    def next_deadline_ns(self) -> int | None:
        return min(self._due_ns, self._again_ns) if self._asked is not None else None

    def time_passed(self, facts: Facts) -> None:
        local, asked, slot = self._local, self._asked, self._local.state.slot
        if asked is None or slot is None:
            return
        if local.now_ns >= self._due_ns:
            self._judge(asked, slot, facts)
        elif local.now_ns >= self._again_ns:
            self._ask(slot, tuple(voter for voter in self._others if voter not in self._answers))

    def _judge(self, asked: ev.OverrideAsked, slot: Slot, facts: Facts) -> None:
        local, record = self._local, slot.record
        self._asked = None
        local.cause = asked.cause or local.cause
        question = Overriding(
            me=local.me,
            stamp=slot.stamp,
            epoch=self._next_epoch(slot),
            voters=tuple(voter for voter in (local.me, *self._others) if voter != local.me or voter in record.voters),
            in_sync=record.in_sync,
            unclean=local.unclean,
            deleted=record.deleted,
            attach_epoch=record.attach_epoch,
            failure=local.failure,
            leads=self._leads(facts),
            promised_ns=max(0, facts.promised_until_ns - local.now_ns),
            promised_to=facts.promised_to,
            lost=tuple(sorted(asked.lost)),
            above=asked.above,
            accept_loss=asked.accept_loss,
            answers=tuple(answer for voter, answer in sorted(self._answers.items()) if voter in self._others),
            reason=asked.reason,
        )
        objection = question.objection()
        if not objection:
            self._begin(slot, question)
        local.decide(question)
        local.when_durable(ev.Reply(asked.request, "FAILED_PRECONDITION" if objection else "", objection))

    def _next_epoch(self, slot: Slot) -> int:
        """An epoch that somebody only told counts as far as an honest one can be ahead: what is stored here has to be
        read again, and counted up."""
        known = max(self._local.epoch, slot.stamp.epoch)
        return min(max(known, self._candidacy.seen_epoch), known + EPOCHS_APART) + EPOCHS_APART

    def _begin(self, old: Slot, question: Overriding) -> None:
        """The next generation's first record; this voter is elected in it like any that is alone."""
        local = self._local
        gone = tuple(member for member in (*self._others, *old.record.joining) if member != local.me)
        if local.role == "leader":
            self._leading.stop(heard_from=local.me.node, newer_generation=question.generation)
        local.role = "follower"
        local.leader = local.committed = None
        local.raise_epoch(question.epoch, None)
        stamp = Stamp(question.generation, question.epoch, old.stamp.version + 1)
        local.store(Slot(stamp, alone(old.record, local.me)))
        self._parting.superseded(gone)
        self._candidacy.begin_anew(question.epoch, local.now_ns)


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
