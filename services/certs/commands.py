"""`stos certs`: who belongs to the cluster: join tokens, certificates, revocation, the authority's keys.

Most commands go over the bus, as the identity of whoever calls. With --socket they go to the Unix socket of a certs
service on this machine, which needs no identity: that is how the first administrator comes to be. backup, restore and
recover work on the vault itself, with the settings of the certs service (STOS_CERTS_*).
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from services.certs import tables, vault_commands
from stoscore.envelope import make_request
from stoscore.errors import invalid
from stoscore.printing import Format, Output, command_group, write_as

if TYPE_CHECKING:
    from stoscore.certs_messages import IdentityPage
    from stoscore.messages import Message

app = command_group()
A = TypeVar("A", bound="Message")
TIMEOUT_S = 15.0
_IDENTITY = re.compile(r"(node|svc|user)/([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)", re.ASCII)

Socket = Annotated[
    Path | None, typer.Option("--socket", help="Unix socket of a certs service on this machine, instead of the bus")
]
Directory = Annotated[
    Path | None,
    typer.Option("--dir", envvar="STOS_DIR", help="directory of the embedded cluster [default: .stos/dev]"),
]
Who = Annotated[str, typer.Argument(metavar="KIND/NAME", help="node/n4, svc/placement-1, user/eve")]


@app.callback()
def certs() -> None:
    """Who belongs to the cluster: join tokens, certificates, revocation, the authority's keys.

    \b
      stos certs ls                                    everybody, and the authority
      stos certs token --kind node --name n4           let a node in
      stos certs revoke node/n4 --reason stolen        shut it out, everywhere, within seconds
      stos certs rotate --root                         another root, while everything runs
      stos certs backup /safe/place/certs.backup       the authority's keys, under a passphrase
    """


# ---- asking ------------------------------------------------------------------------------------------


def _ask(socket: Path | None, directory: Path | None, verb: str, request: Message, answer: type[A]) -> A:
    async def once() -> A:
        async with _door(socket, directory) as ask:
            told: A = await ask(verb, request, answer)
            return told

    return asyncio.run(once())


@asynccontextmanager
async def _door(socket: Path | None, directory: Path | None) -> AsyncGenerator[Callable[..., Awaitable[Any]], None]:
    """What asks certs: (verb, request, kind of answer) -> answer."""
    from stoscore import subjects
    from stoscore.clusters import connected, find
    from stoscore.enrolment import admin_call

    if socket is not None:
        yield partial(admin_call, socket)
        return
    async with connected(find(directory), _warn) as bus:

        async def ask(verb: str, request: Message, answer: type[A]) -> A:
            return await bus.request(subjects.certs(verb), request, answer, timeout_s=TIMEOUT_S)

        yield ask


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


def _identity(text: str) -> tuple[str, str]:
    match = _IDENTITY.fullmatch(text)
    if match is None:
        raise invalid(f"{text[:80]!r} is no KIND/NAME", "kinds are node, svc and user: node/n4")
    return match[1], match[2]


# ---- letting in --------------------------------------------------------------------------------------


@app.command()
def token(
    kind: Annotated[str, typer.Option(help="node, svc or user")],
    name: Annotated[list[str], typer.Option(help="name of the identity; may be repeated")],
    role: Annotated[str, typer.Option(help="what a user may do: admin, operator or viewer")] = "",
    valid_s: Annotated[int, typer.Option(help="seconds in which it must be used", min=1)] = 3600,
    out: Annotated[
        Path | None, typer.Option(help="directory for one file per token (0600), instead of printing")
    ] = None,
    directory: Directory = None,
    socket: Socket = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a one-time join token. It is a secret: give it to the newcomer and to nobody else.

    \b
      stos certs token --kind node --name n4
      stos certs token --kind user --name eve --role viewer --out /run/stos/tokens
      stos certs token --kind user --name alice --role admin --socket /var/lib/stos/certs/certs/admin.sock
    """
    from stoscore.enrolment import IssuedToken, IssueToken

    requests = {item: make_request(IssueToken, kind=kind, name=item, role=role, valid_s=valid_s) for item in name}

    async def make() -> dict[str, str]:
        async with _door(socket, directory) as ask:
            return {item: (await ask("token", request, IssuedToken)).token for item, request in requests.items()}

    made = asyncio.run(make())
    shown = made if out is None else {item: _written(out, f"{kind}-{item}", text) for item, text in made.items()}
    if output is not Format.TABLE:
        key = "token" if out is None else "file"
        write_as(output, [{"kind": kind, "name": item, key: text} for item, text in shown.items()])
        return
    for text in shown.values():
        typer.echo(text)


