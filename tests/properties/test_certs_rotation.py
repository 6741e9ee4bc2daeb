"""Changing the root, whatever happens meanwhile: nobody who is there is refused by anybody, and it comes to an end.

Members renew, hear what is broadcast, lose answers, go away for days, come back, join and are revoked, in any order;
instances of certs take the steps. After every single event, each two members that are there and hold valid
certificates must be able to verify each other: with the certificate that each really has, by the roots that the other
really trusts. The records are the real ones; only the cryptography is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.certs import revocation, rotation
from services.certs.ledger import Issued, Known
from services.certs.record import Issuer, Record, Root
from stoscore.errors import StosError

LIFE_S = 1000
START_S = 1_000_000


def first_record() -> Record:
    return Record(
        cluster="c",
        kek="k",
        founded_s=START_S,
        made=1,
        number=1,
        nats_account="A",
        roots=(Root(key="root-1", certificate_pem="root-1"),),
        issuers=(Issuer(key="issuer-1", root="root-1", certificate_pem="issuer-1"),),
        signer="issuer-1",
    )


@dataclass
class Member:
    """What one process really has, which is not always what certs has handed out."""

    name: str
    there: bool = True
    roots: frozenset[str] = frozenset()
    number: int = 0
    serial: str = ""
    root: str = ""
    issued_s: int = 0
    ends_s: int = 0


@dataclass
class World:
    record: Record = field(default_factory=first_record)
    ledger: dict[str, Known] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    now_s: int = START_S
    serials: int = 0
    used: bool = True
    """What is reported counts; without it, what was handed out."""

    # --- certs ---

    def issue(self, name: str) -> Issued:
        record = self.record
        issued_s = record.issue_time("node", name, self.now_s)
        self.serials += 1
        made = Issued(
            serial=f"{self.serials:x}",
            issued_s=issued_s,
            ends_s=issued_s + LIFE_S,
            attestor="certificate",
            issuer=record.signer,
            trust=record.number,
            used=0 if self.used else record.number,
        )
        known = self.ledger.get(name) or Known(kind="node", name=name, role="node")
        self.ledger[name] = known.model_copy(update={"certificates": (*known.certificates, made)})
        return made

    def advance(self) -> bool:
        after = rotation.advance(self.record, self.ledger.values(), self.now_s, LIFE_S)
        self.record = after or self.record
        return after is not None

    def begin(self) -> None:
        number = rotation.next_number(self.record)
        root = Root(key=f"root-{number}", certificate_pem=f"root-{number}")
        issuer = Issuer(key=f"issuer-{number}", root=root.key, certificate_pem=f"issuer-{number}")
        self.record = rotation.begin_root(self.record, root, issuer, self.now_s)

    # --- members ---

    def take(self, member: Member, issued: Issued | None) -> None:
        """An answer of certs arrives: the trust state of the moment, and a certificate if one was asked for."""
        if self.record.number > member.number:
            member.number = self.record.number
            member.roots = frozenset(root.key for root in self.record.roots)
        if issued is not None:
            root = next(one.root for one in self.record.issuers if one.key == issued.issuer)
            member.serial, member.root = issued.serial, root
            member.issued_s, member.ends_s = issued.issued_s, issued.ends_s

    def report(self, member: Member) -> None:
        known = self.ledger[member.name]
        marked = tuple(
            one.model_copy(update={"used": max(one.used, member.number)}) if one.serial == member.serial else one
            for one in known.certificates
        )
        self.ledger[member.name] = known.model_copy(update={"certificates": marked})

    def valid(self, member: Member) -> bool:
        denied = revocation.denial_of(self.record, "node", member.name, member.serial, member.issued_s)
        return member.there and self.now_s < member.ends_s and denied is None

    def check(self) -> None:
        able = [member for member in self.members.values() if self.valid(member)]
        for one, other in permutations(able, 2):
            assert one.root in other.roots, f"{other} refuses {one}: {self.record.rotation}"


NAMES = ["a", "b", "c", "d"]
EVENTS = st.one_of(
    st.tuples(st.just("renew"), st.sampled_from(NAMES)),
    st.tuples(st.just("renew, answer lost"), st.sampled_from(NAMES)),
    st.tuples(st.just("hear"), st.sampled_from(NAMES)),
    st.tuples(st.just("report"), st.sampled_from(NAMES)),
    st.tuples(st.just("leave"), st.sampled_from(NAMES)),
    st.tuples(st.just("come back"), st.sampled_from(NAMES)),
    st.tuples(st.just("revoke"), st.sampled_from(NAMES)),
    st.tuples(st.just("advance"), st.just("")),
    st.tuples(st.just("rotate"), st.just("")),
    st.tuples(st.just("pass"), st.sampled_from(["1", "70", "70", "400", "1100"])),
)


def happen(world: World, what: str, argument: str) -> None:
    member = world.members.get(argument)
    if what == "pass":
        world.now_s += int(argument)
    elif what == "advance":
        world.advance()
    elif what == "rotate":
        if world.record.rotation is None:
            world.begin()
        else:
            with pytest.raises(StosError, match="being changed"):
                world.begin()
    elif what == "revoke":
        world.record = revocation.deny_identity(world.record, world.ledger[argument], world.now_s, LIFE_S, "")
    elif member is None:
        return
    elif what == "leave":
        member.there = False
    elif what == "come back":
        member.there = True
        if world.now_s >= member.ends_s:
            world.take(member, world.issue(argument))  # with a new token, which names the roots
    elif not world.valid(member):
        return
    elif what == "renew":
        world.take(member, world.issue(argument))
    elif what == "renew, answer lost":
        world.issue(argument)
    elif what == "hear":
        world.take(member, None)
    elif what == "report":
        world.report(member)


def started(used: bool = True) -> World:
    world = World(used=used)
    for name in NAMES:
        world.members[name] = Member(name)
        world.take(world.members[name], world.issue(name))
    return world


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, min_size=30, max_size=90))
def test_who_is_there_is_never_refused(events: list[tuple[str, str]]) -> None:
    world = started()
    world.begin()
    for what, argument in events:
        happen(world, what, argument)
        world.check()
    # Whatever came before: when those who are there renew and report, and the others' certificates end, it is done.
    for _ in range(4):
        world.now_s += LIFE_S // 2
        for member in world.members.values():
            if world.valid(member):
                world.take(member, world.issue(member.name))
                world.report(member)
        world.check()
        world.advance()
        world.check()
    assert world.record.rotation is None
    assert len(world.record.roots) == 1
    assert {issuer.root for issuer in world.record.issuers} == {world.record.roots[0].key}


def test_an_answer_that_was_lost_is_why_reports_count() -> None:
    """The same story with and without: an answer to a renewal is lost, and its owner is away until the new issuer
    signs."""
    for used in (True, False):
        world = started(used)
        world.begin()
        for name in NAMES:
            happen(world, "renew, answer lost" if name == "a" else "renew", name)
            happen(world, "report", name)
        happen(world, "leave", "a")
        world.now_s += 70
        assert world.advance() is not used
        happen(world, "renew", "b")
        happen(world, "come back", "a")
        if used:
            world.check()
            assert [str(one) for one in rotation.waiting_for(world.record, world.ledger.values(), world.now_s)] == [
                "node/a"
            ]
        else:
            with pytest.raises(AssertionError, match="refuses"):
                world.check()


def test_who_is_gone_for_good_is_waited_for_or_revoked() -> None:
    world = started()
    world.begin()
    happen(world, "leave", "a")

    def all_the_others() -> None:
        for name in NAMES[1:]:
            happen(world, "renew", name)
            happen(world, "report", name)

    all_the_others()
    world.now_s += 70
    assert not world.advance()
    happen(world, "revoke", "a")
    assert world.advance()
    all_the_others()
    world.now_s += 70
    assert world.advance()
    assert world.record.rotation is None
