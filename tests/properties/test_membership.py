"""Members, over any sequence of losses, returns, homes and policies: majorities overlap, and the plan arrives.

The leader stays the same here; what changes leaders do to it is the simulation's part.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.replica.brain import Record, Voter
from services.replica.brain.decisions import inputs_of, replay
from services.replica.brain.membership import with_member, without
from services.replica.brain.plan import Membership, Step, next_step
from services.replica.brain.quorum import majority
from stoscore.limits import REPLICAS_MAX, VOTERS_MAX

NODES = [f"n{number}" for number in range(1, 10)]
ME = Voter("n0", "1")


@dataclass
class Model:
    """One volume, its nodes, and what its leader knows of them."""

    record: Record
    up: set[str] = field(default_factory=lambda: set(NODES))
    lost: list[Voter] = field(default_factory=list)
    gone: set[Voter] = field(default_factory=set)
    ready: set[Voter] = field(default_factory=set)
    home: Voter | None = None
    made: int = 1

    def members(self) -> Membership:
        known = set(self.record.members)
        return Membership(
            self.record,
            ME,
            tuple(m for m in self.record.members if m == ME or (m.node in self.up and m not in self.gone)),
            lost=tuple(member for member in self.lost if member in known and member not in self.record.in_sync),
            gone=tuple(member for member in self.lost if member in known and member in self.gone),
            ready=tuple(sorted(self.ready & known)),
            home=self.home,
        )

    def step(self) -> Step:
        members = self.members()
        step = next_step(members)
        assert replay(inputs_of(members)) == step.verdict, "the recorded inputs give the same decision"
        if step.drop_home or (step.record is not None and self.home in step.record.joining):
            self.home = None
        if step.record is not None:
            check(self.record, step.record, members.answering)
            self.record = step.record
        return step

    def make_home(self, kind: str, node: str) -> None:
        self.made += 1
        self.home = Voter(node, f"{self.made:x}", "witness" if kind == "witness" else "data")


def check(before: Record, after: Record, answering: tuple[Voter, ...]) -> None:
    """What must hold of two records in a row."""
    after.validate()
    assert len(after.voters) <= VOTERS_MAX
    assert len(set(before.voters) ^ set(after.voters)) <= 1, "A2"
    assert ME in after.in_sync, "S2: never the leader"
    there = sum(voter in answering for voter in after.voters)
    assert before.voters == after.voters or there >= majority(len(after.voters)), "it could not be committed"
    for one in combinations(before.voters, majority(len(before.voters))):
        rest = set(after.voters) - set(one)
        assert len(rest) < majority(len(after.voters)), "two disjoint majorities"


def first(replicas: int) -> Record:
    data = (ME, *(Voter(node, "1") for node in NODES[:replicas]))
    witness = (Voter(NODES[-1], "1", "witness"),) if len(data) % 2 == 0 else ()
    return Record("v", "v", 4096, replicas, data + witness, data, ME)


NODE = st.sampled_from(NODES)
EVENTS = st.one_of(
    st.tuples(st.just("down"), NODE),
    st.tuples(st.just("up"), NODE),
    st.tuples(st.just("lose"), NODE),
    st.tuples(st.just("erase"), NODE),
    st.tuples(st.just("catch up"), NODE),
    st.tuples(st.just("home"), NODE),
    st.tuples(st.just("replicas"), st.integers(0, REPLICAS_MAX)),
    st.tuples(st.just("step"), st.just("")),
    st.tuples(st.just("step"), st.just("")),
)


def happen(model: Model, kind: str, what: str | int) -> None:
    member = model.record.member_on(what) if isinstance(what, str) else None
    match kind:
        case "down":
            model.up.discard(str(what))
            smaller = without(model.record, member) if member is not None else None
            model.record = smaller or model.record
            model.ready -= {member} if member is not None else set()
        case "up":
            model.up.add(str(what))
            model.lost = [lost for lost in model.lost if lost.node != what or lost in model.gone]
        case "lose" | "erase" if member is not None and what not in model.up and member not in model.lost:
            model.lost.append(member)
            if kind == "erase":
                model.gone.add(member)
        case "catch up" if member is not None and what in model.up and member not in model.gone:
            if member in model.record.joining:
                model.ready.add(member)
            elif member not in model.lost:
                model.record = with_member(model.record, member) or model.record
        case "home" if model.home is None:
            step = next_step(model.members())
            if step.home is not None:
                model.make_home(step.home, str(what))
        case "replicas":
            model.record = replace(model.record, replicas=int(what))
        case "step":
            model.step()


@settings(max_examples=300)
@given(st.integers(0, REPLICAS_MAX), st.lists(EVENTS, max_size=60))
def test_majorities_overlap_whatever_happens(replicas: int, events: list[tuple[str, str | int]]) -> None:
    model = Model(first(replicas))
    for kind, what in events:
        happen(model, kind, what)


@settings(max_examples=300)
@given(st.integers(0, REPLICAS_MAX), st.integers(0, REPLICAS_MAX), st.lists(EVENTS, max_size=40))
def test_with_nodes_enough_the_plan_arrives(replicas: int, wanted: int, events: list[tuple[str, str | int]]) -> None:
    """Everybody who is there catches up, whoever is away stays lost, and while a majority answers every ask finds a
    node: the volume ends with as many copies as asked for, all in sync, an odd number of voters and nobody joining."""
    model = Model(first(replicas))
    for kind, what in events:
        happen(model, kind, what)
    happen(model, "replicas", wanted)
    for _ in range(80):
        record = model.record
        answering = model.members().answering
        if sum(voter in answering for voter in record.voters) < majority(len(record.voters)):
            return  # nothing to decide until they return
        for member in record.members:
            if member != ME and member.node not in model.up:
                happen(model, "lose", member.node)
            elif member != ME:
                happen(model, "catch up", member.node)
        step = model.step()
        if step.home is not None and model.home is None:
            free = [node for node in NODES if node in model.up and record.member_on(node) is None]
            if not free:
                return
            model.make_home(step.home, free[0])
        elif step == Step():
            break
    record = model.record
    data = [voter for voter in record.voters if voter.kind == "data"]
    assert len(data) == len(record.in_sync) == record.copies
    assert len(record.voters) % 2 == 1
    assert record.joining == ()
