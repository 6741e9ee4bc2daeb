"""Leading after a power loss: who may have lost acknowledged writes, and whose word counts (S3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

from services.replica.brain.quorum import majority
from services.replica.brain.record import Record, Slot, Stamp, Voter


class Said(Protocol):
    """What a voter says of itself."""

    @property
    def stamp(self) -> Stamp | None: ...
    @property
    def in_sync(self) -> tuple[Voter, ...]: ...
    @property
    def unclean(self) -> bool: ...


class Word(NamedTuple):
    """Our own."""

    stamp: Stamp
    in_sync: tuple[Voter, ...]
    unclean: bool


LED_AND_TOLD = 2
"""A record that its leader stored and somebody else tells of."""


def ousted(me: Voter, unclean: bool, in_sync: tuple[Voter, ...], newer: Record, *, by: Voter, by_unclean: bool) -> bool:
    """The newer record takes somebody out of the in-sync set, and may never have been committed.

    Of its leader's own word nobody takes a smaller set, but by what it proposes: while it is clean it stands itself,
    asks for our vote, and has the record stored as a leader. Were we to take the record from its refusal, a majority
    could hold it that never answered a leader (A1), and when it has lost power it would lead by that. *{A,B} in sync, A
    stores "in sync {A}", nobody else does, and is killed: B took that from its refusal. Then A lost power, and led by
    the word of two of three beside B, clean, with acknowledged writes that A had lost. Or C took it, a voter that was
    behind and had asked A for its record, when A had lost power already.* Of anybody else's word it is on two already.

    Of an unclean voter's record who is clean never follows itself out, but for one that is `on_two` of three. *A
    shrinks to {A}, with W, and stores the next epoch's record of that alone; both lose power. C, clean, had slept, and
    held one that names it: no record was on two any more, and A waited for C to be unclean, for ever.* Who is unclean
    gives such a record no weight against another one either. *{A,B,C} in sync, A stores "in sync {A,B}" alone; A and B
    lose power. Did B take that from A's refusal, a majority would hold it, and A would lead beside C, clean.* Who is
    named by it is lent it. `in_sync`: of our own record."""
    of_leader = by == newer.primary
    if by_unclean and not on_two(newer, by) and me not in newer.in_sync:
        return True
    if unclean:
        return (by_unclean or of_leader) and any(voter != me and voter not in newer.in_sync for voter in in_sync)
    return not by_unclean and of_leader and not newer.deleted and set(newer.in_sync) < set(in_sync)


def on_two(newer: Record, by: Voter) -> bool:
    """Two make a majority of its voters, and by whom it is told is not who led it: its leader stored it first, so it
    was committed."""
    return newer.primary not in (None, by) and majority(len(newer.voters)) <= LED_AND_TOLD


def is_lent(mine: Slot, newer: Slot, by: Voter, *, by_unclean: bool) -> bool:
    """What an unclean voter tells and may be the only one to have: whoever it names stands with it, and stores it with
    the first record that it proposes when it is elected, not before. *{A,B,C} in sync, A stores "in sync {A,B}" alone
    and loses power. B, clean, took that from A's refusal, and lost power before it led: two of three held it, which
    nobody had ever stored as an answer to a leader, and A led beside C, clean, with acknowledged writes that A and B
    had lost.*"""
    alike = mine.stamp.generation == newer.stamp.generation and mine.record.voters == newer.record.voters
    return by_unclean and alike and not newer.record.deleted and not on_two(newer.record, by)


def may_hand_on(record: Record, member: Voter, *, unclean: bool) -> bool:
    """Whether a voter gives its record to a member that did not ask for its vote: an unclean one only to whom it names
    in sync. Who gets it can't tell by whom it was told, and would not see that it is `ousted`."""
    return not unclean or member in record.in_sync


def may_win(
    me: Voter,
    own: Said,
    lent: tuple[Voter, ...],
    voters: int,
    answers: Mapping[Voter, Said],
    besides: Mapping[Voter, Said],
) -> bool:
    """An unclean replica stands only when every in-sync member answered that it is unclean too. The record that a
    majority holds at this moment tells who they are: no later one can be committed. Its own may be a smaller set that
    it stored just before it lost power and nobody else did. Without such a majority every voter has to answer, or the
    two last records of a reign are known, and whoever one of their records names counts as a member, but for records
    that are certainly replaced. (A majority stored the last committed record; where no newer one is on a majority, one
    still has it.)

    A clean member by our own record, committed or not, holds every acknowledged write (S1, S4) and is handed that
    record: with it on two of three, what a majority held a moment ago tells nothing. *A admitted B, stored that alone
    and lost power. B was handed the record; C and B had answered with the one before, which names A alone: A led, and
    B, clean and in sync, held writes that A had lost.*

    `own`: what we hold, with so many voters. `lent`: who is in sync by the record that we stand with and don't hold.
    `besides`: the word of those whom our own record does not name any more."""
    named = (answers[voter] for voter in (*own.in_sync, *lent) if voter in answers)
    if not all(answer.unclean for answer in named):
        return False
    held = [(own.stamp, own.in_sync), *((answer.stamp, answer.in_sync) for answer in answers.values())]
    stamps = [stamp for stamp, _ in held]
    needed = majority(voters)
    committed = [in_sync for stamp, in_sync in held if stamp is not None and stamps.count(stamp) >= needed]
    if not committed and len(answers) < voters - 1 and (len(held) < needed or not _two_last_known(held)):
        return False
    sets = [lent, *(committed[:1] or _not_replaced(held))]
    members = {voter for in_sync in sets for voter in in_sync}
    told = {**besides, **answers}
    return all(voter == me or (voter in told and told[voter].unclean) for voter in members)


def _two_last_known(held: list[tuple[Stamp | None, tuple[Voter, ...]]]) -> bool:
    """The one before the last was committed, and of what came after the last a majority would have heard."""
    stamps = {stamp for stamp, _ in held if stamp is not None}
    newest = max(stamps)
    return replace(newest, version=newest.version - 1) in stamps


def _not_replaced(held: list[tuple[Stamp | None, tuple[Voter, ...]]]) -> list[tuple[Voter, ...]]:
    """A leader proposes its next record when the one before is committed: of two records of the newest epoch, all that
    come before the second last are replaced for good. *A, {A} in sync, detaches and loses power; nobody else has stored
    that, B holds the record before, W an old one that names B: without this A waited for B to be unclean, for ever.*"""
    known = [(stamp, in_sync) for stamp, in_sync in held if stamp is not None]
    newest = max(stamp for stamp, _ in known)
    reign = [stamp for stamp, _ in known if (stamp.generation, stamp.epoch) == (newest.generation, newest.epoch)]
    if min(reign) == newest:
        return [in_sync for _, in_sync in held]
    return [in_sync for stamp, in_sync in known if stamp in reign and stamp.version >= newest.version - 1]
