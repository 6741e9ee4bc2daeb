"""Join tokens: good once, for one identity, for a short time; only a hash of the secret is kept.

"Once" means: for one key. The first use binds the token to the key that asks, and the binding is on disk
before the answer leaves. A newcomer that lost the answer asks again with the same key and is answered; a
thief with another key is refused, whichever of the two came first.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace

from stoscore.errors import Code, StosError


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of one token. Times are Unix seconds."""

    token_id: str
    secret_sha256: str
    kind: str
    name: str
    role: str
    made_s: int
    expires_s: int
    used_by: str = ""
    """fingerprint of the key that used it"""


def hash_secret(secret: str) -> str:
    """The secret is random and long, so that a plain hash is as good as a slow one."""
    return hashlib.sha256(secret.encode()).hexdigest()


def redeem(token: Token | None, secret: str, key: str, now_s: int, revoked_s: int = 0) -> Token:
    """The token as it is after that key used it. `revoked_s`: when its identity was revoked; a thief who used a token
    up would come back with it otherwise. Raises StosError UNAUTHENTICATED; who does not know the secret learns
    nothing else about the token."""
    expected = token.secret_sha256 if token else hash_secret("")
    right = hmac.compare_digest(expected, hash_secret(secret))
    if token is None or not right:
        raise StosError(Code.UNAUTHENTICATED, "this join token is unknown")
    if token.used_by and token.used_by != key:
        raise StosError(
            Code.UNAUTHENTICATED,
            f"this join token for {token.kind}/{token.name} was used before",
            next_step="a token is good once; get a new one from `stos certs token`",
        )
    if now_s >= token.expires_s:
        raise StosError(
            Code.UNAUTHENTICATED,
            f"this join token for {token.kind}/{token.name} has expired",
            next_step="get a new one from `stos certs token`",
        )
    if token.made_s < revoked_s:
        raise StosError(
            Code.UNAUTHENTICATED,
            f"this join token was made before {token.kind}/{token.name} was revoked",
            next_step="get a new one from `stos certs token`, if that identity is to come back",
        )
    return replace(token, used_by=key)


def is_over(token: Token, now_s: int, kept_s: int = 86_400) -> bool:
    """It can be forgotten: expired long enough that nobody wonders about it any more."""
    return now_s >= token.expires_s + kept_s
