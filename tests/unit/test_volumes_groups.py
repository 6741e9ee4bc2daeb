"""What tells that a snapshot is part of a group: the group's claim alone, which names the attempt."""

from __future__ import annotations

from typing import Any

import pytest

from stoscore.messages import GroupClaim
from stoscore.volumes.groups import CompleteGroups, group_id, parts_of

ATTEMPT, OTHER = "1" * 16, "2" * 16


def claim(stage: Any = "ready", attempt: str = ATTEMPT) -> GroupClaim:
    return GroupClaim(name="nightly", attempt=attempt, volumes=("ab" * 16,), stage=stage)


class Claims:
    """Finds one claim, and counts how often it is asked."""

    def __init__(self, *claims: GroupClaim) -> None:
        self._claims = {known.name: known for known in claims}
        self.asked: list[str] = []

    async def find(self, name: str) -> GroupClaim | None:
        self.asked.append(name)
        return self._claims.get(name)


def test_an_id_is_made_of_its_parts() -> None:
    assert group_id(claim()) == f"nightly.{ATTEMPT}"
    assert parts_of(group_id(claim())) == ("nightly", ATTEMPT)
    assert parts_of("") == ("", ""), "a snapshot by itself"


@pytest.mark.parametrize(
    ("stage", "attempt", "there"),
    [
        ("ready", ATTEMPT, True),
        ("dropping", ATTEMPT, True),
        ("taking", ATTEMPT, False),
        ("ready", OTHER, False),
        ("dropping", OTHER, False),
    ],
)
async def test_complete_by_its_own_attempt_alone(stage: str, attempt: str, there: bool) -> None:
    complete = CompleteGroups(Claims(claim(stage, attempt)).find)
    assert await complete.has(f"nightly.{ATTEMPT}") is there


async def test_each_name_is_asked_for_once() -> None:
    claims = Claims(claim())
    complete = CompleteGroups(claims.find)
    found = [await complete.has(f"{name}.{attempt}") for name in ("nightly", "gone") for attempt in (ATTEMPT, OTHER)]
    assert found == [True, False, False, False]
    assert claims.asked == ["nightly", "gone"]
