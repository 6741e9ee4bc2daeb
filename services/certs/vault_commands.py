"""`stos certs backup`, `restore`, `recover`: what works on the vault itself, with the certs service's own settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.certs import tables
from stoscore.errors import invalid
from stoscore.printing import Format, Output, command_group

if TYPE_CHECKING:
    from services.certs.settings import CertsSettings

app = command_group()

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="directory of the certs service [default: as STOS_CERTS_* says]")
]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="file with the passphrase; without it, it is asked for")
]


def _settings(data_dir: Path | None) -> CertsSettings:
    from services.certs.settings import CertsSettings
    from stoscore.settings import load

    settings = load(CertsSettings, "certs")
    return settings if data_dir is None else settings.model_copy(update={"data_dir": data_dir})


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


def _passphrase(file: Path | None, *, twice: bool) -> str:
    """Never from the command line, where everybody on this machine could read it."""
    if file is not None:
        try:
            return file.read_text("utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise invalid(f"can't read the passphrase file {file}: {error}") from None
    if not os.isatty(0):
        raise invalid("there is no terminal to ask for the passphrase", "use --passphrase-file")
    asked: str = typer.prompt("passphrase", hide_input=True, confirmation_prompt=twice)
    return asked


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="file to make; it must not exist")],
    passphrase_file: PassphraseFile = None,
    data_dir: DataDir = None,
    output: Output = Format.TABLE,
) -> None:
    """Write the authority's keys, record and ledger into one file, under a passphrase.

    Runs beside the service, with its settings. Make one after each `rotate`, and keep the passphrase elsewhere.

    \b
      stos certs backup /safe/place/certs.backup
      stos certs backup --data-dir .stos/dev/certs --passphrase-file ~/passphrase ./certs.backup
    """
    from services.certs.app import wall_clock
    from services.certs.backup import write_backup
    from services.certs.vault import open_vault

    settings = _settings(data_dir)
    content = write_backup(settings, open_vault(settings), file, _passphrase(passphrase_file, twice=True), wall_clock())
    done = {
        "file": str(file),
        "cluster": content.record.cluster,
        "keys": len(content.keys),
        "identities": len(content.identities),
        "trust_number": content.record.number,
    }
    tables.write_result(done, output)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="a backup")],
    trust_file: Annotated[
        Path | None,
        typer.Option(help="trust.json from the identity directory of any node: what was revoked after the backup"),
    ] = None,
    passphrase_file: PassphraseFile = None,
    data_dir: DataDir = None,
    output: Output = Format.TABLE,
) -> None:
    """Put a backup into an empty vault, while no certs service runs on it. Nothing is overwritten.

    Without --trust-file, revocations that were made after the backup are forgotten. See docs/runbooks/ca-lost.md.

    \b
      stos certs restore /safe/place/certs.backup --trust-file /var/lib/stos/identity/trust.json
    """
    from services.certs.app import wall_clock
    from services.certs.backup import open_backup
    from services.certs.backup import restore as put_back
    from services.certs.vault import open_vault

    settings = _settings(data_dir)
    newest = None if trust_file is None else _read_trust(trust_file)
    content = open_backup(file, _passphrase(passphrase_file, twice=False))
    record = put_back(settings, open_vault(settings), content, wall_clock, newest)
    if newest is None:
        _warn("revocations that were made after this backup are forgotten: see --trust-file")
    done = {
        "cluster": record.cluster,
        "identities": len(content.identities),
        "denied": len(record.denials),
        "trust_number": record.number,
    }
    tables.write_result(done, output)


def _read_trust(file: Path) -> Any:
    from pydantic import ValidationError

    from stoscore.certs_messages import SignedTrust

    try:
        return SignedTrust.model_validate_json(file.read_bytes(), strict=True)
    except (OSError, ValidationError):
        raise invalid(f"{file} is no trust state", "it is the file trust.json of an identity directory") from None


@app.command()
def recover(
    cluster: Annotated[str, typer.Option(help="name of the cluster whose authority is lost")] = "",
    identity: Annotated[
        Path | None,
        typer.Option(help="identity directory of any node: tells the name, and which NATS account keeps the catalogue"),
    ] = None,
    data_dir: DataDir = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a new authority for a cluster whose own is lost and has no backup.

    Works on an empty vault. Every node, service and user has to be let in again with a new token afterwards; volumes
    and their data stay. Step by step: docs/runbooks/ca-lost.md.

    \b
      stos certs recover --cluster prod-1f2e3d4c --identity /var/lib/stos/identity
    """
    from services.certs.app import wall_clock
    from services.certs.recovery import read_remains
    from services.certs.recovery import recover as make_anew
    from services.certs.vault import open_vault

    remains = None if identity is None else read_remains(identity)
    if remains is not None and cluster not in ("", remains.cluster):
        raise invalid(f"{identity} is of the cluster {remains.cluster}, not {cluster}")
    if remains is None and not cluster:
        raise invalid("which cluster?", "--cluster NAME, or --identity DIR of any node")
    settings = _settings(data_dir)
    name = remains.cluster if remains else cluster
    record = make_anew(settings, open_vault(settings), name, remains.nats_account if remains else "", wall_clock)
    if remains is None:
        _warn("the catalogue and the kept events are begun anew, because the NATS account is not known: see --identity")
    done = {"cluster": record.cluster, "trust_number": record.number, "catalogue": "kept" if remains else "new"}
    tables.write_result(done, output)
