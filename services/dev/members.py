"""The processes of an embedded cluster: what is started, with which settings, in which order.

Everything is decided here from the layout and the state; nothing is started. A process gets its settings by
environment only, and no secret is among them: a join token is a file that only its owner can read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from services.dev.layout import APP, CERTS, Layout
from services.dev.ports import HOST
from services.dev.state import ClusterState
from stoscore.units import GIB

CLUSTER_NAME = "dev"
"""certs adds random letters, so the identities of two directories are never of one cluster."""
PLACEMENTS = ("placement-1", "placement-2")
CSI_PARTS = ("controller", "node")
NODE_CAPACITY_BYTES = 64 * GIB
"""What each node offers. Thin, so it may be more than the disk has."""

PASSED_ON = (
    "STOS_LOG_LEVEL",
    "STOS_OTEL_EXPORTER",
    "STOS_OTEL_ENDPOINT",
    "STOS_REPLICA_GRACE_S",
    "STOS_REPLICA_RECOVERY_MIB_S",
)
"""Settings of `stos dev up` itself that all processes of the cluster get as well."""

_ALLOCATOR = {
    # glibc maps and unmaps each buffer above 128 KiB otherwise: a quarter of the CPU of 1 MiB requests.
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "536870912",
    "MALLOC_TOP_PAD_": "16777216",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One process. `kind` and `name` are its identity's."""

    process: str
    group: str
    """What `stos dev kill GROUP` names: certs, nats, placement, csi, or the node itself."""
    stage: int
    """Members of a stage are started together, when all of the stage before are ready."""
    kind: str
    name: str
    argv: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)


def members(layout: Layout, state: ClusterState) -> list[Member]:
    """All processes, in the order of their start."""
    return [
        *(_certs(layout, state, name) for name in CERTS),
        _nats(layout, state),
        *(_placement(layout, state, name) for name in PLACEMENTS),
        *(_replica(layout, state, node) for node in state.nodes),
        _replica(layout, state, APP),
        *(_csi(layout, state, part) for part in CSI_PARTS),
    ]


def select(members: list[Member], name: str) -> list[Member]:
    """The process with that name, else all of that group; empty when there is none."""
    return [member for member in members if member.process == name] or [
        member for member in members if member.group == name
    ]


def port_names(nodes: tuple[str, ...]) -> Iterator[str]:
    """Everything that listens on TCP."""
    yield from ("nats", *CERTS, APP, *nodes)


def common_settings(layout: Layout, state: ClusterState, process: str) -> dict[str, str]:
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {
        "STOS_IDENTITY_DIR": str(layout.identity(process)),
        "STOS_JOIN_TOKEN_FILE": str(layout.token(process)),
        "STOS_NATS_URLS": ",".join(state.nats_urls),
    }


def _serve(service: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "services.cli.main", "serve", service)


def _certs(layout: Layout, state: ClusterState, name: str) -> Member:
    settings = common_settings(layout, state, name) | {
        "STOS_CERTS_NAME": name,
        "STOS_CERTS_CLUSTER": CLUSTER_NAME,
        "STOS_CERTS_DATA_DIR": str(layout.certs),
        "STOS_CERTS_HOST": HOST,
        "STOS_CERTS_PORT": str(state.ports[name]),
        "STOS_CERTS_ADVERTISE": ",".join(f"{HOST}:{state.ports[instance]}" for instance in CERTS),
        "STOS_CERTS_ADMIN_SOCKET": str(layout.certs_socket(name)),
    }
    return Member(name, "certs", 0, "svc", name, _serve("certs"), settings)


def _nats(layout: Layout, state: ClusterState) -> Member:
    settings = common_settings(layout, state, "nats") | {
        "STOS_NATS_SERVER_DATA_DIR": str(layout.nats),
        "STOS_NATS_SERVER_HOST": HOST,
        "STOS_NATS_SERVER_PORT": str(state.ports["nats"]),
    }
    return Member("nats", "nats", 1, "svc", "nats", _serve("nats"), settings)


def _placement(layout: Layout, state: ClusterState, process: str) -> Member:
    settings = common_settings(layout, state, process)
    return Member(process, "placement", 2, "svc", process, _serve("placement"), settings)


def _replica(layout: Layout, state: ClusterState, node: str) -> Member:
    settings = common_settings(layout, state, node) | {
        "STOS_REPLICA_NODE": node,
        "STOS_REPLICA_ZONE": f"zone-{node}",
        "STOS_REPLICA_DATA_DIR": str(layout.data(node)),
        "STOS_REPLICA_RUN_DIR": str(layout.socket_directory(node)),
        "STOS_REPLICA_LISTEN": f"{HOST}:{state.ports[node]}",
        "STOS_REPLICA_ACCEPTS_COPIES": "false" if node == APP else "true",
        "STOS_REPLICA_CAPACITY_BYTES": str(NODE_CAPACITY_BYTES),
    }
    return Member(node, node, 2, "node", node, _serve("replica"), settings | _ALLOCATOR)


def _csi(layout: Layout, state: ClusterState, part: str) -> Member:
    process = f"csi-{part}"
    settings = common_settings(layout, state, process) | {
        "STOS_CSI_MODE": part,
        "STOS_CSI_NODE": APP,
        "STOS_CSI_ZONE": f"zone-{APP}",
        "STOS_CSI_CONTROLLER_SOCKET": str(layout.csi_socket("controller")),
        "STOS_CSI_NODE_SOCKET": str(layout.csi_socket("node")),
        "STOS_CSI_STATE_DIR": str(layout.csi),
    }
    return Member(process, "csi", 2, "svc", process, _serve("csi"), settings)
