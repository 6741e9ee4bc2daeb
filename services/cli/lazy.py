"""Subcommands that are loaded when they are called, so that `stos --help` answers at once.

A subcommand is an entry point. Loading it may import gRPC, NATS and OpenTelemetry, which takes most of a
second; the one line that the help shows about it is therefore read from its module's docstring without
importing the module.
"""

from __future__ import annotations

import ast
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from stoscore.errors import Code, StosError

GROUP = "stos.commands"
COMPLETION_PARAMETERS = ("install_completion", "show_completion")


_called: list[str] = []


def command_line() -> str:
    """The command that runs, without its arguments: "stos volume create"."""
    return " ".join(["stos", *_called])


class LazyGroup(TyperGroup):
    """A command group whose entry point commands are placeholders until one is called."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._points = {point.name: point for point in entry_points(group=GROUP)}
        for name in sorted(self._points.keys() - self.commands.keys()):
            self.add_command(TyperCommand(name=name, help=summary(self._points[name])), name)

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in self._points:
            self.add_command(_load(self._points.pop(args[0])), args[0])
        _called[:] = (
            args[:2] if args[1:] and args[1] in getattr(self.commands.get(args[0]), "commands", ()) else args[:1]
        )
        return super().resolve_command(ctx, args)


def summary(point: EntryPoint) -> str:
    """The first line of the docstring of the module behind an entry point, which is not imported."""
    try:
        spec = find_spec(point.module)
    except ImportError:
        spec = None
    if spec is None or not spec.origin:
        return "(not installed)"
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or ""
    first = docstring.partition("\n")[0].removeprefix(f"`stos {point.name}`: ")
    return first[:1].upper() + first[1:]


def _load(point: EntryPoint) -> Any:
    try:
        app = point.load()
    except (ImportError, AttributeError) as error:
        raise StosError(
            Code.INTERNAL,
            f"the command {point.name} ({point.value}) can't be loaded: {error}",
            next_step="see `stos plugins` for where it comes from, and reinstall that",
        ) from error
    command = typer.main.get_command(app)
    command.name = point.name
    command.params = [param for param in command.params if param.name not in COMPLETION_PARAMETERS]
    return command
