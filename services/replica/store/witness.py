"""A witness: a voter's identity and hard state, and no data."""

from __future__ import annotations

from pathlib import Path

from services.replica.store.files import make_witness, open_state
from services.replica.store.format import Format, read_format
from services.replica.store.port import FormatError
from services.replica.store.state import StateFile


class WitnessStore:
    """An open witness directory: `format.json` and `state`."""

    __slots__ = ("_closing", "_state", "directory", "format")

    def __init__(self, directory: Path, format: Format) -> None:
        """Use `create` or `open`."""
        self.directory = directory
        self.format = format
        fd, self._closing = open_state(directory)
        self._state = StateFile(fd, str(directory / "state"))

    @classmethod
    def create(cls, directory: Path, format: Format) -> WitnessStore:
        """A new witness, durable and open. Raises StoreError and leaves nothing half made."""
        make_witness(directory, format)
        return cls.open(directory, cluster=format.cluster)

    @classmethod
    def open(cls, directory: Path, *, cluster: str, volume: str | None = None) -> WitnessStore:
        """Raises FormatError (foreign, newer, torn) and StoreError (in use, not writable)."""
        format = read_format(directory, cluster=cluster, volume=volume)
        if format.kind != "witness":
            raise FormatError(f"{directory} is a {format.kind} replica of volume {format.volume}, no witness")
        witness = cls(directory, format)
        try:
            witness._state.open()
        except BaseException:
            witness.close()
            raise
        return witness

    def save_state(self, state: bytes) -> None:
        """Durable when it returns. Worker thread. Raises StoreError."""
        self._state.save(state)

    def load_state(self) -> bytes | None:
        """None in a directory that never had one."""
        return self._state.load()

    def close(self) -> None:
        """Idempotent. What was saved is durable already."""
        self._closing.close()
