"""Writes docs/reference from the code: settings, commands, requests on the bus, metrics, spans and events.

    python -m tools.reference            writes the pages
    python -m tools.reference --check    exits with 1 when one of them is not what the code says

What has a name that somebody outside may use is read from where it is defined. Spans and events have names only where
they are made: these are found in the source, and each has to be explained here.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from pydantic_core import PydanticUndefined

from services.certs.settings import CertsSettings
from services.cli.main import app
from services.cli.shapes import SHAPES, Refused, schema
from services.csi.settings import CsiSettings
from services.nats.settings import NatsSettings
from services.placement.settings import PlacementSettings
from services.replica.settings import ReplicaSettings
from stoscore.access import RULES
from stoscore.errors import EXIT_CODE
from stoscore.metrics import INSTRUMENTS
from stoscore.prometheus import prometheus_name
from stoscore.settings import CommonSettings, ServiceSettings
from stoscore.telemetry import CONVENTIONAL

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "reference"
MADE = "<!-- Made by `python -m tools.reference` from the code; edit that. -->"
SETTINGS: tuple[tuple[str, type[ServiceSettings]], ...] = (
    ("STOS_", CommonSettings),
    ("STOS_CERTS_", CertsSettings),
    ("STOS_CSI_", CsiSettings),
    ("STOS_NATS_SERVER_", NatsSettings),
    ("STOS_PLACEMENT_", PlacementSettings),
    ("STOS_REPLICA_", ReplicaSettings),
)
SPANS = {
    "request {}": "a question to one process over NATS, until its answer; kind client",
    "scatter {}": "a question to everybody who listens, until enough have answered; kind client",
    "serve {}": "the work on a question, by who answers; kind server",
    "csi.{}": "a CSI call, until its answer; kind server",
    "csi.attach": "a device is made of a volume",
    "csi.resize": "an attached device grows with its volume",
    "csi.mount": "its file system is made or mounted",
    "volume.create": "all steps of a volume's creation",
    "volume.delete": "all steps of its deletion",
    "volume.home": "the search for a node that takes a new copy",
    "placement.plan": "the ranking of the nodes' bids",
    "io.{}": "a client's request that failed, took more than half a second, or is one of many that are sampled",
    "primary.{}": "a sampled request at the primary, from when it came until it was answered",
    "store.write": "a sampled write at one copy, from when it came until it was stored; `waited_us`: for its turn",
    "store.zero": "sampled zeros or a trim at one copy, in the same way",
    "store.flush": "a sampled flush at one copy, from when it came until its disk was synced",
    "peer.lost": "the link to a node ended, for the reason that it has as its error: missed beats, for one",
    "resync": "a copy was brought up to date: from the return of its link until it held everything",
    "look": "somebody looks at traces or metrics; never kept",
    "{}": "a command of `stos`, or a decision of a volume's brain: `brain` and its kind",
}
DECISIONS = {
    "admit": "a copy that has caught up enters the in-sync set",
    "adopt": "a record of a newer stamp is taken over",
    "fail": "a member that does not confirm leaves the in-sync set",
    "found": "a new volume's first record is stored",
    "grant": "a vote is given",
    "lead": "an election is won",
    "leave": "a removed member removes itself",
    "misunderstood": "another voter does not know a message of this version",
    "move": "the volume is handed over to another copy",
    "override": "by an operator's word a volume whose majority is lost goes on with this copy, in a new generation",
    "place": "another copy is wanted, and where it goes",
    "refuse": "a vote is not given",
    "remove": "a member is taken out of the record",
    "resume": "writes go on: there are enough copies again",
    "snapshot": "a snapshot is asked for, is ready on its holders, or has lost the last of them",
    "stand": "a voter offers itself as leader",
    "suspend": "writes wait or fail: there are fewer copies than the policy asks for",
    "unsnapshot": "a snapshot is dropped, or can't be taken",
}
ATTRIBUTES = {
    "answer": "NOT_FOUND where that was the answer to a question: there is none, which is no failure",
    "attacher": "the plugin that makes a device of a volume",
    "bids": "how many nodes offered a place",
    "blocks": "how many blocks of 4 KiB",
    "bytes": "length of a client's request",
    "caller": "role/name of who asked, as the server of the bus has proved it",
    "compared_blocks": "blocks whose checksums were compared with a copy that came back",
    "device": "path of the device on its node",
    "epoch": "of the volume, as the voter that decides knows it",
    "estimated_bytes": "what a copy's return was foretold to cost in bytes; 0: nothing was foretold",
    "estimated_ms": "what it was foretold to take",
    "input.{}": "what a decision rested on: who was heard, who voted, who was in sync",
    "kind": "what is placed: a data copy or a witness",
    "outcome": "what was decided, in words",
    "peer": "the other node",
    "policies": "the placement policies that ranked the bids, in their order",
    "sent_blocks": "blocks that a copy which came back lacked, and was sent",
    "sent_bytes": "what that was on the wire",
    "size_bytes": "size of the volume",
    "spared_bytes": "what packing spared of it",
    "took_ms": "how long a copy took to catch up",
    "version": "of the volume's record, in its epoch",
    "volume": "id of the volume",
    "volume_name": "its name",
    "waited_us": "how long a write waited for its turn at the disk",
}
_SPAN_CALLS = {"span", "record"}
_NO_ATTRIBUTES = {"span_kind", "links", "sampled", "parent", "error", "promised"}


def pages() -> dict[str, str]:
    """File name -> content."""
    return {
        "settings.md": "\n".join(_settings()),
        "cli.md": "\n".join(_cli()),
        "json.md": "\n".join(_json()),
        "subjects.md": "\n".join(_subjects()),
        "metrics.md": "\n".join(_metrics()),
        "spans-and-events.md": "\n".join(_spans()),
    }


def _settings() -> Iterator[str]:
    yield from ("# Settings", "", MADE, "")
    yield "Each is an environment variable, or a key of the service's table in the file that STOS_CONFIG names."
    for prefix, settings in SETTINGS:
        yield from ("", f"## {prefix}\\*: {settings.service or 'every process'}", "", _first_line(settings), "")
        yield from ("| variable | default | what |", "|---|---|---|")
        for name, field in sorted(settings.model_fields.items()):
            shown = _default(field.default)
            yield f"| `{prefix}{name.upper()}` | {shown} | {_cell(field.description or '')} |"
    yield ""


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    shown = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"`{shown}`" if value is not None and shown else "-"


def _cli() -> Iterator[str]:
    yield from ("# Commands", "", MADE, "")
    yield "`kubectl stos …` is the same program. Colours are for terminals only; NO_COLOR=1 keeps them away."
    yield "Exit codes: 0 done; 1 an unexpected error, a finding of `stos doctor`, or something that"
    yield "`stos support-bundle` could not get;"
    codes: dict[int, list[str]] = {}
    for code, number in EXIT_CODE.items():
        codes.setdefault(number, []).append(code.value)
    yield "; ".join(f"{number} {', '.join(names)}" for number, names in sorted(codes.items())) + "; 130 interrupted."
    for path, command in _all_commands():
        yield from ("", f"## {path}", "", *_help(command))
        hidden = ("help", "install_completion", "show_completion")
        options = [one for one in command.params if one.name not in hidden]
        if options:
            yield from ("", "| option | what |", "|---|---|")
            yield from (f"| {_named(one)} | {_cell(getattr(one, 'help', None) or '')} |" for one in options)
    yield ""


def _json() -> Iterator[str]:
    yield from ("# What the commands print for programs", "", MADE, "")
    yield from ("The JSON Schema of `-o json`; `-o yaml` has the same content. Fields are added, never renamed.", "")
    yield "Errors go to stderr, with every command:"
    yield from ("", "```json", json.dumps(Refused.model_json_schema(), indent=1), "```")
    for command in sorted(SHAPES):
        yield from ("", f"## stos {command}", "", "```json", json.dumps(schema(command), indent=1), "```")
    yield ""


def _all_commands() -> Iterator[tuple[str, Any]]:
    """Of the project's own description, not of what happens to be installed."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["stos.commands"]
    found: dict[str, Any] = {}
    for name, target in points.items():
        module, _, attribute = target.partition(":")
        found[name] = typer.main.get_command(getattr(import_module(module), attribute))
    root: Any = typer.main.get_command(app)
    for info in app.registered_commands:
        name = info.name or getattr(info.callback, "__name__", "")
        found[name] = root.commands[name]
    for name, command in sorted(found.items()):
        yield from _commands(f"stos {name}", command)


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """A group before what is in it."""
    yield path, command
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(f"{path} {name}", below)


