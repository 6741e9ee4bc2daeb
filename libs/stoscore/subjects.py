"""The NATS subjects, version 1 (see docs/subjects.md for who answers and who may publish)."""

from __future__ import annotations

PREFIX = "stos.v1"
BID = f"{PREFIX}.bid"
CATALOGUE_BUCKET = "stos-catalogue"
NODE_KEYS = f"$KV.{CATALOGUE_BUCKET}.node"
"""Below it svc/nats publishes every change of a node's address, `NODE_KEYS.<node>`."""
EVENTS = f"{PREFIX}.events"
EVENTS_STREAM = "stos-events"
AUDIT_STREAM = "stos-audit"
DECISION, AUDIT = "decision", "audit"
"""The kinds of events."""


def node(node_id: str, verb: str) -> str:
    """Answered by that node's replica service: create, found, remove, describe, describe-all, attached,
    status, open, close."""
    return f"{PREFIX}.node.{node_id}.{verb}"


def volume(node_id: str, volume_id: str, verb: str) -> str:
    """Answered by that node if it is the volume's primary, else NOT_PRIMARY with a hint:
    describe, attach, detach, delete, move, policy, expand."""
    return f"{PREFIX}.node.{node_id}.vol.{volume_id}.{verb}"


def brain(volume_id: str, sender: str) -> str:
    """The volume's brains listen; only `sender` (a node id) may publish."""
    return f"{PREFIX}.vol.{volume_id}.brain.{sender}"


def pair(target: str, sender: str) -> str:
    """Beats and promises between two nodes whose link is down; only `target` may listen, only `sender` publish."""
    return f"{PREFIX}.pair.{target}.beat.{sender}"


def csi_node(node_id: str, verb: str) -> str:
    """Answered by the csi service that mounts on that node: freeze, thaw."""
    return f"{PREFIX}.csi.{node_id}.{verb}"


def placement(verb: str) -> str:
    return f"{PREFIX}.placement.{verb}"


def catalogue(verb: str) -> str:
    return f"{PREFIX}.catalogue.{verb}"


def history(verb: str) -> str:
    return f"{PREFIX}.history.{verb}"


def certs(verb: str) -> str:
    """Requests to certs. certs itself publishes the trust state on `certs("trust")`, without an answer."""
    return f"{PREFIX}.certs.{verb}"


def observe(role: str, verb: str) -> str:
    """Answered by every process of that role, each for itself: traces, spans, metrics."""
    return f"{PREFIX}.observe.{role}.{verb}"


def reporter(kind: str, name: str) -> str:
    """The word that stands for an identity in the subjects of its events: a node's name, or svc:<name>. No node is
    called like a service: its name has no colon."""
    return name if kind == "node" else f"{kind}:{name}"


def event(reporter: str, kind: str) -> str:
    """Only that reporter may publish; `kind` is DECISION (nodes) or AUDIT."""
    return f"{EVENTS}.{reporter}.{kind}"
