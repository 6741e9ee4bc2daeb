"""When a deleted volume is gone, by what its nodes say."""

from __future__ import annotations

import pytest

from stoscore.errors import not_found, unavailable
from stoscore.messages import RecordModel, ReplicaStatus, VoterModel
from stoscore.volumes.deletion import is_gone
from stoscore.volumes.survey import Survey

NODES = ["n1", "n2", "n3"]


def holds(node: str, *, deleted: bool | None, failure: str = "", voters: tuple[str, ...] = ()) -> ReplicaStatus:
    """`deleted` None: it has no record."""
    record = None
    if deleted is not None:
        record = RecordModel(
            volume="0" * 32,
            name="data",
            size_bytes=1 << 20,
            replicas=2,
            generation=0,
            epoch=1,
            version=1,
            voters=[VoterModel(node=voter, incarnation="0" * 16) for voter in voters],
            in_sync=[],
            deleted=deleted,
        )
    return ReplicaStatus(
        node=node, incarnation="0" * 16, role="replica", epoch=1, serving=False, record=record, failure=failure
    )


NOTHING, SILENT = not_found("holds nothing"), unavailable("does not answer")


@pytest.mark.parametrize(
    ("third", "gone"),
    [
        (NOTHING, True),
        (SILENT, False),
        (holds("n3", deleted=True), True),
        (holds("n3", deleted=False), False),
        (holds("n3", deleted=None), True),
        (holds("n3", deleted=None, failure="its disk failed"), False),
    ],
    ids=["nothing", "silent", "tombstone", "record", "a member that nobody named", "a failed disk"],
)
def test_two_have_forgotten_it_and_the_third(third: object, gone: bool) -> None:
    survey = Survey()
    for node, answer in zip(NODES, (NOTHING, NOTHING, third), strict=True):
        survey.add(node, answer)  # type: ignore[arg-type]
    assert is_gone(survey, NODES) is gone


def test_a_majority_is_past_the_tombstone_and_one_keeps_it_for_the_third() -> None:
    survey = Survey()
    for node, answer in zip(NODES, (holds("n1", deleted=True), NOTHING, SILENT), strict=True):
        survey.add(node, answer)
    assert is_gone(survey, NODES)


@pytest.mark.parametrize(
    ("voters", "gone"),
    [(("n4", "n1", "n2"), True), (("n4", "n1", "n5"), False)],
    ids=["of whom most hold nothing", "of whom others may"],
)
def test_all_have_forgotten_it_but_one_that_was_excluded_and_takes_these_for_voters(
    voters: tuple[str, ...], gone: bool
) -> None:
    """It was away when the volume was deleted, and the word that it is was lost: `stos volume rm` never ended."""
    survey = Survey()
    for node in NODES:
        survey.add(node, NOTHING)
    survey.add("n4", holds("n4", deleted=False, voters=voters))
    assert is_gone(survey, NODES) is gone
