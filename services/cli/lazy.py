"""Subcommands that are loaded when they are called, so that `stos --help` answers at once.

A subcommand is an entry point. Loading it may import gRPC, NATS and OpenTelemetry, which takes most of a
second; the one line that the help shows about it is therefore read from its module's docstring without
importing the module, and only when the help is shown. Of what is loaded, only the command that was called is
made: typer looks at every parameter of each, which for fifteen costs more than to ask the cluster.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from stoscore.errors import Code, StosError
from stoscore.printing import CommandGroup

GROUP = "stos.commands"
COMPLETION_PARAMETERS = ("install_completion", "show_completion")


_called: list[str] = []


def command_line() -> str:
    """The command that runs, without its arguments: "stos volume create"."""
    return " ".join(["stos", *_called])


class Unloaded(TyperCommand):
    """Stands for a subcommand until it is called."""

    def __init__(self, point: EntryPoint):
        super().__init__(name=point.name)
        self._point = point

    def get_short_help_str(self, limit: int = 45) -> str:
        self.help = self.help or summary(self._point)
        return super().get_short_help_str(limit)


class LazyGroup(CommandGroup):
    """A command group whose entry point commands are placeholders until one is called."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._points = {point.name: point for point in entry_points(group=GROUP)}
        for name in sorted(self._points.keys() - self.commands.keys()):
            self.add_command(Unloaded(self._points[name]), name)

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in self._points:
            self.add_command(_load(self._points.pop(args[0]), args[1] if args[1:] else ""), args[0])
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


def _load(point: EntryPoint, called: str) -> Any:
    """With the one command that is called, or with all: of a group's help, and of a name that it does not have."""
    try:
        app = point.load()
    except (ImportError, AttributeError) as error:
        raise StosError(
            Code.INTERNAL,
            f"the command {point.name} ({point.value}) can't be loaded: {error}",
            next_step="see `stos plugins` for where it comes from, and reinstall that",
        ) from error
    command = typer.main.get_command(_only(app, called))
    command.name = point.name
    command.params = [param for param in command.params if param.name not in COMPLETION_PARAMETERS]
    return command


def _only(app: typer.Typer, called: str) -> typer.Typer:
    found = [info for info in app.registered_commands if called == (info.name or _name(info.callback))]
    if not found or app.registered_callback is None:
        return app
    alone = copy.copy(app)
    alone.registered_commands, alone.registered_groups = found, []
    return alone


def _name(callback: Callable[..., Any] | None) -> str:
    return typer.main.get_command_name(getattr(callback, "__name__", ""))
