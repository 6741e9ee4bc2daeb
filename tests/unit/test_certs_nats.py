"""What the NATS server is given: credentials that claim nothing themselves, and a file without plain text."""

from __future__ import annotations

import base64
import json
from typing import Any

import nkeys
import pytest

from services.certs import nats_jwt
from services.certs.nats_config import NatsServer, NatsTrust, server_conf
from services.certs.roles import ROLES, check_role
from stoscore.errors import StosError
from stoscore.nkey import ACCOUNT, OPERATOR, USER, make_seed, public_key, valid_public_key

KEYS = nats_jwt.NatsKeys(
    operator=make_seed(OPERATOR, b"o" * 32),
    account=make_seed(ACCOUNT, b"a" * 32),
    system=make_seed(ACCOUNT, b"s" * 32),
    roles={name: make_seed(ACCOUNT, bytes([number]) * 32) for number, name in enumerate(sorted(ROLES), start=1)},
)
USER_SEED = make_seed(USER, b"u" * 32)


def read(token: str) -> dict[str, Any]:
    """The claims of a credential whose signature is right."""
    head, body, signature = token.split(".")

    def raw(part: str) -> bytes:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

    claims: dict[str, Any] = json.loads(raw(body))
    public = base64.b32decode(claims["iss"])[1:33]
    verify = nkeys.nacl.signing.VerifyKey(public)
    verify.verify(f"{head}.{body}".encode(), raw(signature))
    assert json.loads(raw(head)) == {"typ": "JWT", "alg": "ed25519-nkey"}
    return claims


def test_the_same_input_gives_the_same_bytes() -> None:
    first = nats_jwt.account_jwt(KEYS, ROLES, 1 << 30, 1000)
    assert first == nats_jwt.account_jwt(KEYS, ROLES, 1 << 30, 1000)


def test_a_user_claims_nothing_but_who_it_is() -> None:
    claims = read(nats_jwt.user_jwt(KEYS, "node", "n1", public_key(USER_SEED), 1000, 2000))
    assert claims["name"] == "n1"
    assert claims["exp"] == 2000
    assert claims["sub"] == public_key(USER_SEED)
    assert claims["iss"] == public_key(KEYS.roles["node"])
    assert claims["nats"] == {"type": "user", "version": 2, "issuer_account": public_key(KEYS.account)}


def test_the_account_says_what_each_role_may() -> None:
    claims = read(nats_jwt.account_jwt(KEYS, ROLES, 1 << 30, 1000))
    assert claims["iss"] == public_key(KEYS.operator)
    scopes = {scope["role"]: scope for scope in claims["nats"]["signing_keys"]}
    assert set(scopes) == set(ROLES)
    for name, scope in scopes.items():
        assert scope["key"] == public_key(KEYS.roles[name])
        for direction in ("pub", "sub"):
            assert ">" not in scope["template"][direction]["allow"]
            assert scope["template"][direction]["allow"]
    # A user that the account's own key signed, past all roles, may do nothing.
    assert claims["nats"]["default_permissions"] == {"pub": {"deny": [">"]}, "sub": {"deny": [">"]}}


def test_no_role_but_certs_makes_streams_and_none_but_users_consumers() -> None:
    for role in ROLES.values():
        for subject in role.publish:
            assert not subject.startswith(("$JS.API.>", "$JS.>", "$SYS"))
            if ".STREAM.CREATE." in subject or ".STREAM.UPDATE." in subject:
                assert role.name == "certs"
            if ".CONSUMER." in subject:
                assert role.name == "user"


def test_the_operator_and_the_system_account() -> None:
    operator = read(nats_jwt.operator_jwt(KEYS, "stos-1", 1000))
    assert operator["iss"] == operator["sub"] == public_key(KEYS.operator)
    assert operator["nats"]["system_account"] == public_key(KEYS.system)
    system = read(nats_jwt.system_user_jwt(KEYS, "certs-system", public_key(USER_SEED), 1, 2))
    assert system["iss"] == public_key(KEYS.system)


@pytest.mark.parametrize(
    ("kind", "name", "role", "good"),
    [
        ("node", "n1", "node", True),
        ("user", "admin", "user", True),
        ("svc", "placement-2", "placement", True),
        ("svc", "nats", "nats", True),
        ("svc", "node-1", "node", False),
        ("svc", "user", "user", False),
        ("svc", "other", "other", False),
        ("node", "x", "nats", False),
    ],
)
def test_roles_and_kinds(kind: str, name: str, role: str, good: bool) -> None:
    if good:
        check_role(kind, name, role)
    else:
        with pytest.raises(StosError, match="no role"):
            check_role(kind, name, role)


def test_public_keys_are_checked() -> None:
    good = public_key(USER_SEED)
    assert valid_public_key(good, "U")
    for bad in ("", good[:-1], good.replace(good[9], "A" if good[9] != "A" else "B", 1), good.lower(), "U" * 56):
        assert not valid_public_key(bad, "U")
    assert not valid_public_key(public_key(KEYS.account), "U")


def test_the_configuration() -> None:
    server = NatsServer("s1", "::1", 4222, '/a "b"/store', 99, "/c", "/k", "/t", pid_file="/p")
    text = server_conf(server, NatsTrust("OP", "SYSKEY", "SYSJWT", "AKEY", "AJWT"))
    assert 'listen: "[::1]:4222"' in text
    assert r'store_dir: "/a \"b\"/store"' in text
    assert 'pid_file: "/p"' in text
    for line in ("verify: true", "handshake_first: true", 'min_version: "1.3"', "sync_interval: always"):
        assert line in text
    assert "SYSKEY: SYSJWT" in text
    assert "AKEY: AJWT" in text
    assert "http" not in text
