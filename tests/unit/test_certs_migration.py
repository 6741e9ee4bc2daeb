"""A directory of the older layout, in which the keys lay open, is taken over whole, or left as it is."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from services.certs import issue, migration
from services.certs.tokens import hash_secret
from services.certs.vault import open_vault
from stoscore.certs_messages import Credentials
from stoscore.errors import Code, StosError
from stoscore.identity import key_pem
from stoscore.nkey import ACCOUNT, OPERATOR, make_seed, public_key
from tests.support.authorities import START_S, Clock, DyingVault, Killed, Member, open_instance, settings_in

CLUSTER = "stos-0a1b2c3d"
SEEDS = {"operator": OPERATOR, "account": ACCOUNT, "system": ACCOUNT, "role-node": ACCOUNT, "role-user": ACCOUNT}


class Old:
    """What the older version left on its disk."""

    def __init__(self, directory: Path, clock: Clock):
        self.directory = directory
        self.root_key, self.issuer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        first_key = ec.generate_private_key(ec.SECP256R1())
        self.root = issue.make_root(CLUSTER, self.root_key, clock(), 1)
        first = issue.make_issuer(self.root, self.root_key, first_key.public_key(), clock(), 2)
        self.issuer = issue.make_issuer(self.root, self.root_key, self.issuer_key.public_key(), clock(), 3)
        self.seeds = {name: make_seed(kind, os.urandom(32)) for name, kind in SEEDS.items()}
        for name in ("ca", "nats-keys", "tokens", "issued", "identity", "identity-system"):
            (directory / name).mkdir(parents=True, mode=0o700)
        (directory / "cluster").write_text(f"{CLUSTER}\n")
        (directory / "lock").touch()
        for name, certificate, key in (
            ("root", self.root, self.root_key),
            ("issuer-1", first, first_key),
            ("issuer-2", self.issuer, self.issuer_key),
        ):
            (directory / "ca" / f"{name}.pem").write_text(issue.pem(certificate))
            (directory / "ca" / f"{name}.key").write_bytes(key_pem(key))
        for name, seed in self.seeds.items():
            (directory / "nats-keys" / f"{name}.seed").write_bytes(seed)
        token = {
            "token_id": "0" * 16,
            "secret_sha256": hash_secret("secret"),
            "kind": "node",
            "name": "n2",
            "expires_s": START_S + 600,
            "used_by": "",
        }
        (directory / "tokens" / f"{'0' * 16}.json").write_text(json.dumps(token))
        self.member = self._member(clock)

    def _member(self, clock: Clock) -> Member:
        """Node n1, which the older version let in."""
        member = Member("node", "n1")
        leaf = issue.issue_leaf(
            self.issuer,
            self.issuer_key,
            member.key.public_key(),
            uri=f"spiffe://{CLUSTER}/node/n1",
            hosts=[],
            now=clock(),
            life=migration.timedelta(days=4),
            serial=x509.random_serial_number(),
        )
        issued = {
            "v": 1,
            "kind": "node",
            "name": "n1",
            "role": "node",
            "serial": f"{leaf.serial_number:x}",
            "attestor": "join-token",
            "not_before": leaf.not_valid_before_utc.isoformat(),
            "not_after": leaf.not_valid_after_utc.isoformat(),
        }
        (self.directory / "issued" / "node.n1.json").write_text(json.dumps(issued))
        member.credentials = Credentials(certificate_pem=issue.pem(leaf), trust_pem=issue.pem(self.root))
        return member

    def files(self) -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for path in sorted(self.directory.rglob("*"))
            if path.is_file() and "/vault/" not in str(path) and path.name != "kek"
        }


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def old(tmp_path: Path, clock: Clock) -> Old:
    return Old(tmp_path / "certs", clock)


def test_everything_goes_on(old: Old, clock: Clock) -> None:
    authority = open_instance(old.directory, clock)
    assert authority.cluster == CLUSTER
    assert authority.record().roots_pem == issue.pem(old.root)
    assert authority.record().signer == "issuer-2"
    assert authority.nats_keys.operator == old.seeds["operator"]
    assert authority.nats_keys.account == public_key(old.seeds["account"])
    assert authority.nats_keys.roles["node"] == old.seeds["role-node"]
    old.member.renew(authority)
    token = authority.ledger.token("0" * 16)
    assert token is not None
    assert (token.kind, token.name, token.role) == ("node", "n2", "node")
    assert open_instance(old.directory, clock).record() == authority.record()


def test_no_open_key_is_left(old: Old, clock: Clock) -> None:
    secrets = [*old.seeds.values(), *(key_pem(key) for key in (old.root_key, old.issuer_key))]
    open_instance(old.directory, clock)
    left = [path for path in old.directory.rglob("*") if path.is_file()]
    for path in left:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path
    assert not (old.directory / "ca").exists()


@pytest.mark.parametrize("after", [False, True])
def test_killed_anywhere_it_is_done_by_the_next_start(tmp_path: Path, clock: Clock, after: bool) -> None:
    killed = 0
    for changes in range(40):
        old = Old(tmp_path / f"{changes}", clock)
        vault = open_vault(settings_in(old.directory))
        try:
            open_instance(old.directory, clock, vault=DyingVault(vault, changes, after=after))
        except Killed:
            killed += 1
        authority = open_instance(old.directory, clock)
        assert authority.cluster == CLUSTER
        old.member.renew(authority)
        if killed <= changes:
            break
    assert killed > 8


def test_killed_while_the_old_files_are_removed(old: Old, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, removed = Path.unlink, 0

    def dying(path: Path, missing_ok: bool = False) -> None:
        nonlocal removed
        if path.exists():
            removed += 1
            if removed % 2 == 0 and "/certs/ca/" in str(path):
                raise Killed
        unlink(path, missing_ok)

    killed = 0
    for _ in range(12):
        monkeypatch.setattr(Path, "unlink", dying)
        try:
            open_instance(old.directory, clock)
        except Killed:
            killed += 1
        monkeypatch.undo()
    assert killed > 2
    assert open_instance(old.directory, clock).cluster == CLUSTER
    assert not (old.directory / "ca").exists()


def test_an_older_process_still_runs(old: Old, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "LOCK_WAIT_S", 0.2)
    before = old.files()
    with (old.directory / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StosError, match="older version uses") as caught:
            open_instance(old.directory, clock)
        assert caught.value.code is Code.FAILED_PRECONDITION
    assert old.files() == before
    assert open_instance(old.directory, clock).cluster == CLUSTER


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ca/root.key", b"half"),
        ("ca/issuer-2.key", None),
        ("ca/issuer-2.pem", b"rubbish"),
        ("nats-keys/account.seed", None),
        ("nats-keys/account.seed", b"SAAA"),
        ("issued/node.n1.json", b"{"),
        ("issued/node.n1.json", b"[]"),
        ("tokens/0000000000000000.json", b"{}"),
        ("cluster", None),
    ],
)
def test_a_damaged_one_is_left_as_it_is(old: Old, clock: Clock, name: str, content: bytes | None) -> None:
    path = old.directory / name
    whole = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    before = old.files()
    with pytest.raises(StosError) as caught:
        open_instance(old.directory, clock)
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.next_step
    assert old.files() == before
    path.write_bytes(whole)  # put back, it goes on
    assert open_instance(old.directory, clock).cluster == CLUSTER


def test_a_key_of_another_certificate(old: Old, clock: Clock) -> None:
    (old.directory / "ca" / "root.key").write_bytes(key_pem(ec.generate_private_key(ec.SECP256R1())))
    before = old.files()
    with pytest.raises(StosError, match="root-1 does not match its private key"):
        open_instance(old.directory, clock)
    assert old.files() == before


def test_two_authorities_in_one_directory(tmp_path: Path, clock: Clock) -> None:
    other = open_instance(tmp_path / "certs", clock)
    old = Old(tmp_path / "certs", clock)
    before = old.files()
    with pytest.raises(StosError, match="holds an authority of the older layout, and the vault another one"):
        open_instance(tmp_path / "certs", clock)
    assert old.files() == before
    assert other.record().cluster != CLUSTER
