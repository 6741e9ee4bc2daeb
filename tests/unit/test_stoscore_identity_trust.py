"""An identity and its trust state: kept before it is used, found again, and obeyed by every new connection."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stoscore import files, identity_files
from stoscore.certs_messages import Credentials, Denied
from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from stoscore.identity_files import install, next_key
from tests.support.ca import TestAuthority
from tests.support.tls import shake_hands


class Scene:
    """certs and two nodes of one cluster, and a second authority for it."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.old, self.new = TestAuthority("stos-1"), TestAuthority("stos-1")
        self.certs = self.old.issue(directory, "certs", kind="svc")
        self.n1, self.n2 = self.old.issue(directory, "n1"), self.old.issue(directory, "n2")
        self.both_pem = self.old.root_pem + self.new.root_pem

    def revoke(self, identity: Identity, number: int = 1, reason: str = "stolen") -> list[Denied]:
        peer = identity.peer
        return [Denied(kind=peer.kind, name=peer.name, serial=peer.serial, expires_s=1, reason=reason)]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def connect(server: Identity, client: Identity) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    return shake_hands(server.server_context(), client.client_context())


def test_a_state_is_kept_and_told(scene: Scene) -> None:
    told: list[int] = []

    def broken() -> None:
        raise RuntimeError("a follower with a bug")

    scene.n1.on_trust_change += [
        broken,
        lambda: told.append(scene.n1.trust_state.number if scene.n1.trust_state else 0),
    ]
    signed = scene.old.trust(scene.certs, 3)
    assert scene.n1.trust_state is None
    assert scene.n1.apply_trust(signed)
    assert told == [3]
    assert not scene.n1.apply_trust(signed)
    assert told == [3]
    again = Identity.load(scene.n1.directory)
    assert again.trust == signed
    assert again.trust_state == scene.n1.trust_state
    with pytest.raises(StosError, match="older than 3"):
        again.apply_trust(scene.old.trust(scene.certs, 2))
    with pytest.raises(StosError, match="not by certs"):
        again.apply_trust(scene.old.trust(scene.n2, 4))
    assert Identity.load(scene.n1.directory).trust == signed


async def test_following_is_the_same_without_holding_up_the_loop(scene: Scene) -> None:
    """Two at once: the older one does not win because its disk was quicker."""
    threads: list[int] = []
    scene.n1.on_trust_change.append(lambda: threads.append(threading.get_ident()))
    states = [scene.old.trust(scene.certs, number) for number in (5, 6)]
    assert await asyncio.gather(*(scene.n1.follow_trust(signed) for signed in states)) == [True, True]
    assert Identity.load(scene.n1.directory).trust == states[1]
    assert threads == [threading.get_ident()] * 2
    assert not await scene.n1.follow_trust(states[1])


# ---- who is revoked ----------------------------------------------------------------------------------------


def test_a_revoked_peer_is_nobody(scene: Scene) -> None:
    accepted, _ = connect(scene.n1, scene.n2)
    peer = scene.n1.verified_peer(accepted)
    assert (peer.kind, peer.name, peer.serial) == ("node", "n2", scene.n2.peer.serial)
    assert peer == scene.n2.peer
    assert scene.n1.verified_peer(accepted.getpeercert()) == peer
    scene.n1.apply_trust(scene.old.trust(scene.certs, 1, denied=scene.revoke(scene.n2)))
    for check in (lambda: scene.n1.verified_peer(accepted), lambda: scene.n1.check_peer(peer)):
        with pytest.raises(StosError, match="node/n2 is revoked: stolen") as caught:
            check()
        assert caught.value.code is Code.UNAUTHENTICATED
    scene.n1.apply_trust(scene.old.trust(scene.certs, 2))
    scene.n1.check_peer(peer)


def test_a_peer_of_another_cluster(scene: Scene, tmp_path: Path) -> None:
    foreign = scene.old.issue(tmp_path, "n2", cluster="stos-2")
    accepted, _ = connect(scene.n1, foreign)
    with pytest.raises(StosError, match="of cluster 'stos-2'"):
        scene.n1.verified_peer(accepted)


def test_ones_own_revocation(scene: Scene) -> None:
    assert scene.n1.revoked is None
    scene.n1.apply_trust(scene.old.trust(scene.certs, 1, denied=scene.revoke(scene.n1)))
    assert scene.n1.revoked is not None
    with pytest.raises(StosError, match="node/n1 is revoked: stolen") as caught:
        Identity.load(scene.n1.directory)
    assert caught.value.code is Code.UNAUTHENTICATED
    assert "token" in caught.value.next_step


def test_everything_before_a_moment_is_renewed(scene: Scene) -> None:
    issued_s = scene.n1.peer.issued_s
    for number, moment_s, must in ((1, issued_s, False), (2, issued_s + 1, True), (3, 0, False)):
        scene.n1.apply_trust(scene.old.trust(scene.certs, number, renew_issued_before_s=moment_s))
        assert scene.n1.must_renew is must


