"""What the embedded cluster starts, with which settings, in which order; where it puts things."""

from __future__ import annotations

from pathlib import Path

from services.dev.layout import APP, SOCKET_PATH_BYTES_MAX, Layout, copy_nodes
from services.dev.members import members, port_names, select
from services.dev.state import ClusterState
from stoscore.limits import valid_node_name

LAYOUT = Layout(Path("/c"))
NODES = tuple(copy_nodes(3))
STATE = ClusterState(
    nodes=NODES,
    nats_urls=("tls://127.0.0.1:11000",),
    user_identity_dir="identities/admin",
    ports={name: 11000 + index for index, name in enumerate(port_names(NODES))},
)


def test_everything_is_there_and_in_order() -> None:
    found = members(LAYOUT, STATE)
    assert [member.process for member in found] == [
        *("certs-1", "certs-2", "nats", "placement-1", "placement-2", "n1", "n2", "n3", "app"),
        *("csi-controller", "csi-node"),
    ]
    stages = [member.stage for member in found]
    assert stages == sorted(stages)
    assert stages[:4] == [0, 0, 1, 2]


def test_every_process_has_an_identity_directory_of_its_own() -> None:
    directories = [m.settings["STOS_IDENTITY_DIR"] for m in members(LAYOUT, STATE) if m.settings]
    assert len(set(directories)) == len(directories) == 11


def test_every_listener_has_a_port_of_its_own() -> None:
    assert set(STATE.ports) == {"nats", "certs-1", "certs-2", "app", "n1", "n2", "n3"}
    assert len(set(STATE.ports.values())) == len(STATE.ports)


def test_only_the_applications_node_takes_no_copies() -> None:
    takes = {
        member.process: member.settings["STOS_REPLICA_ACCEPTS_COPIES"]
        for member in members(LAYOUT, STATE)
        if member.kind == "node"
    }
    assert takes == {"n1": "true", "n2": "true", "n3": "true", APP: "false"}


def test_no_secret_is_in_an_environment() -> None:
    for member in members(LAYOUT, STATE):
        assert all("SEED" not in name and "KEY" not in name for name in member.settings)
        assert member.settings.get("STOS_JOIN_TOKEN_FILE", "/c/").startswith("/c/")


def test_selection_by_process_group_and_node() -> None:
    found = members(LAYOUT, STATE)
    assert [member.process for member in select(found, "n2")] == ["n2"]
    assert [member.process for member in select(found, "placement")] == ["placement-1", "placement-2"]
    assert [member.process for member in select(found, "placement-2")] == ["placement-2"]
    assert [member.process for member in select(found, "csi")] == ["csi-controller", "csi-node"]
    assert select(found, "n9") == []


def test_node_names_are_valid() -> None:
    assert all(valid_node_name(node) for node in (*copy_nodes(16), APP))


def test_sockets_stay_below_the_kernels_limit_however_deep_the_directory() -> None:
    for layout in (LAYOUT, Layout(Path("/" + "/".join(["directory"] * 30)))):
        longest = layout.socket_directory("csi-controller") / f"{'0' * 32}.sock"
        assert len(bytes(longest)) <= SOCKET_PATH_BYTES_MAX
    assert LAYOUT.run == Path("/c/run")


def test_two_deep_directories_do_not_share_their_sockets() -> None:
    deep = Path("/" + "x" * 100)
    assert Layout(deep / "a").run != Layout(deep / "b").run
