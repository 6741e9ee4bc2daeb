"""The in-sync set and the attachment as plain record changes, and S1's arithmetic."""

from __future__ import annotations

import pytest

from services.replica.brain import Attachment, InvalidRecord
from services.replica.brain.attachment import AttachedElsewhere, attach, detach
from services.replica.brain.membership import Required, with_member, without
from tests.support.voters import A, B, C, W, record


def test_s1_every_set_proposed_since_the_last_commit_has_to_confirm() -> None:
    """{A,B,C} is proposed and C stored it, so it may be committed though the answer is lost; A must not go on
    with {A,B} alone."""
    required = Required(frozenset([A, B]))
    required.propose((A, B, C))
    required.propose((A, B))
    assert required.union() == {A, B, C}
    required.commit((A, B))
    assert required.union() == {A, B}


def test_a_smaller_set_needs_the_larger_one_until_it_is_committed() -> None:
    required = Required(frozenset([A, B]))
    required.propose((A,))
    assert required.union() == {A, B}


def test_a_member_leaves_but_never_the_primary_and_never_the_last() -> None:
    rec = record(A, B, W, primary=A)
    smaller = without(rec, B)
    assert smaller is not None and smaller.in_sync == (A,)
    assert without(smaller, A) is None, "S2"
    assert without(rec, A) is None
    assert without(smaller, B) is None, "it is no member any more"


def test_only_a_data_voter_enters() -> None:
    rec = record(A, B, W, in_sync=[A])
    larger = with_member(rec, B)
    assert larger is not None and larger.in_sync == (A, B)
    assert with_member(rec, W) is None
    assert with_member(rec, C) is None
    assert with_member(larger, B) is None


def test_each_new_attachment_has_a_higher_epoch() -> None:
    first = attach(record(A), "n1")
    assert first is not None and first.attachment == Attachment("n1", 1)
    assert attach(first, "n1") is None, "the same again changes nothing"
    with pytest.raises(AttachedElsewhere):
        attach(first, "n2")
    gone = detach(first, "n1")
    assert gone is not None and (gone.attachment, gone.attach_epoch) == (None, 1)
    second = attach(gone, "n2")
    assert second is not None and second.attachment == Attachment("n2", 2)


def test_only_the_named_nodes_attachment_is_taken_away() -> None:
    attached = attach(record(A), "n1")
    assert attached is not None
    assert detach(attached, "n2") is None
    assert detach(record(A), None) is None
    freed = detach(attached, None)
    assert freed is not None and freed.attachment is None


@pytest.mark.parametrize("broken", [record(A, in_sync=[]), record(A, W, in_sync=[W]), record(A, in_sync=[B])])
def test_a_record_refuses_an_impossible_set(broken) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidRecord):
        broken.validate()
