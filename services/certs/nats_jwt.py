"""NATS credentials: the operator, the accounts, and the users with their scoped signing keys.

    operator "stos"
      ├── account SYS     the server's own events and orders
      └── account STOS    everything of ours
            └── one signing key per role, with the role's permissions as a template
                  └── users: a name, a public key and an end, signed by the role's key

A user's credential says nothing about permissions; the account, which the server holds, says what the key
that signed it stands for. So a role's permissions change in one place, and no credential can claim more.
The account also says which users are revoked: the servers end their connections when they are told.
The forms are those of github.com/nats-io/jwt, version 2.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.certs.roles import Role
from stoscore.access import inbox_of
from stoscore.nkey import public_key, sign

ACCOUNT_NAME, SYSTEM_NAME = "STOS", "SYS"
STREAMS_MAX, CONSUMERS_MAX = 8, 1
CREDENTIAL_LIFE_MAX_S = 31 * 86_400
"""No credential lives longer, so that a revocation may be forgotten after that time."""
PING = "$SYS.REQ.SERVER.PING"
LOOKUP = "$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP"
UPDATE = "$SYS.REQ.CLAIMS.UPDATE"
"""Requests that every server answers."""

Claims = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NatsKeys:
    """The seeds of all that sign. They never leave the certs service."""

    operator: bytes
    account: str
    """The public key alone, because nothing is signed with the private one: users are signed by the roles' keys. So
    an authority whose keys are lost can go on with the same account, and with its streams."""
    system: bytes
    roles: dict[str, bytes]
    """role -> seed of its signing key"""


def _encode(part: dict[str, Any]) -> str:
    text = json.dumps(part, separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(text.encode()).decode("ascii").rstrip("=")


def _signed(seed: bytes, subject: str, name: str, content: dict[str, Any], now_s: int, end_s: int = 0) -> str:
    claims: dict[str, Any] = {"iat": now_s, "iss": public_key(seed), "name": name, "sub": subject}
    if end_s:
        claims["exp"] = end_s
    claims["nats"] = {**content, "version": 2}
    unsigned = json.dumps(claims, separators=(",", ":"), sort_keys=True).encode()
    claims["jti"] = base64.b32encode(hashlib.sha256(unsigned).digest()).decode("ascii").rstrip("=")
    head = _encode({"typ": "JWT", "alg": "ed25519-nkey"}) + "." + _encode(claims)
    return head + "." + base64.urlsafe_b64encode(sign(seed, head.encode())).decode("ascii").rstrip("=")


def operator_jwt(keys: NatsKeys, name: str, now_s: int) -> str:
    """The root of trust that the server's configuration names."""
    content = {"type": "operator", "system_account": public_key(keys.system)}
    return _signed(keys.operator, public_key(keys.operator), name, content, now_s)


def _no_limits() -> dict[str, Any]:
    everything = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
    return {**dict.fromkeys(everything, -1), "wildcards": True}


def system_jwt(keys: NatsKeys, now_s: int) -> str:
    content = {"type": "account", "limits": _no_limits(), "default_permissions": {"pub": {}, "sub": {}}}
    return _signed(keys.operator, public_key(keys.system), SYSTEM_NAME, content, now_s)


def account_content(
    keys: NatsKeys, roles: Mapping[str, Role], store_bytes: int, revocations: Mapping[str, int]
) -> Claims:
    """Our account with one scoped signing key per role. A user that no role's key signed may do nothing. A user
    whose credential was made at the second of its revocation or before is not let in."""
    limits = {
        **_no_limits(),
        "leaf": 0,
        "mem_storage": 0,
        "disk_storage": store_bytes,
        "streams": STREAMS_MAX,
        "consumer": CONSUMERS_MAX,
    }
    return {
        "type": "account",
        "limits": limits,
        "default_permissions": {"pub": {"deny": [">"]}, "sub": {"deny": [">"]}},
        "signing_keys": [_scope(roles[name], seed) for name, seed in sorted(keys.roles.items())],
        "revocations": dict(sorted(revocations.items())),
    }


def account_jwt(keys: NatsKeys, content: Claims, now_s: int) -> str:
    return _signed(keys.operator, keys.account, ACCOUNT_NAME, content, now_s)


def next_account(keys: NatsKeys, ours: Claims, kept: Sequence[str], began_s: int, now_s: int) -> str | None:
    """What the servers are to be given, when `kept` is what each of them has; None when there is nothing to tell.

    Several certs of different versions may work side by side. A statement that was made after this process began
    comes from one that is as new as we are or newer: its roles stay. Its revocations always stay, so that nobody
    takes back what he has not heard of."""
    known = [claims for claims in map(claims_of, kept) if claims.get("iss") == public_key(keys.operator)]
    newest = max(known, key=_made_s, default=None)
    content = dict(ours)
    if newest is not None:
        theirs = _content(newest)
        if _made_s(newest) > began_s:
            content = {**theirs, "revocations": ours["revocations"]}
        content["revocations"] = _united(ours["revocations"], theirs.get("revocations") or {}, now_s)
    if known and len(known) == len(kept) and all(_content(claims) == content for claims in known):
        return None
    made_s = max([now_s, *(_made_s(claims) + 1 for claims in known)])
    return account_jwt(keys, content, made_s)


def _united(ours: Mapping[str, int], theirs: Mapping[str, int], now_s: int) -> dict[str, int]:
    united = {key: max(ours.get(key, 0), theirs.get(key, 0)) for key in sorted({*ours, *theirs})}
    return {key: at_s for key, at_s in united.items() if at_s + CREDENTIAL_LIFE_MAX_S > now_s}


def _made_s(claims: Claims) -> int:
    return int(claims.get("iat", 0))


def _content(claims: Claims) -> Claims:
    content = {key: value for key, value in claims.get("nats", {}).items() if key != "version"}
    return {**content, "revocations": content.get("revocations") or {}}


def claims_of(token: str) -> Claims:
    """What a credential says, without a look at its signature; {} when it is none."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _scope(role: Role, seed: bytes) -> dict[str, Any]:
    return {
        "kind": "user_scope",
        "key": public_key(seed),
        "role": role.name,
        "template": {
            "pub": {"allow": sorted(set(role.publish))},
            "sub": {"allow": sorted(set(role.subscribe))},
            "subs": role.subscriptions_max,
            "data": -1,
            "payload": role.payload_max,
            "allowed_connection_types": ["STANDARD"],
        },
    }


def user_jwt(keys: NatsKeys, role: str, name: str, user_key: str, now_s: int, end_s: int) -> str:
    """A credential for the owner of `user_key`, good until `end_s` (Unix time)."""
    content = {"type": "user", "issuer_account": keys.account}
    return _signed(keys.roles[role], user_key, name, content, now_s, end_s)


def system_user_jwt(keys: NatsKeys, name: str, user_key: str, now_s: int, end_s: int) -> str:
    """A credential of the system account, for telling the servers about our account and for nothing else."""
    told = (PING, LOOKUP.format(keys.account), UPDATE)
    content = {
        "type": "user",
        "pub": {"allow": list(told)},
        "sub": {"allow": [f"{inbox_of('svc', name)}.>"]},
        "subs": 4,
        "data": -1,
        "payload": -1,
    }
    return _signed(keys.system, user_key, name, content, now_s, end_s)
