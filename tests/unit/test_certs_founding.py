"""Opening a vault: a new authority is made once, an existing one is never remade, and what does not fit is refused."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from services.certs import issue
from services.certs import record as records
from services.certs.sealing import KEY_BYTES, Seal, encode_kek, read_kek_file
from services.certs.vault import NEW, Vault, open_vault
from stoscore.errors import Code, StosError
from tests.support.authorities import Clock, DyingVault, Killed, Member, open_instance, settings_in


def vault_of(directory: Path) -> Vault:
    return open_vault(settings_in(directory))


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def refused(directory: Path, why: str, code: Code = Code.FAILED_PRECONDITION) -> None:
    """With a reason and a next step, and nothing is overwritten."""
    before = contents(directory)
    with pytest.raises(StosError, match=why) as caught:
        open_instance(directory)
    assert caught.value.code is code
    assert caught.value.next_step
    after = contents(directory)
    after.pop(str(directory / "vault" / "lock"), None)
    before.pop(str(directory / "vault" / "lock"), None)
    assert after == before


def test_a_new_cluster(tmp_path: Path) -> None:
    first = open_instance(tmp_path, cluster="stos")
    assert first.cluster.startswith("stos-")
    second = open_instance(tmp_path, cluster="other")
    assert second.cluster == first.cluster
    assert second.record() == first.record()
    assert second.nats_keys == first.nats_keys


def test_instances_that_start_at_once_found_one_cluster(tmp_path: Path) -> None:
    start, opened = threading.Barrier(4), []

    def run() -> None:
        start.wait()
        opened.append(open_instance(tmp_path))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    assert len({authority.record().encode() for authority in opened}) == 1
    assert len({str(authority.nats_keys) for authority in opened}) == 1


@pytest.mark.parametrize("after", [False, True])
def test_a_founding_that_is_killed_anywhere_is_finished(tmp_path: Path, after: bool) -> None:
    killed = 0
    for changes in range(40):
        directory = tmp_path / f"{changes}"
        dying = DyingVault(vault_of(directory), changes, after=after)
        try:
            authority = open_instance(directory, vault=dying)
        except Killed:
            killed += 1
        else:
            break
        authority = open_instance(directory)
        Member("node", "n1").join(authority)
        assert open_instance(directory).cluster == authority.cluster
    assert killed > 5


def test_no_key_lies_open(tmp_path: Path) -> None:
    authority = open_instance(tmp_path)
    authority.own_identity(tmp_path / "certs" / "identity", "svc", "certs")
    for path, content in contents(tmp_path).items():
        if "/identity/" in path or path.endswith("/kek"):
            continue
        assert b"PRIVATE KEY" not in content, path
        for seed in (authority.nats_keys.operator, authority.nats_keys.system, *authority.nats_keys.roles.values()):
            assert seed not in content, path


# ---- what does not fit ---------------------------------------------------------------------------------


def test_another_key_encryption_key(tmp_path: Path) -> None:
    open_instance(tmp_path)
    (tmp_path / "kek").write_bytes(encode_kek(bytes(KEY_BYTES)))
    refused(tmp_path, "not the one that this vault was made with")


def test_a_missing_key_encryption_key(tmp_path: Path) -> None:
    open_instance(tmp_path)
    (tmp_path / "kek").unlink()
    refused(tmp_path, "is missing, and the CA's keys can't be opened")


def test_a_half_written_key_encryption_key(tmp_path: Path) -> None:
    open_instance(tmp_path)
    whole = (tmp_path / "kek").read_bytes()
    (tmp_path / "kek").write_bytes(whole[:25])
    refused(tmp_path, "half written")


@pytest.mark.parametrize("key", ["root-1", "issuer-1"])
def test_a_missing_private_key(tmp_path: Path, key: str) -> None:
    open_instance(tmp_path)
    (tmp_path / "vault" / "entries" / "keys" / key).unlink()
    refused(tmp_path, f"private key {key} is missing")


@pytest.mark.parametrize("key", ["root-1", "issuer-1"])
def test_a_half_written_private_key(tmp_path: Path, key: str) -> None:
    open_instance(tmp_path)
    path = tmp_path / "vault" / "entries" / "keys" / key
    path.write_bytes(path.read_bytes()[:150])
    refused(tmp_path, "is damaged")


@pytest.mark.parametrize("key", ["root-1", "issuer-1"])
def test_a_certificate_that_is_not_of_its_key(tmp_path: Path, key: str) -> None:
    """As when half of a vault is restored from another backup."""
    authority = open_instance(tmp_path)
    other = open_instance(tmp_path / "other")
    secret = other.keyring.secret(key)
    vault, name = authority.vault, f"keys/{key}"
    entry = vault.get(name)
    assert entry is not None
    seal = Seal(read_kek(tmp_path))
    vault.put(name, seal.seal(name, secret), entry.revision)
    refused(tmp_path, f"certificate of {key} does not match its private key")


def read_kek(directory: Path) -> bytes:
    kek = read_kek_file(directory / "kek")
    assert kek is not None
    return kek


def entry_of(vault: Vault, name: str) -> bytes:
    entry = vault.get(name)
    assert entry is not None
    return entry.data


def revision(vault: Vault, name: str = records.NAME) -> str:
    entry = vault.get(name)
    assert entry is not None
    return entry.revision


def test_an_issuer_of_another_root(tmp_path: Path) -> None:
    authority = open_instance(tmp_path)
    key = authority.keyring.make("root-1")
    forged = issue.make_root(authority.cluster, key, Clock()(), 77)
    # The same key and name, so that only the missing key identifier differs: still a root that the issuer knows.
    open_other = authority.keyring.make("root-9")
    other = issue.make_root("elsewhere", open_other, Clock()(), 78)
    record = authority.record()
    good = record.roots[0].model_copy(update={"certificate_pem": issue.pem(forged)})
    authority.vault.put("authority", record.model_copy(update={"roots": (good,)}).encode(), revision(authority.vault))
    assert open_instance(tmp_path).cluster == authority.cluster
    bad = record.roots[0].model_copy(update={"key": "root-9", "certificate_pem": issue.pem(other)})
    issuer = record.issuers[0].model_copy(update={"root": "root-9"})
    changed = record.model_copy(update={"roots": (bad,), "issuers": (issuer,)})
    authority.vault.put("authority", changed.encode(), revision(authority.vault))
    refused(tmp_path, "issuer-1 was not signed by root-9")


def test_a_lost_record_is_not_made_anew(tmp_path: Path) -> None:
    authority = open_instance(tmp_path)
    Member("node", "n1").join(authority)
    (tmp_path / "vault" / "entries" / "authority").unlink()
    refused(tmp_path, "its record is lost")


def test_a_record_of_a_newer_version(tmp_path: Path) -> None:
    authority = open_instance(tmp_path)
    data = entry_of(authority.vault, "authority")
    authority.vault.put("authority", data.replace(b'"format": 1', b'"format": 2'), revision(authority.vault))
    refused(tmp_path, "newer version of certs")


def test_a_record_with_rubbish_in_it(tmp_path: Path) -> None:
    authority = open_instance(tmp_path)
    for bad in (b"", b"[]", b"{}", authority.record().encode().replace(b'"signer"', b'"singer"')):
        authority.vault.put("authority", bad, revision(authority.vault))
        refused(tmp_path, "record is damaged")


def test_a_vault_that_is_exchanged_under_our_feet(tmp_path: Path) -> None:
    authority = open_instance(tmp_path)
    other = open_instance(tmp_path / "other")
    authority.vault.put("authority", other.record().encode(), revision(authority.vault))
    with pytest.raises(StosError, match="not the one that this vault was made with"):
        authority.record()


def test_the_key_encryption_key_may_lie_elsewhere(tmp_path: Path) -> None:
    kek = tmp_path / "elsewhere" / "kek"
    authority = open_instance(tmp_path, kek_file=kek)
    assert kek.exists()
    assert not (tmp_path / "kek").exists()
    assert open_instance(tmp_path, kek_file=kek).cluster == authority.cluster
    with pytest.raises(StosError, match="is missing"):
        open_instance(tmp_path)
    assert authority.vault.get("kek") is None


def test_nothing_is_half_made_twice(tmp_path: Path) -> None:
    """Keys of a founding that never came to be are used by the next one."""
    vault = vault_of(tmp_path)
    with pytest.raises(Killed):
        open_instance(tmp_path, vault=DyingVault(vault, 2))
    left = entry_of(vault, "keys/root-1")
    authority = open_instance(tmp_path)
    assert entry_of(vault, "keys/root-1") == left
    assert vault.get("authority") is not None
    with pytest.raises(StosError):
        vault.put("authority", b"", NEW)
    assert authority.record().made == 1
