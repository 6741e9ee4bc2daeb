"""A node's status comes in pages that NATS takes, whatever it holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.replica import status
from services.replica.status import page
from stoscore.limits import LABEL_BYTES_MAX, LABELS_MAX, MESSAGE_BYTES_MAX
from stoscore.messages import RecordModel, ReplicaStatus


def replica(number: int, labels: int = 0) -> tuple[str, ReplicaStatus]:
    volume = f"{number:032x}"
    record = RecordModel(
        volume=volume,
        name=f"v{number}",
        size_bytes=1 << 20,
        replicas=2,
        generation=1,
        epoch=1,
        version=1,
        voters=[],
        in_sync=[],
        labels={f"{name:0100d}": "x" * LABEL_BYTES_MAX for name in range(labels)},
    )
    return volume, ReplicaStatus(node="n1", incarnation="0" * 16, role="replica", epoch=1, serving=False, record=record)


def all_pages(held: list[tuple[str, ReplicaStatus]]) -> list[list[ReplicaStatus]]:
    pages, after = [], None
    while True:
        told, after = page(held, after)
        pages.append(told)
        if after is None:
            return pages


@given(st.lists(st.integers(0, LABELS_MAX), max_size=60), st.integers(1, 200_000))
def test_every_copy_is_told_once_whatever_the_pages(labels: list[int], bytes_max: int) -> None:
    held = [replica(number, count) for number, count in enumerate(labels)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status, "PAGE_BYTES", bytes_max)
        pages = all_pages(held)
    assert [one for told in pages for one in told] == [one for _, one in held]
    assert all(told for told in pages) or not held


def test_two_thousand_copies_fit_message_by_message() -> None:
    held = [replica(number, number % 20) for number in range(2000)]
    sizes = [sum(len(one.model_dump_json()) for one in told) for told in all_pages(held)]
    assert len(sizes) > 5
    assert max(sizes) < MESSAGE_BYTES_MAX / 2


def test_a_copy_that_goes_between_two_pages_hides_no_other() -> None:
    held = [replica(number, LABELS_MAX) for number in range(60)]
    told, after = page(held, None)
    rest, _ = page([one for one in held if one[0] != after], after)
    assert rest[0] == held[len(told)][1]
