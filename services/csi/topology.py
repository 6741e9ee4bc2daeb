"""Where copies may be and where they are wanted, in the words of Kubernetes' topology.

A node tells two segments: its zone, where it has one, and itself. A volume can be used on every node, wherever its
copies are, so none is told for a volume. A requirement that names a node is one node's own topology, as the scheduler
passes it on: it asks where the volume can be used, and needs no answer. One that names a zone alone was written by
somebody (`allowedTopologies`) and limits the copies to that zone. What is preferred is a wish: the node that is named
first gets a copy, if the class asks for locality.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from stoscore.errors import invalid
from stoscore.limits import valid_node_name
from stoscore.proto import csi_pb2 as pb

ZONE_KEY = "topology.stos.dev/zone"
NODE_KEY = "topology.stos.dev/node"
ZONES_MAX = 64
_ZONE = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?", re.ASCII)
"""As the value of a Kubernetes label, which is how a zone travels."""


def segments(node: str, zone: str) -> dict[str, str]:
    return {NODE_KEY: node, **({ZONE_KEY: zone} if zone else {})}


def zones(requisite: Iterable[pb.Topology]) -> tuple[str, ...]:
    """The zones that copies may be placed in; empty for all. Raises INVALID_ARGUMENT."""
    asked = [_checked(topology) for topology in requisite]
    allowed = {"" if NODE_KEY in found else found.get(ZONE_KEY, "") for found in asked}
    if len(allowed) > ZONES_MAX:
        raise invalid(f"{len(allowed)} zones are too many", next_step=f"name up to {ZONES_MAX}, or none for all")
    return () if "" in allowed else tuple(sorted(allowed))


def near(preferred: Iterable[pb.Topology]) -> str | None:
    """The node that a copy is wanted on. Raises INVALID_ARGUMENT."""
    wished = [_checked(topology).get(NODE_KEY) for topology in preferred]
    return wished[0] if wished else None


def _checked(topology: pb.Topology) -> dict[str, str]:
    found = dict(topology.segments)
    unknown = sorted(set(found) - {ZONE_KEY, NODE_KEY})
    if unknown:
        raise invalid(f"unknown topology key {unknown[0][:64]!r}", next_step=f"known: {ZONE_KEY}, {NODE_KEY}")
    if ZONE_KEY in found and not _ZONE.fullmatch(found[ZONE_KEY]):
        raise invalid(f"{found[ZONE_KEY][:64]!r} is no possible zone", next_step="use 1 to 63 letters, digits, '-_.'")
    if NODE_KEY in found and not valid_node_name(found[NODE_KEY]):
        raise invalid(f"{found[NODE_KEY][:64]!r} is no possible node", next_step="see `stos node ls`")
    return found
