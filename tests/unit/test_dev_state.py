"""cluster.json is read back as written, and refused when it is not ours; the lock admits one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.dev import state
from services.dev.processes import ProcessId
from services.dev.state import ClusterState
from stoscore.errors import Code, StosError

KNOWN = ClusterState(
    nodes=("n1", "n2"),
    nats_urls=("tls://127.0.0.1:11000",),
    user_identity_dir="identities/admin",
    ports={"nats": 11000, "n1": 11001},
    processes={"nats": ProcessId(4711, 99)},
)


def test_round_trip(tmp_path: Path) -> None:
    state.save(tmp_path / "cluster.json", KNOWN)
    assert state.read(tmp_path / "cluster.json") == KNOWN


def test_the_command_line_finds_what_it_needs(tmp_path: Path) -> None:
    state.save(tmp_path / "cluster.json", KNOWN)
    written = json.loads((tmp_path / "cluster.json").read_text())
    assert written["nats_urls"] == ["tls://127.0.0.1:11000"]
    assert written["user_identity_dir"] == "identities/admin"


def test_no_file_is_no_cluster(tmp_path: Path) -> None:
    assert state.read(tmp_path / "cluster.json") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 2, "nodes": 3}', "\x00"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster.json").write_text(text)
    with pytest.raises(StosError) as caught:
        state.read(tmp_path / "cluster.json")
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert "cluster.json" in caught.value.message


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    state.save(tmp_path / "cluster.json", KNOWN)
    content = json.loads((tmp_path / "cluster.json").read_text()) | {"format": 3}
    (tmp_path / "cluster.json").write_text(json.dumps(content))
    with pytest.raises(StosError, match="format 3"):
        state.read(tmp_path / "cluster.json")


def test_processes_come_and_go() -> None:
    added = KNOWN.with_process("n1", ProcessId(5, 6))
    assert added.processes == {"nats": ProcessId(4711, 99), "n1": ProcessId(5, 6)}
    assert added.with_process("nats", None).processes == {"n1": ProcessId(5, 6)}
    assert KNOWN.processes == {"nats": ProcessId(4711, 99)}


def test_a_second_command_is_refused_while_the_first_works(tmp_path: Path) -> None:
    with state.exclusive(tmp_path / "lock"):
        with pytest.raises(StosError) as caught, state.exclusive(tmp_path / "lock"):
            pass
        assert caught.value.code is Code.ABORTED
    with state.exclusive(tmp_path / "lock"):
        pass


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StosError, match="can't use the directory"), state.exclusive(tmp_path / "file" / "lock"):
        pass
