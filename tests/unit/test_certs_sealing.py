"""Keys at rest: sealed to their entry, opened by one key only, whose file is whole and private."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from services.certs.sealing import Seal, decode_kek, encode_kek, make_kek_file, read_kek_file
from stoscore.errors import Code, StosError

KEK = bytes(range(32))


def refused(act: object, why: str) -> str:
    assert callable(act)
    with pytest.raises(StosError, match=why) as caught:
        act()
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.next_step
    return str(caught.value)


def test_there_and_back() -> None:
    seal = Seal(KEK)
    sealed = seal.seal("keys/root-1", b"secret")
    assert b"secret" not in sealed
    assert seal.open("keys/root-1", sealed) == b"secret"
    assert Seal(KEK).open("keys/root-1", sealed) == b"secret"
    assert seal.seal("keys/root-1", b"secret") != sealed


def test_a_key_opens_in_its_own_entry_only() -> None:
    seal = Seal(KEK)
    sealed = seal.seal("keys/root-1", b"secret")
    refused(lambda: seal.open("keys/issuer-1", sealed), "issuer-1 is damaged or not this entry's")
    refused(lambda: Seal(os.urandom(32)).open("keys/root-1", sealed), "damaged")


@pytest.mark.parametrize("cut", [0, 5, 14, 20, 26, 40])
def test_a_torn_one(cut: int) -> None:
    seal = Seal(KEK)
    sealed = seal.seal("keys/root-1", b"secret" * 10)
    refused(lambda: seal.open("keys/root-1", sealed[:cut]), "damaged")
    refused(lambda: seal.open("keys/root-1", sealed[:cut] + b"\0" + sealed[cut + 1 :]), "damaged")


def test_the_key_shows_itself_by_a_fingerprint() -> None:
    assert Seal(KEK).fingerprint == Seal(KEK).fingerprint != Seal(os.urandom(32)).fingerprint
    assert KEK.hex() not in repr(Seal(KEK))


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kek"
    assert read_kek_file(path) is None
    kek = make_kek_file(path)
    assert read_kek_file(path) == kek
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["kek"]
    assert make_kek_file(path) == kek  # never another one


def test_two_that_make_it_at_once_have_the_same(tmp_path: Path) -> None:
    start, made = threading.Barrier(8), []

    def make() -> None:
        start.wait()
        made.append(make_kek_file(tmp_path / "kek"))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1


@pytest.mark.parametrize("content", [b"", b"\n", encode_kek(KEK)[:20], encode_kek(KEK)[:-6], KEK, b"stos-kek-1.AAAA\n"])
def test_a_half_written_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kek"
    path.write_bytes(content)
    path.chmod(0o600)
    said = refused(lambda: read_kek_file(path), "holds no whole key-encryption key")
    assert str(path) in said
    refused(lambda: make_kek_file(path), "holds no whole")
    assert path.read_bytes() == content


def test_a_mistyped_one_is_told_from_a_wrong_one() -> None:
    line = bytearray(encode_kek(KEK))
    line[20] ^= 1
    refused(lambda: decode_kek(bytes(line), "x"), "holds no whole")
    assert decode_kek(encode_kek(KEK), "x") == KEK


def test_a_file_that_everybody_reads_is_refused(tmp_path: Path) -> None:
    make_kek_file(tmp_path / "kek")
    (tmp_path / "kek").chmod(0o644)
    refused(lambda: read_kek_file(tmp_path / "kek"), "everybody may read")
