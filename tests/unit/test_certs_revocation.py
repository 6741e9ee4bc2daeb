"""Revoking: what was handed out before is refused everywhere, nothing slips through, and a new token ends it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from services.certs import steps
from services.certs.administration import Administration
from services.certs.authority import Authority
from services.certs.record import Denial, Record
from services.certs.revocation import denial_of
from stoscore.certs_messages import RevokeIdentity, ShowIdentity
from stoscore.enrolment import IssueToken
from stoscore.errors import Code, StosError
from stoscore.limits import TRUST_DENIED_MAX
from stoscore.spiffe import owner
from stoscore.trust import denial
from tests.support.authorities import START_S, Clock, DyingVault, Killed, Member, open_instance


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    return open_instance(tmp_path, clock)


def revoke(authority: Authority, member: Member, **more: object) -> int:
    request = RevokeIdentity(kind=member.kind, name=member.name, reason="stolen", **more)  # type: ignore[arg-type]
    return Administration(authority).revoke(request).trust_number


def is_denied(record: Record, member: Member) -> bool:
    """As everybody who has this trust state judges."""
    return denial(record.trust(), owner(member.certificate)) is not None


def refused(act: Callable[[], object], why: str, code: Code = Code.UNAUTHENTICATED) -> None:
    with pytest.raises(StosError, match=why) as caught:
        act()
    assert caught.value.code is code


def joined(authority: Authority, name: str = "n1", kind: str = "node", role: str = "") -> Member:
    member = Member(kind, name)
    member.join(authority, role)
    return member


def test_a_revoked_identity_is_refused_until_it_is_let_in_again(authority: Authority, clock: Clock) -> None:
    thief, other = joined(authority), joined(authority, "n2")
    before = authority.record().number
    assert revoke(authority, thief) > before
    assert is_denied(authority.record(), thief)
    assert not is_denied(authority.record(), other)
    refused(lambda: thief.renew(authority), "node/n1 is revoked")
    other.renew(authority)
    # In the very second of the revocation, with a token made after it.
    owner_again = joined(authority)
    assert not is_denied(authority.record(), owner_again)
    owner_again.renew(authority)
    clock.pass_s(1)
    refused(lambda: thief.renew(authority), "node/n1 is revoked")


def test_tokens_from_before_are_worthless(authority: Authority) -> None:
    token, spare = (authority.make_token("node", "n1", 60) for _ in range(2))
    thief = Member("node", "n1")
    thief.enrol(authority, token)
    answer = Administration(authority).revoke(RevokeIdentity(kind="node", name="n1"))
    assert answer.tokens == 2
    refused(lambda: thief.enrol(authority, token), "unknown")  # it was bound to the thief's key
    refused(lambda: Member("node", "n1").enrol(authority, spare), "unknown")


def test_a_token_that_another_instance_kept_is_worthless_too(authority: Authority) -> None:
    """It was stored again after they were removed."""
    token = authority.make_token("node", "n1", 60)
    member = joined(authority)
    kept = authority.ledger.tokens()
    revoke(authority, member)
    for one in kept:
        authority.ledger.add_token(one)
    refused(lambda: Member("node", "n1").enrol(authority, token), "before node/n1 was revoked")


def test_the_credential_of_nats_dies_with_it(authority: Authority, clock: Clock) -> None:
    member = joined(authority)
    revoke(authority, member)
    assert authority.nats_revocations() == {member.nats_key: START_S}
    again = Member("node", "n1")
    again.nats_key = member.nats_key  # the same directory, so the same key
    again.join(authority)
    assert again.credentials is not None
    assert issued_at(again.credentials.nats_jwt) > START_S  # the server refuses what was issued up to that second
    clock.pass_s(10)
    revoke(authority, again)
    assert authority.nats_revocations() == {member.nats_key: START_S + 10}


def issued_at(jwt: str) -> int:
    body = jwt.split(".")[1]
    return int(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["iat"])


def test_one_certificate(authority: Authority, clock: Clock) -> None:
    member = joined(authority)
    old, old_key = member.serial, member.key
    old_credentials = member.credentials
    clock.pass_s(5)
    member.renew(authority)
    revoke(authority, member, serial=old)
    assert not is_denied(authority.record(), member)
    assert authority.nats_revocations() == {member.nats_key: START_S}
    member.renew(authority)
    thief = Member("node", "n1")
    thief.key, thief.credentials = old_key, old_credentials
    assert is_denied(authority.record(), thief)
    refused(lambda: thief.renew(authority), "revoked")
    refused(lambda: revoke(authority, member, serial="abc"), "serial number abc", Code.NOT_FOUND)


def test_an_unknown_one(authority: Authority) -> None:
    refused(lambda: revoke(authority, Member("node", "n9")), "certs knows no node/n9", Code.NOT_FOUND)
    revoke(authority, Member("node", "n9"), unlisted=True)
    assert authority.record().trust().denied[0].name == "n9"


def test_a_denial_ends_with_what_it_denies(authority: Authority, clock: Clock) -> None:
    member = joined(authority)
    ends_s = int(member.certificate.not_valid_after_utc.timestamp())
    revoke(authority, member)
    number = authority.record().number
    clock.now_s = ends_s
    steps.keep_going(authority)
    assert authority.record().denials  # a certificate may have been issued up to the line itself
    clock.now_s = ends_s + 2
    record = steps.keep_going(authority)
    assert not record.denials
    assert record.number > number
    # Still nobody comes in but by an administrator's word.
    known = authority.ledger.find("node", "n1")
    assert known is not None
    assert known.revoked
    assert not known_after_join(authority)


def known_after_join(authority: Authority) -> bool:
    joined(authority)
    known = authority.ledger.find("node", "n1")
    assert known is not None
    return known.revoked


def test_the_ledger_learns_what_a_killed_instance_did_not_write(tmp_path: Path, clock: Clock) -> None:
    """Killed after the record: everybody refuses it, and nobody would remember it after its certificate's end."""
    authority = open_instance(tmp_path, clock)
    member = joined(authority)
    dying = open_instance(tmp_path, clock, vault=DyingVault(authority.vault, 1))
    with pytest.raises(Killed):
        revoke(dying, member)
    assert is_denied(authority.record(), member)
    known = authority.ledger.find("node", "n1")
    assert known is not None
    assert not known.revoked
    steps.remember_revocations(authority, authority.record())
    known = authority.ledger.find("node", "n1")
    assert known is not None
    assert known.revoked


