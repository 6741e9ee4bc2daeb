"""What certs says about the NATS account: credentials that claim nothing themselves, revocations that never go back."""

from __future__ import annotations

import base64
import json
from typing import Any

import nkeys
import pytest

from services.certs import nats_jwt
from services.certs.roles import ROLES, check_role
from stoscore.access import KIND, RULES
from stoscore.errors import StosError
from stoscore.nkey import ACCOUNT, OPERATOR, USER, make_seed, public_key, valid_public_key

ACCOUNT_KEY = public_key(make_seed(ACCOUNT, b"a" * 32))
KEYS = nats_jwt.NatsKeys(
    operator=make_seed(OPERATOR, b"o" * 32),
    account=ACCOUNT_KEY,
    system=make_seed(ACCOUNT, b"s" * 32),
    roles={name: make_seed(ACCOUNT, bytes([number]) * 32) for number, name in enumerate(sorted(ROLES), start=1)},
)
USER_SEED = make_seed(USER, b"u" * 32)
NOW_S = 2_000_000_000


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


def ours(**revocations: int) -> dict[str, Any]:
    return nats_jwt.account_content(KEYS, ROLES, 1 << 30, revocations)


def account(made_s: int, content: dict[str, Any] | None = None) -> str:
    return nats_jwt.account_jwt(KEYS, ours() if content is None else content, made_s)


def test_the_same_input_gives_the_same_bytes() -> None:
    assert account(1000) == account(1000)


def test_a_user_claims_nothing_but_who_it_is() -> None:
    claims = read(nats_jwt.user_jwt(KEYS, "node", "n1", public_key(USER_SEED), 1000, 2000))
    assert claims["name"] == "n1"
    assert claims["exp"] == 2000
    assert claims["sub"] == public_key(USER_SEED)
    assert claims["iss"] == public_key(KEYS.roles["node"])
    assert claims["nats"] == {"type": "user", "version": 2, "issuer_account": ACCOUNT_KEY}


def test_the_account_says_what_each_role_may() -> None:
    claims = read(account(1000))
    assert (claims["iss"], claims["sub"]) == (public_key(KEYS.operator), ACCOUNT_KEY)
    scopes = {scope["role"]: scope for scope in claims["nats"]["signing_keys"]}
    assert set(scopes) == set(ROLES) == set(KIND)
    for name, scope in scopes.items():
        template = scope["template"]
        assert scope["key"] == public_key(KEYS.roles[name])
        # Nobody may publish to the reply subject of whatever it hears.
        assert "resp" not in template
        assert 0 < template["subs"] <= 64
        assert 0 < template["payload"] <= 1 << 20
        for direction in ("pub", "sub"):
            assert ">" not in template[direction]["allow"]
    # A user that the account's own key signed, past all roles, may do nothing.
    assert claims["nats"]["default_permissions"] == {"pub": {"deny": [">"]}, "sub": {"deny": [">"]}}


@pytest.mark.parametrize("role", ROLES.values(), ids=ROLES)
def test_every_subject_is_pinned_to_a_name_or_is_one_of_few(role: Any) -> None:
    told_by_one = {"certs": "stos.v1.certs.trust", "nats": "$KV.stos-catalogue.>"}
    for subject in role.publish:
        pinned = subject.endswith((f".by.{role.name}.{{{{name()}}}}", ".brain.{{name()}}", ".beat.{{name()}}"))
        event = subject.startswith(("stos.v1.events.{{name()}}.", "stos.v1.events.svc:{{name()}}."))
        stream = subject.startswith("$JS.API.STREAM.") and role.name in ("certs", "nats")
        assert pinned or event or stream or subject == told_by_one.get(role.name), subject
        assert "CONSUMER" not in subject


def test_every_row_of_the_table_can_be_asked_and_answered() -> None:
    for rule in RULES:
        assert rule.roles <= set(KIND)
        assert rule.answered_by in KIND
        assert any(f"{rule.subject}.by.{name}.{{{{name()}}}}" in ROLES[name].publish for name in rule.roles)
        assert len(rule.why) > 5


def test_the_operator_and_the_system_account() -> None:
    operator = read(nats_jwt.operator_jwt(KEYS, "stos-1", 1000))
    assert operator["iss"] == operator["sub"] == public_key(KEYS.operator)
    assert operator["nats"]["system_account"] == public_key(KEYS.system)
    system = read(nats_jwt.system_user_jwt(KEYS, "system", public_key(USER_SEED), 1, 2))
    assert system["iss"] == public_key(KEYS.system)
    assert all(subject.startswith("$SYS.REQ.") for subject in system["nats"]["pub"]["allow"])


