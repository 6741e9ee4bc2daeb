"""What the `stos certs` commands print."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from stoscore.certs_messages import AuthorityView, IdentityDetail, IdentityView
from stoscore.printing import Format, fields, table, write, write_as
from stoscore.tables import plain, toned

__all__ = ["authority", "detail", "fields", "identities", "write_result"]


def write_result(done: dict[str, object], output: Format) -> None:
    """Of work on a file or a directory, which name it."""
    if output is Format.TABLE:
        write(fields(list(done.items())))
    else:
        write_as(output, done, [str(done.get("file") or done.get("directory") or done["cluster"])])


def _time(unix_s: int) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S}" if unix_s else "never"


def authority(view: AuthorityView) -> str:
    pairs: list[tuple[str, object]] = [
        ("cluster", view.cluster),
        ("enrolment", ", ".join(view.addresses)),
        ("trust state", f"{view.trust_number}, {view.denied} denied"),
        *((root.key, f"until {_time(root.ends_unix_s)[:10]}, SHA-256 {root.sha256}") for root in view.roots),
        (view.issuer, f"signs, until {_time(view.issuer_ends_unix_s)[:10]}"),
        ("open tokens", view.open_tokens),
        ("backup", _backup(view)),
    ]
    if view.rotation is not None:
        waiting = ", ".join(view.rotation.waiting_for) or "nobody"
        more = view.rotation.waiting_count - len(view.rotation.waiting_for)
        pairs.append(
            (
                "rotation",
                f"{view.rotation.root}, phase {view.rotation.phase} since {_time(view.rotation.since_unix_s)}, "
                f"waiting for {waiting}" + (f" and {more} more" if more else ""),
            )
        )
    return fields(pairs)


def _backup(view: AuthorityView) -> str:
    if not view.backup_unix_s:
        return "never made: see `stos certs backup --help`"
    return _time(view.backup_unix_s) + ("" if view.backup_is_current else ", OF OLDER KEYS: make a new one")


def identities(views: Sequence[IdentityView]) -> str:
    headings = ("IDENTITY", "ROLE", "STATE", "PROVED BY", "VALID UNTIL (UTC)", "SERIAL")
    return table(headings, [_row(view) for view in views])


def _row(view: IdentityView) -> tuple[object, ...]:
    newest = view.certificate
    name = f"{view.kind}/{view.name}"
    if newest is None:
        return (name, view.role, toned(view.state), "-", "-", "-")
    return (name, view.role, toned(view.state), newest.attestor, _time(newest.ends_unix_s), newest.serial)


def detail(view: IdentityDetail) -> str:
    one = view.identity
    parts = [fields([("identity", f"{one.kind}/{one.name}"), ("role", one.role), ("state", toned(one.state))])]
    if view.certificates:
        rows = [
            (
                certificate.serial,
                _time(certificate.issued_unix_s),
                _time(certificate.ends_unix_s),
                certificate.attestor,
                certificate.issuer or "-",
                toned("denied") if certificate.denied else "",
            )
            for certificate in view.certificates
        ]
        headings = ("SERIAL", "ISSUED (UTC)", "VALID UNTIL (UTC)", "PROVED BY", "ISSUER", "")
        parts.append(table(headings, rows))
    for denied in view.denied:
        what = f"certificate {denied.serial}" if denied.serial else f"all before {_time(denied.issued_before_s)}"
        parts.append(
            f"revoked: {what}, listed until {_time(denied.expires_s)}: {plain(denied.reason) or 'no reason given'}"
        )
    return "\n\n".join(parts)