# ---- roots come and go -------------------------------------------------------------------------------------


def test_a_root_that_comes_and_a_root_that_goes(scene: Scene, tmp_path: Path) -> None:
    """Also for a server that still listens with the context of its first day."""
    listening = scene.n1.server_context()
    young = scene.new.issue(tmp_path, "n3")
    young_certs = scene.new.issue(tmp_path, "certs", kind="svc")
    for identity in (young, young_certs):
        (identity.directory / "trust.pem").write_text(scene.both_pem)
        identity.reload()
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown ca|verify failed"):
        shake_hands(listening, young.client_context())

    assert scene.n1.apply_trust(scene.old.trust(scene.certs, 1, roots_pem=scene.both_pem))
    assert scene.n1.server_context() is not listening
    shake_hands(listening, young.client_context())
    connect(young, scene.n1)
    connect(scene.n1, scene.n2)

    retired = scene.new.trust(young_certs, 2, roots_pem=scene.new.root_pem)
    assert young.apply_trust(retired)
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown ca|verify failed"):
        connect(young, scene.n1)
    assert (young.directory / "trust.pem").read_text() == scene.new.root_pem


def test_a_server_shows_its_newest_certificate(scene: Scene) -> None:
    listening = scene.n1.server_context()
    renew(scene, scene.n1)
    _, dialled = shake_hands(listening, scene.n2.client_context())
    assert scene.n2.verified_peer(dialled) == scene.n1.peer
    assert dialled.version() == "TLSv1.3"


def renew(scene: Scene, identity: Identity) -> None:
    """A renewal as certs would answer it."""
    install(identity.directory, scene.old.credentials(next_key(identity.directory), identity.uri), uri=identity.uri)
    before = identity.certificate
    identity.reload()
    assert identity.certificate != before


# ---- crashes and disks -------------------------------------------------------------------------------------


def test_a_crash_between_a_state_and_its_roots(scene: Scene) -> None:
    """The state is on disk, trust.pem is yesterday's: the state counts."""
    signed = scene.old.trust(scene.certs, 1, roots_pem=scene.both_pem)
    (scene.n1.directory / "trust.json").write_text(signed.model_dump_json())
    again = Identity.load(scene.n1.directory)
    assert again.trust_pem == scene.both_pem
    assert again.trust == signed


