"""The next step from the members that a volume has to those that its policy asks for. Pure: one judgement.

    lost copy    {A,B,C†}      + joining D      D catches up      - C      + D      = {A,B,D}
    one more     {A,B,W}       + joining C      C catches up      + C      - W      = {A,B,C}
    one fewer    {A,B,C}       + joining W      W stores it       - C      + W      = {A,B,W}

One voter is added or removed with each record (A2), and none is added that did not answer within the last lease: it is
`joining` first, gets the record and the data and has no vote, so a volume of three does not depend on all of four for
as long as a copy takes. Only when everything is at hand the voters change, and an even number of them exists for no
longer than the way from one commit to the next. Nobody leaves for whom there is no better one: of a copy that comes
back and the one made in its place the first to be in sync stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from services.replica.brain.decisions import Verdict, recorded
from services.replica.brain.quorum import majority
from services.replica.brain.record import Record, Voter

Kind = Literal["data", "witness"]
NOTHING = Verdict("", "")


@dataclass(frozen=True, slots=True)
class Step:
    """`record` None: nothing to propose; `home`: a node is needed for a member of that kind."""

    record: Record | None = None
    home: Kind | None = None
    why: str = ""
    """What the home is needed for."""
    drop_home: bool = False
    """The home that was found is not needed."""
    verdict: Verdict = NOTHING


@recorded
@dataclass(frozen=True, slots=True)
class Membership:
    """The members of a committed record as its leader sees them."""

    record: Record
    me: Voter
    answering: tuple[Voter, ...]
    """Members that are there and have stored this record, ourselves among them. A node that is there need not have the
    member (any more)."""
    lost: tuple[Voter, ...] = ()
    """Away for the whole grace, or for good; the longest away first."""
    gone: tuple[Voter, ...] = ()
    """Those of them whose node says that it has no such member."""
    ready: tuple[Voter, ...] = ()
    """Joining members that hold everything, synced (S4), or that need no data."""
    full: bool = False
    """Placement said that no node can take what it was asked for last."""
    home: Voter | None = None
    """A member was made on that node, and no record knows it yet."""
    turned_down: tuple[str, ...] = ()
    """What placement says of the nodes that it did not choose."""

    def judge(self) -> Verdict:
        return next_step(self).verdict

    # ---- what there is --------------------------------------------------------------------------------

    def data(self) -> list[Voter]:
        return [voter for voter in self.record.voters if voter.kind == "data"]

    def witness(self) -> Voter | None:
        return next((voter for voter in self.record.voters if voter.kind == "witness"), None)

    def coming(self, kind: Kind) -> list[Voter]:
        return [member for member in self.record.joining if member.kind == kind and member not in self.lost]

    def ready_one(self, kind: Kind) -> Voter | None:
        """A joining member that may become a voter now: it answered within the last lease (A2)."""
        usable = (member for member in self.coming(kind) if member in self.ready and member in self.answering)
        return next(usable, None)

    def wants_witness(self) -> bool:
        return self.record.copies % 2 == 0

    def carries(self, voters: tuple[Voter, ...]) -> bool:
        """A majority of them answers, so the record that names them can be committed, and the next one too."""
        return sum(voter in self.answering for voter in voters) >= majority(len(voters))

    def know(self, left: tuple[Voter, ...]) -> bool:
        """Those who would be left and are not lost have stored this record: who goes takes along what it knew. *{A,C,W}
        and C slow: A, W and D stored the record that admits D, W was not needed any more, and A died. C had never
        heard of D, and believes no stranger: two of three were there, and nobody could lead.*"""
        return all(voter in self.answering or voter in self.lost for voter in left)


def next_step(members: Membership) -> Step:
    """The first of the rules that has something to do."""
    record = members.record
    if record.deleted:
        return Step(drop_home=members.home is not None)
    for rule in (_given_up, _gone, _superfluous, _replaced, _fewer, _witness):
        step = rule(members)
        if step is not None:
            return step if step.home is None else _place(members, step)
    return Step(drop_home=members.home is not None)


# ---- rules, in order ----------------------------------------------------------------------------------


def _given_up(members: Membership) -> Step | None:
    """A joining member that is lost itself: another home is looked for."""
    for member in members.record.joining:
        if member in members.lost:
            return _without_joining(members, member, f"{member.node} was away for too long while it joined")
    return None


def _gone(members: Membership) -> Step | None:
    """It can't come back: its place is free at once, also for a new member on the same node."""
    for voter in members.gone:
        if voter in members.record.voters:
            step = _remove(members, voter, f"{voter.node} has no such member any more (its directory is gone)")
            if step is not None:
                return step
    return None


def _superfluous(members: Membership) -> Step | None:
    """As many copies as asked for are in sync: whoever else was to come is not needed."""
    record = members.record
    if len(record.in_sync) >= record.copies:
        for member in members.coming("data"):
            there = ", ".join(voter.node for voter in record.in_sync)
            return _without_joining(members, member, f"{member.node} is not needed: {there} are in sync")
    witness = members.witness()
    served = witness is not None and witness not in members.lost
    for member in members.coming("witness"):
        if not members.wants_witness() or served:
            return _without_joining(members, member, f"no witness is needed on {member.node}")
    return None


