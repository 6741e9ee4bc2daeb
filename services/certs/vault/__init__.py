"""Where certs keeps what it must not lose: named entries, each replaced by compare-and-set.

Several instances of certs work on one vault at the same time and any of them may be killed at any moment.
There is no leader and no lock that outlives an operation. Instead every entry has a *revision*, and a change
names the revision that it was made from: of two changes from one revision exactly one is stored, and the
other one is told (`Conflict`), looks again and decides anew (`change`). So a join token can't be used twice
however many instances are asked at once, and a rotation goes on from wherever the last instance died.

A vault is a plugin of the group `stos.vaults`. Its calls block; the service makes them in threads. Private
keys reach a vault sealed (`sealing`), everything else as it is.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stoscore import plugins
from stoscore.errors import Code, StosError

if TYPE_CHECKING:
    from services.certs.settings import CertsSettings

NEW = ""
"""The revision of an entry that is not there."""
ENTRY_BYTES_MAX = 512 * 1024
"""A Secret of Kubernetes holds 1 MiB, as base64."""
CONFLICTS_MAX = 64
CONFLICT_WAIT_S = 0.02

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,62})(/[a-z0-9]([-a-z0-9]{0,62})){0,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it was read."""

    name: str
    data: bytes
    revision: str
    """opaque; another one after every change, never used again"""


class Conflict(StosError):
    """The entry is not what the change was made from any more."""

    def __init__(self, name: str) -> None:
        super().__init__(Code.ABORTED, f"{name} was changed by another instance", next_step="try again")


class Vault(Protocol):
    """What an entry point of the group makes. Names are `identities/node/n1`: lower-case words and slashes.

    Every call raises StosError UNAVAILABLE when the vault can't be reached, and FAILED_PRECONDITION when an
    entry is damaged; then nothing was changed. A change that raises UNAVAILABLE may have been stored all the
    same: whoever repeats it sees a conflict with himself, looks again and finds it done."""

    poll_s: float
    """how often an instance may look what the others changed"""

    def get(self, name: str) -> Entry | None: ...

    def put(self, name: str, data: bytes, revision: str) -> Entry:
        """Store it durably if the entry has that revision (`NEW`: if there is none). Raises Conflict."""

    def delete(self, name: str, revision: str) -> None:
        """Raises Conflict unless the entry has that revision."""

    def below(self, prefix: str) -> list[Entry]:
        """All entries below `prefix/`, sorted by name."""

    def close(self) -> None: ...


class VaultFactory(Protocol):
    """What an entry point names."""

    def __call__(self, settings: CertsSettings) -> Vault: ...


def open_vault(settings: CertsSettings) -> Vault:
    """The vault that the settings name. Raises StosError."""
    factory: VaultFactory = plugins.load("stos.vaults", settings.vault)
    return factory(settings)


def check_name(name: str) -> str:
    """The name, if it can be an entry's: no vault must meet a `..` or an upper-case twin."""
    if not _NAME.fullmatch(name):
        raise StosError(Code.INVALID_ARGUMENT, f"{name[:80]!r} can't be the name of a vault's entry")
    return name


def check_size(name: str, data: bytes) -> bytes:
    if len(data) > ENTRY_BYTES_MAX:
        raise StosError(Code.RESOURCE_EXHAUSTED, f"{name} would have {len(data)} bytes; {ENTRY_BYTES_MAX} are kept")
    return data


def change(vault: Vault, name: str, decide: Callable[[bytes | None], bytes | None]) -> bytes | None:
    """Replace an entry by what `decide` makes of its content (None: there is none), deciding anew when another
    instance was faster. What `decide` returns as None or unchanged is not written. Returns the content after."""
    for attempt in range(CONFLICTS_MAX):
        entry = vault.get(name)
        before = entry.data if entry else None
        after = decide(before)
        if after is None or after == before:
            return before
        try:
            vault.put(name, after, entry.revision if entry else NEW)
            return after
        except Conflict:
            time.sleep(random.random() * CONFLICT_WAIT_S * (attempt + 1))  # noqa: S311  (jitter, not a secret)
    raise StosError(Code.ABORTED, f"{name} is changed by others all the time", next_step="try again")


def create(vault: Vault, name: str, make: Callable[[], bytes]) -> bytes:
    """The entry's content; made now if there is none. All instances that do this at once get the same."""
    entry = vault.get(name)
    if entry is None:
        try:
            return vault.put(name, make(), NEW).data
        except Conflict:
            entry = vault.get(name)
    if entry is None:
        raise Conflict(name)
    return entry.data


__all__ = ["NEW", "Conflict", "Entry", "Vault", "change", "check_name", "check_size", "create", "open_vault"]