@pytest.mark.parametrize("content", ["", "{", "{}", None])
def test_a_damaged_state_is_told_and_does_not_stop_anybody(
    scene: Scene, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    scene.n1.apply_trust(scene.old.trust(scene.certs, 3))
    path = scene.n1.directory / "trust.json"
    path.write_text(path.read_text()[:-9] if content is None else content)
    again = Identity.load(scene.n1.directory)
    assert again.trust_state is None
    assert "trust.json can't be used" in caplog.text
    assert again.apply_trust(scene.old.trust(scene.certs, 3))


def test_a_state_that_somebody_put_there(scene: Scene) -> None:
    (scene.n1.directory / "trust.json").write_text(scene.old.trust(scene.n2, 9).model_dump_json())
    assert Identity.load(scene.n1.directory).trust_state is None


def test_an_identity_that_no_root_vouches_for(scene: Scene) -> None:
    (scene.n1.directory / "trust.pem").write_text(scene.new.root_pem)
    with pytest.raises(StosError, match="no root vouches"):
        Identity.load(scene.n1.directory)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "none", path], capture_output=True)
    if done.returncode:
        pytest.skip("needs root to mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    return ballast


@pytest.mark.root
def test_a_full_disk_keeps_the_old_identity_and_uses_the_new_trust(scene: Scene, small_disk: Path) -> None:
    """A revocation is obeyed although it can't be kept, and kept as soon as there is room."""
    home = small_disk / "identity"
    shutil.copytree(scene.n1.directory, home)
    identity = Identity.load(home)
    before = snapshot(home)
    ballast = fill(small_disk)

    with pytest.raises(StosError, match=r"can't write .*No space left"):
        next_key(home)
    assert snapshot(home) == before
    signed = scene.old.trust(scene.certs, 1, denied=scene.revoke(scene.n2))
    assert identity.apply_trust(signed)
    with pytest.raises(StosError, match="revoked"):
        identity.check_peer(scene.n2.peer)
    assert not identity.trust_is_kept
    assert Identity.load(home).trust_state is None
    identity.reload()
    assert identity.trust == signed

    ballast.unlink()
    assert identity.trust_state is not None
    identity.keep_trust(signed, identity.trust_state)
    assert identity.trust_is_kept
    assert Identity.load(home).trust == signed


# ---- installing --------------------------------------------------------------------------------------------


def credentials(scene: Scene, identity: Identity, **changes: object) -> Credentials:
    made = scene.old.credentials(next_key(identity.directory), identity.uri)
    return made.model_copy(update=changes)


def snapshot(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_only_what_fits_together_is_installed(scene: Scene, tmp_path: Path) -> None:
    home = scene.n1.directory
    next_key(home)
    before = snapshot(home)
    other_key = scene.old.credentials(next_key(tmp_path / "other"), scene.n1.uri)
    other_name = scene.old.credentials(next_key(home), scene.n2.uri)
    for wrong, why in (
        (other_key, "for another key"),
        (other_name, "of spiffe://stos-1/node/n2, not of"),
        (credentials(scene, scene.n1, certificate_pem="rubbish"), "can't be read"),
        (credentials(scene, scene.n1, trust_pem=scene.new.root_pem), "no root vouches"),
        (credentials(scene, scene.n1, trust_pem=""), "its roots"),
        (credentials(scene, scene.n1, trust=scene.old.trust(scene.n2, 1)), "not by certs"),
    ):
        with pytest.raises(StosError, match=why) as caught:
            install(home, wrong, uri=scene.n1.uri)
        assert caught.value.code is Code.UNAUTHENTICATED
        assert snapshot(home) == before
    install(home, credentials(scene, scene.n1, role="node", trust=scene.old.trust(scene.certs, 4)), uri=scene.n1.uri)
    again = Identity.load(home)
    assert again.certificate != scene.n1.certificate
    assert again.trust_state is not None
    assert again.trust_state.number == 4


def test_a_certs_that_lags_behind_takes_nothing_back(scene: Scene) -> None:
    scene.n1.apply_trust(scene.old.trust(scene.certs, 9, denied=scene.revoke(scene.n2)))
    for trust in (None, scene.old.trust(scene.certs, 8)):
        install(scene.n1.directory, credentials(scene, scene.n1, trust=trust), uri=scene.n1.uri)
        state = Identity.load(scene.n1.directory).trust_state
        assert state is not None
        assert state.number == 9


def test_a_new_authority_begins_to_count_anew(scene: Scene, tmp_path: Path) -> None:
    """Its first state replaces the highest number of the lost one."""
    scene.n1.apply_trust(scene.old.trust(scene.certs, 900, denied=scene.revoke(scene.n1)))
    certs = scene.new.issue(tmp_path, "certs", kind="svc")
    made = scene.new.credentials(next_key(scene.n1.directory), scene.n1.uri)
    install(scene.n1.directory, made.model_copy(update={"trust": scene.new.trust(certs, 2)}), uri=scene.n1.uri)
    changes: list[None] = []
    scene.n1.on_trust_change.append(lambda: changes.append(None))
    scene.n1.reload()
    assert scene.n1.trust_state is not None
    assert scene.n1.trust_state.number == 2
    assert scene.n1.trust_pem == scene.new.root_pem
    assert scene.n1.revoked is None
    assert len(changes) == 1


def test_a_directory_does_not_change_its_owner(scene: Scene) -> None:
    for name in ("key.pem", "cert.pem"):
        shutil.copy(scene.n2.directory / name, scene.n1.directory / name)
    certificate = scene.n1.certificate
    with pytest.raises(StosError, match="it was spiffe://stos-1/node/n1 and is spiffe://stos-1/node/n2"):
        scene.n1.reload()
    assert scene.n1.certificate is certificate


@pytest.mark.parametrize("stop_before", ["trust.json", "trust.pem", "role", "nats.jwt", "cert.pem", "joined.json"])
def test_a_crash_at_every_step_of_a_renewal(scene: Scene, stop_before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was written last, the directory is a usable identity, and the repetition ends well."""

    class Crash(Exception):
        pass

    def write_or_crash(path: Path, content: bytes) -> None:
        if path.name == stop_before:
            raise Crash
        files.write_private(path, content)

    home, uri = scene.n1.directory, scene.n1.uri
    given = credentials(
        scene, scene.n1, role="node", nats_jwt="jwt", trust=scene.old.trust(scene.certs, 1, roots_pem=scene.both_pem)
    )
    joined = identity_files.Joined("token", ("127.0.0.1:1",))
    monkeypatch.setattr(identity_files, "write_private", write_or_crash)
    with pytest.raises(Crash):
        install(home, given, uri=uri, joined=joined)
    monkeypatch.undo()
    assert Identity.load(home).uri == uri
    again = scene.old.credentials(next_key(home), uri)
    install(home, again, uri=uri, joined=joined)
    assert Identity.load(home).certificate.public_key() == Identity.load(home).key.public_key()
    assert identity_files.read_joined(home) == joined


def test_lifetimes(scene: Scene) -> None:
    identity = scene.n1
    assert identity.peer.issued_s == int(identity.not_before.timestamp()) + 600
    life = identity.not_after - datetime.fromtimestamp(identity.peer.issued_s, UTC)
    assert abs(identity.not_after - identity.renew_at - life * 0.75) < timedelta(seconds=2)
