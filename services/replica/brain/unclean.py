"""Leading after a power loss: who may have lost acknowledged writes, and whose word counts (S3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

from services.replica.brain.quorum import majority
from services.replica.brain.record import Stamp, Voter


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
    it stored just before it lost power and nobody else did. Without such a majority the two last records of a reign
    tell: whoever one of them names counts as a member. Where these are not known either, every voter has to answer and
    every copy to be unclean, named or not: nobody may have the last committed record any more. *Four voters, all in
    sync; A proposed to go on without B, which B stored. D was told of that, was elected with it, and stored its own
    first record, as C did. A, C and D lost power: half had the one record and half the other, both without B, which was
    clean and held writes that the three had lost.*

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
    known = committed[:1] or _not_replaced(held)
    members = {voter for in_sync in (lent, *known) for voter in in_sync}
    if not known:
        members |= {voter for _, in_sync in held for voter in in_sync}
        members |= {voter for voter in answers if voter.kind == "data"}
    told = {**besides, **answers}
    return all(voter == me or (voter in told and told[voter].unclean) for voter in members)


def _two_last_known(held: list[tuple[Stamp | None, tuple[Voter, ...]]]) -> bool:
    """The one before the last was committed, and of what came after the last a majority would have heard."""
    stamps = {stamp for stamp, _ in held if stamp is not None}
    newest = max(stamps)
    return replace(newest, version=newest.version - 1) in stamps


def _not_replaced(held: list[tuple[Stamp | None, tuple[Voter, ...]]]) -> list[tuple[Voter, ...]]:
    """A leader proposes its next record when the one before is committed: of two records of the newest epoch, all that
    come before the second last are replaced for good. Of one alone nothing is known. *A, {A} in sync, detaches and
    loses power; nobody else has stored that, B holds the record before, W an old one that names B: without this A
    waited for B to be unclean, for ever.*"""
    known = [(stamp, in_sync) for stamp, in_sync in held if stamp is not None]
    newest = max(stamp for stamp, _ in known)
    reign = [stamp for stamp, _ in known if (stamp.generation, stamp.epoch) == (newest.generation, newest.epoch)]
    if min(reign) == newest:
        return []
    return [in_sync for stamp, in_sync in known if stamp in reign and stamp.version >= newest.version - 1]
