"""A volume's entry in the catalogue, by its id or, where people type it, by its name."""

from __future__ import annotations

from stoscore.catalogue import Catalogue
from stoscore.errors import precondition
from stoscore.limits import valid_volume_id
from stoscore.messages import CatalogueEntry
from stoscore.volumes.deadline import Deadline, retry
from stoscore.volumes.naming import check_name


async def find_entry(catalogue: Catalogue, name_or_id: str, deadline: Deadline) -> CatalogueEntry:
    """Raises NOT_FOUND, INVALID_ARGUMENT."""
    if valid_volume_id(name_or_id):
        return await retry(deadline, lambda _: catalogue.by_id(name_or_id))
    check_name(name_or_id)
    return await retry(deadline, lambda _: catalogue.by_name(name_or_id))


async def find_ready(catalogue: Catalogue, name_or_id: str, deadline: Deadline) -> CatalogueEntry:
    """Of a volume that can be used. Raises FAILED_PRECONDITION too."""
    entry = await find_entry(catalogue, name_or_id, deadline)
    if entry.state == "creating":
        raise precondition(
            f"volume {entry.name} is not complete yet",
            "repeat its create command, which goes on where it stopped",
        )
    if entry.state == "deleting":
        raise precondition(f"volume {entry.name} is being deleted", "use another volume")
    return entry
