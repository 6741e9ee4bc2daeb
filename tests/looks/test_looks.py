"""Each command looks as it is written down, on wide and narrow terminals and for programs, whatever names it shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.cli import completing
from services.cli.main import main
from services.cli.shapes import SHAPES, Refused
from tests.looks import script
from tests.support.control_plane import ControlPlane
from tests.support.feed import Feed
from tests.support.feeds import TRACE

pytestmark = pytest.mark.slow
REWRITE = "it looks otherwise; when that is right: python -m tests.looks --rewrite"
PROGRAM = (sys.executable, "-m", "services.cli.main")
TIMEOUT_S = 60
SHAPED = [name for name, command in script.COMMANDS.items() if script.shape_of(command)]


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Feed]:
    plane = ControlPlane(tmp_path_factory.mktemp("looks"))
    plane.start()
    try:
        with script.cluster(plane) as feed:
            yield feed
    finally:
        plane.stop()


@pytest.mark.parametrize("name", script.names())
def test_it_looks_as_it_is_written(feed: Feed, name: str) -> None:
    assert script.looks(feed, name).splitlines() == script.told(name).splitlines(), REWRITE


def test_nothing_is_written_that_is_not_shown() -> None:
    assert {path.stem for path in script.GOLDEN.glob("*.txt")} == set(script.COMMANDS)


@pytest.mark.parametrize("output", ["table", "json", "yaml", "name"])
@pytest.mark.parametrize("name", script.names())
def test_no_name_reaches_the_terminal_as_more_than_a_name(feed: Feed, name: str, output: str) -> None:
    form = [] if output == "table" else ["-o", output]
    _, out, errors = script.shown(feed, [*script.COMMANDS[name].split(), *form], script.NARROW)
    assert [char for char in out + errors if not char.isprintable() and char != "\n"] == []


@pytest.mark.parametrize("name", sorted(SHAPED))
def test_its_json_has_the_shape_that_is_promised(feed: Feed, name: str) -> None:
    arguments, shape = script.COMMANDS[name].split(), script.shape_of(script.COMMANDS[name])
    assert shape is not None
    code, out, errors = script.shown(feed, [*arguments, "-o", "json"], script.WIDE)
    if out:
        shape.model_validate_json(out)
    else:
        assert code
        Refused.model_validate_json(errors)


def test_a_trace_is_named_by_its_id(feed: Feed) -> None:
    assert script.shown(feed, ["trace", "ls", "--name", "csi.", "-o", "name"], script.WIDE) == (0, f"{TRACE}\n", "")


def test_a_shape_that_is_not_kept_is_noticed() -> None:
    with pytest.raises(ValidationError):
        SHAPES["volume ls"].model_validate_json('[{"name": "data"}]')


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("stos volume show ", ["data", "logs", "lost"]),
        ("stos volume show lo", ["logs", "lost"]),
        ("stos volume show nothing", []),
        ("stos node show ", ["app", "n1", "n2", "n3"]),
    ],
)
def test_the_shell_completes_names_of_the_running_cluster(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, names: list[str]
) -> None:
    monkeypatch.setattr(completing, "WITHIN_S", TIMEOUT_S)  # a busy machine is not what this is about
    for name, value in (("_STOS_COMPLETE", "complete_bash"), ("COMP_WORDS", line), ("COMP_CWORD", "3")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["stos"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.split() == names


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_each_shell_completes_them(
    feed: Feed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str
) -> None:
    monkeypatch.setattr(completing, "WITHIN_S", TIMEOUT_S)
    monkeypatch.setenv("_STOS_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "stos volume show lo")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setattr(sys, "argv", ["stos"])
    with pytest.raises(SystemExit):
        main()
    assert sorted(re.findall(r"\b(?:data|logs|lost)\b", capsys.readouterr().out)) == ["logs", "lost"]


def started(arguments: list[str], *, out: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen((*PROGRAM, *arguments), env=dict(os.environ), stdout=out, stderr=subprocess.PIPE)


@pytest.mark.parametrize("name", ["volume-ls", "node-ls", "snapshot-ls", "certs-ls", "doctor", "trace-show", "events"])
def test_a_reader_who_goes_away_is_no_error(feed: Feed, name: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = started(script.COMMANDS[name].split(), out=writing)
    os.close(writing)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize("command", ["volume ls --watch -o json", "events --follow --since 1h --kind decision"])
def test_what_goes_on_is_seen_at_once_and_ends_with_ctrl_c(feed: Feed, command: str) -> None:
    process = started(command.split())
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (130, b"")


LONG = [
    "volume ls",
    "volume show data",
    "volume create new --size 1GiB",
    "volume set data --replicas 3",
    "volume rm data",
    "volume connect data --node app",
    "volume disconnect data",
    "volume move-primary data",
    "volume expand data 2GiB",
    "volume export data --listen 0.0.0.0:0 --client user/eve",
    "volume override data --on n2 --lost n1 --lost n3 --reason fire",
    "snapshot create data friday",
    "snapshot ls",
    "certs ls",
    "certs rotate --root",
    "node ls",
    "resync ls --watch",
    "top",
    "doctor",
    f"trace show {TRACE}",
    "support-bundle {directory}/bundle.tar.gz",
]


@pytest.mark.parametrize("command", LONG)
def test_ctrl_c_in_the_middle_ends_a_command_quietly(feed: Feed, command: str, tmp_path: Path) -> None:
    """The nodes have heard and do not answer."""
    feed.heard.clear()
    feed.hanging = True
    try:
        process = started(command.format(directory=tmp_path).split())
        assert feed.heard.wait(TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=TIMEOUT_S)
    finally:
        feed.hanging = False
    assert (process.returncode, out, errors) == (130, b"", b"")
    assert list(tmp_path.iterdir()) == [], "half an archive is none"
