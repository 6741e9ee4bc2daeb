"""The `stos` command itself: help without heavy imports, errors in both forms, exit codes, plugins."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from services.cli.lazy import summary
from services.cli.main import run
from stoscore.errors import EXIT_CODE, Code

HEAVY = ("grpc", "nats", "opentelemetry", "pydantic", "uvloop", "kubernetes", "rich")


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from services.cli.main import run\n"
        "code = run(['--help'])\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules], code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "HEAVY [] 0" in done.stdout
    assert "stos volume create data --size 1GiB" in done.stdout


def test_help_lists_every_command_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert "Create, find, use and remove volumes." in lines["volume"]
    for command in ("dev", "node", "plugins", "serve", "version", "volume"):
        assert len(lines[command].split()) > 3


@pytest.mark.parametrize("group", ["", "volume", "node", "snapshot", "resync", "trace", "certs", "dev", "store"])
def test_help_says_whole_sentences(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*group.split(), "--help"]) == 0
    told = capsys.readouterr().out.partition("\nCommands:\n")[2]
    assert told and "..." not in told
    assert told.rstrip().endswith(".")


def test_help_says_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    told = capsys.readouterr().out.partition("Exit codes:")[2].partition("Options:")[0]
    assert {int(number) for number in re.findall(r"(\d+)  ", told)} == {0, 1, 130, *EXIT_CODE.values()}


@pytest.mark.parametrize("command", ["create", "ls", "show", "rm", "connect", "disconnect"])
def test_every_volume_command_teaches_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["volume", command, "--help"]) == 0
    assert f"stos volume {command}" in capsys.readouterr().out.partition("Options:")[0].partition("\n")[2]


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node"]) == 0
    assert "stos node show n1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told", "next_step"),
    [
        (["bogus"], "No such command 'bogus'", "see `stos --help`"),
        (["volum"], "Did you mean 'volume'", "see `stos --help`"),
        (["volume", "create"], "Missing argument 'name'", "see `stos volume create --help`"),
        (["volume", "create", "x"], "a volume that begins empty needs a size", "--size 1GiB"),
        (["version", "--bad"], "No such option: --bad", "see `stos version --help`"),
        (["volume", "ls", "-o", "xml"], "xml", "see `stos volume ls --help`"),
        (["plugins", "--group", "x"], "no plugin group 'x'", "stos.services"),
    ],
)
def test_a_misused_command_is_told_what_to_do(
    arguments: list[str], told: str, next_step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == EXIT_CODE[Code.INVALID_ARGUMENT]
    error, step = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert told in error
    assert step.startswith("next: ")
    assert next_step in step


def test_with_json_a_misuse_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "-o", "json", "--bad"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["error"]["code"] == "INVALID_ARGUMENT"


def test_version_in_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == 0
    assert capsys.readouterr().out.startswith("stos ")
    assert run(["version", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["python"] == sys.version.split()[0]


def test_plugins_are_listed_with_their_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plugins", "--group", "placement_policies", "-o", "json"]) == 0
    found = {plugin["name"]: plugin for plugin in json.loads(capsys.readouterr().out)}
    assert {"capacity", "spread"} <= found.keys()
    assert found["capacity"]["origin"].startswith("stos ")
    assert run(["plugins"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["GROUP", "NAME", "ORIGIN", "CODE"]


def test_a_command_that_is_not_installed_breaks_only_itself() -> None:
    assert summary(EntryPoint("x", "no.such.module:app", "stos.commands")) == "(not installed)"
