"""`stos store`: look at a replica's directory from outside, without its service."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from services.replica.store import Digest, FormatError, Report, StoreError
from services.replica.store import check as check_store
from services.replica.store import digest as digest_store
from stoscore.errors import EXIT_CODE, Code, invalid, precondition, unavailable
from stoscore.printing import Format, Output, command_group, fields, write, write_as
from stoscore.units import BLOCK_BYTES, format_size

app = command_group()


@app.callback()
def store() -> None:
    """Check and compare replica directories.

    \b
      stos store check .stos/dev/data/n1/replicas/VOLUME     of a node that is down
      stos store digest .stos/dev/data/n1/replicas/VOLUME    beside its running process
    """


Directory = Annotated[Path, typer.Argument(help="A replica's directory.", show_default=False)]
NAMED = "name the directory of one replica, such as .stos/dev/data/n1/replicas/VOLUME"
_SHOWN_MAX = 16
T = TypeVar("T")


@app.command()
def check(directory: Directory, output: Output = Format.TABLE) -> None:
    """Verify a replica directory that is not in use: format, state, intent log, roots, every block.

    Exits with 9 when something is wrong.

    \b
      stos store check DIR
      stos store check DIR -o json
    """
    report = _or_exit(lambda: check_store(directory))
    if output is not Format.TABLE:
        write_as(output, _check_fields(report), [report.directory])
    else:
        _print_table(_check_fields(report))
    if not report.whole:
        raise typer.Exit(EXIT_CODE[Code.DATA_LOSS])


@app.command()
def digest(
    directory: Directory,
    output: Output = Format.TABLE,
    out: Annotated[
        Path | None, typer.Option(help="Write the sum of every block here, raw little-endian u64, 0 for zeros.")
    ] = None,
    blocks: Annotated[bool, typer.Option("--blocks", help="Also print each block that is not zeros.")] = False,
) -> None:
    """Hash every block from the data file, whatever the stored checksums say. Works beside a running replica.

    \b
      stos store digest DIR
      stos store digest DIR --blocks -o json
    """
    listed: list[tuple[int, int]] = []
    with ExitStack() as closing:
        sinks: list[Callable[[bytes], object]] = []
        if out is not None:
            sinks.append(_or_exit(lambda: closing.enter_context(out.open("wb"))).write)
        if blocks:
            sinks.append(_Lister(listed).take)
        found = _or_exit(lambda: digest_store(directory, lambda sums: [sink(sums) for sink in sinks]))
    if output is not Format.TABLE:
        told = _digest_fields(found)
        if blocks:
            told["sums"] = {str(block): f"{value:016x}" for block, value in listed}
        write_as(output, told, [str(directory)])
        return
    _print_table(_digest_fields(found))
    for block, value in listed:
        write(f"{block} {value:016x}")


class _Lister:
    """Collects (block, sum) of the blocks that are not zeros from sums that come in order."""

    def __init__(self, found: list[tuple[int, int]]) -> None:
        self._found = found
        self._block = 0

    def take(self, sums: bytes) -> None:
        values = struct.unpack(f"<{len(sums) // 8}Q", sums)
        self._found.extend((self._block + at, value) for at, value in enumerate(values) if value)
        self._block += len(values)


def _check_fields(report: Report) -> dict[str, Any]:
    return {
        "directory": report.directory,
        "ok": report.whole,
        **asdict(report.format),
        "unclean": report.unclean,
        "marked_regions": len(report.marked),
        "blocks": report.blocks,
        "unfinished_blocks": report.unfinished_blocks,
        "bad_blocks": report.bad_blocks,
        "bad_roots": report.bad_roots,
        "problems": report.problems,
        "notes": report.notes,
    }


def _digest_fields(found: Digest) -> dict[str, Any]:
    return {**asdict(found), "bytes": found.blocks * BLOCK_BYTES}


def _print_table(found: dict[str, Any]) -> None:
    write(fields([(name.replace("_", " "), _shown(name, value)) for name, value in found.items()]))


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        more = f" and {len(value) - _SHOWN_MAX} more" if len(value) > _SHOWN_MAX else ""
        return ("; ".join(str(item) for item in value[:_SHOWN_MAX]) or "none") + more
    return format_size(value) if name == "bytes" else str(value)


def _or_exit(action: Callable[[], T]) -> T:
    """The action's result, or a StosError that says whose fault it is."""
    try:
        return action()
    except FormatError as error:
        raise precondition(str(error), NAMED) from None
    except StoreError as error:
        raise unavailable(str(error), "stop its node first: `stos store digest` is what works beside it") from None
    except OSError as error:
        raise invalid(f"{error.filename}: {error.strerror}", NAMED) from None
