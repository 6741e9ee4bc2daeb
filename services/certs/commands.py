"""`stos certs`: join tokens, and who holds which certificate."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stoscore.errors import invalid

if TYPE_CHECKING:
    from stoscore.enrolment import IssuedIdentity

app = typer.Typer(help="Identities: join tokens and certificates.", no_args_is_help=True)

Socket = Annotated[
    Path | None,
    typer.Option("--socket", help="Unix socket of the certs service [default: as STOS_CERTS_* says]"),
]
Output = Annotated[Literal["table", "json"], typer.Option("-o", "--output", help="table or json")]


def _socket(given: Path | None) -> Path:
    from services.certs.settings import CertsSettings
    from stoscore.settings import load

    return given or load(CertsSettings, "certs").socket_path


@app.command()
def token(
    kind: Annotated[str, typer.Option(help="node, svc or user")],
    name: Annotated[list[str], typer.Option(help="name of the identity; may be repeated")],
    socket: Socket = None,
    valid_s: Annotated[int, typer.Option(help="seconds in which it must be used", min=1)] = 3600,
    out: Annotated[
        Path | None, typer.Option(help="directory for one file per token (0600), instead of printing")
    ] = None,
) -> None:
    """Make a one-time join token. It is a secret: give it to the newcomer and to nobody else.

    \b
      stos certs token --kind node --name n4
      stos certs token --kind svc --name placement-1 --out /run/stos/tokens
    """
    from stoscore.enrolment import issue_token
    from stoscore.files import private_directory, write_private

    path = _socket(socket)

    async def make() -> list[str]:
        return [await issue_token(path, kind, item, valid_s=valid_s) for item in name]

    for item, text in zip(name, asyncio.run(make()), strict=True):
        if out is None:
            typer.echo(text)
            continue
        file = private_directory(out) / f"{kind}-{item}.token"
        write_private(file, f"{text}\n".encode("ascii"))
        typer.echo(str(file))


@app.command()
def enrol(
    token_file: Annotated[Path, typer.Option(help="file with the join token")],
    identity_dir: Annotated[Path, typer.Option(help="directory to make")],
) -> None:
    """Exchange a join token for an identity, for programs that don't do it by themselves (such as `stos`).

    \b
      stos certs enrol --token-file admin.token --identity-dir ~/.stos/identity
    """
    from stoscore.enrolment import enrol as exchange
    from stoscore.enrolment import read_tokens
    from stoscore.identity import Identity

    tokens = read_tokens(token_file)
    if len(tokens) != 1:
        raise invalid(f"{token_file} holds {len(tokens)} tokens, not one")
    asyncio.run(exchange(identity_dir, tokens[0]))
    typer.echo(Identity.load(identity_dir).uri)


@app.command()
def ls(socket: Socket = None, output: Output = "table") -> None:
    """The cluster's authority, and the latest certificate of each identity.

    \b
      stos certs ls
      stos certs ls --socket .stos/dev/run/certs.sock -o json
    """
    from stoscore.enrolment import LIST_METHOD, IssuedList, admin_call
    from stoscore.messages import Empty

    listing: IssuedList = asyncio.run(admin_call(_socket(socket), LIST_METHOD, Empty(), IssuedList))
    if output == "json":
        typer.echo(listing.model_dump_json(indent=2))
        return
    typer.echo(f"cluster {listing.cluster}, enrolment at {listing.address}, {listing.open_tokens} open tokens")
    typer.echo(f"root until {listing.root_not_after[:10]}, SHA-256 {listing.root_sha256}")
    typer.echo(f"{'IDENTITY':32} {'ROLE':10} {'PROVED BY':12} VALID UNTIL (UTC)")
    for item in listing.identities:
        typer.echo(_line(item))


def _line(item: IssuedIdentity) -> str:
    end = datetime.fromisoformat(item.not_after)
    note = "" if end > datetime.now(UTC) else "  expired"
    name = f"{item.kind}/{item.name}"
    return f"{name:32} {item.role:10} {item.attestor:12} {end:%Y-%m-%d %H:%M:%S}{note}"


@app.command()
def show(
    identity_dir: Annotated[Path | None, typer.Argument(help="identity directory [default: STOS_IDENTITY_DIR]")] = None,
    output: Output = "table",
) -> None:
    """One identity on this machine: who it is, and until when.

    \b
      stos certs show /var/lib/stos/identity
    """
    from stoscore.enrolment import role_of
    from stoscore.identity import Identity

    directory = identity_dir or Path(os.environ.get("STOS_IDENTITY_DIR", "/var/lib/stos/identity"))
    identity = Identity.load(directory)
    fields = {
        "uri": identity.uri,
        "role": role_of(identity.kind, identity.name),
        "serial": f"{identity.certificate.serial_number:x}",
        "not_before": identity.not_before.isoformat(),
        "not_after": identity.not_after.isoformat(),
        "renew_at": identity.renew_at.isoformat(),
        "directory": str(directory),
    }
    if output == "json":
        typer.echo(json.dumps(fields, indent=2))
        return
    for key, value in fields.items():
        typer.echo(f"{key:12} {value}")
