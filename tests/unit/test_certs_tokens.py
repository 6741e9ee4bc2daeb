"""Join tokens: once means one key, and who does not know the secret learns nothing."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from services.certs.ledger import Ledger
from services.certs.tokens import Token, hash_secret, is_over, redeem
from services.certs.vault.directory import DirectoryVault
from stoscore.errors import Code, StosError

TOKEN = Token("0" * 16, hash_secret("secret"), "node", "n1", "node", made_s=5, expires_s=100)


def refused(token: Token | None, secret: str, key: str, now_s: int, revoked_s: int = 0) -> str:
    with pytest.raises(StosError) as caught:
        redeem(token, secret, key, now_s, revoked_s)
    assert caught.value.code is Code.UNAUTHENTICATED
    return caught.value.message


def test_once_for_one_key() -> None:
    used = redeem(TOKEN, "secret", "key-a", 10)
    assert used.used_by == "key-a"
    assert redeem(used, "secret", "key-a", 20) == used  # its answer was lost
    assert "used before" in refused(used, "secret", "key-b", 20)


def test_the_wrong_secret_learns_nothing() -> None:
    used = redeem(TOKEN, "secret", "key-a", 10)
    said = {refused(token, "guess", "key-b", 1000, 7) for token in (None, TOKEN, used)}
    assert said == {"this join token is unknown"}
    assert refused(None, "", "key", 1) == "this join token is unknown"


def test_in_time() -> None:
    redeem(TOKEN, "secret", "key-a", 99)
    assert "expired" in refused(TOKEN, "secret", "key-a", 100)
    assert "used before" in refused(redeem(TOKEN, "secret", "key-a", 99), "secret", "key-b", 100)


def test_a_revocation_ends_the_tokens_before_it() -> None:
    """Also for the key that used it: a thief asks again with the key that is revoked now."""
    used = redeem(TOKEN, "secret", "key-a", 10)
    assert "before node/n1 was revoked" in refused(used, "secret", "key-a", 20, revoked_s=6)
    assert redeem(used, "secret", "key-a", 20, revoked_s=5) == used


def test_forgotten_a_day_after_its_end() -> None:
    assert not is_over(TOKEN, 100 + 86_399)
    assert is_over(TOKEN, 100 + 86_400)


def test_the_secret_is_not_kept() -> None:
    kept = Token("0" * 16, hash_secret("hidden"), "node", "n1", "node", 0, 1)
    assert "secret" not in repr(kept).replace("secret_", "")


def test_of_two_instances_one_takes_it(tmp_path: Path) -> None:
    """Each has the token read before the other one stores its answer."""
    Ledger(DirectoryVault(tmp_path)).add_token(TOKEN)
    have_read, outcomes = threading.Barrier(2), []

    def use(key: str) -> None:
        first = True

        def decide(token: Token | None) -> Token:
            nonlocal first
            if first:
                first = False
                have_read.wait(10)
            return redeem(token, "secret", key, 10)

        try:
            outcomes.append(Ledger(DirectoryVault(tmp_path)).use_token(TOKEN.token_id, decide).used_by)
        except StosError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=use, args=(key,)) for key in ("key-a", "key-b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = Ledger(DirectoryVault(tmp_path)).token(TOKEN.token_id)
    assert kept is not None
    assert sorted(map(str, outcomes)) == sorted([kept.used_by, str(Code.UNAUTHENTICATED)])


@pytest.mark.parametrize("token_id", ["", "../../authority", "0" * 15, "0" * 17, "G" * 16, "é" * 16])
def test_what_is_no_token_id_is_unknown(tmp_path: Path, token_id: str) -> None:
    ledger = Ledger(DirectoryVault(tmp_path))
    assert ledger.token(token_id) is None
    with pytest.raises(StosError, match="unknown"):
        ledger.use_token(token_id, lambda token: redeem(token, "secret", "key", 10))
