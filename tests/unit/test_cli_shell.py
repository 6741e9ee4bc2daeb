"""`stos` among other programs: readers that go away, shells that ask for names, Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

PROGRAM = (sys.executable, "-m", "services.cli.main")
TIMEOUT_S = 60


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("STOS_")} | more


def completed(line: str, shell: str, directory: Path) -> tuple[int, str, str]:
    """What a shell is told at the end of that line."""
    asked = {"_STOS_COMPLETE": f"complete_{shell}", "STOS_DIR": str(directory)}
    if shell == "bash":
        words = line.split(" ")
        asked |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    else:
        asked |= {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(PROGRAM, env=environment(**asked), capture_output=True, text=True, timeout=TIMEOUT_S)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_told_the_commands(shell: str, tmp_path: Path) -> None:
    _, told, _ = completed("stos volume s", shell, tmp_path)
    assert "show" in told and "set" in told
    assert "create" not in told


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_is_told_the_options(shell: str, tmp_path: Path) -> None:
    _, told, _ = completed("stos volume ls --w", shell, tmp_path)
    assert "--watch" in told


def test_without_a_cluster_no_name_is_completed_and_nothing_is_said(tmp_path: Path) -> None:
    assert completed("stos volume show ", "bash", tmp_path / "none") == (0, "\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_calls_us(shell: str) -> None:
    done = subprocess.run((*PROGRAM, "completion", shell), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0
    assert f"_STOS_COMPLETE=complete_{shell}" in done.stdout


def test_bash_understands_its_script() -> None:
    done = subprocess.run((*PROGRAM, "completion", "bash"), env=environment(), capture_output=True, text=True)
    sourced = subprocess.run(
        ["bash", "--norc", "-c", f"{done.stdout}\ncomplete -p stos"], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert sourced.stdout.strip() == "complete -o default -F _stos_completion stos"


def on_a_terminal(arguments: list[str], **more: str) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen((*PROGRAM, *arguments), env=environment(**{"TERM": "xterm"} | more), stdout=theirs)
    os.close(theirs)
    told = b""
    with suppress(OSError), open(ours, "rb", buffering=0) as terminal:  # EIO: nobody holds the other end any more
        while part := terminal.read(65536):
            told += part
    assert process.wait(TIMEOUT_S) == 0
    return told.decode().replace("\r\n", "\n")


def test_there_are_colours_on_a_terminal_and_nowhere_else() -> None:
    in_colour = on_a_terminal(["plugins"])
    assert in_colour.startswith("\x1b[1mGROUP")
    piped = subprocess.run((*PROGRAM, "plugins"), env=environment(), capture_output=True, text=True, check=True).stdout
    assert piped.startswith("GROUP")
    for unwanted in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert on_a_terminal(["plugins"], **unwanted) == piped


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
def test_kubectl_knows_us_as_its_plugin() -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    asked = ("kubectl", "stos", "version", "-o", "json")
    done = subprocess.run(asked, env=environment(PATH=path), capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, json.loads(done.stdout)["python"]) == (0, sys.version.split()[0])


@pytest.mark.parametrize("arguments", [["plugins"], ["--help"], ["version", "-o", "json"], ["completion", "zsh"]])
def test_a_reader_who_goes_away_is_no_error(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        (*PROGRAM, *arguments), env=environment(), stdout=writing, stderr=subprocess.PIPE, timeout=TIMEOUT_S
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