def _written(directory: Path, name: str, text: str) -> str:
    from stoscore.files import private_directory, write_private

    file = private_directory(directory) / f"{name}.token"
    write_private(file, f"{text}\n".encode("ascii"))
    return str(file)


@app.command()
def enrol(
    token_file: Annotated[Path, typer.Option(help="file with the join token")],
    identity_dir: Annotated[Path, typer.Option(help="directory to make")],
) -> None:
    """Exchange a join token for an identity, for programs that don't do it by themselves (such as `stos`).

    \b
      stos certs enrol --token-file alice.token --identity-dir ~/.stos/identity
    """
    from stoscore.enrolment import enrol as exchange
    from stoscore.enrolment import read_tokens
    from stoscore.identity import Identity

    tokens = read_tokens(token_file)
    if len(tokens) != 1:
        raise invalid(f"{token_file} holds {len(tokens)} tokens, not one")
    asyncio.run(exchange(identity_dir, tokens[0]))
    typer.echo(Identity.load(identity_dir).uri)


# ---- looking -----------------------------------------------------------------------------------------


@app.command()
def ls(directory: Directory = None, socket: Socket = None, output: Output = Format.TABLE) -> None:
    """The authority, and everybody with the newest certificate of each.

    \b
      stos certs ls
      stos certs ls -o json
      stos certs ls --socket /var/lib/stos/certs/certs/admin.sock
    """
    pages = asyncio.run(_pages(directory, socket))
    if output is not Format.TABLE:
        identities = [one.model_dump(mode="json") for page in pages for one in page.identities]
        names = [f"{one['kind']}/{one['name']}" for one in identities]
        write_as(output, pages[-1].authority.model_dump(mode="json") | {"identities": identities}, names)
        return
    typer.echo(tables.authority(pages[-1].authority))
    typer.echo()
    typer.echo(tables.identities([one for page in pages for one in page.identities]))


async def _pages(directory: Path | None, socket: Path | None) -> list[IdentityPage]:
    from stoscore.certs_messages import IdentityPage, ListIdentities

    pages: list[IdentityPage] = []
    after = ""
    async with _door(socket, directory) as ask:
        while not pages or pages[-1].more:
            page: IdentityPage = await ask("ls", ListIdentities(after=after), IdentityPage)
            pages.append(page)
            if page.identities:
                after = f"{page.identities[-1].kind}/{page.identities[-1].name}"
    return pages


@app.command()
def show(
    who: Annotated[
        str, typer.Argument(metavar="[KIND/NAME]", help="an identity of the cluster; without it, one of this machine")
    ] = "",
    identity_dir: Annotated[
        Path | None, typer.Option(help="which one of this machine [default: STOS_IDENTITY_DIR]")
    ] = None,
    directory: Directory = None,
    socket: Socket = None,
    output: Output = Format.TABLE,
) -> None:
    """One identity: what it holds and until when.

    \b
      stos certs show node/n4                                   as certs knows it
      stos certs show --identity-dir /var/lib/stos/identity     as it lies on this machine; asks nobody
    """
    if not who:
        _show_local(identity_dir or Path(os.environ.get("STOS_IDENTITY_DIR", "/var/lib/stos/identity")), output)
        return
    from stoscore.certs_messages import IdentityDetail, ShowIdentity

    kind, name = _identity(who)
    detail = _ask(socket, directory, "show", make_request(ShowIdentity, kind=kind, name=name), IdentityDetail)
    if output is not Format.TABLE:
        write_as(output, detail.model_dump(mode="json"), [f"{kind}/{name}"])
    else:
        typer.echo(tables.detail(detail))


