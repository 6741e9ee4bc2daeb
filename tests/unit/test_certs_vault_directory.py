"""The vault in a directory: private files, whole files, and nobody who waits for ever."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from services.certs.vault import NEW, directory
from services.certs.vault.directory import DirectoryVault
from stoscore.errors import Code, StosError


def refused(act: object, why: str, code: Code = Code.FAILED_PRECONDITION) -> None:
    assert callable(act)
    with pytest.raises(StosError, match=why) as caught:
        act()
    assert caught.value.code is code
    assert caught.value.next_step


def test_private_from_the_start(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        vault = DirectoryVault(tmp_path / "vault")
        vault.put("identities/node/n1", b"x", NEW)
    finally:
        os.umask(before)
    for path in (tmp_path / "vault", *(tmp_path / "vault").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_what_was_torn_or_edited_is_not_believed(tmp_path: Path) -> None:
    vault = DirectoryVault(tmp_path)
    made = vault.put("a", b"content", NEW)
    path = tmp_path / "entries" / "a"
    whole = path.read_bytes()
    for bad in (b"", whole[:10], whole[:-1], whole + b"x", b"x" + whole, whole.replace(b"content", b"c0ntent")):
        path.write_bytes(bad)
        refused(lambda: vault.get("a"), "is damaged")
        refused(lambda: vault.put("a", b"new", made.revision), "is damaged")
        assert path.read_bytes() == bad
    path.write_bytes(whole.replace(b"stos-vault-1", b"stos-vault-2"))
    refused(lambda: vault.get("a"), "newer version")


def test_what_a_killed_writer_leaves_is_nobody(tmp_path: Path) -> None:
    vault = DirectoryVault(tmp_path)
    vault.put("tokens/0a", b"x", NEW)
    (tmp_path / "entries" / "tokens" / ".0b.123.tmp").write_bytes(b"half")
    assert [entry.name for entry in vault.below("tokens")] == ["tokens/0a"]


def test_a_stopped_process_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "LOCK_WAIT_S", 0.1)
    vault = DirectoryVault(tmp_path)
    made = vault.put("a", b"x", NEW)
    with (tmp_path / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(lambda: vault.put("a", b"y", made.revision), "for more than", Code.UNAVAILABLE)
        assert vault.get("a") == made  # reading needs no lock
    vault.put("a", b"y", made.revision)


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StosError, match="can't make the directory"):
        DirectoryVault(tmp_path / "file" / "below")
