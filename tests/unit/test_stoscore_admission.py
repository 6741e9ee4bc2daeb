"""Which invitation a process may use, and when: never one that leads it away from a cluster that it is part of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stoscore.admission import _invitations as invitations
from stoscore.admission import ensure_identity, needs, rejoin
from stoscore.certs_messages import Denied
from stoscore.errors import Code, StosError
from stoscore.files import write_private
from stoscore.identity import Identity
from stoscore.invitations import JoinToken, ServiceAccount, service_account
from stoscore.settings import CommonSettings
from tests.support.ca import TestAuthority

NOBODY = "127.0.0.1:1"


def token(
    root_pem: str, kind: str = "node", name: str = "n1", *, token_id: str = "t1", cluster: str = "stos"
) -> JoinToken:
    return JoinToken(NOBODY, cluster, kind, name, root_pem, token_id, "secret")


class Scene:
    def __init__(self, directory: Path):
        self.directory = directory
        self.authority = TestAuthority()
        self.certs = self.authority.issue(directory, "certs", kind="svc")
        self.node = self.authority.issue(directory, "n1")
        self.file = directory / "tokens"
        self.settings = CommonSettings(identity_dir=self.node.directory, join_token_file=self.file)

    def younger(self) -> TestAuthority:
        """An authority that was made after ours."""
        return TestAuthority(begins=timedelta(seconds=5))

    def write(self, *tokens: JoinToken) -> None:
        write_private(self.file, "".join(f"{one.encode()}\n" for one in tokens).encode())


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def now() -> datetime:
    return datetime.now(UTC)


def test_a_good_identity_needs_nothing(scene: Scene) -> None:
    assert not needs(scene.node, token(scene.authority.root_pem), now())
    assert not needs(scene.node, token(scene.authority.root_pem + scene.younger().root_pem), now())


def test_a_token_from_before_the_roots_were_rotated_is_not_used(scene: Scene) -> None:
    older = TestAuthority(begins=-timedelta(seconds=5))
    assert not needs(scene.node, token(older.root_pem), now())
    assert not needs(scene.node, token("rubbish"), now())


def test_a_younger_authority_has_replaced_a_lost_one(scene: Scene) -> None:
    assert needs(scene.node, token(scene.younger().root_pem), now())


def test_an_expired_or_revoked_one_needs_any(scene: Scene) -> None:
    ours = token(scene.authority.root_pem)
    assert needs(scene.node, ours, scene.node.not_after)
    denied = [Denied(kind="node", name="n1", issued_before_s=scene.node.peer.issued_s + 1, expires_s=1)]
    scene.node.apply_trust(scene.authority.trust(scene.certs, 1, denied=denied))
    assert needs(scene.node, ours, now())


def test_tokens_of_the_role_that_were_not_used(scene: Scene) -> None:
    root = scene.authority.root_pem
    scene.write(
        token(root, "svc", "placement-1", token_id="p"), token(root, token_id="used"), token(root, token_id="new")
    )
    write_private(scene.node.directory / "joined.json", b'{"token_id": "used", "addresses": ["127.0.0.1:1"]}')
    found = list(invitations(scene.settings, scene.node.directory, "node"))
    assert [one.token_id for one in found] == ["new"]


async def test_a_good_identity_does_not_wait_for_anybody(scene: Scene) -> None:
    """Certs is away, and a used token lies about, and one from before the last rotation."""
    scene.write(token(scene.authority.root_pem), token(TestAuthority(begins=-timedelta(seconds=5)).root_pem))
    assert (await ensure_identity(scene.settings, scene.node.directory, "node")).uri == scene.node.uri
    assert not await rejoin(scene.settings, scene.node)


async def test_a_lost_authority_does_not_stop_who_still_has_an_identity(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """The new certs is not up yet: the node starts all the same, and tries again while it runs."""
    scene.write(token(scene.younger().root_pem))
    assert (await ensure_identity(scene.settings, scene.node.directory, "node")).uri == scene.node.uri
    assert "going on with the identity that is there" in caplog.text
    with pytest.raises(StosError) as caught:
        await rejoin(scene.settings, scene.node)
    assert caught.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize(("name", "cluster"), [("n2", "stos"), ("n1", "other")])
async def test_nobody_becomes_somebody_else(scene: Scene, name: str, cluster: str) -> None:
    expired = scene.authority.issue(scene.directory, "n1", valid=-timedelta(hours=1))
    scene.write(token(scene.authority.root_pem, name=name, cluster=cluster))
    with pytest.raises(StosError, match=f"is for spiffe://{cluster}/node/{name}, and .* is spiffe://stos/node/n1"):
        await ensure_identity(scene.settings, expired.directory, "node")
    assert Identity(expired.directory).uri == expired.uri


async def test_a_used_token_does_not_help_who_expired(scene: Scene) -> None:
    expired = scene.authority.issue(scene.directory, "n1", valid=-timedelta(hours=1))
    write_private(expired.directory / "joined.json", b'{"token_id": "t1", "addresses": []}')
    scene.write(token(scene.authority.root_pem))
    with pytest.raises(StosError, match="expired at") as caught:
        await ensure_identity(scene.settings, expired.directory, "node")
    assert "new token" in caught.value.next_step


async def test_no_identity_and_nothing_to_get_one_with(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(StosError, match=r"cert\.pem is missing"):
        await ensure_identity(CommonSettings(), tmp_path / "none", "node")
    scene.write(token(scene.authority.root_pem))
    with pytest.raises(StosError, match="has no token for the role 'placement'"):
        await ensure_identity(scene.settings, tmp_path / "none", "placement")
    scene.file.write_text("rubbish")
    with pytest.raises(StosError, match="no join token"):
        await ensure_identity(scene.settings, tmp_path / "none", "node")


# ---- a pod's own token -------------------------------------------------------------------------------------


def account_settings(directory: Path) -> CommonSettings:
    return CommonSettings(
        cluster="stos",
        service_account_token_file=directory / "token",
        enrol_addresses=["certs-1:7443", "certs-2:7443"],
        enrol_root_file=directory / "roots.pem",
    )


def test_a_service_account_is_read_at_each_attempt(tmp_path: Path) -> None:
    account = service_account(account_settings(tmp_path))
    assert isinstance(account, ServiceAccount)
    assert account.addresses == ("certs-1:7443", "certs-2:7443")
    for ask in (account.evidence, account.roots):
        with pytest.raises(StosError, match="can't read") as caught:
            ask()
        assert caught.value.code is Code.UNAVAILABLE
    for text in ("first", "second"):
        (tmp_path / "token").write_text(f"{text}\n")
        assert account.evidence() == {"token": text}
    (tmp_path / "roots.pem").write_text("roots")
    assert account.roots() == "roots"
    assert "second" not in repr(account)
    for wrong in ("", " \n", "x" * 70_000):
        (tmp_path / "token").write_text(wrong)
        with pytest.raises(StosError, match="is empty, or too large"):
            account.evidence()


def test_without_settings_there_is_none() -> None:
    assert service_account(CommonSettings()) is None


@pytest.mark.parametrize("missing", ["cluster", "enrol_addresses", "enrol_root_file"])
def test_a_service_account_needs_all_of_its_settings(tmp_path: Path, missing: str) -> None:
    whole = account_settings(tmp_path).model_dump(exclude_unset=True)
    del whole[missing]
    with pytest.raises(ValueError, match=f"needs {missing}"):
        CommonSettings(**whole)


def test_several_certs_in_one_token() -> None:
    several = JoinToken("a:1, b:2,,", "stos", "node", "n1", "PEM", "t", "hidden")
    assert several.addresses == ("a:1", "b:2")
    assert several.uri == "spiffe://stos/node/n1"
    assert JoinToken.decode(several.encode()) == several
    assert "hidden" not in repr(several)
