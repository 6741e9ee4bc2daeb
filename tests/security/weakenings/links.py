"""Who may say what about a volume."""

from __future__ import annotations

from typing import Any

from tests.security.weakenings import weakening


@weakening
def serve_any_session() -> None:
    """A volume is read and written by whoever opens a session."""
    from services.replica import permits
    from services.replica.replication.sessions import Sessions

    original = Sessions.ask

    def ask_for_anybody(self: Sessions, link: int, node: str, session: int, attach_epoch: int, *, serving: bool) -> Any:
        self.attached_node, self.attach_epoch = node, attach_epoch
        return original(self, link, node, session, attach_epoch, serving=serving)

    permits.knows = lambda *_, **__: True  # type: ignore[assignment]
    Sessions.ask = ask_for_anybody  # type: ignore[method-assign]


@weakening
def believe_any_member() -> None:
    """Data between copies is believed whoever sends it."""
    from services.replica import permits

    permits.data = lambda *_, **__: ""  # type: ignore[assignment]
    permits.lead = lambda *_, **__: ""  # type: ignore[assignment]


@weakening
def follow_anybody() -> None:
    """A copy joins whoever says that it leads."""
    from services.replica.driver.node import Node
    from services.replica.replication.messages import Join

    original = Node.to_replica

    def follow(self: Node, volume_id: str, link: int, node: str, epoch: int, message: Any, now_ns: int) -> None:
        volume = self.volumes.get(volume_id)
        if volume is None or volume.replica is None or not isinstance(message, Join):
            original(self, volume_id, link, node, epoch, message, now_ns)
        else:
            self._data(volume, volume.replica.join(link, message, epoch, self._share_of(volume_id)), now_ns)

    Node.to_replica = follow  # type: ignore[method-assign]


@weakening
def hear_any_brain() -> None:
    """A brain's message counts for what it says, whoever sent it."""
    from services.replica.brain import messages
    from services.replica.handlers import Handlers

    def hear(self: Handlers, peer: str, volume_id: str, raw: Any, now_ns: int) -> None:
        self._node.brain_message(messages.decode(raw), now_ns)

    Handlers.brain = hear  # type: ignore[method-assign]


@weakening
def go_back() -> None:
    """A proposal is stored however old it is."""
    from services.replica.brain.following import Following

    original = Following.propose

    def propose(self: Following, message: Any, now_ns: int) -> None:
        local = self._local
        stored = local.state.slot
        if local.role != "leader" and stored is not None and message.slot.stamp < stored.stamp:
            local.store(message.slot)
        else:
            original(self, message, now_ns)

    Following.propose = propose  # type: ignore[method-assign]


@weakening
def let_links_take_their_time() -> None:
    """What came over a link is handled at once, however much it is, and is never charged."""
    from services.replica.peers import link

    endless = 1 << 62
    link.TURN_NS = endless  # type: ignore[misc]
    link.SLICE_FRAMES = endless  # type: ignore[misc]
    link.SLICE_BYTES = endless  # type: ignore[misc]
    link.ANSWERS_BYTES_MAX = endless  # type: ignore[misc]
    link.Link.charge = lambda self, cost=1: None  # type: ignore[method-assign,misc,assignment]


@weakening
def hear_who_shouts() -> None:
    """What comes over the bus is handled as it comes, whoever sends how much."""
    from services.replica import by_bus
    from stoscore.turns import Shares, Turns

    endless = 1 << 62
    by_bus.TURN_NS = endless  # type: ignore[misc]
    by_bus.WAITING_BYTES_MAX = endless  # type: ignore[misc]
    by_bus.Turns = lambda _: Turns(Shares(1, 1, endless, endless))  # type: ignore[misc,assignment]
    by_bus.ByBus._has_room = lambda self, sender, known: True  # type: ignore[method-assign]