def _help(command: Any) -> Iterator[str]:
    """The docstring, its examples as code."""
    for part in re.split(r"\n\s*\n", (command.help or "").strip()):
        if part.startswith("\b"):
            yield from ("```", *(line.strip() for line in part[1:].strip("\n").splitlines()), "```")
        else:
            yield from (" ".join(part.split()), "")


def _named(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])


def _subjects() -> Iterator[str]:
    yield from ("# Requests on the bus", "", MADE, "", "How they are addressed and answered: docs/subjects.md.", "")
    yield from ("| subject | who may ask | who answers | changes something | what |", "|---|---|---|---|---|")
    for rule in RULES:
        roles = " ".join(sorted(rule.roles))
        changes = "yes" if rule.privileged else ""
        yield f"| `{rule.subject}` | {roles} | {rule.answered_by} | {changes} | {_cell(rule.why)} |"
    yield ""


def _metrics() -> Iterator[str]:
    yield from ("# Metrics", "", MADE, "")
    yield from (
        "`STOS_METRICS_LISTEN=HOST:PORT` serves them to Prometheus, over TLS, to holders of a user's certificate; "
        "`STOS_OTEL_EXPORTER=otlp` sends them to a collector; `stos top` shows some.",
        "",
        "| OpenTelemetry | Prometheus | kind | unit | attributes | what |",
        "|---|---|---|---|---|---|",
    )
    for one in INSTRUMENTS:
        attributes = ", ".join(one.attributes) or "-"
        names = f"`{one.name}` | `{prometheus_name(one)}`"
        yield f"| {names} | {one.kind} | {one.unit} | {attributes} | {_cell(one.description)} |"
    yield ""


