"""Every error of ours has a gRPC status, and its text fits into a trailer."""

from __future__ import annotations

import grpc
import pytest

from services.csi.errors import MESSAGE_CHARS_MAX, STATUS, status
from stoscore.errors import Code, StosError


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_a_status(code: Code) -> None:
    assert isinstance(STATUS[code], grpc.StatusCode)
    assert STATUS[code] is not grpc.StatusCode.OK


def test_codes_without_a_namesake() -> None:
    assert STATUS[Code.NOT_PRIMARY] is grpc.StatusCode.UNAVAILABLE
    assert STATUS[Code.UNSUPPORTED_VERSION] is grpc.StatusCode.FAILED_PRECONDITION


def test_the_text_carries_the_next_step() -> None:
    code, text = status(StosError(Code.NOT_FOUND, "no such volume", next_step="see `stos volume ls`"))
    assert (code, text) == (grpc.StatusCode.NOT_FOUND, "no such volume (see `stos volume ls`)")


def test_a_long_text_is_cut() -> None:
    _, text = status(StosError(Code.INTERNAL, "x" * 100_000))
    assert len(text) == MESSAGE_CHARS_MAX
