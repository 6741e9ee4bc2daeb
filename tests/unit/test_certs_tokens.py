"""Join tokens: once means one key, and who does not know the secret learns nothing."""

from __future__ import annotations

import pytest

from services.certs.tokens import Token, hash_secret, is_over, redeem
from stoscore.errors import Code, StosError

TOKEN = Token("0" * 16, hash_secret("secret"), "node", "n1", expires_s=100)


def refused(token: Token | None, secret: str, key: str, now_s: int) -> str:
    with pytest.raises(StosError) as caught:
        redeem(token, secret, key, now_s)
    assert caught.value.code is Code.UNAUTHENTICATED
    return caught.value.message


def test_once_for_one_key() -> None:
    used = redeem(TOKEN, "secret", "key-a", 10)
    assert used.used_by == "key-a"
    assert redeem(used, "secret", "key-a", 20) == used  # its answer was lost
    assert "used before" in refused(used, "secret", "key-b", 20)


def test_the_wrong_secret_learns_nothing() -> None:
    used = redeem(TOKEN, "secret", "key-a", 10)
    said = {refused(token, "guess", "key-b", 1000) for token in (None, TOKEN, used)}
    assert said == {"this join token is unknown"}
    assert refused(None, "", "key", 1) == "this join token is unknown"


def test_in_time() -> None:
    redeem(TOKEN, "secret", "key-a", 99)
    assert "expired" in refused(TOKEN, "secret", "key-a", 100)
    assert "used before" in refused(redeem(TOKEN, "secret", "key-a", 99), "secret", "key-b", 100)


def test_forgotten_a_day_after_its_end() -> None:
    assert not is_over(TOKEN, 100 + 86_399)
    assert is_over(TOKEN, 100 + 86_400)


def test_the_secret_is_not_kept() -> None:
    assert "secret" not in repr(Token("0" * 16, hash_secret("hidden"), "node", "n1", 1)).replace("secret_", "")
