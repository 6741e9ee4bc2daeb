"""NATS credentials: the operator, the accounts, and the users with their scoped signing keys.

    operator "stos"
      ├── account SYS     the server's own events and orders
      └── account STOS    everything of ours
            └── one signing key per role, with the role's permissions as a template
                  └── users: a name, a public key and an end, signed by the role's key

A user's credential says nothing about permissions; the account, which the server holds, says what the key
that signed it stands for. So a role's permissions change in one place, and no credential can claim more.
The forms are those of github.com/nats-io/jwt, version 2.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from services.certs.roles import Role
from stoscore.nkey import public_key, sign

ACCOUNT_NAME, SYSTEM_NAME = "STOS", "SYS"
ANSWER_TTL_NS = 300 * 1_000_000_000
"""How long a service may answer a request: the longest time limit a request can carry."""
ANSWERS_MAX = 4
"""How often it may answer one request: a request that is delivered twice (asked again) counts against the
permission already, and its answer must still fit."""
STREAMS_MAX, CONSUMERS_MAX = 8, 64


@dataclass(frozen=True, slots=True)
class NatsKeys:
    """The seeds of all that sign. They never leave the certs service."""

    operator: bytes
    account: bytes
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


def account_jwt(keys: NatsKeys, roles: dict[str, Role], store_bytes: int, now_s: int) -> str:
    """Our account with one scoped signing key per role. A user that no role's key signed may do nothing."""
    limits = {
        **_no_limits(),
        "leaf": 0,
        "mem_storage": 0,
        "disk_storage": store_bytes,
        "streams": STREAMS_MAX,
        "consumer": CONSUMERS_MAX,
    }
    content = {
        "type": "account",
        "limits": limits,
        "default_permissions": {"pub": {"deny": [">"]}, "sub": {"deny": [">"]}},
        "signing_keys": [_scope(roles[name], seed) for name, seed in sorted(keys.roles.items())],
    }
    return _signed(keys.operator, public_key(keys.account), ACCOUNT_NAME, content, now_s)


def _scope(role: Role, seed: bytes) -> dict[str, Any]:
    return {
        "kind": "user_scope",
        "key": public_key(seed),
        "role": role.name,
        "template": {
            "pub": {"allow": sorted(set(role.publish))},
            "sub": {"allow": sorted({*role.subscribe, role.inbox})},
            "resp": {"max": ANSWERS_MAX, "ttl": ANSWER_TTL_NS},
            "subs": -1,
            "data": -1,
            "payload": -1,
            "allowed_connection_types": ["STANDARD"],
        },
    }


def user_jwt(keys: NatsKeys, role: str, name: str, user_key: str, now_s: int, end_s: int) -> str:
    """A credential for the owner of `user_key`, good until `end_s` (Unix time)."""
    content = {"type": "user", "issuer_account": public_key(keys.account)}
    return _signed(keys.roles[role], user_key, name, content, now_s, end_s)


def system_user_jwt(keys: NatsKeys, name: str, user_key: str, now_s: int, end_s: int) -> str:
    """A credential of the system account, for orders to the server itself."""
    content = {
        "type": "user",
        "pub": {"allow": ["$SYS.REQ.SERVER.>"]},
        "sub": {"allow": [f"_INBOX_svc_{name}.>"]},
        "subs": -1,
        "data": -1,
        "payload": -1,
    }
    return _signed(keys.system, user_key, name, content, now_s, end_s)
