"""The commands, and how what they show is written down.

One file a command in `golden`: what it prints on a wide terminal, what differs on a narrow one, and its JSON. Moments
and places of this run are replaced, so that a file says the same each time.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from pydantic import BaseModel

from services.cli.main import run
from services.cli.shapes import SHAPES
from tests.support.control_plane import ControlPlane
from tests.support.feed import Feed
from tests.support.feed_certs import Authority
from tests.support.feeds import ATTACK, TRACE, small

GOLDEN = Path(__file__).parent / "golden"
WIDE, NARROW = 120, 40
COMMANDS = {
    "volume-ls": "volume ls",
    "volume-show-attached": "volume show data",
    "volume-show-behind": "volume show logs",
    "volume-show-lost": "volume show lost",
    "volume-show-unknown": "volume show nothing",
    "volume-why": "volume why data --since 1h",
    "snapshot-ls": "snapshot ls",
    "snapshot-show": "snapshot show data monday",
    "snapshot-show-lost": "snapshot show logs before-upgrade",
    "snapshot-show-unknown": "snapshot show data nothing",
    "node-ls": "node ls",
    "node-show": "node show n2",
    "node-show-application": "node show app",
    "node-show-unknown": "node show n9",
    "resync-ls": "resync ls",
    "trace-ls": "trace ls --name csi.",
    "trace-show": f"trace show {TRACE} --attributes",
    "events": "events --kind decision --since 1h",
    "snapshot-ls-nothing": "snapshot ls lost",
    "trace-ls-nothing": "trace ls --name nothing",
    "events-nothing": "events --kind decision --reporter n3",
    "top": "top --times 1 --every 0.2",
    "doctor": "doctor --all",
    "misused": "volume show",
    "certs-ls": "certs ls",
    "certs-show": "certs show node/n1",
    "certs-show-revoked": "certs show node/n9",
    "certs-show-unknown": "certs show node/n7",
    "certs-token": "certs token --kind node --name n4",
    "certs-revoke": "certs revoke user/eve --reason left",
    "certs-rotate": "certs rotate --root",
    "certs-rotate-what": "certs rotate",
    "join-token": "node join-token n4",
    "plugins": "plugins --group placement_policies",
    "plugins-unknown": "plugins --group nothing",
    "dev-status-nowhere": "dev status --dir /nowhere",
    "store-check-nothing": "store check nowhere",
    "create-there-already": "volume create data --size 1GiB",
    "create-other-size": "volume create data --size 2GiB",
    "create-bad-name": "volume create a/b --size 1GiB",
    "create-bad-size": "volume create new --size much",
    "create": "volume create new --size 1GiB --label app=db",
    "create-from-snapshot": "volume create restored --from-snapshot data/monday --replicas 1",
    "connect": "volume connect data --node app",
    "export": "volume export data --listen 0.0.0.0:10809 --client user/eve",
    "export-nobody": "volume export data --listen nowhere --client eve",
    "unexport": "volume unexport data",
    "override-while-it-lives": "volume override data --on n2 --lost n1 --lost n3 --reason fire",
    "override-without-reason": "volume override data --on n2",
    "connect-unknown-node": "volume connect data --node n9",
    "connect-force-without-reason": "volume connect data --node n2 --force",
    "disconnect": "volume disconnect data",
    "disconnect-unused": "volume disconnect logs",
    "move-primary": "volume move-primary data --to n2",
    "move-primary-to-itself": "volume move-primary data --to n1",
    "set": "volume set data --replicas 3 --failure-mode 2 --on-unavailable error",
    "set-nothing": "volume set data",
    "set-impossible": "volume set data --failure-mode most",
    "expand": "volume expand data 2GiB",
    "rm": "volume rm logs",
    "rm-in-use": "volume rm data",
    "rm-nothing": "volume rm nothing",
    "snapshot-create": "snapshot create data friday",
    "snapshot-create-bad-name": "snapshot create data Friday",
    "snapshot-rm": "snapshot rm data monday",
    "snapshot-rm-nothing": "snapshot rm data friday",
}
_PLACES = (
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"), "(the moment, to the ms)"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b(?!\.)"), "hh:mm:ss"),
    (re.compile(r'(at_unix_ms"?: )\d+'), r"\g<1>0"),
    (re.compile(r'("volume": ")(?!0{16})[0-9a-f]{32}'), r"\g<1>(drawn)"),
)


def names() -> list[str]:
    return sorted(COMMANDS)


def shape_of(command: str) -> type[BaseModel] | None:
    words = command.split()
    return SHAPES.get(" ".join(words[:2])) or SHAPES.get(words[0])


def told(name: str) -> str:
    path = GOLDEN / f"{name}.txt"
    return path.read_text("utf-8") if path.exists() else ""


def rewrite(name: str, text: str) -> None:
    (GOLDEN / f"{name}.txt").write_text(text, "utf-8")


@contextlib.contextmanager
def cluster(plane: ControlPlane) -> Iterator[Feed]:
    """The small one, and this process's commands look at it."""
    nodes, entries = small()
    variables = {
        "STOS_NATS_URLS": ",".join(plane.nats_urls),
        "STOS_IDENTITY_DIR": str(plane.identity("user", "looker").directory),
        "TZ": "UTC",
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("STOS_")}
    with (
        Feed(plane, nodes, entries, Authority(ATTACK)) as feed,
        patch.dict(os.environ, clean | variables, clear=True),
    ):
        time.tzset()
        yield feed
    time.tzset()


def shown(feed: Feed, arguments: list[str], columns: int) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a command on a terminal of that width; what it changed is as before."""
    out, errors = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, {"COLUMNS": str(columns)}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        code = run(arguments)
    feed.restore()
    return code, _still(out.getvalue()), _still(errors.getvalue())


def looks(feed: Feed, name: str) -> str:
    """The golden file as it should be now."""
    arguments = COMMANDS[name].split()
    wide, narrow = shown(feed, arguments, WIDE), shown(feed, arguments, NARROW)
    parts = [_part(f"$ stos {COMMANDS[name]}", wide)]
    if narrow != wide:
        parts.append(_part(f"$ COLUMNS={NARROW} stos {COMMANDS[name]}", narrow))
    parts.append(_part(f"$ stos {COMMANDS[name]} -o json", shown(feed, [*arguments, "-o", "json"], WIDE)))
    return "\n".join(parts)


def _part(command: str, result: tuple[int, str, str]) -> str:
    code, out, errors = result
    ended = f"exit {code}\n" if code else ""
    lines = [line.rstrip() for line in (errors + out).splitlines()]
    return "\n".join([command, *lines, ""]) + ended


def _still(text: str) -> str:
    for pattern, instead in _PLACES:
        text = pattern.sub(instead, text)
    return text