def test_two_revocations_of_one(authority: Authority, clock: Clock) -> None:
    member = joined(authority)
    revoke(authority, member)
    clock.pass_s(3)
    again = joined(authority)
    revoke(authority, again)
    assert len(authority.record().denials) == 1
    assert is_denied(authority.record(), member)
    assert is_denied(authority.record(), again)
    assert set(authority.nats_revocations()) == {member.nats_key, again.nats_key}


def test_the_list_is_bounded(authority: Authority) -> None:
    many = tuple(
        Denial(kind="node", name=f"x{number}", issued_before_s=1, expires_s=START_S * 2)
        for number in range(TRUST_DENIED_MAX)
    )
    authority.change(lambda current: current.changed(START_S, denials=many))
    member = joined(authority)
    refused(lambda: revoke(authority, member), "are denied already", Code.RESOURCE_EXHAUSTED)
    assert len(authority.record().trust().model_dump_json()) < 480 * 1024


# ---- several instances -----------------------------------------------------------------------------------


class Interrupted:
    """A vault of one instance whose first storing of that name lets another one act first."""

    poll_s = 0.01

    def __init__(self, authority: Authority, name: str, act: Callable[[], object], *, before: bool):
        self._vault, self._name, self._act, self._before = authority.vault, name, act, before

    def __getattr__(self, name: str) -> object:
        return getattr(self._vault, name)

    def put(self, name: str, data: bytes, revision: str) -> object:
        act, mine = self._act, name == self._name
        if mine:
            self._name = ""
        if mine and self._before:
            act()
        entry = self._vault.put(name, data, revision)
        if mine and not self._before:
            act()
        return entry


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("ahead_s", [-300, 0, 300])
def test_a_renewal_that_meets_a_revocation(tmp_path: Path, clock: Clock, before: bool, ahead_s: int) -> None:
    """One instance is about to write a renewal down, or has just done it, when the other one revokes. Whatever the
    clocks say, what leaves is denied, or nothing leaves."""
    first = open_instance(tmp_path, clock)
    member = joined(first)
    other_clock = Clock(clock.now_s + ahead_s)
    second = open_instance(tmp_path, other_clock)
    second.vault = Interrupted(  # type: ignore[assignment]
        first, "identities/node/n1", lambda: revoke(first, member), before=before
    )
    second.ledger._vault = second.vault
    had = member.credentials
    with pytest.raises(StosError) as caught:
        member.renew(second)
    assert caught.value.code is Code.UNAUTHENTICATED
    member.credentials = had
    assert is_denied(first.record(), member)
    # All that the ledger knows to have been handed out is denied.
    known = first.ledger.find("node", "n1")
    assert known is not None
    record = first.record()
    for one in known.certificates:
        assert denial_of(record, "node", "n1", one.serial, one.issued_s) is not None
    # And each of them lets the owner in again, with a clock that is behind the other's.
    for instance in (first, open_instance(tmp_path, other_clock)):
        again = joined(instance)
        assert not is_denied(instance.record(), again)
        again.renew(instance)


def test_a_revocation_that_meets_a_readmission_keeps_it(authority: Authority) -> None:
    member = joined(authority)
    revoke(authority, member)
    again = joined(authority)
    shown = Administration(authority).show(ShowIdentity(kind="node", name="n1"))
    assert shown.identity.state == "valid"
    assert [one.denied for one in shown.certificates] == [True, False]
    assert shown.denied[0].reason == "stolen"
    again.renew(authority)


def test_users_keep_their_role(authority: Authority) -> None:
    eve = joined(authority, "eve", "user", "viewer")
    assert eve.credentials is not None
    assert eve.credentials.role == "viewer"
    assert eve.renew(authority).role == "viewer"
    token = Administration(authority).token(IssueToken(kind="user", name="eve", role="operator")).token
    assert eve.enrol(authority, token).role == "operator"
    assert eve.renew(authority).role == "operator"
