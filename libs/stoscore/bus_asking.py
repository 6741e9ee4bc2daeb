"""The asking side of the bus: what waits for answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from stoscore.errors import StosError
from stoscore.nats_session import Msg, Session


class Pending:
    """One request, or one scatter, that waits for answers."""

    __slots__ = ("answers", "done", "enough", "session", "subject")

    def __init__(self, subject: str, enough: int | None, session: Session):
        self.subject = subject
        self.enough = enough
        self.session = session
        self.answers: list[Any] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, error: StosError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def answered(self, data: Any) -> None:
        self.answers.append(data)
        if self.enough is not None and len(self.answers) >= self.enough and not self.done.done():
            self.done.set_result(None)


class Collector(Pending):
    """Waits for raw messages, up to one that ends the row."""

    __slots__ = ("_until",)

    def __init__(self, subject: str, enough: int | None, session: Session, until: Callable[[Msg], bool] | None):
        super().__init__(subject, enough, session)
        self._until = until

    def answered(self, data: Any) -> None:
        super().answered(data)
        if self._until is not None and self._until(data) and not self.done.done():
            self.done.set_result(None)
