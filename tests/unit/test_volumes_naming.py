"""Which volumes are possible, and what an impossible one is told."""

from __future__ import annotations

import pytest

from stoscore.errors import Code, StosError
from stoscore.limits import VOLUME_BYTES_MAX
from stoscore.units import GIB, MIB
from stoscore.volumes import check_spec


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        (1, MIB),
        (4096, MIB),
        (MIB, MIB),
        (MIB + 1, 2 * MIB),
        (10**10, 9537 * MIB),
        (VOLUME_BYTES_MAX, VOLUME_BYTES_MAX),
    ],
)
def test_sizes_are_rounded_up_to_a_whole_mib(asked: int, size: int) -> None:
    assert check_spec("data", asked, 2).size_bytes == size


@pytest.mark.parametrize("replicas", range(6))
def test_voters_are_always_an_odd_number(replicas: int) -> None:
    spec = check_spec("data", GIB, replicas)
    assert spec.copies == replicas + 1
    assert spec.copies + spec.witnesses in (1, 3, 5, 7)
    assert spec.witnesses in (0, 1)


@pytest.mark.parametrize(
    ("name", "size", "replicas", "code", "told"),
    [
        ("", GIB, 2, Code.INVALID_ARGUMENT, "no possible volume name"),
        ("a b", GIB, 2, Code.INVALID_ARGUMENT, "no possible volume name"),
        ("a\n", GIB, 2, Code.INVALID_ARGUMENT, "no possible volume name"),
        ("../etc", GIB, 2, Code.INVALID_ARGUMENT, "no possible volume name"),
        ("a..b", GIB, 2, Code.INVALID_ARGUMENT, "no possible volume name"),
        ("x" * 129, GIB, 2, Code.INVALID_ARGUMENT, "no possible volume name"),
        ("0123456789abcdef" * 2, GIB, 2, Code.INVALID_ARGUMENT, "read as a volume id"),
        ("data", 0, 2, Code.INVALID_ARGUMENT, "a volume of 0 bytes"),
        ("data", -1, 2, Code.INVALID_ARGUMENT, "a volume of -1 bytes"),
        ("data", VOLUME_BYTES_MAX + 1, 2, Code.OUT_OF_RANGE, "too large"),
        ("data", 10**40, 2, Code.OUT_OF_RANGE, "too large"),
        ("data", GIB, -1, Code.INVALID_ARGUMENT, "-1 replicas"),
        ("data", GIB, 6, Code.INVALID_ARGUMENT, "6 replicas"),
    ],
)
def test_an_impossible_volume_is_told_why_and_what_to_do(
    name: str, size: int, replicas: int, code: Code, told: str
) -> None:
    with pytest.raises(StosError, match=told) as caught:
        check_spec(name, size, replicas)
    assert caught.value.code is code
    assert caught.value.next_step


def test_the_name_is_checked_before_the_size_before_the_replicas() -> None:
    with pytest.raises(StosError, match="name"):
        check_spec("", 0, 9)
    with pytest.raises(StosError, match="0 bytes"):
        check_spec("data", 0, 9)


@pytest.mark.parametrize(
    "labels", [{f"k{number}": "v" for number in range(65)}, {"": "v"}, {"k" * 257: "v"}, {"k": "v" * 257}]
)
def test_impossible_labels_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(StosError, match="label") as caught:
        check_spec("data", GIB, 2, labels=labels)
    assert caught.value.code is Code.INVALID_ARGUMENT
