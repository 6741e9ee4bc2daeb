"""`stos volume export` and what belongs to it: a volume for NBD clients on other machines, over TLS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from services.cli import completing
from services.cli.cluster import Directory, Session, run
from services.cli.output import Format, Output, plain, write, write_as
from stoscore.errors import precondition

if TYPE_CHECKING:
    from stoscore.messages import FrontendOpened

Name = Annotated[str, typer.Argument(help="name or id of the volume", autocompletion=completing.volumes)]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, max=3600, help="seconds until giving up")]
EVERYWHERE = ("0.0.0.0", "[::]")  # noqa: S104  (what an operator may have chosen)
CLIENT_FILES = "x509"
"""Below the identity's directory."""


def export(
    name: Name,
    listen: Annotated[str, typer.Option(help="HOST:PORT of the node where the volume is used; port 0: any")],
    client: Annotated[list[str], typer.Option(help="user/NAME, node/NAME or svc/NAME (repeatable): nobody else may")],
    timeout: Timeout = 30.0,
    directory: Directory = None,
    output: Output = Format.TABLE,
) -> None:
    """Offer a connected volume over the network as well: NBD, TLS 1.3 only, to the named clients and nobody else.

    The volume must be connected; it is served by the node where it is. The same command with other clients puts
    those in force at once and cuts off who is named no more. `stos volume disconnect` ends the export too.

    \b
      stos volume connect data --node n1
      stos volume export data --listen 0.0.0.0:10809 --client user/eve
      stos volume unexport data
    """
    opened = run(directory, lambda session: session.volumes.export(name, listen, client, timeout_s=timeout))
    view = _view(opened)
    if output is not Format.TABLE:
        write_as(output, view)
        return
    told = f"is exported by {view['node']} on {view['address']} to {', '.join(view['clients'])}"
    write(f"volume {plain(view['name'])} {told}")
    write(f"libnbd: {plain(view['uri'])}?tls-certificates=DIR")
    write(f"qemu: --object tls-creds-x509,id=tls,endpoint=client,dir=DIR --image-opts {plain(view['qemu'])}")
    write("DIR is made from a client's identity by: stos volume client-files IDENTITY_DIR")


def _view(opened: FrontendOpened) -> dict[str, Any]:
    from stoscore.spiffe import node_host_name

    if opened.remote is None:
        raise precondition(f"node {opened.node} exports nothing: it is of an older version", "update it")
    host, _, port = opened.remote.address.rpartition(":")
    name = urlsplit(opened.uri).path.removeprefix("/")
    named = node_host_name(opened.node)
    reached = named if host in EVERYWHERE else host.strip("[]")
    return {
        "name": name,
        "node": opened.node,
        "address": opened.remote.address,
        "host_name": named,
        "clients": opened.remote.clients,
        "uri": f"nbds://{named}:{port}/{name}",
        "qemu": f"driver=nbd,host={reached},port={port},export={name},tls-creds=tls,tls-hostname={named}",
    }


def unexport(name: Name, timeout: Timeout = 30.0, directory: Directory = None, output: Output = Format.TABLE) -> None:
    """End the export and cut its clients off. The volume stays connected. Nothing to do is no error.

    \b
      stos volume unexport data
    """

    async def work(session: Session) -> str | None:
        return await session.volumes.unexport(name, timeout_s=timeout)

    node = run(directory, work)
    if output is not Format.TABLE:
        write_as(output, {"name": name, "node": node})
    else:
        write(f"volume {plain(name)} is not exported")


def client_files(
    identity_dir: Annotated[Path, typer.Argument(help="an enrolled identity, see `stos certs enrol`")],
    output: Output = Format.TABLE,
) -> None:
    """Make the directory by which qemu and libnbd know an identity. Certificate and key are links, so that a renewal
    is not missed; after the cluster's authority was rotated, run it again.

    \b
      stos volume client-files ~/.stos/identity
    """
    made = make_client_files(identity_dir)
    if output is not Format.TABLE:
        write_as(output, {"directory": str(made)})
    else:
        write(str(made))


def make_client_files(identity_dir: Path) -> Path:
    """The directory that `client-files` makes. Raises StosError when there is no identity."""
    from stoscore.files import private_directory, write_private
    from stoscore.identity import CERT, KEY, Identity

    identity = Identity.load(identity_dir)
    made = private_directory(identity_dir / CLIENT_FILES)
    # qemu looks for the issuer among the authorities only, not in the certificate's own chain.
    issuers = _issuers((identity_dir / CERT).read_text("ascii"))
    write_private(made / "ca-cert.pem", (identity.trust_pem + issuers).encode("ascii"))
    for link, target in (("client-cert.pem", CERT), ("client-key.pem", KEY)):
        path = made / link
        if not path.is_symlink():
            path.symlink_to(Path("..") / target)
    return made


def _issuers(chain_pem: str) -> str:
    """The chain without its first certificate."""
    return chain_pem.partition("-----END CERTIFICATE-----\n")[2]
