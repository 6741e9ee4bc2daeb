"""Secrets that people and libraries put where none belong are taken out of what leaves the machine."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from stoscore.redaction import redact

SEED = "SUA" + "B2CDEFGHIJKLMNOPQRSTUVWXYZ234567" * 2
SECRETS = {
    "SUAB": SEED[:58],
    "kek": "stos-kek-1.QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=",
    "join": "stos-join-1.eyJhZGRyZXNzIjoiMTI3LjAuMC4xOjEifQ==",
    "jwt": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJlMTIz",
}


def pem() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_a_form_is_known_anywhere(secret: str) -> None:
    clean, count = redact(f'{{"reason": "could not parse {secret}, sorry"}}')
    assert secret not in clean
    assert count == 1
    assert "sorry" in clean


@pytest.mark.parametrize("dressed", [str, json.dumps, lambda text: json.dumps(json.dumps(text))])
def test_every_line_of_a_key_goes(dressed: object) -> None:
    key = pem()
    assert callable(dressed)
    clean, _ = redact(dressed(f"before {key} after"))
    assert not [line for line in key.splitlines()[1:-1] if line in clean]
    assert "before" in clean and "after" in clean


def test_the_beginning_of_a_key_that_was_cut_off_goes_too() -> None:
    key = pem()
    clean, _ = redact(key[: len(key) // 2])
    assert not [line for line in key.splitlines()[1:-1] if line[:20] in clean]


@pytest.mark.parametrize(
    ("text", "secret", "left"),
    [
        ("tls://user:hunter2@nats:4222", "hunter2", "nats:4222"),
        ("password=hunter2 next", "hunter2", "next"),
        ('{"password": "hunter2", "a": 1}', "hunter2", '"a": 1'),
        (json.dumps('{"token": "hunter2", "a": 1}'), "hunter2", "a"),
        ("Authorization: Bearer abcdef123456", "abcdef123456", "Authorization"),
        ("STOS_X_PASSPHRASE=hunter2", "hunter2", "STOS_X_"),
    ],
)
def test_what_a_word_or_an_address_announces(text: str, secret: str, left: str) -> None:
    clean, count = redact(text)
    assert secret not in clean
    assert left in clean
    assert count == 1


@pytest.mark.parametrize(
    "text",
    [
        "join_token_file=/etc/stos/token",
        '"action": "certs.token", "target": "node/n4"',
        "https://collector:4317/v1",
        "volume 0123456789abcdef0123456789abcdef epoch 7",
        "admin@example.org wrote",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == (text, 0)


@given(st.text(), st.sampled_from(sorted(SECRETS.values())), st.text())
def test_twice_is_once(before: str, secret: str, after: str) -> None:
    clean, _ = redact(f"{before} {secret} {after}")
    assert redact(clean)[0] == clean
