"""A frontend's core with a session, for the tests of it."""

from __future__ import annotations

from services.replica.replication.frontend import Effect, FrontendCore, LinkUp, Opened, SendOpen


def serving(*, takes_many: bool = True) -> FrontendCore:
    """Of two nodes; n1 serves in epoch 1."""
    core = FrontendCore(("n1", "n2"))
    opened(core, "n1", 1, takes_many=takes_many)
    return core


def opened(core: FrontendCore, node: str, epoch: int, *, takes_many: bool = True) -> list[Effect]:
    """Its link comes up, and it grants the session that it is asked for."""
    (asked,) = core.step(LinkUp(node), 0)
    assert isinstance(asked, SendOpen)
    return core.step(Opened(node, asked.session, epoch, 1 << 20, takes_many), 0)
