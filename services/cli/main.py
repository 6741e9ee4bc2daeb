"""The `stos` command: the cluster's volumes and nodes, the embedded cluster, the services themselves.

Subcommands are plugins (entry points `stos.commands`) and are loaded when called. A command that fails exits
with the code of `stoscore.errors.EXIT_CODE` and says on stderr what happened and what to do next.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from services.cli.lazy import LazyGroup
from services.cli.output import Format, Output, report, wants_json, write, write_as
from stoscore.errors import EXIT_CODE, Code, StosError

COMPLETING = "_STOS_COMPLETE"
"""Set by the shell's completion when it calls."""
CLOSED_PIPE = 128 + 13
"""As every program ends that writes to a reader who has gone (SIGPIPE)."""
INTERRUPTED = 130
COLLECTED_AFTER = (200_000, 20, 100)
"""Objects, rounds, rounds. With Python's own numbers a long list of volumes is walked again and again while it is read,
for rubbish that a command hardly makes, which takes longer than reading it."""


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


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

    \b
    Which cluster: the one in --dir or STOS_DIR; else that of STOS_NATS_URLS and
    STOS_IDENTITY_DIR; else the one in ./.stos/dev.

    \b
    Exit codes:
      0  done                      6  no space left for it
      1  unexpected, or a finding  7  not allowed
      2  not understood            8  not now: repeat it
      3  not there                 9  data is damaged or lost
      4  there already            10  a fault of stos
      5  not in this state       130  interrupted
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


@app.command()
def completion(shell: Annotated[Shell, typer.Argument(help="bash, zsh or fish")]) -> None:
    """Print what makes a shell complete commands, options, and the names of volumes and nodes.

    \b
      source <(stos completion bash)                          for this shell; in ~/.bashrc for all
      source <(stos completion zsh)                           in ~/.zshrc, after compinit
      stos completion fish > ~/.config/fish/completions/stos.fish
    """
    from typer.completion import shell_complete

    _know_shells()
    shell_complete(typer.main.get_command(app), {}, "stos", COMPLETING, f"source_{shell.value}")


def _know_shells() -> None:
    """Typer registers them when it makes the options that this command does not have."""
    from typer.completion import get_completion_inspect_parameters

    get_completion_inspect_parameters()


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
        return INTERRUPTED
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):
            return CLOSED_PIPE
        raise
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
    gc.set_threshold(*COLLECTED_AFTER)
    if COMPLETING in os.environ:
        _know_shells()
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = CLOSED_PIPE
    if code == CLOSED_PIPE:
        # What is still in the buffer has nowhere to go, and the interpreter would complain about it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


if __name__ == "__main__":
    main()
