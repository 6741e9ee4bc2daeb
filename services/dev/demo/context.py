"""What the steps of the demonstration share, and the one way in which a step gives up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from services.dev.cluster import Cluster
from services.dev.demo.csi import CsiClient
from services.dev.demo.summary import Findings
from services.dev.demo.tools import Command
from services.dev.demo.view import View
from services.dev.demo.watch import Watch


class DemoFailed(Exception):
    """A step could not be done, so the later ones make no sense. The message goes into the table."""


@dataclass(frozen=True, slots=True)
class Context:
    """The running cluster, the ways to talk to it, and where the story is told."""

    cluster: Cluster
    command: Command
    csi: CsiClient
    watch: Watch
    view: View
    findings: Findings


@dataclass(frozen=True, slots=True)
class DemoVolume:
    """One volume that was made and attached through CSI."""

    name: str
    volume: Any
    """csi.v1.Volume"""
    capability: Any
    context: dict[str, str]
    """The publish context, for the node service."""

    @property
    def volume_id(self) -> str:
        return str(self.volume.volume_id)
