"""A member that follows each request, not one in many: `python -m tests.support.follow_all serve replica`. So a node
makes thousands of spans a second, as it would with far more I/O than a test has."""

from __future__ import annotations

import sys

from services.replica import traced
from services.replica.nbd import frontend

PROGRAM = ("-m", "tests.support.follow_all")
"""What stands between the interpreter and a member's own arguments."""


def main() -> None:
    frontend.ONE_IN = traced.ONE_IN = 1
    traced.APART_NS = 0
    # From here on it is a process like any other.
    sys.argv[0] = "stos"
    from services.cli.main import main as stos

    stos()


if __name__ == "__main__":
    main()
