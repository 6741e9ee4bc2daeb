"""One error type that says what happened, to what, and what to do next; one table per outer protocol.

Services raise `StosError` and the shell's edge maps it: to the bus envelope (`to_wire`), to gRPC
(`GRPC_CODE`), to an exit code (`EXIT_CODE`). NBD errnos belong to the NBD room.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Whose fault it is and whether a retry helps; the names are gRPC's where gRPC has one."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    ABORTED = "ABORTED"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_PRIMARY = "NOT_PRIMARY"
    UNSUPPORTED_VERSION = "UNSUPPORTED_VERSION"
    DATA_LOSS = "DATA_LOSS"
    INTERNAL = "INTERNAL"


GRPC_CODE: dict[Code, str] = {
    code: {
        Code.NOT_PRIMARY: "UNAVAILABLE",
        Code.UNSUPPORTED_VERSION: "FAILED_PRECONDITION",
    }.get(code, code.value)
    for code in Code
}
"""Attribute names of grpc.StatusCode."""

EXIT_CODE: dict[Code, int] = {
    Code.INVALID_ARGUMENT: 2,
    Code.OUT_OF_RANGE: 2,
    Code.NOT_FOUND: 3,
    Code.ALREADY_EXISTS: 4,
    Code.FAILED_PRECONDITION: 5,
    Code.RESOURCE_EXHAUSTED: 6,
    Code.PERMISSION_DENIED: 7,
    Code.UNAUTHENTICATED: 7,
    Code.ABORTED: 8,
    Code.UNAVAILABLE: 8,
    Code.DEADLINE_EXCEEDED: 8,
    Code.NOT_PRIMARY: 8,
    Code.UNSUPPORTED_VERSION: 5,
    Code.DATA_LOSS: 9,
    Code.INTERNAL: 10,
}
"""Exit codes of the `stos` command; 0 is success, 1 an unexpected error."""


class StosError(Exception):
    """A failure with a reason. `next_step` tells the reader what to do; `details` are for programs
    (for NOT_PRIMARY: {"hint": node})."""

    def __init__(self, code: Code, message: str, *, next_step: str = "", details: dict[str, Any] | None = None):
        super().__init__(message)
        self.code = code
        self.message = message
        self.next_step = next_step
        self.details = details or {}

    def __str__(self) -> str:
        return f"{self.message} ({self.next_step})" if self.next_step else self.message

    def to_wire(self) -> dict[str, Any]:
        return {"code": self.code.value, "message": self.message, "next_step": self.next_step, "details": self.details}

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> StosError:
        try:
            code = Code(wire.get("code", "INTERNAL"))
        except ValueError:
            code = Code.INTERNAL
        details = wire.get("details")
        return cls(
            code,
            str(wire.get("message", "")),
            next_step=str(wire.get("next_step", "")),
            details=details if isinstance(details, dict) else {},
        )


def invalid(message: str, next_step: str = "") -> StosError:
    return StosError(Code.INVALID_ARGUMENT, message, next_step=next_step)


def not_found(message: str, next_step: str = "") -> StosError:
    return StosError(Code.NOT_FOUND, message, next_step=next_step)


def precondition(message: str, next_step: str = "") -> StosError:
    return StosError(Code.FAILED_PRECONDITION, message, next_step=next_step)


def unavailable(message: str, next_step: str = "") -> StosError:
    return StosError(Code.UNAVAILABLE, message, next_step=next_step)
