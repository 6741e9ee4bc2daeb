"""Copies are compared block by block; files by their content."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.dev.demo.files import copy_tree, differing, library_tree, list_tree
from services.dev.demo.verify import Copy, differing_blocks, disagreements, not_as_written


def copy(node: str, *sums: int) -> Copy:
    return Copy(node, b"".join(value.to_bytes(8, "little") for value in sums))


def test_the_same_copies_do_not_differ() -> None:
    assert differing_blocks(copy("a", 1, 2, 3), copy("b", 1, 2, 3)) == []


def test_differing_blocks_are_named() -> None:
    assert differing_blocks(copy("a", 1, 2, 3), copy("b", 9, 2, 0)) == [0, 2]


def test_copies_of_different_size_are_an_error() -> None:
    with pytest.raises(ValueError, match="a has 1 blocks, b has 2"):
        differing_blocks(copy("a", 1), copy("b", 1, 2))


def test_half_a_checksum_is_an_error() -> None:
    with pytest.raises(ValueError, match="whole checksums"):
        Copy("a", b"1234567")


def test_every_pair_is_compared() -> None:
    found = disagreements([copy("a", 1, 2), copy("b", 1, 2), copy("c", 1, 3)])
    assert found == ["a and c differ in 1 blocks (1)", "b and c differ in 1 blocks (1)"]


def test_blocks_that_were_never_written_must_be_zeros() -> None:
    allowed = {0: frozenset({5, 6}), 2: frozenset({7})}
    assert not_as_written(copy("a", 5, 0, 7), allowed) == []
    assert not_as_written(copy("a", 6, 1, 8), allowed) == [1, 2]


def test_files_are_copied_and_verified(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub" / "__pycache__").mkdir(parents=True)
    (source / "a").write_bytes(b"a" * 5000)
    (source / "sub" / "b").write_bytes(b"")
    (source / "sub" / "__pycache__" / "c").write_bytes(b"cache")
    (source / "link").symlink_to("a")
    listed = list_tree(source)
    assert [file.path for file in listed] == ["a", "sub/b"]
    copied: list[int] = []
    copy_tree(source, target, listed, copied.append)
    assert copied == [5000, 0]
    assert differing(target, listed) == []
    (target / "a").write_bytes(b"b" * 5000)
    (target / "sub" / "b").unlink()
    assert differing(target, listed) == ["a", "sub/b"]


def test_the_list_stays_below_its_limit(tmp_path: Path) -> None:
    for name, size in (("a", 600), ("b", 600), ("c", 300)):
        (tmp_path / name).write_bytes(bytes(size))
    assert [file.path for file in list_tree(tmp_path, bytes_max=1000)] == ["a", "c"]


def test_the_library_tree_is_large_enough_to_mean_something() -> None:
    assert sum(1 for _ in library_tree().glob("*.py")) > 100
