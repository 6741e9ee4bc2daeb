"""The embedded cluster with other settings of its members."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from services.dev.cluster import Cluster
from services.dev.members import Member
from services.dev.readiness import Starting


class SetCluster(Cluster):
    """`settings`: for whoever is started from now on."""

    def __init__(self, root: Path, settings: dict[str, str]):
        super().__init__(root)
        self.settings = settings

    def _spawn(self, member: Member) -> Starting:
        return super()._spawn(replace(member, settings={**member.settings, **self.settings}))
