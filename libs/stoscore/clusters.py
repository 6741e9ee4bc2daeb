"""Which cluster a command talks to, as whom, and the connection to it. The first of these that is there says which:

| given | cluster |
|---|---|
| `--dir DIR` or STOS_DIR | the embedded one in DIR; its cluster.json says where and as whom |
| STOS_NATS_URLS, STOS_IDENTITY_DIR, or the file that STOS_CONFIG names | any, as that identity |
| nothing | the embedded one in ./.stos/dev |
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stoscore.errors import invalid, unavailable

if TYPE_CHECKING:
    from stoscore.bus import Bus

DEFAULT_DIR = Path(".stos/dev")
SETTINGS_VARIABLES = ("STOS_NATS_URLS", "STOS_IDENTITY_DIR", "STOS_CONFIG")
CONNECT_S = 3.0
"""A running server accepts within milliseconds; this allows for a loaded machine."""
START = "start one with `stos dev up`, or name its directory with --dir or STOS_DIR"


@dataclass(frozen=True, slots=True)
class Access:
    """Where a cluster is and as whom to speak to it."""

    nats_urls: tuple[str, ...]
    identity_dir: Path
    told: str
    """The cluster, in words."""
    directory: Path | None = None
    """Of an embedded cluster."""


def find(directory: Path | None) -> Access:
    """The cluster that the option and the environment name. Raises StosError UNAVAILABLE when there is none,
    INVALID_ARGUMENT when what describes it can't be understood."""
    if directory is None and any(os.environ.get(variable) for variable in SETTINGS_VARIABLES):
        from stoscore.settings import COMMON, CommonSettings, load

        common = load(CommonSettings, COMMON)
        return Access(tuple(common.nats_urls), common.identity_dir, f"at {', '.join(common.nats_urls)}")
    return _embedded(directory or DEFAULT_DIR)


def _embedded(directory: Path) -> Access:
    description = directory / "cluster.json"
    try:
        cluster = json.loads(description.read_text("utf-8"))
        identity_dir = directory.absolute() / str(cluster["user_identity_dir"])
        return Access(tuple(str(url) for url in cluster["nats_urls"]), identity_dir, f"in {directory}", directory)
    except (FileNotFoundError, NotADirectoryError):
        raise unavailable(f"no cluster runs in {directory}", START) from None
    except OSError as error:
        raise unavailable(f"can't read {description}: {error.strerror}", "use another --dir") from None
    except (ValueError, KeyError, TypeError):
        raise invalid(f"{description} does not describe a cluster", "start it anew: `stos dev up`") from None


class _LastWarning(logging.Handler):
    """Keeps the latest warning for the error message, where it helps, instead of printing it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


@asynccontextmanager
async def connected(access: Access, warn: Callable[[str], None]) -> AsyncGenerator[Bus, None]:
    """The bus of that cluster; raises StosError UNAVAILABLE when it does not answer. `warn` is told what the user
    should know."""
    from stoscore.bus import Bus
    from stoscore.following import refresh
    from stoscore.identity import Identity
    from stoscore.telemetry import span

    warning = _LastWarning()
    logging.getLogger("stos").addHandler(warning)
    try:
        identity = Identity.load(access.identity_dir)
        bus = await Bus.connect(identity, list(access.nats_urls), name="stos-cli")
        try:
            if not await bus.wait_connected(CONNECT_S):
                reason = warning.text.removesuffix("; trying on")
                raise unavailable(
                    f"the cluster {access.told} does not answer" + (f" ({reason})" if reason else ""),
                    "see `stos dev status`; " + START,
                )
            with span("look", sampled=False):
                problem = await refresh(identity, bus)
            if problem:
                warn(problem)
            yield bus
        finally:
            await bus.close()
    finally:
        logging.getLogger("stos").removeHandler(warning)
