"""How a bug is planted: a context in which some of the production code is replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

Patch = AbstractContextManager[Any]
Plant = Callable[[], Patch]


@contextmanager
def both(*patches: Patch) -> Iterator[None]:
    """All of them, taken back together."""
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield
