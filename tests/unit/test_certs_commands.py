"""`stos certs` without a running service: what works on the vault, and what says why it can't work at all."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.cli.main import run
from stoscore.errors import EXIT_CODE, Code
from tests.support.authorities import Clock, Member, open_instance

PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.startswith("STOS_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    (tmp_path / "passphrase").write_text(f"{PASSPHRASE}\n")


def stos(capsys: pytest.CaptureFixture[str], *arguments: str, code: Code | None = None) -> str:
    """What it said: on stdout when it worked, on stderr when it was to fail with that code."""
    capsys.readouterr()
    done = run(["certs", *arguments])
    said = capsys.readouterr()
    assert done == (0 if code is None else EXIT_CODE[code]), said.err
    assert PASSPHRASE not in said.out + said.err
    if code is not None:
        assert said.err.startswith("error: ")
    return said.out if code is None else said.err


def test_backup_and_restore(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = open_instance(tmp_path / "old")
    Member("node", "n1").join(authority)
    given = ("--passphrase-file", "passphrase")
    told = json.loads(stos(capsys, "backup", "file", "--data-dir", "old", *given, "-o", "json"))
    assert (told["cluster"], told["identities"]) == (authority.cluster, 1)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert "exists" in stos(capsys, "backup", "file", "--data-dir", "old", *given, code=Code.ALREADY_EXISTS)
    told = json.loads(stos(capsys, "restore", "file", "--data-dir", "new", *given, "-o", "json"))
    assert told["cluster"] == authority.cluster
    assert open_instance(tmp_path / "new").cluster == authority.cluster
    again = ("restore", "file", "--data-dir", "new", *given)
    assert "this vault holds an authority" in stos(capsys, *again, code=Code.FAILED_PRECONDITION)
    (tmp_path / "passphrase").write_text("something else entirely")
    assert "another passphrase" in stos(
        capsys, "restore", "file", "--data-dir", "third", *given, code=Code.INVALID_ARGUMENT
    )
    assert not (tmp_path / "third" / "vault" / "entries" / "authority").exists()


def test_a_restore_without_a_trust_state_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_instance(tmp_path / "old")
    given = ("--passphrase-file", "passphrase")
    stos(capsys, "backup", "file", "--data-dir", "old", *given)
    assert run(["certs", "restore", "file", "--data-dir", "new", *given]) == 0
    assert "warning: revocations that were made after this backup are forgotten" in capsys.readouterr().err
    (tmp_path / "trust.json").write_text("{}")
    bad = ("restore", "file", "--data-dir", "other", "--trust-file", "trust.json", *given)
    assert "is no trust state" in stos(capsys, *bad, code=Code.INVALID_ARGUMENT)


def test_the_passphrase_is_asked_for_or_read_and_never_an_argument(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_instance(tmp_path / "old")
    asking = ("backup", "file", "--data-dir", "old")
    assert "no terminal to ask" in stos(capsys, *asking, code=Code.INVALID_ARGUMENT)
    assert "can't read the passphrase file" in stos(
        capsys, *asking, "--passphrase-file", "nowhere", code=Code.INVALID_ARGUMENT
    )
    (tmp_path / "passphrase").write_text("short\n")
    assert "less than 12" in stos(capsys, *asking, "--passphrase-file", "passphrase", code=Code.INVALID_ARGUMENT)
    stos(capsys, *asking, "--passphrase", "x", code=Code.INVALID_ARGUMENT)
    assert not (tmp_path / "file").exists()


def test_nothing_to_back_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = ("backup", "file", "--data-dir", "empty", "--passphrase-file", "passphrase")
    assert "no authority in this vault" in stos(capsys, *nothing, code=Code.FAILED_PRECONDITION)


def test_recover(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    authority = open_instance(tmp_path / "old", clock)
    authority.own_identity(tmp_path / "identity", "node", "n1")
    assert "which cluster?" in stos(capsys, "recover", "--data-dir", "new", code=Code.INVALID_ARGUMENT)
    wrong = ("recover", "--data-dir", "new", "--identity", "identity", "--cluster", "other")
    assert f"is of the cluster {authority.cluster}, not other" in stos(capsys, *wrong, code=Code.INVALID_ARGUMENT)
    told = json.loads(stos(capsys, "recover", "--data-dir", "new", "--identity", "identity", "-o", "json"))
    assert (told["cluster"], told["catalogue"]) == (authority.cluster, "kept")
    again = ("recover", "--data-dir", "new", "--cluster", authority.cluster)
    assert "this vault holds an authority" in stos(capsys, *again, code=Code.FAILED_PRECONDITION)
    assert run(["certs", "recover", "--data-dir", "third", "--cluster", authority.cluster]) == 0
    assert "warning: the catalogue and the kept events are begun anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["token", "enrol", "ls", "show", "revoke", "rotate", "backup", "restore", "recover"]
)
def test_every_command_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = stos(capsys, command, "--help")
    assert f"stos certs {command}" in told.split("Options:")[0].split("Usage:")[1].partition("\n")[2]
    if command not in ("enrol",):
        assert "--output" in told


@pytest.mark.parametrize(
    "arguments", [("ls",), ("show", "node/n1"), ("revoke", "node/n1"), ("rotate", "--root"), ("ls", "--socket", "x")]
)
def test_no_certs_to_ask(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    said = stos(capsys, *arguments, code=Code.UNAVAILABLE)
    assert "next: " in said


def test_what_can_not_be_asked(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ("show", "n1"),
        ("show", "node/N1"),
        ("revoke", "root/x"),
        ("rotate", "--root", "--issuer"),
        ("revoke", "node/n1", "--reason", "x" * 121),
        ("token", "--kind", "node", "--name", "x" * 64),
        ("token", "--kind", "node", "--name", "n1", "--valid-s", "99999999"),
    ):
        stos(capsys, *arguments, code=Code.INVALID_ARGUMENT)


def test_an_identity_of_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority = open_instance(tmp_path / "old", lambda: datetime.now(UTC))  # type: ignore[arg-type]
    made = authority.own_identity(tmp_path / "identity", "node", "n1")
    told = json.loads(stos(capsys, "show", "--identity-dir", "identity", "-o", "json"))
    assert (told["uri"], told["role"], told["serial"]) == (made.uri, "node", made.peer.serial)
    assert made.uri in stos(capsys, "show", "--identity-dir", "identity")
    assert "no identity in nowhere" in stos(capsys, "show", "--identity-dir", "nowhere", code=Code.UNAUTHENTICATED)
