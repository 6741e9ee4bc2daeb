"""`stos certs`: join tokens, and who holds which certificate."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from stoscore.errors import EXIT_CODE, StosError, invalid
from stoscore.settings import load

from services.certs.settings import CertsSettings

app = typer.Typer(help="Identities: join tokens, certificates.", no_args_is_help=True)

Socket = Annotated[
    Path | None,
    typer.Option("--socket", help="Unix socket of the certs service; by default as its settings say."),
]
Output = Annotated[str, typer.Option("-o", "--output", help="text or json")]


def _socket(given: Path | None) -> Path:
    return given or load(CertsSettings, "certs").socket_path


def _fail(error: StosError) -> typer.Exit:
    typer.echo(f"stos certs: {error}", err=True)
    return typer.Exit(EXIT_CODE[error.code])


@app.command()
def token(
    kind: Annotated[str, typer.Option(help="node, svc or user")],
    name: Annotated[list[str], typer.Option(help="name of the identity; may be repeated")],
    socket: Socket = None,
    valid_s: Annotated[int, typer.Option(help="seconds in which the token must be used")] = 3600,
    out: Annotated[
        Path | None, typer.Option(help="directory for one file per token (0600) instead of printing")
    ] = None,
) -> None:
    """Make a one-time join token. It is a secret: give it to the newcomer and to nobody else."""
    from stoscore.enrolment import issue_token
    from stoscore.files import private_directory, write_private

    async def make() -> list[str]:
        path = _socket(socket)
        return [await issue_token(path, kind, item, valid_s=valid_s) for item in name]

    try:
        texts = asyncio.run(make())
        for item, text in zip(name, texts, strict=True):
            if out is None:
                typer.echo(text)
            else:
                path = private_directory(out) / f"{kind}-{item}.token"
                write_private(path, f"{text}\n".encode("ascii"))
                typer.echo(str(path))
    except StosError as error:
        raise _fail(error) from None


@app.command()
def enrol(
    token_file: Annotated[Path, typer.Option(help="file with the join token")],
    identity_dir: Annotated[Path, typer.Option(help="directory to make")],
) -> None:
    """Exchange a join token for an identity, for programs that don't do it themselves (such as this one)."""
    from stoscore.enrolment import enrol as exchange
    from stoscore.enrolment import read_tokens
    from stoscore.identity import Identity

    try:
        tokens = read_tokens(token_file)
        if len(tokens) != 1:
            raise invalid(f"{token_file} holds {len(tokens)} tokens, not one")
        asyncio.run(exchange(identity_dir, tokens[0]))
        typer.echo(Identity.load(identity_dir).uri)
    except StosError as error:
        raise _fail(error) from None


@app.command()
def ls(socket: Socket = None, output: Output = "text") -> None:
    """The cluster's authority and the latest certificate of each identity."""
    from stoscore.enrolment import LIST_METHOD, IssuedList, admin_call
    from stoscore.messages import Empty

    try:
        listing: IssuedList = asyncio.run(admin_call(_socket(socket), LIST_METHOD, Empty(), IssuedList))
    except StosError as error:
        raise _fail(error) from None
    if output == "json":
        typer.echo(listing.model_dump_json(indent=2))
        return
    typer.echo(f"cluster {listing.cluster}, enrolment at {listing.address}, {listing.open_tokens} open tokens")
    typer.echo(f"root SHA-256 {listing.root_sha256} until {listing.root_not_after[:10]}")
    typer.echo(f"{'IDENTITY':32} {'ROLE':10} {'BY':12} VALID UNTIL")
    for item in listing.identities:
        end = datetime.fromisoformat(item.not_after)
        note = "" if end > datetime.now(UTC) else "  expired"
        typer.echo(f"{item.kind + '/' + item.name:32} {item.role:10} {item.attestor:12} {end:%Y-%m-%d %H:%M:%S}{note}")


@app.command()
def show(
    identity_dir: Annotated[
        Path | None, typer.Argument(help="identity directory; by default STOS_IDENTITY_DIR")
    ] = None,
    output: Output = "text",
) -> None:
    """One identity on this machine: who it is, and until when."""
    from stoscore.enrolment import role_of
    from stoscore.identity import Identity

    directory = identity_dir or Path(os.environ.get("STOS_IDENTITY_DIR", "/var/lib/stos/identity"))
    try:
        identity = Identity.load(directory)
    except StosError as error:
        raise _fail(error) from None
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
