"""Plugins: everything that can be exchanged is found through entry points, behind one small contract.

| group | contract |
|---|---|
| stos.services | `stoscore.host.Service` |
| stos.placement_policies | `services.placement.policies.Policy` |
| stos.block_stores | `services.replica.store.StoreFactory` |
| stos.attachers | `services.csi.attachers.Attacher` |
| stos.attestors | `services.certs.attestors.Attestor` |
| stos.vaults | `services.certs.vault.VaultFactory` |
| stos.commands | a `typer.Typer` |
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from stoscore.errors import Code, StosError

GROUPS = (
    "stos.services",
    "stos.placement_policies",
    "stos.block_stores",
    "stos.attachers",
    "stos.attestors",
    "stos.vaults",
    "stos.commands",
)


@dataclass(frozen=True, slots=True)
class Plugin:
    """One registered plugin: its group, its name, where it comes from."""

    group: str
    name: str
    target: str
    """module:attribute"""
    origin: str
    """distribution and version that registered it"""


def _describe(point: EntryPoint) -> Plugin:
    dist = point.dist
    origin = f"{dist.name} {dist.version}" if dist else "unknown"
    return Plugin(point.group, point.name, point.value, origin)


def listing() -> list[Plugin]:
    """All plugins of all groups, sorted by group and name. Loads no plugin's code."""
    found = [_describe(point) for group in GROUPS for point in entry_points(group=group)]
    return sorted(set(found), key=lambda plugin: (plugin.group, plugin.name, plugin.origin))


def load(group: str, name: str) -> Any:
    """The object behind one entry point. Raises StosError NOT_FOUND naming what there is."""
    points = {point.name: point for point in entry_points(group=group)}
    if name not in points:
        raise StosError(
            Code.NOT_FOUND,
            f"no plugin {name!r} in group {group}",
            next_step=f"installed: {', '.join(sorted(points)) or 'none'}; see `stos plugins`",
        )
    return points[name].load()


def load_all(group: str) -> dict[str, Any]:
    """Every plugin of a group, by name, sorted."""
    return {point.name: point.load() for point in sorted(entry_points(group=group), key=lambda p: p.name)}
