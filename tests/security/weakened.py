"""A member of the cluster with one defence taken out: `python -m tests.security.weakened NAME -- serve replica`."""

from __future__ import annotations

import sys

from tests.security import weakenings


def program(name: str) -> tuple[str, ...]:
    """What stands between the interpreter and a member's own arguments."""
    return ("-m", "tests.security.weakened", name, "--")


def main() -> None:
    what, separator, *arguments = sys.argv[1:]
    assert separator == "--"
    for name in what.split("+"):
        weakenings.known()[name]()
    # From here on it is a process like any other.
    sys.argv = ["stos", *arguments]
    from services.cli.main import main as stos

    stos()


if __name__ == "__main__":
    main()
