"""The data directory of a node: refused with one clear line when it is another's, newer, damaged or in use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.replica.data_dir import FILE, LAYOUT, DataDir
from stoscore.errors import Code, StosError


def claim(path: Path, cluster: str = "c1", node: str = "n1") -> DataDir:
    directory = DataDir(path)
    directory.claim(cluster, node)
    return directory


def refused(path: Path, cluster: str = "c1", node: str = "n1") -> str:
    with pytest.raises(StosError) as raised:
        claim(path, cluster, node)
    assert raised.value.code is Code.FAILED_PRECONDITION
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_its_owner_gets_it_again(tmp_path: Path) -> None:
    claim(tmp_path / "data").release()
    claim(tmp_path / "data").release()


def test_only_one_process_has_it(tmp_path: Path) -> None:
    held = claim(tmp_path)
    assert "in use by another process" in refused(tmp_path)
    held.release()
    claim(tmp_path).release()


@pytest.mark.parametrize(("cluster", "node"), [("c2", "n1"), ("c1", "n2")])
def test_another_cluster_or_node_is_refused_by_name(tmp_path: Path, cluster: str, node: str) -> None:
    claim(tmp_path).release()
    before = (tmp_path / FILE).read_bytes()
    reason = refused(tmp_path, cluster, node)
    assert "node n1 of cluster c1" in reason
    assert f"node {node} of cluster {cluster}" in reason
    assert (tmp_path / FILE).read_bytes() == before


def test_a_newer_layout_is_left_alone(tmp_path: Path) -> None:
    claim(tmp_path).release()
    (tmp_path / FILE).write_text(json.dumps({"layout": LAYOUT + 1, "cluster": "c1", "node": "n1"}))
    assert f"layout {LAYOUT + 1}" in refused(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"layout": 1}', '{"layout": "x", "cluster": "c1", "node": "n1"}'])
def test_a_damaged_file_is_no_new_directory(tmp_path: Path, content: str) -> None:
    claim(tmp_path).release()
    (tmp_path / FILE).write_text(content)
    refused(tmp_path)
    assert (tmp_path / FILE).read_text() == content


def test_a_path_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "can't be used" in refused(tmp_path / "file")
