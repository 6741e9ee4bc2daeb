"""The messages take exactly the names that the rest of the system takes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from stoscore.limits import NAME_BYTES_MAX, valid_node_name, valid_volume_name
from stoscore.messages import Message, NodeId, VolumeName


class OfVolume(Message):
    name: VolumeName


class OfNode(Message):
    name: NodeId


NAMES = st.text(alphabet="abZ09.-_/* \n\0", max_size=NAME_BYTES_MAX + 2) | st.text(max_size=12)


def taken(kind: type[OfVolume] | type[OfNode], name: str) -> bool:
    try:
        kind(name=name)
    except ValidationError:
        return False
    return True


@given(NAMES)
@example("")
@example("a..b")
@example("a.")
@example(".a")
@example("a\n")
@example("a" * NAME_BYTES_MAX)
@example("a" * (NAME_BYTES_MAX + 1))
def test_a_volumes_name_is_the_same_to_all(name: str) -> None:
    assert taken(OfVolume, name) == valid_volume_name(name)


@given(NAMES)
@example("n1")
@example("n1\n")
@example("-n1")
def test_a_nodes_name_is_the_same_to_all(name: str) -> None:
    assert taken(OfNode, name) == valid_node_name(name)


@pytest.mark.parametrize("name", ["../x", "a/b", "*", ">", "a b", "a\0b", "\u0430"])
def test_a_name_that_is_a_path_or_a_wildcard_is_none(name: str) -> None:
    assert not taken(OfVolume, name)
    assert not taken(OfNode, name)
