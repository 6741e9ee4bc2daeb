"""The asking side of the bus: what waits for answers, and which answers count.

An answer arrives on `<inbox>.<token>.by.<role>.<name>`, where the server has proved the last two words: one of
somebody else than who answers that subject is dropped. JetStream and the server itself ("nobody listens") answer
on `<inbox>.<token>`, where no client may publish.
"""

from __future__ import annotations

import asyncio

from stoscore.access import Caller, may_answer, rule_for
from stoscore.errors import Code, StosError
from stoscore.nats_session import STATUS, Msg, Session
from stoscore.telemetry import get_logger

NO_RESPONDERS = "503"

log = get_logger("bus")


class Pending:
    """One request, or one scatter, that waits for answers."""

    __slots__ = ("_rule", "answers", "done", "enough", "failure", "session", "subject")

    def __init__(self, subject: str, enough: int | None, session: Session):
        self.subject = subject
        """without the asker's name"""
        self.enough = enough
        self.session = session
        self.answers: dict[Caller | None, Msg] = {}
        """One of each who answers: a node that answers a scatter twice is heard once."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failure: StosError | None = None
        """Why there is no answer, when `done`. No exception of the future: an asker who is cancelled in that very
        moment never looks, and asyncio would write about it on the terminal of whoever pressed Ctrl-C."""
        self._rule = rule_for(subject)

    def fail(self, error: StosError) -> None:
        if not self.done.done():
            self.failure = error
            self.done.set_result(None)

    def arrived(self, msg: Msg, sender: Caller | None) -> None:
        if sender is None and not msg.data and msg.headers.get(STATUS) == NO_RESPONDERS:
            self.fail(
                StosError(
                    Code.UNAVAILABLE,
                    f"nobody answers {self.subject}",
                    next_step="is that service running?",
                    details={"no_responders": True},
                )
            )
            return
        if not self._counts(sender):
            log.warning("dropped an answer in another's name", extra={"subject": self.subject, "sender": str(sender)})
            return
        self.answers.setdefault(sender, msg)
        if self.enough is not None and len(self.answers) >= self.enough and not self.done.done():
            self.done.set_result(None)

    def _counts(self, sender: Caller | None) -> bool:
        if self._rule is None or sender is None:
            return self._rule is None and sender is None
        return may_answer(self.subject, self._rule, sender)

    def first(self) -> Msg:
        return next(iter(self.answers.values()))
