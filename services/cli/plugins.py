"""`stos plugins`: everything that can be exchanged, and where it comes from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from services.cli.output import Format, Output, command_group, table, write, write_as
from stoscore import plugins
from stoscore.errors import invalid

app = command_group()


@app.command("plugins")
def listing(
    group: Annotated[str | None, typer.Option(help="only this group, such as placement_policies")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List the plugins: their group, name, origin and code. None of them is loaded for it.

    \b
    A package adds one by an entry point in its pyproject.toml:
      [project.entry-points."stos.placement_policies"]
      cheapest = "my_package.cheapest:policy"

    \b
      stos plugins
      stos plugins --group services -o json
    """
    found = plugins.listing()
    if group is not None:
        wanted = group if group.startswith("stos.") else f"stos.{group}"
        if wanted not in plugins.GROUPS:
            raise invalid(f"there is no plugin group {group!r}", f"groups: {', '.join(plugins.GROUPS)}")
        found = [plugin for plugin in found if plugin.group == wanted]
    if output is not Format.TABLE:
        write_as(output, [asdict(plugin) for plugin in found])
        return
    rows = [(plugin.group, plugin.name, plugin.origin, plugin.target) for plugin in found]
    write(table(("GROUP", "NAME", "ORIGIN", "CODE"), rows))
