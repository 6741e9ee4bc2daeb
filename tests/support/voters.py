"""Voters, records and brains for the tests of the cores."""

from __future__ import annotations

from collections.abc import Iterable

from services.replica.brain import Brain, Facts, HardState, Record, Slot, Stamp, Timing, Voter
from services.replica.brain import events as ev
from services.replica.brain import messages as ms
from stoscore.units import MIB

A, B, C = (Voter(node, f"{node}1") for node in "abc")
W = Voter("w", "w1", "witness")
TIMING = Timing()
LEASE = TIMING.lease_ns
NO_FACTS = Facts()


def record(*voters: Voter, in_sync: Iterable[Voter] | None = None, primary: Voter | None = None) -> Record:
    data = tuple(voter for voter in voters if voter.kind == "data")
    members = data if in_sync is None else tuple(in_sync)
    return Record("v", "volume", 4 * MIB, len(data) - 1, voters, members, primary)


def slot(rec: Record, epoch: int = 0, version: int = 1) -> Slot:
    return Slot(Stamp(0, epoch, version), rec)


def hard(me: Voter, accepted: Slot | None, epoch: int = 0, voted_for: Voter | None = None) -> HardState:
    return HardState(me, epoch, voted_for, accepted, LEASE)


def brain(me: Voter, accepted: Slot | None, *, epoch: int = 0, fresh: bool = True, unclean: bool = False) -> Brain:
    return Brain(hard(me, accepted, epoch), TIMING, now_ns=0, fresh=fresh, unclean=unclean)


def step(machine: Brain, event: ev.Event, now_ns: int = 0, facts: Facts = NO_FACTS) -> list[ev.Effect]:
    """Every effect of one event, those to oneself fed back, as a driver does."""
    batch = machine.step(event, now_ns, facts)
    out: list[ev.Effect] = []
    for effect in (*batch.now, *batch.after):
        if isinstance(effect, ev.Send) and effect.message.target == machine.me:
            out += step(machine, ev.Received(effect.message), now_ns, facts)
        else:
            out.append(effect)
    return out


def sent(effects: Iterable[ev.Effect]) -> list[ms.BrainMessage]:
    return [effect.message for effect in effects if isinstance(effect, ev.Send)]


def elect(machine: Brain, *granting: Voter, now_ns: int = 0) -> list[ev.Effect]:
    """Let it stand at `now_ns` and be voted for; returns the effects of the last answer."""
    step(machine, ev.TimePassed(), now_ns)
    assert machine.role == "pre-voting", machine.role
    asked = machine.candidacy.asking_epoch
    for voter in granting:
        answer = ms.PreVoteAnswer("v", voter, machine.me, asked, True, asked - 1)
        step(machine, ev.Received(answer), now_ns)
    out: list[ev.Effect] = []
    for voter in granting:
        out = step(machine, ev.Received(ms.VoteAnswer("v", voter, machine.me, asked, True, asked)), now_ns)
        if machine.role == "leader":
            break
    assert machine.role == "leader", machine.role
    return out


def accept(machine: Brain, *voters: Voter, now_ns: int = 0) -> list[ev.Effect]:
    """The voters store the leader's latest record."""
    assert machine.proposal is not None
    out: list[ev.Effect] = []
    for voter in voters:
        stamp = machine.proposal.slot.stamp
        out += step(machine, ev.Received(ms.Accepted("v", voter, machine.me, machine.epoch, stamp)), now_ns)
    return out
