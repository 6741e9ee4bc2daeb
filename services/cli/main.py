"""The `stos` command: the cluster's volumes and nodes, the embedded cluster, the services themselves.

Subcommands are plugins (entry points `stos.commands`) and are loaded when called. A command that fails exits
with the code of `stoscore.errors.EXIT_CODE` and says on stderr what happened and what to do next.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from services.cli.lazy import LazyGroup
from services.cli.output import Format, Output, report, wants_json, write, write_as
from stoscore.errors import EXIT_CODE, Code, StosError

app = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)


def _show_version(asked: bool) -> None:
    if asked:
        write(_version())
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Replicated, self-healing block volumes.

    \b
    A first look, on this machine:
      stos dev up                          start an embedded cluster
      stos volume create data --size 1GiB  a volume with 3 copies
      stos volume connect data             prints an NBD URI for any NBD client
      stos volume ls
      stos dev stop
    """
    if context.invoked_subcommand is None:
        write(context.get_help())


@app.command()
def serve(
    names: Annotated[list[str], typer.Argument(help="services to run in this process (see `stos plugins`)")],
) -> None:
    """Run one or more services in this process until SIGTERM.

    \b
    Settings come from STOS_* variables and from the file that STOS_CONFIG names:
      STOS_NATS_URLS=tls://nats:4222 STOS_IDENTITY_DIR=/var/lib/stos/id stos serve placement
      stos serve placement csi
    """
    from stoscore.host import serve as serve_services

    raise typer.Exit(serve_services(names))


@app.command()
def version(output: Output = Format.TABLE) -> None:
    """Show the version of stos and of what it runs on.

    \b
      stos version
      stos version -o json
    """
    if output is not Format.TABLE:
        write_as(output, {"stos": _version(), "python": sys.version.split()[0], "platform": sys.platform})
    else:
        write(f"stos {_version()} (Python {sys.version.split()[0]}, {sys.platform})")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("stos")
    except PackageNotFoundError:
        return "unknown"


def run(arguments: Sequence[str]) -> int:
    """The command line -> exit code."""
    as_json = wants_json(arguments)
    try:
        result = typer.main.get_command(app).main(list(arguments), prog_name="stos", standalone_mode=False)
    except StosError as error:
        report(error, as_json=as_json)
        return EXIT_CODE[error.code]
    except typer.TyperException as error:
        return _misused(error, as_json)
    except typer.Abort:
        report(StosError(Code.ABORTED, "given up"), as_json=as_json)
        return 130
    return result if isinstance(result, int) else 0


def _misused(error: typer.TyperException, as_json: bool) -> int:
    """A command line that could not be understood; a group called without a command shows its help."""
    context = getattr(error, "ctx", None)
    told = error.format_message()
    if context is not None and told == context.get_help():
        write(told)
        return 0
    path = context.command_path if context is not None else "stos"
    misuse = StosError(Code.INVALID_ARGUMENT, told, next_step=f"see `{path} --help`")
    report(misuse, as_json=as_json)
    return EXIT_CODE[misuse.code]


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
