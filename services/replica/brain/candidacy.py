"""Standing for election: when to, the pre-vote, the vote, and what a refusal teaches.

suspects the leader --> waits its turn --> pre-voting --majority would--> voting --majority did--> leads
                           ^                   |                             |
                           +--- a live leader, no answer in time, a newer record (A3)
"""

from __future__ import annotations

from services.replica.brain import messages as ms
from services.replica.brain.election import Election, Facts, Standing, rank, votes_needed
from services.replica.brain.hearsay import Hearsay
from services.replica.brain.leading import Leading
from services.replica.brain.local import Local
from services.replica.brain.record import Record, Slot, Voter
from services.replica.brain.unclean import Word, may_win

LATE_MAX = 4
"""Doublings of the pause before who answers late is asked again."""
Answers = dict[Voter, ms.PreVoteAnswer | ms.VoteAnswer]


class Candidacy:
    """One voter's candidacy, under way or due."""

    def __init__(self, local: Local, leading: Leading):
        self._local = local
        self._leading = leading
        self.election_at_ns: int | None = None
        """When to stand; None: only an event makes us."""
        self.asking_epoch = 0
        self.seen_epoch = local.epoch
        """The highest epoch that we heard of: the next candidacy is above it."""
        self.answers: Answers = {}
        self._besides: dict[Voter, ms.PreVoteAnswer | None] = {}
        """Whom an answer names in sync and our own record does not name any more -> what it says. It has no vote."""
        self._retry_at_ns = 0
        self._asked_unclean = False
        """How we called ourselves when we asked for votes (S3)."""
        self._late = 0
        """How often in a row somebody who is there had not answered when it was time to ask again."""
        self._must_be_unclean: tuple[Voter, ...] = ()
        self._hearsay = Hearsay(local)
        self._asking_with: Slot | None = None
        """While we ask for votes."""
        self._released = 0
        """The latest epoch whose leader named us its successor. That it ended its service in it stays true for ever."""

    @property
    def heard(self) -> Record | None:
        """Whoever this one names is no stranger, though our own does not name him. *N was behind and had lost power; of
        those who were left one told it of the record that makes M a voter, which may have been on that one alone. M
        needed the vote of N, which did not know it.*"""
        told = self._hearsay.newest()
        return told.record if told is not None else None

    # ---- when -----------------------------------------------------------------------------------------

    def start_ns(self, now_ns: int, gone: Voter | None) -> int:
        """When it is our turn, with `gone` not standing."""
        local, record = self._local, self._record()
        assert record is not None
        delay_ns = (rank(record, local.me, gone) + self._behind()) * local.timing.election_step_ns
        if local.heard and not local.reaches_majority():
            delay_ns += local.timing.lease_ns  # whoever has links to a majority can also serve: it goes first
        return max(now_ns, local.silent_until_ns) + delay_ns

    def begin_anew(self, epoch: int, now_ns: int) -> None:
        """In a generation in which nothing counts that was heard before."""
        self.seen_epoch = epoch
        self.election_at_ns = now_ns

    def stand_from(self, now_ns: int) -> None:
        """Not before `now_ns`, in our turn."""
        self.election_at_ns = self.start_ns(now_ns, None)

    def next_deadline_ns(self) -> int | None:
        return self._retry_at_ns if self._is_asking() else self.election_at_ns

    def follow(self, leader: Voter, now_ns: int) -> None:
        """It proposes. Who reaches us and has claimed the volume is heard to end: by silence, or by claiming it
        no more. Of anybody else's end nobody would tell us, so we look again in a while. *It was heard over the bus,
        lost power before its claim had arrived, and was back before it was missed: its new process had nothing to take
        back. The only clean copy in sync followed it for ever, and nobody else could stand.*"""
        local = self._local
        if self.may_not_stand() or (local.reaches(leader.node) and local.facts.claimed_by == leader.node):
            self.election_at_ns = None
        else:
            self.election_at_ns = self.start_ns(now_ns + local.timing.lease_ns, leader)

    def suspect(self, node: str, now_ns: int, facts: Facts) -> None:
        """The leader's node is gone, or it no longer claims the volume."""
        local, record = self._local, self._local.record
        if record is None or local.role != "follower":
            return
        leader = local.followed()
        if leader is None or leader.node != node or leader == local.me or self.may_not_stand():
            return
        start = self.start_ns(max(now_ns, facts.promised_until_ns), leader)
        self.election_at_ns = start if self.election_at_ns is None else min(self.election_at_ns, start)

    def time_passed(self, now_ns: int, facts: Facts) -> None:
        local = self._local
        if self._is_asking():
            if now_ns >= self._retry_at_ns:
                self._late = self._late + 1 if self._answers_are_due() else 0
                if not self._ask_again(now_ns, facts):
                    local.role = "follower"
                    self._stand(now_ns, facts)
        elif self.election_at_ns is not None and now_ns >= self.election_at_ns:
            self._stand(now_ns, facts)

    def came(self, now_ns: int) -> None:
        """A voter is there again: it may give the vote that was missing, and is not kept waiting."""
        if self._is_asking():
            self._late = 0
            self._retry_at_ns = min(self._retry_at_ns, now_ns + self._local.timing.resend_ns)

    def may_not_stand(self) -> str:
        """With what it would stand with. *Told of the record that admits it, and clean, N voted for another one, which
        died. By its own record N may not stand, so it waited for a leader; and the others, who had lost writes, for
        N.*"""
        return self._local.may_not_stand(self._stood_with())

    # ---- standing -------------------------------------------------------------------------------------

    def _stood_with(self) -> Slot | None:
        """The same from the first question to the last vote."""
        return self._asking_with if self._is_asking() else self._hearsay.to_stand_with()

    def _borrowed(self) -> Slot | None:
        """What we stand with and don't hold, when it is newer than what we do (S3)."""
        mine, stood_with = self._local.state.slot, self._stood_with()
        return stood_with if mine is not None and stood_with is not None and stood_with.stamp > mine.stamp else None

    def _is_regained(self) -> bool:
        """What we stand with is older than what we hold."""
        mine, stood_with = self._local.state.slot, self._stood_with()
        return mine is not None and stood_with is not None and stood_with.stamp < mine.stamp

    def _behind(self) -> int:
        """How many take their turn before those who stand with an older record than they hold. *B, left out by the
        newer one, had the place in the older one that D, behind it, had in the newer one. C and E came back, both asked
        at once, and again after the same pause: D, who would have won, had its own vote and B had theirs, for ever.*"""
        record = self._record()
        return len(record.in_sync) if record is not None and self._is_regained() else 0

    def _record(self) -> Record | None:
        slot = self._stood_with()
        return slot.record if slot is not None else None

    def _others(self) -> tuple[Voter, ...]:
        record = self._record()
        return record.others(self._local.me) if record is not None else ()

    def stand_named(self, epoch: int, now_ns: int, facts: Facts) -> None:
        """The leader of this epoch named us its successor (P5)."""
        self._released = epoch
        self._local.role = "follower"
        self._stand(now_ns, facts)

    def _stand(self, now_ns: int, facts: Facts) -> None:
        """Pre-vote first (A4); with a live promise, wait for its end."""
        local, record = self._local, self._record()
        if record is None:
            self.election_at_ns = None
            return
        standing = self._standing(record, now_ns, facts)
        match standing.course():
            case "never":
                self.election_at_ns = None
            case "stalled":
                self.election_at_ns = now_ns + local.timing.lease_ns
            case "follow":
                # It lives and leads: its node's end wakes us again.
                local.leader, self.election_at_ns = record.member_on(facts.promised_to), None
            case "later":
                start_ns = max(now_ns, facts.promised_until_ns)
                self.election_at_ns = self.start_ns(start_ns, local.followed())
            case "stand":
                local.tell_once(standing, standing.judge())
                self._ask_around(record, standing.asked_epoch, now_ns)

    def _standing(self, record: Record, now_ns: int, facts: Facts) -> Standing:
        local = self._local
        named = 0 < self._released == local.epoch
        promised_ns = facts.other_promise_until_ns if named else facts.promised_until_ns
        return Standing(
            me=local.me,
            in_sync=record.in_sync,
            failure=local.failure,
            unclean=local.unclean,
            epoch=local.epoch,
            asked_epoch=max(local.epoch, self.seen_epoch) + 1,
            leader=local.followed(),
            absent_ns=local.leader_absent_ns(),
            named=named,
            linked=tuple(sorted(local.up)),
            heard=tuple(sorted(local.heard)),
            promised_ns=max(0, promised_ns - now_ns),
            promised_to=facts.promised_to,
            silent_ns=0 if not record.others(local.me) else max(0, local.silent_until_ns - now_ns),
            disk_stalled=facts.disk_stalled,
        )

    def _ask_around(self, record: Record, epoch: int, now_ns: int) -> None:
        local = self._local
        self.election_at_ns = None
        local.leader = None
        self._asking_with = self._stood_with()
        local.role = "pre-voting"
        self.asking_epoch = epoch
        self.answers = {}
        self._besides = {}
        self._must_be_unclean = ()
        self._set_retry(record, now_ns)
        for voter in self._others():
            self._ask(voter)
        if not self._others():
            self._ask_for_votes(now_ns)

    def _ask(self, voter: Voter) -> None:
        local = self._local
        slot = self._stood_with()
        assert slot is not None
        volume, epoch = slot.record.volume, self.asking_epoch
        asked = ms.PreVote(volume, local.me, voter, epoch, slot.stamp, local.unclean, self._released, local.began_ns)
        local.send(asked)

    def _ask_besides(self, answer: ms.PreVoteAnswer, record: Record) -> None:
        """S3: our own record may never have been committed, and whoever it removed be the one with every acknowledged
        write. *{A,B} in sync, both lose power; A leads again, proposes to go on without B, nobody else stores that, and
        A dies: B waited for the word of A, to which it was a stranger, and A for that of B, which it never asked.*"""
        if not self._local.unclean:
            return
        for voter in answer.in_sync:
            if voter not in record.members and voter not in self._besides:
                self._besides[voter] = None
                self._ask(voter)

    def _set_retry(self, record: Record, now_ns: int) -> None:
        local = self._local
        turn = (record.in_sync.index(local.me) if local.me in record.in_sync else 0) + self._behind()
        resend_ns = local.timing.resend_ns << min(self._late, LATE_MAX)
        self._retry_at_ns = now_ns + resend_ns + turn * (local.timing.election_step_ns // 2)

    def _answers_are_due(self) -> bool:
        """Of voters who are there, our own included, which comes when our disk has it."""
        local = self._local
        asked = self._others() if local.role == "pre-voting" else (local.me, *self._others())
        return any(voter == local.me or local.reaches(voter.node) for voter in asked if voter not in self.answers)

    def _ask_again(self, now_ns: int, facts: Facts) -> bool:
        """Nobody has refused: those who have not answered are asked for the same vote. *A hundred volumes lost their
        primary at once, and the two nodes that were left answered late. Each candidate took that for a vote lost, and
        stood in the next epoch: with twice the work for everybody, and what was answered meanwhile of no worth. No
        volume was ever led again.*"""
        local, record = self._local, self._record()
        if local.role != "voting" or record is None or self.seen_epoch > local.epoch:
            return False
        if local.unclean != self._asked_unclean:
            return False
        waiting = tuple(voter for voter in self._others() if voter not in self.answers)
        counted = all(given.granted and self._is_as_unclean(voter) for voter, given in self.answers.items())
        if not counted or not waiting or self._standing(record, now_ns, facts).course() != "stand":
            return False
        if local.me in self.answers:  # else the first question waits for our disk
            self._ask_to_vote(record, waiting)
        self._set_retry(record, now_ns)
        return True

    def _is_as_unclean(self, voter: Voter) -> bool:
        """As its pre-vote said, and our election needs."""
        return voter not in self._must_be_unclean or self.answers[voter].unclean

    def _ask_to_vote(self, record: Record, voters: tuple[Voter, ...]) -> None:
        local = self._local
        slot = self._stood_with()
        assert slot is not None
        unclean, released = local.unclean, self._released
        for voter in voters:
            local.send(ms.Vote(record.volume, local.me, voter, local.epoch, slot.stamp, unclean, released))

    def _ask_for_votes(self, now_ns: int) -> None:
        """A majority would vote for us: vote for ourselves, durably, and ask them to."""
        local = self._local
        record = self._record()
        assert record is not None
        local.raise_epoch(self.asking_epoch, local.me)
        local.role = "voting"
        self.answers = {}
        self._asked_unclean = local.unclean
        self._set_retry(record, now_ns)
        self._ask_to_vote(record, self._others())
        local.send(ms.VoteAnswer(record.volume, local.me, local.me, local.epoch, True, local.epoch))

    # ---- answers --------------------------------------------------------------------------------------

    def answered(self, answer: ms.PreVoteAnswer | ms.VoteAnswer, now_ns: int, facts: Facts) -> None:
        local, record = self._local, self._record()
        expected = "pre-voting" if isinstance(answer, ms.PreVoteAnswer) else "voting"
        if record is None:
            return
        if answer.sender not in record.voters:
            self._answered_besides(answer, record, now_ns, facts)
            return
        self.seen_epoch = max(self.seen_epoch, answer.epoch)
        if local.role != expected:
            return
        if answer.asked != (self.asking_epoch if expected == "pre-voting" else local.epoch):
            return
        newer, mine = answer.slot, self._stood_with()
        if newer is not None and mine is not None and newer.stamp > mine.stamp:
            self._learn(newer, answer.sender, now_ns)
            return
        if mine is not None and self._is_known(answer):
            self._learn(mine, answer.sender, now_ns)
            return
        self.answers[answer.sender] = answer
        granted = tuple(voter for voter, given in sorted(self.answers.items()) if given.granted)
        if isinstance(answer, ms.PreVoteAnswer):
            self._ask_besides(answer, record)
            self._pre_vote_counted(answer, record, len(granted) + 1, now_ns, facts)
            return
        refused = tuple((v.node, given.reason) for v, given in sorted(self.answers.items()) if not given.granted)
        unclean = tuple(voter for voter, given in sorted(self.answers.items()) if given.unclean)
        regained, must = self._is_regained(), self._must_be_unclean
        election = Election(local.me, local.epoch, record.voters, granted, refused, must, unclean, regained)
        if election.judge().kind:
            if mine is not None and mine != local.state.slot:
                local.store(mine)  # at once with the record that we propose after it
            self._leading.win(election, now_ns)

    def _answered_besides(
        self, answer: ms.PreVoteAnswer | ms.VoteAnswer, record: Record, now_ns: int, facts: Facts
    ) -> None:
        """Its word counts, and it has no vote."""
        if not isinstance(answer, ms.PreVoteAnswer) or self._local.role != "pre-voting":
            return
        if answer.asked == self.asking_epoch and answer.sender in self._besides:
            self._besides[answer.sender] = answer
            would = 1 + sum(given.granted for given in self.answers.values())
            self._pre_vote_counted(answer, record, would, now_ns, facts)

    def _pre_vote_counted(
        self, answer: ms.PreVoteAnswer, record: Record, would: int, now_ns: int, facts: Facts
    ) -> None:
        local = self._local
        if facts.promised_until_ns > now_ns:
            # A promise made since we asked: it binds our own vote as well (P1, P3).
            local.role = "follower"
            self.election_at_ns = self.start_ns(facts.promised_until_ns, local.followed())
        elif self._would_win(would, record) and self._may_win_unclean():
            self._ask_for_votes(now_ns)
        else:
            self._hand_on(answer, record)

    def _would_win(self, votes: int, record: Record) -> bool:
        return votes >= votes_needed(len(record.voters), regained=self._is_regained())

    def _hand_on(self, answer: ms.PreVoteAnswer, record: Record) -> None:
        """An unclean candidate may be the only one that stored the record which admits a clean member. That member
        holds every acknowledged write (S1, S4) and may lead; it only does not know the record yet (A3)."""
        local, mine = self._local, self._local.state.slot
        clean_member = local.unclean and not answer.unclean and answer.sender in record.in_sync
        if clean_member and mine is not None and answer.stamp is not None and answer.stamp < mine.stamp:
            local.send(ms.Refused(record.volume, local.me, answer.sender, local.epoch, mine))

    def _may_win_unclean(self) -> bool:
        local = self._local
        self._must_be_unclean = ()
        mine, borrowed, record = local.state.slot, self._borrowed(), self._record()
        assert mine is not None
        assert record is not None
        if not local.unclean or record.deleted:
            return True  # of a tombstone nobody has lost any data
        answers = {v: answer for v, answer in self.answers.items() if isinstance(answer, ms.PreVoteAnswer)}
        self._must_be_unclean = tuple(voter for voter, answer in sorted(answers.items()) if answer.unclean)
        besides = {voter: answer for voter, answer in self._besides.items() if answer is not None}
        own = Word(mine.stamp, mine.record.in_sync, local.unclean)
        lent = borrowed.record.in_sync if borrowed is not None else ()
        return may_win(local.me, own, lent, len(record.voters), answers, besides)

    def _learn(self, newer: Slot, by: Voter, now_ns: int) -> None:
        """A refusal brought a newer record: stand again, with it."""
        local, mine = self._local, self._local.state.slot
        assert mine is not None
        adoption = self._hearsay.add(newer, by, mine)
        verdict = adoption.judge()
        if not verdict.kind:
            self._learn_older(mine, now_ns)
            return
        if adoption.stored:
            if newer.stamp.epoch > local.epoch:
                local.raise_epoch(newer.stamp.epoch, None)
            local.store(newer)
        else:
            self.seen_epoch = max(self.seen_epoch, newer.stamp.epoch)
        local.role = "follower"
        record = self._record()
        may = not local.failure and record is not None and local.me in record.in_sync
        self.election_at_ns = self.start_ns(now_ns, None) if may else None
        local.tell(adoption, verdict)

    def _learn_older(self, mine: Slot, now_ns: int) -> None:
        """Stand with the newest of those that name us, unless we do."""
        local, told = self._local, self._hearsay.older(mine)
        if told is None or told.slot != self._hearsay.to_stand_with():
            return  # it may not, or stands with a newer one
        if self._is_asking() and told.slot == self._asking_with:
            return
        regaining = self._hearsay.regaining(told, mine)
        verdict = regaining.judge()
        if verdict.kind:
            local.role = "follower"
            start_ns = self.start_ns(now_ns, None)
            self.election_at_ns = start_ns if self.election_at_ns is None else min(start_ns, self.election_at_ns)
            local.tell_once(regaining, verdict)

    def _is_asking(self) -> bool:
        return self._local.role in ("pre-voting", "voting")

    def _is_known(self, answer: ms.PreVoteAnswer | ms.VoteAnswer) -> bool:
        """Somebody else has what we stand with, and so a majority: that counts for who is unclean (S3)."""
        mine, lent = self._local.state.slot, self._borrowed()
        if not self._local.unclean or lent is None or mine is None or getattr(answer, "stamp", None) != lent.stamp:
            return False
        return self._hearsay.add(lent, answer.sender, mine).stored

    def refused(self, message: ms.Refused, now_ns: int) -> None:
        """A6: no failed copy. A5: a leader that sees a higher epoch resigns and may stand above it."""
        local = self._local
        mine, told, stood_with = local.state.slot, message.slot, self._stood_with()
        if mine is None or stood_with is None or message.sender not in (told or stood_with).record.voters:
            return  # who was removed long ago may know an epoch that means nothing here
        self._overtaken(message.epoch, message.sender, now_ns)
        if told is not None and local.role != "leader" and (told.stamp > stood_with.stamp or told.stamp < mine.stamp):
            self._learn(told, message.sender, now_ns)

    def accepted(self, message: ms.Accepted, now_ns: int) -> None:
        """A voter stored a proposal of an epoch above ours, so somebody made it in our name. Its voters follow us there
        and wait for us, who know nothing of it."""
        if self._local.record is not None and message.sender in self._local.record.voters:
            self._overtaken(message.epoch, message.sender, now_ns)

    def _overtaken(self, epoch: int, by: Voter, now_ns: int) -> None:
        local = self._local
        self.seen_epoch = max(self.seen_epoch, epoch)
        if local.role == "leader" and epoch > local.epoch:
            self._leading.stop(heard_epoch=epoch, heard_from=by.node)
            self.election_at_ns = self.start_ns(now_ns, None)
