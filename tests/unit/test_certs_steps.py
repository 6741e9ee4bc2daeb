"""Changing the authority, killed between any two steps, and done by several instances at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from services.certs import issue, rotation, steps
from services.certs.administration import Administration
from services.certs.authority import Authority
from services.certs.record import Record
from stoscore.certs_messages import ListIdentities, RotateAuthority, TrustRequest
from stoscore.errors import Code, StosError
from stoscore.spiffe import owner
from stoscore.trust import load_roots, verify_chain, verify_trust
from tests.support.authorities import Clock, DyingVault, Killed, Member, open_instance

SETTLE_S = rotation.settle_s(4 * 86_400)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def instance(directory: Path, clock: Clock, name: str = "certs") -> Authority:
    """With an identity of its own, as every running one."""
    authority = open_instance(directory, clock, name=name)
    keep_own(authority)
    return authority


def keep_own(authority: Authority) -> None:
    """As the upkeep does."""
    name = authority.settings.name
    own = authority.own_identity(authority.settings.instance_dir / "identity", "svc", name)
    authority.own = own
    authority.in_use("svc", name, TrustRequest(serial=own.peer.serial, number=authority.record().number))


def verifies(member: Member, record: Record) -> bool:
    assert member.credentials is not None
    chain = [issue.load(text) for text in split(member.credentials.certificate_pem)]
    try:
        verify_chain(chain, load_roots(record.roots_pem))
    except StosError:
        return False
    return True


def split(pem: str) -> list[str]:
    end = "-----END CERTIFICATE-----\n"
    return [part + end for part in pem.split(end) if part.strip()]


def report(authority: Authority, member: Member) -> None:
    assert member.credentials is not None
    assert member.credentials.trust is not None
    state = verify_trust(member.credentials.trust, load_roots(member.credentials.trust_pem), authority.cluster)
    serial = owner(member.certificate).serial
    authority.in_use(member.kind, member.name, TrustRequest(serial=serial, number=state.number))


def everybody_follows(authority: Authority, members: list[Member]) -> None:
    for member in members:
        member.renew(authority)
        report(authority, member)


def to_the_end(authority: Authority, members: list[Member], clock: Clock) -> Record:
    """A change that is under way, with everybody taking part."""
    for _ in range(6):
        keep_own(authority)
        everybody_follows(authority, members)
        clock.pass_s(SETTLE_S + 1)
        record = steps.keep_going(authority)
        if record.rotation is None:
            return record
    raise AssertionError(f"it does not end: {record.rotation}")


def test_a_new_root_by_phases(tmp_path: Path, clock: Clock) -> None:
    authority = instance(tmp_path, clock)
    administration = Administration(authority)
    members = [Member("node", "n1"), Member("user", "eve")]
    members[0].join(authority)
    members[1].join(authority, "viewer")
    old = authority.record()

    view = administration.rotate(RotateAuthority(what="root")).authority
    assert [root.key for root in view.roots] == ["root-1", "root-2"]
    assert view.rotation is not None
    assert view.rotation.phase == "announce"
    assert view.rotation.waiting_for == ["node/n1", "svc/certs", "user/eve"]
    assert all(verifies(member, old) for member in members)
    with pytest.raises(StosError, match="is being changed") as caught:
        administration.rotate(RotateAuthority(what="issuer"))
    assert caught.value.code is Code.FAILED_PRECONDITION

    keep_own(authority)
    everybody_follows(authority, members)
    assert all(verifies(member, old) for member in members)  # still below the old root
    clock.pass_s(SETTLE_S + 1)
    record = steps.keep_going(authority)
    assert record.rotation is not None
    assert record.rotation.phase == "sign"
    keep_own(authority)
    members[0].renew(authority)
    report(authority, members[0])
    assert not verifies(members[0], old)
    clock.pass_s(SETTLE_S + 1)
    assert administration.ls(ListIdentities()).authority.rotation is not None
    assert steps.keep_going(authority).rotation is not None  # eve has not come yet
    members[1].renew(authority)
    report(authority, members[1])
    record = steps.keep_going(authority)
    assert record.rotation is None
    assert [root.key for root in record.roots] == ["root-2"]
    assert all(verifies(member, record) for member in members)
    assert "root-1" not in authority.keyring.names()
    assert "issuer-1" not in authority.keyring.names()
    for member in members:
        member.renew(authority)


def test_a_certificate_of_the_old_root_is_worth_nothing_afterwards(tmp_path: Path, clock: Clock) -> None:
    authority = instance(tmp_path, clock)
    member, late = Member("node", "n1"), Member("node", "n2")
    member.join(authority)
    late.join(authority)
    steps.begin_root(authority)
    left = (late.key, late.credentials)
    to_the_end(authority, [member, late], clock)
    late.key, late.credentials = left
    with pytest.raises(StosError, match="not of this cluster"):
        late.renew(authority)


def test_a_new_issuer_needs_no_phases(tmp_path: Path, clock: Clock) -> None:
    authority = instance(tmp_path, clock)
    member = Member("node", "n1")
    member.join(authority)
    before = authority.record()
    view = Administration(authority).rotate(RotateAuthority(what="issuer")).authority
    assert view.issuer == "issuer-2"
    assert view.rotation is None
    record = authority.record()
    assert record.renew_issued_before_s > before.renew_issued_before_s
    assert owner(member.certificate).issued_s < record.renew_issued_before_s
    member.renew(authority)  # by a certificate of the old issuer
    assert owner(member.certificate).issued_s >= record.renew_issued_before_s
    assert verifies(member, before)
    assert "issuer-1" not in authority.keyring.names() or steps.keep_going(authority)
    assert "issuer-1" not in authority.keyring.names()
    clock.pass_s(rotation.KEPT_AFTER_REPLACED_S)
    assert [one.key for one in steps.keep_going(authority).issuers] == ["issuer-2"]


def test_an_issuer_and_a_root_are_replaced_long_before_they_end(tmp_path: Path, clock: Clock) -> None:
    authority = instance(tmp_path, clock)
    first = authority.record()
    clock.pass_s((issue.ISSUER_LIFE - issue.ISSUER_REPLACED_BEFORE_END).total_seconds() + 60)
    second = steps.keep_going(authority)
    assert second.signer != first.signer
    assert second.number == first.number  # nobody has to be told
    clock.pass_s((issue.ROOT_LIFE - issue.ROOT_REPLACED_BEFORE_END - timedelta(days=245)).total_seconds())
    third = steps.keep_going(authority)
    assert third.rotation is not None
    assert third.rotation.phase == "announce"


CHANGES: dict[str, Callable[[Authority], object]] = {
    "root": lambda authority: steps.begin_root(authority),
    "issuer": lambda authority: steps.replace_issuer(authority, renew_all=True),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("what", sorted(CHANGES))
def test_killed_between_any_two_steps(tmp_path: Path, clock: Clock, what: str, after: bool) -> None:
    """The next instance goes on, or begins anew; nobody's certificate is lost on the way."""
    killed = 0
    for changes in range(60):
        directory = tmp_path / f"{changes}"
        survivor = instance(directory, clock)
        member = Member("node", "n1")
        member.join(survivor)
        dying = open_instance(directory, clock, vault=DyingVault(survivor.vault, changes, after=after))  # type: ignore[arg-type]
        dying.own = survivor.own
        try:
            CHANGES[what](dying)
            for _ in range(4):
                keep_own(survivor)
                everybody_follows(survivor, [member])
                clock.pass_s(SETTLE_S + 1)
                steps.keep_going(dying)
        except Killed:
            killed += 1
        record = survivor.record()
        assert verifies(member, record)
        if record.made == 1:
            CHANGES[what](survivor)
        record = to_the_end(survivor, [member], clock)
        assert verifies(member, record)
        assert record.signer == "issuer-2"
        used = {one.key for one in (*record.roots, *record.issuers) if not getattr(one, "replaced_s", 0)}
        left = {name for name in survivor.keyring.names() if not name.startswith("nats-")}
        assert left == used
        assert open_instance(directory, clock).record() == record
        if killed <= changes:
            break
    assert killed >= {"issuer": 3, "root": 6}[what]


def test_all_instances_at_once(tmp_path: Path, clock: Clock) -> None:
    instances = [instance(tmp_path, clock, name) for name in ("certs-1", "certs-2", "certs-3")]
    outcomes: list[object] = []
    start = threading.Barrier(3)

    def begin(authority: Authority) -> None:
        start.wait()
        try:
            outcomes.append(steps.begin_root(authority))
        except StosError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=begin, args=(one,)) for one in instances]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(one, Record) for one in outcomes) == 1
    assert outcomes.count(Code.FAILED_PRECONDITION) == 2
    record = instances[0].record()
    assert [root.key for root in record.roots] == ["root-1", "root-2"]
    for turn in range(3):
        clock.pass_s(SETTLE_S + 1)
        for one in instances:
            keep_own(one)
        done = threading.Barrier(3)
        threads = [
            threading.Thread(target=lambda one=one, done=done: (done.wait(), steps.keep_going(one)))
            for one in instances
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if instances[turn % 3].record().rotation is None:
            break
    assert [root.key for root in instances[0].record().roots] == ["root-2"]
    assert len({one.record().encode() for one in instances}) == 1
