"""The NATS subjects, version 1 (see docs/subjects.md for who answers and who may publish)."""

from __future__ import annotations

PREFIX = "stos.v1"
BID = f"{PREFIX}.bid"
CATALOGUE_BUCKET = "stos-catalogue"
EVENTS_STREAM = "stos-events"


def node(node_id: str, verb: str) -> str:
    """Answered by that node's replica service: create, found, remove, describe, status, open, close."""
    return f"{PREFIX}.node.{node_id}.{verb}"


def volume(node_id: str, volume_id: str, verb: str) -> str:
    """Answered by that node if it is the volume's primary, else NOT_PRIMARY with a hint:
    describe, attach, detach, delete, move, policy."""
    return f"{PREFIX}.node.{node_id}.vol.{volume_id}.{verb}"


def brain(volume_id: str, sender: str) -> str:
    """The volume's brains listen; only `sender` (a node id) may publish."""
    return f"{PREFIX}.vol.{volume_id}.brain.{sender}"


def pair(target: str, sender: str) -> str:
    """Beats and promises between two nodes whose link is down; only `target` may listen, only `sender` publish."""
    return f"{PREFIX}.pair.{target}.beat.{sender}"


def placement(verb: str) -> str:
    return f"{PREFIX}.placement.{verb}"


def certs(verb: str) -> str:
    return f"{PREFIX}.certs.{verb}"


def event(node_id: str, kind: str) -> str:
    return f"{PREFIX}.events.{node_id}.{kind}"
