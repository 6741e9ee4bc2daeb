"""Which frontend connection the primary serves: one session at a time, of the one attachment (invariant 5, W2).

    OPEN session 7 --> everything older is settled first --> OPENED 7; from then on session 6 is refused, reads too

*The frontend restarts, re-sends w1, writes w2 to the same block; the old copy of w1, still in the old socket, is
applied.* So a session is opened only when no write is on its way any more.
"""

from __future__ import annotations

from services.replica.replication.effects import Answer, Effect
from services.replica.replication.messages import Opened, OpenRefused, Refusal


class Sessions:
    """The attachment as the record names it, and the newest session of it."""

    def __init__(self, attached_node: str | None, attach_epoch: int):
        self.attached_node = attached_node
        self.attach_epoch = attach_epoch
        self.session: int | None = None
        self.link: int | None = None
        self.opening: tuple[int, int] | None = None
        """(link, session) that waits until everything older is settled."""

    def ask(self, link: int, node: str, session: int, attach_epoch: int, *, serving: bool) -> list[Effect]:
        """A frontend asks for a session; it is `opening` afterwards unless an answer says no."""
        if not serving or attach_epoch > self.attach_epoch:
            # It may be us who are behind: only a serving primary that knows a newer attachment fences.
            return [Answer(link, OpenRefused(session, Refusal.NOT_READY))]
        if node != self.attached_node or attach_epoch < self.attach_epoch:
            return [Answer(link, OpenRefused(session, Refusal.FENCED))]
        newest = max(self.session or 0, self.opening[1] if self.opening else 0)
        if session <= newest:
            return [Answer(link, OpenRefused(session, Refusal.NOT_READY, newest=newest))] if session < newest else []
        self.session, self.link = None, None
        self.opening = (link, session)
        return []

    def is_open(self, link: int, session: int, attach_epoch: int) -> bool:
        """This is the session that was opened, on that link and under the attachment of the record."""
        return session == self.session and link == self.link and attach_epoch == self.attach_epoch

    def open(self) -> list[Effect]:
        """Everything older is settled."""
        if self.opening is None:
            return []
        self.link, self.session = self.opening
        self.opening = None
        return [Answer(self.link, Opened(self.session))]

    def attach(self, node: str | None, attach_epoch: int) -> bool:
        """The record names this attachment; True when it is another one: older sessions end."""
        if (node, attach_epoch) == (self.attached_node, self.attach_epoch):
            return False
        self.attached_node, self.attach_epoch = node, attach_epoch
        self.session, self.link, self.opening = None, None, None
        return True

    def send_on(self, hint: str = "") -> list[Effect]:
        """We serve no more: whoever has or awaits a session looks for the next primary, on the node `hint` first."""
        return self._end(Refusal.NOT_PRIMARY, hint)

    def begin_again(self) -> list[Effect]:
        """Whoever has or awaits a session opens another one here and sends again what was not answered."""
        ended = self._end(Refusal.NOT_READY, "")
        self.session, self.link, self.opening = None, None, None
        return ended

    def _end(self, code: Refusal, hint: str) -> list[Effect]:
        return [
            Answer(link, OpenRefused(session, code, hint))
            for link, session in ((self.link, self.session), self.opening or (None, None))
            if link is not None and session is not None
        ]