# ---- what the servers are told --------------------------------------------------------------------------


def told(kept: list[str], mine: dict[str, Any], began_s: int = NOW_S - 100) -> dict[str, Any] | None:
    new = nats_jwt.next_account(KEYS, mine, kept, began_s, NOW_S)
    return None if new is None else read(new)


def test_nothing_is_told_where_nothing_is_new() -> None:
    assert told([account(1000)], ours()) is None
    assert told([account(1000), account(2000)], ours()) is None
    revoked = ours(UA=NOW_S - 5)
    assert told([account(1000, revoked)], revoked) is None


def test_a_server_that_lacks_something_is_told() -> None:
    new = told([account(1000, ours(UA=NOW_S - 5)), account(1000)], ours(UA=NOW_S - 5))
    assert new is not None
    assert new["nats"]["revocations"] == {"UA": NOW_S - 5}
    assert told([], ours()) is not None
    assert told(["rubbish"], ours()) is not None


def test_a_revocation_that_another_instance_made_stays() -> None:
    new = told([account(NOW_S - 50, ours(UA=NOW_S - 60, UB=NOW_S - 70))], ours(UB=NOW_S - 10, UC=NOW_S - 20))
    assert new is not None
    assert new["nats"]["revocations"] == {"UA": NOW_S - 60, "UB": NOW_S - 10, "UC": NOW_S - 20}


def test_a_revocation_is_forgotten_when_no_credential_can_be_that_old() -> None:
    old = NOW_S - nats_jwt.CREDENTIAL_LIFE_MAX_S - 1
    new = told([account(1000, ours(UA=old, UB=NOW_S - 1))], ours(UC=NOW_S))
    assert new is not None
    assert set(new["nats"]["revocations"]) == {"UB", "UC"}


def test_each_statement_is_younger_than_all_before() -> None:
    """A server keeps the younger of two: with a clock that went back, certs would be heard no more."""
    new = told([account(NOW_S + 1000, ours(UA=1))], ours(UB=NOW_S))
    assert new is not None
    assert new["iat"] > NOW_S + 1000


def narrower() -> dict[str, Any]:
    """The roles as another version has them."""
    content = ours()
    return content | {"signing_keys": content["signing_keys"][1:]}


def test_the_roles_of_a_younger_program_stay() -> None:
    """Two versions of certs side by side would else throw everybody out in turns."""
    theirs = account(NOW_S - 50, narrower())
    assert told([theirs], ours()) is None
    new = told([theirs], ours(UA=NOW_S))
    assert new is not None
    assert new["nats"]["signing_keys"] == narrower()["signing_keys"]
    assert new["nats"]["revocations"] == {"UA": NOW_S}


def test_the_roles_of_an_older_program_are_replaced() -> None:
    new = told([account(NOW_S - 150, narrower())], ours())
    assert new is not None
    assert new["nats"]["signing_keys"] == ours()["signing_keys"]


def test_another_operators_word_is_not_taken_over() -> None:
    """After the operator's key was lost and made anew."""
    stranger = nats_jwt.NatsKeys(make_seed(OPERATOR, b"x" * 32), ACCOUNT_KEY, KEYS.system, KEYS.roles)
    kept = nats_jwt.account_jwt(stranger, narrower() | {"revocations": {"UX": NOW_S}}, NOW_S)
    new = told([kept], ours())
    assert new is not None
    assert new["nats"]["signing_keys"] == ours()["signing_keys"]
    assert new["nats"]["revocations"] == {}


# ---- roles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "role", "good"),
    [
        ("node", "n1", "node", True),
        ("user", "bob", "admin", True),
        ("user", "bob", "viewer", True),
        ("svc", "placement-2", "placement", True),
        ("svc", "nats", "nats", True),
        ("svc", "nats-3", "nats", True),
        ("user", "bob", "user", False),
        ("user", "bob", "node", False),
        ("user", "certs", "certs", False),
        ("node", "n1", "admin", False),
        ("node", "x", "nats", False),
        ("svc", "node-1", "node", False),
        ("svc", "admin", "admin", False),
        ("svc", "placement-1", "certs", False),
        ("svc", "natsx", "nats", False),
        ("svc", "other", "other", False),
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
    assert not valid_public_key(ACCOUNT_KEY, "U")
