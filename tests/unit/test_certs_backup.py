"""Backups open with their passphrase only, restore exactly, forget no revocation they are shown, overwrite nothing."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.certs import backup, steps
from services.certs.administration import Administration
from services.certs.authority import Authority
from services.certs.backup import open_backup, restore, write_backup
from services.certs.ledger import Known
from services.certs.recovery import read_remains, recover
from services.certs.vault import open_vault
from stoscore.certs_messages import ListIdentities, RevokeIdentity, SignedTrust
from stoscore.errors import Code, StosError
from stoscore.spiffe import owner
from stoscore.trust import denial
from tests.support.authorities import Clock, DyingVault, Killed, Member, open_instance, settings_in

PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "SCRYPT", {"n": 1 << 10, "r": 8, "p": 1})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path, clock: Clock) -> Authority:
    made = open_instance(tmp_path / "old", clock)
    made.own = made.own_identity(tmp_path / "old" / "identity", "svc", "certs")
    return made


def refused(act: Callable[[], object], why: str, code: Code) -> StosError:
    with pytest.raises(StosError, match=why) as caught:
        act()
    assert caught.value.code is code
    assert PASSPHRASE not in str(caught.value)
    return caught.value


def back_up(authority: Authority, tmp_path: Path, name: str = "backup") -> Path:
    path = tmp_path / name
    write_backup(authority.settings, authority.vault, path, PASSPHRASE, authority.now())
    return path


def put_back(path: Path, directory: Path, clock: Clock, newest: SignedTrust | None = None) -> Authority:
    settings = settings_in(directory)
    restore(settings, open_vault(settings), open_backup(path, PASSPHRASE), clock, newest)
    return open_instance(directory, clock)


def joined(authority: Authority, name: str = "n1", kind: str = "node", role: str = "") -> Member:
    member = Member(kind, name)
    member.join(authority, role)
    return member


# ---- the file ------------------------------------------------------------------------------------------


def test_the_file(authority: Authority, tmp_path: Path) -> None:
    path = back_up(authority, tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"PRIVATE" not in path.read_bytes()
    content = open_backup(path, PASSPHRASE)
    assert content.record == authority.record()
    assert {"root-1", "issuer-1", "nats-operator", "nats-system", "nats-role-node"} <= set(content.keys)
    refused(lambda: back_up(authority, tmp_path), "exists", Code.ALREADY_EXISTS)
    view = Administration(authority).ls(ListIdentities()).authority
    assert view.backup_unix_s == content.made_at_s
    assert view.backup_is_current
    steps.replace_issuer(authority, renew_all=True)
    assert not Administration(authority).ls(ListIdentities()).authority.backup_is_current


def test_another_passphrase_or_a_damaged_file(authority: Authority, tmp_path: Path) -> None:
    path = back_up(authority, tmp_path)
    whole = path.read_bytes()
    line = whole.split(b"\n", 1)[0]
    fields: dict[str, Any] = json.loads(line.partition(b" ")[2])
    weaker = whole.replace(b'"n": 1024', b'"n": 2')
    assert weaker != whole
    refused(lambda: open_backup(path, "another passphrase"), "another passphrase", Code.INVALID_ARGUMENT)
    for bad in (
        b"",
        whole[:-1],
        whole[:200],
        line,
        line + b"\n",
        b"x" + whole,
        weaker,
        whole.replace(fields["salt"].encode(), b"0" * 32),
        b"stos-certs-backup-2" + whole[len(b"stos-certs-backup-1") :],
        b"stos-certs-backup-1 []\n",
        b"stos-certs-backup-1 {}\n",
    ):
        path.write_bytes(bad)
        refused(lambda: open_backup(path, PASSPHRASE), "no backup|does not open", Code.INVALID_ARGUMENT)
    refused(lambda: open_backup(tmp_path / "nothing", PASSPHRASE), "can't read", Code.INVALID_ARGUMENT)


def test_a_short_passphrase_is_refused(authority: Authority, tmp_path: Path) -> None:
    refused(
        lambda: write_backup(authority.settings, authority.vault, tmp_path / "b", "short", authority.now()),
        "less than 12",
        Code.INVALID_ARGUMENT,
    )
    assert not (tmp_path / "b").exists()


# ---- putting it back -----------------------------------------------------------------------------------


def test_the_cluster_goes_on(authority: Authority, tmp_path: Path, clock: Clock) -> None:
    node, eve = joined(authority), joined(authority, "eve", "user", "viewer")
    path = back_up(authority, tmp_path)
    late = joined(authority, "late")
    late_user = joined(authority, "bob", "user", "operator")
    again = put_back(path, tmp_path / "new", clock)
    assert again.cluster == authority.cluster
    assert again.nats_keys == authority.nats_keys
    assert again.record().number > authority.record().number
    assert again.record().kek != authority.record().kek
    node.renew(again)
    assert eve.renew(again).role == "viewer"
    late.renew(again)  # who enrolled after the backup comes back by itself
    refused(lambda: late_user.renew(again), "nobody knows what it may do", Code.UNAUTHENTICATED)
    assert put_back(path, tmp_path / "third", clock).record().number >= again.record().number


def test_what_was_revoked_later_stays_revoked(authority: Authority, tmp_path: Path, clock: Clock) -> None:
    thief, other = joined(authority, "n1"), joined(authority, "n2")
    early = joined(authority, "n3")
    Administration(authority).revoke(RevokeIdentity(kind="node", name="n3"))
    path = back_up(authority, tmp_path)
    clock.pass_s(60)
    Administration(authority).revoke(RevokeIdentity(kind="node", name="n1", reason="stolen"))
    newest = authority.signed_trust()
    assert newest is not None

    forgetful = put_back(path, tmp_path / "forgetful", clock)
    thief_then = (thief.key, thief.credentials)
    thief.renew(forgetful)
    refused(lambda: early.renew(forgetful), "revoked", Code.UNAUTHENTICATED)

    thief.key, thief.credentials = thief_then
    again = put_back(path, tmp_path / "new", clock, newest)
    assert again.record().number > authority.record().number
    refused(lambda: thief.renew(again), "node/n1 is revoked", Code.UNAUTHENTICATED)
    assert denial(again.record().trust(), owner(thief.certificate)) is not None
    assert thief.nats_key in again.nats_revocations()
    other.renew(again)
    known = again.ledger.find("node", "n1")
    assert isinstance(known, Known)
    assert known.revoked
    joined(again, "n1").renew(again)


def test_a_trust_state_of_somebody_else(authority: Authority, tmp_path: Path, clock: Clock) -> None:
    path = back_up(authority, tmp_path)
    other = open_instance(tmp_path / "other", clock)
    other.own = other.own_identity(tmp_path / "other" / "identity", "svc", "certs")
    refused(
        lambda: put_back(path, tmp_path / "new", clock, other.signed_trust()),
        "not signed by the authority of this backup",
        Code.FAILED_PRECONDITION,
    )
    assert not (tmp_path / "new" / "vault" / "entries" / "authority").exists()


def test_a_backup_from_before_the_root_was_changed(authority: Authority, tmp_path: Path, clock: Clock) -> None:
    path = back_up(authority, tmp_path)
    steps.begin_root(authority)
    newest = authority.signed_trust()
    refused(
        lambda: put_back(path, tmp_path / "new", clock, newest),
        "the root was changed after this backup",
        Code.FAILED_PRECONDITION,
    )


def test_nothing_is_overwritten(authority: Authority, tmp_path: Path, clock: Clock) -> None:
    path = back_up(authority, tmp_path)
    other = open_instance(tmp_path / "other", clock)
    before = other.record()
    refused(
        lambda: put_back(path, tmp_path / "other", clock), "this vault holds an authority", Code.FAILED_PRECONDITION
    )
    assert open_instance(tmp_path / "other", clock).record() == before
    # Keys of another founding that was never finished.
    settings = settings_in(tmp_path / "half")
    with pytest.raises(Killed):
        open_instance(tmp_path / "half", clock, vault=DyingVault(open_vault(settings), 1))
    refused(lambda: put_back(path, tmp_path / "half", clock), "holds another key root-1", Code.FAILED_PRECONDITION)


def test_killed_in_between_it_can_be_done_again(authority: Authority, tmp_path: Path, clock: Clock) -> None:
    member = joined(authority)
    content = open_backup(back_up(authority, tmp_path), PASSPHRASE)
    killed = 0
    for changes in range(40):
        settings = settings_in(tmp_path / f"{changes}")
        try:
            restore(settings, DyingVault(open_vault(settings), changes), content, clock)
        except Killed:
            killed += 1
            restore(settings, open_vault(settings), content, clock)
        member.renew(open_instance(settings.data_dir, clock))
        if killed <= changes:
            break
    assert killed > 10


# ---- without a backup ----------------------------------------------------------------------------------


def test_a_new_authority_for_the_old_cluster(authority: Authority, tmp_path: Path, clock: Clock) -> None:
    member = joined(authority)
    remains = read_remains(tmp_path / "old" / "identity")
    assert remains.cluster == authority.cluster
    assert remains.nats_account == authority.nats_keys.account
    clock.pass_s(3600)
    settings = settings_in(tmp_path / "new")
    recover(settings, open_vault(settings), remains.cluster, remains.nats_account, clock)
    again = open_instance(tmp_path / "new", clock)
    assert again.cluster == authority.cluster
    assert again.nats_keys.account == authority.nats_keys.account
    assert again.nats_keys.operator != authority.nats_keys.operator
    assert again.record().number > authority.record().number
    refused(lambda: member.renew(again), "not of this cluster", Code.UNAUTHENTICATED)
    joined(again).renew(again)


def test_recovery_needs_an_empty_vault(authority: Authority, tmp_path: Path, clock: Clock) -> None:
    settings, vault = authority.settings, authority.vault
    before = authority.record()
    refused(
        lambda: recover(settings, vault, "prod", "", clock), "this vault holds an authority", Code.FAILED_PRECONDITION
    )
    assert authority.record() == before
    (tmp_path / "old" / "vault" / "entries" / "authority").unlink()
    refused(lambda: recover(settings, vault, "prod", "", clock), "holds identities, keys", Code.FAILED_PRECONDITION)


@pytest.mark.parametrize("name", ["", "A", "a/b", "a.b", "-a", "a" * 64])
def test_what_can_be_no_cluster(tmp_path: Path, clock: Clock, name: str) -> None:
    settings = settings_in(tmp_path)
    refused(lambda: recover(settings, open_vault(settings), name, "", clock), "cluster's name", Code.INVALID_ARGUMENT)


def test_remains_that_tell_nothing(authority: Authority, tmp_path: Path) -> None:
    home = tmp_path / "old" / "identity"
    refused(lambda: read_remains(tmp_path / "nowhere"), "no identity directory", Code.INVALID_ARGUMENT)
    for bad in ("", "a", "a.b.c", "a.e30.c", "a.e30=.c"):
        (home / "nats.jwt").write_text(bad)
        refused(lambda: read_remains(home), "no identity directory", Code.INVALID_ARGUMENT)
    (home / "cert.pem").write_text("rubbish")
    refused(lambda: read_remains(home), "no identity directory", Code.INVALID_ARGUMENT)
