"""The settings of the csi service: what they mean, and which stop it."""

from __future__ import annotations

import pytest

from services.csi.settings import CsiSettings
from stoscore.errors import Code, StosError
from stoscore.settings import load


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> CsiSettings:
    for name, value in variables.items():
        monkeypatch.setenv(f"STOS_CSI_{name}", value)
    return load(CsiSettings, "csi")


def test_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    both = settings(monkeypatch, NODE="n1")
    assert (both.serves_controller, both.serves_node) == (True, True)
    assert both.attachers == ["fuse", "kernel-nbd"]
    controller = settings(monkeypatch, MODE="controller", NODE="")
    assert (controller.serves_controller, controller.serves_node) == (True, False)
    node = settings(monkeypatch, MODE="node", NODE="n1", ATTACHERS="kernel-nbd")
    assert (node.serves_controller, node.serves_node) == (False, True)
    assert node.attachers == ["kernel-nbd"]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"NODE": "N1"},
        {"NODE": "n1", "MODE": "both"},
        {"NODE": "n1", "NODE_SOCKET": "relative.sock"},
        {"NODE": "n1", "NODE_SOCKET": "/run/" + "x" * 108},
        {"NODE": "n1", "NODE_SOCKET": "/run/a", "CONTROLLER_SOCKET": "/run/a"},
        {"NODE": "n1", "STATE_DIR": "relative"},
        {"NODE": "n1", "FORMAT_TIMEOUT_S": "0"},
        {"NODE": "n1", "ATTACHERS": ","},
        {"NODE": "n1", "NODES": "n2"},
    ],
)
def test_impossible_settings(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    with pytest.raises(StosError) as caught:
        settings(monkeypatch, **variables)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "\n" not in caught.value.message