def _show_local(directory: Path, output: Format) -> None:
    from stoscore.identity import Identity

    identity = Identity.load(directory)
    state = identity.trust_state
    pairs: list[tuple[str, Any]] = [
        ("uri", identity.uri),
        ("role", identity.role),
        ("serial", identity.peer.serial),
        ("not_before", identity.not_before.isoformat()),
        ("not_after", identity.not_after.isoformat()),
        ("renew_at", identity.renew_at.isoformat()),
        ("trust_number", state.number if state else 0),
        ("directory", str(directory)),
    ]
    if output is not Format.TABLE:
        write_as(output, dict(pairs), [identity.uri])
    else:
        typer.echo(tables.fields(pairs))


# ---- shutting out, and changing the authority ---------------------------------------------------------


@app.command()
def revoke(
    who: Who,
    serial: Annotated[str, typer.Option(help="only the certificate with this serial number (hex)")] = "",
    reason: Annotated[str, typer.Option(help="shown wherever it is refused; at most 120 characters")] = "",
    unlisted: Annotated[bool, typer.Option("--unlisted", help="also one that certs does not know")] = False,
    directory: Directory = None,
    socket: Socket = None,
    output: Output = Format.TABLE,
) -> None:
    """Refuse everything that an identity holds, on every node, within seconds. Open connections end.

    Its open join tokens are worthless as well. A new token lets it in again.

    \b
      stos certs revoke node/n4 --reason "stolen from the rack"
      stos certs revoke node/n4 --serial 3f09…
    """
    from stoscore.certs_messages import Revoked, RevokeIdentity

    kind, name = _identity(who)
    request = make_request(
        RevokeIdentity, kind=kind, name=name, serial=serial.lower(), reason=reason, unlisted=unlisted
    )
    revoked = _ask(socket, directory, "revoke", request, Revoked)
    if output is not Format.TABLE:
        write_as(output, revoked.model_dump(mode="json"), [f"{kind}/{name}"])
        return
    what = f"certificate {serial} of {who}" if serial else f"{who}, and all that it holds"
    typer.echo(f"revoked: {what} (trust state {revoked.trust_number})")
    if revoked.tokens:
        are = "join token of it is" if revoked.tokens == 1 else "join tokens of it are"
        typer.echo(f"{revoked.tokens} {are} worthless now")
    typer.echo(f"to let it in again: stos certs token --kind {kind} --name {name}")


@app.command()
def rotate(
    root: Annotated[bool, typer.Option("--root", help="a new root, by phases, while everything runs")] = False,
    issuer: Annotated[bool, typer.Option("--issuer", help="a new issuer below the root; everybody renews now")] = False,
    reason: Annotated[str, typer.Option(help="for the record; at most 120 characters")] = "",
    directory: Directory = None,
    socket: Socket = None,
    output: Output = Format.TABLE,
) -> None:
    """Replace the keys of the authority. No connection breaks and no request is lost.

    Both are replaced by themselves long before they end; this is for when a key may have been seen. A stolen issuer's
    key is harmless only when the root is new as well.

    \b
      stos certs rotate --issuer
      stos certs rotate --root --reason "an administrator left"
      stos certs ls                     how far it is, and whom it waits for
    """
    from stoscore.certs_messages import RotateAuthority, Rotated

    if root == issuer:
        raise invalid("say which: --issuer or --root", "see `stos certs rotate --help`")
    request = make_request(RotateAuthority, what="root" if root else "issuer", reason=reason)
    rotated = _ask(socket, directory, "rotate", request, Rotated)
    if output is not Format.TABLE:
        write_as(output, rotated.model_dump(mode="json"), [rotated.authority.cluster])
        return
    typer.echo(tables.authority(rotated.authority))
    if rotated.authority.open_tokens and root:
        typer.echo(f"open join tokens name the old root only, {rotated.authority.open_tokens} of them: make them anew")
    typer.echo("the keys changed: make a new backup (`stos certs backup`)" + (" when it is done" if root else ""))


app.add_typer(vault_commands.app)
