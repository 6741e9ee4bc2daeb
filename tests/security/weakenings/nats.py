"""The NATS server and the service that runs it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.security.weakenings import FOREIGN_ROOT, weakening


def _configured(alter: Callable[[str], str]) -> None:
    """The server is started with another configuration."""
    from services.nats import files

    original = files.server_conf

    def configuration(*arguments: Any) -> str:
        text = original(*arguments)
        altered = alter(text)
        assert altered != text, "the defence is not where it was"
        return altered

    files.server_conf = configuration  # type: ignore[attr-defined]


@weakening
def ask_for_no_certificate() -> None:
    _configured(lambda text: text.replace("verify: true", "verify: false"))


@weakening
def ask_for_no_credential() -> None:
    """Everybody who is let in may do everything."""
    _configured(lambda text: re.sub(r"^operator: .*", "", text, flags=re.DOTALL | re.MULTILINE))


@weakening
def take_old_tls_from_clients() -> None:
    _configured(lambda text: text.replace('min_version: "1.3"', 'min_version: "1.2"'))


@weakening
def speak_plainly_first() -> None:
    """Who does not begin with TLS at once is greeted in plain text."""
    _configured(lambda text: text.replace("handshake_first: true", "handshake_first: auto"))


@weakening
def let_a_foreign_root_in() -> None:
    from services.nats.files import ROOTS, ServerFiles

    original = ServerFiles._write

    def write(self: ServerFiles, name: str, text: str) -> bool:
        return original(self, name, text + Path(os.environ[FOREIGN_ROOT]).read_text() if name == ROOTS else text)

    ServerFiles._write = write  # type: ignore[method-assign]


@weakening
def announce_anybody() -> None:
    """A node may say where another one is."""
    from dataclasses import replace

    from services.nats.catalogue import CatalogueStore

    original = CatalogueStore._announce

    async def announce(self: CatalogueStore, entry: Any, context: Any) -> Any:
        caller = replace(context.caller, name=entry.node)
        return await original(self, entry, replace(context, caller=caller))

    CatalogueStore._announce = announce  # type: ignore[method-assign]