def _spans() -> Iterator[str]:
    yield from ("# Spans and events", "", MADE, "", "## Spans", "")
    yield from ("`{}` stands for a subject, a method or a kind.", "", "| name | what |", "|---|---|")
    yield from (f"| `{name}` | {_cell(what)} |" for name, what in SPANS.items())
    yield from ("", "Attributes are called `stos.<name>`, but for those that the semantic conventions name:", "")
    yield from (f"* `{name}`" for name in sorted(CONVENTIONAL.values()))
    yield from ("", "| attribute | what |", "|---|---|")
    yield from (f"| `stos.{name}` | {_cell(what)} |" for name, what in ATTRIBUTES.items())
    yield from ("", "## Decisions (`stos events --kind decision`)", "", "| kind | what |", "|---|---|")
    yield from (f"| `{kind}` | {_cell(what)} |" for kind, what in DECISIONS.items())
    yield from ("", "## Audit (`stos events --kind audit`)", "")
    yield "Each use of a request that changes something, and each refusal of any; besides these:"
    yield ""
    yield from (f"* `{action}`" for action in sorted(audit_actions() - {rule.action for rule in RULES}))
    yield ""


def _first_line(of: type) -> str:
    return (of.__doc__ or "").partition("\n")[0]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# ---- what only the source knows ----------------------------------------------------------------------


def span_names() -> set[str]:
    """The names of all spans that are made somewhere, `{}` for what is filled in."""
    found = set()
    for call in _calls():
        if _name(call.func) in _SPAN_CALLS and call.args and (text := _text(call.args[0])) is not None:
            found.add(text)
        elif _name(call.func) == "span" and call.args:
            found.add("{}")
    return found


def span_attributes() -> set[str]:
    """What spans are given somewhere, but for what the semantic conventions name."""
    found: set[str] = set()
    for module in _modules():
        calls = [node for node in ast.walk(module) if isinstance(node, ast.Call)]
        dicts = {name: keys for node in ast.walk(module) for name, keys in _dict_literal(node)}
        for call in calls:
            if _name(call.func) == "set" or (_name(call.func) in _SPAN_CALLS and call.args):
                found |= {word.arg for word in call.keywords if word.arg}
                unpacked = [getattr(word.value, "id", "") for word in call.keywords if not word.arg]
                found |= {key for name in unpacked for key in dicts.get(name, ())}
    return found - _NO_ATTRIBUTES - CONVENTIONAL.keys()


def _dict_literal(node: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """Of `told = {"subject": …}`: told, {subject}."""
    value, target = getattr(node, "value", None), getattr(node, "target", None) or getattr(node, "targets", [None])[0]
    if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name):
        if isinstance(value, ast.Dict):
            yield target.id, {text for key in value.keys if key is not None and (text := _text(key)) is not None}
        elif isinstance(value, ast.DictComp) and (text := _text(value.key)) is not None:
            yield target.id, {text}


def decision_kinds() -> set[str]:
    return {
        call.args[0].value
        for call in _calls()
        if _name(call.func) == "Verdict" and call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value
    }


def audit_actions() -> set[str]:
    return {
        text
        for call in _calls()
        if _name(call.func) == "record"
        for word in call.keywords
        if word.arg == "action" and (text := _text(word.value)) is not None
    }


def _calls() -> Iterator[ast.Call]:
    for module in _modules():
        for node in ast.walk(module):
            if isinstance(node, ast.Call):
                yield node


def _modules() -> Iterator[ast.Module]:
    for folder in ("libs/stoscore", "services"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ast.parse(path.read_text("utf-8"))


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _text(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def main() -> int:
    stale = [name for name, text in pages().items() if _kept(name) != text]
    if "--check" in sys.argv[1:]:
        for name in stale:
            print(f"docs/reference/{name} is not what the code says: python -m tools.reference")
        return bool(stale)
    PAGES.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (PAGES / name).write_text(pages()[name], "utf-8")
        print(f"wrote docs/reference/{name}")
    return 0


def _kept(name: str) -> str:
    path = PAGES / name
    return path.read_text("utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
