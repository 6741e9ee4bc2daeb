"""Where the other nodes' peer links listen: from the catalogue, and from this node's own disk without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from stoscore.messages import NodeEntry
from stoscore.telemetry import get_logger

log = get_logger("addresses")
FILE = "nodes.json"


class Addresses:
    """Node -> host:port, the last known."""

    def __init__(self, directory: Path):
        self._file = directory / FILE
        self._entries: dict[str, NodeEntry] = {}
        self.on_change: Callable[[], None] = lambda: None

    def load(self) -> None:
        """What was known when the process ended; a file that can't be read is not missed for long."""
        try:
            items = json.loads(self._file.read_text())
            self._entries = {item["node"]: NodeEntry.model_validate(item) for item in items}
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            log.warning("the known nodes can't be read and are asked for again: %s", error)

    def learn(self, entry: NodeEntry) -> None:
        if self._entries.get(entry.node) == entry:
            return
        self._entries[entry.node] = entry
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps([known.model_dump() for known in self._entries.values()]))
        temporary.replace(self._file)
        self.on_change()

    def of(self, node: str) -> str | None:
        entry = self._entries.get(node)
        return entry.address if entry else None