def _replaced(members: Membership) -> Step | None:
    """Copies that are missing: those that have come enter, for the others a home is needed."""
    record, data = members.record, members.data()
    newcomer = members.ready_one("data")
    if newcomer is not None:
        behind = _by_absence(members, [voter for voter in data if voter not in record.in_sync])
        if len(data) < record.copies:
            return _add(members, newcomer)
        if behind:
            reason = f"{newcomer.node} holds everything and {behind[0].node} does not"
            return _remove(members, behind[0], reason)
    there = [voter for voter in data if voter not in members.lost]
    if len(there) + len(members.coming("data")) < record.copies:
        lost = ", ".join(voter.node for voter in data if voter in members.lost)
        return Step(home="data", why=f"{lost} is lost" if lost else f"{record.copies} copies are asked for")
    return None


def _fewer(members: Membership) -> Step | None:
    """More copies than asked for: the one that is least worth goes, once a witness is there to take its vote. Where
    every node has a copy it goes before: then its node is free for the witness."""
    record, data = members.record, members.data()
    if len(data) <= record.copies:
        return None
    if members.wants_witness() and len(data) == record.copies + 1 and members.witness() is None and not members.full:
        if not members.coming("witness"):
            return Step(home="witness", why=f"{record.copies} copies need one")
        if members.ready_one("witness") is None:
            return None
    attached = record.attachment.node if record.attachment is not None else ""
    behind = _by_absence(members, [voter for voter in data if voter not in record.in_sync])
    in_sync = [voter for voter in reversed(record.in_sync) if voter != members.me]
    in_sync.sort(key=lambda voter: (_worth(record, voter), voter.node == attached))
    witness = members.witness()
    useless = [witness] if witness in members.lost and not members.wants_witness() else []
    for voter in (*useless, *behind, *in_sync):
        step = _remove(members, voter, f"{record.copies} copies are asked for and there are {len(data)}")
        if step is not None:
            return step
    return None


def _worth(record: Record, voter: Voter) -> tuple[int, int]:
    """Snapshots that go with it, and those of which it is one of several holders."""
    held = [snapshot.holders for snapshot in record.snapshots if voter.incarnation in snapshot.holders]
    return sum(len(holders) == 1 for holders in held), len(held)


def _witness(members: Membership) -> Step | None:
    """An even number of copies has a witness, an odd number has none."""
    witness, data = members.witness(), members.data()
    if not members.wants_witness():
        if witness is not None and len(data) == members.record.copies:
            return _remove(members, witness, f"{len(data)} copies need no witness")
        return None
    if len(data) != members.record.copies or (witness is not None and witness not in members.lost):
        return None
    newcomer = members.ready_one("witness")
    if newcomer is None:
        if members.coming("witness"):
            return None
        return Step(home="witness", why=f"{witness.node} is lost" if witness else f"{len(data)} copies need one")
    if witness is not None:
        return _remove(members, witness, f"{newcomer.node} takes the vote of {witness.node}, which is lost")
    return _add(members, newcomer)


# ---- what a step makes of the record -------------------------------------------------------------------


def _by_absence(members: Membership, voters: list[Voter]) -> list[Voter]:
    """Who has been away longest first; never ourselves."""
    order = {voter: place for place, voter in enumerate(members.lost)}
    last = len(order)
    return sorted((v for v in voters if v != members.me), key=lambda v: (order.get(v, last), v in members.answering, v))


def _place(members: Membership, step: Step) -> Step:
    """A home is needed: take the one that was found, if it is one."""
    home, record = members.home, members.record
    what = "a copy" if step.home == "data" else "the witness"
    if home is not None and home.kind == step.home and record.member_on(home.node) is None:
        joined = replace(record, joining=(*record.joining, home))
        return Step(joined, verdict=Verdict("place", f"{home.node} gets {what}: {step.why}", members.turned_down))
    waiting = tuple(f"to wait for {voter.node}: it was away for the whole grace" for voter in members.lost)
    asks = Verdict("place", f"asks placement where to put {what}: {step.why}", waiting)
    return replace(step, drop_home=home is not None, verdict=asks)


def _add(members: Membership, newcomer: Voter) -> Step | None:
    """One voter more (A2), in sync with the same record when it is a copy."""
    record = members.record
    voters = (*record.voters, newcomer)
    if not members.carries(voters):
        return None
    joining = tuple(member for member in record.joining if member != newcomer)
    in_sync = (*record.in_sync, newcomer) if newcomer.kind == "data" else record.in_sync
    added = replace(record, voters=voters, in_sync=in_sync, joining=joining)
    what = "is in sync and votes" if newcomer.kind == "data" else "votes as the witness"
    return Step(added, verdict=Verdict("admit", f"{newcomer.node} {what}: {_told(added)}"))


def _remove(members: Membership, voter: Voter, reason: str) -> Step | None:
    """One voter less (A2); never the leader, never the last copy in sync (S2), never a majority that answers."""
    record = members.record
    voters = tuple(other for other in record.voters if other != voter)
    in_sync = tuple(other for other in record.in_sync if other != voter)
    if voter == members.me or not in_sync or not members.carries(voters) or not members.know(voters):
        return None
    removed = replace(record, voters=voters, in_sync=in_sync)
    kept = (f"to keep {voter.node} as well: an even number of voters carries no more failures",)
    return Step(removed, verdict=Verdict("remove", f"{voter.node} is no member any more: {reason}", kept))


def _without_joining(members: Membership, member: Voter, reason: str) -> Step:
    record = members.record
    left = replace(record, joining=tuple(other for other in record.joining if other != member))
    return Step(left, verdict=Verdict("remove", f"{member.node} does not become a voter: {reason}"))


def _told(record: Record) -> str:
    return ", ".join(voter.node for voter in record.voters)
