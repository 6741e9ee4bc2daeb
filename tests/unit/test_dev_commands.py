"""`stos dev`: signals, outputs and errors that need no running cluster."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from services.dev.cluster import Cluster
from services.dev.commands import parse_signal
from stoscore.errors import Code, StosError


@pytest.mark.parametrize("text", ["KILL", "SIGKILL", "kill", "9"])
def test_signals(text: str) -> None:
    assert parse_signal(text) is signal.SIGKILL


@pytest.mark.parametrize("text", ["", "NOTHING", "0", "999", "-9"])
def test_no_signals(text: str) -> None:
    with pytest.raises(StosError) as caught:
        parse_signal(text)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_no_cluster_is_told_with_what_to_do(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "none")
    for attempt in (cluster.state, cluster.status, cluster.stop):
        with pytest.raises(StosError, match="no cluster") as caught:
            attempt()
        assert "stos dev up" in caught.value.next_step
    assert not (tmp_path / "none").exists()


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StosError, match="not empty and holds no cluster"):
        Cluster(tmp_path).up()
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]


def test_a_file_instead_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StosError, match="no directory"):
        Cluster(tmp_path / "file").up()


@pytest.mark.parametrize("nodes", [0, -1, 17])
def test_impossible_numbers_of_nodes_are_refused(tmp_path: Path, nodes: int) -> None:
    with pytest.raises(StosError) as caught:
        Cluster(tmp_path / "dir").up(nodes)
    assert caught.value.code is Code.INVALID_ARGUMENT
