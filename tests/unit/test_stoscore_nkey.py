"""NATS' keys are what its own library makes of them, byte for byte; what is damaged is refused and not told."""

from __future__ import annotations

import nkeys
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoscore.errors import Code, StosError
from stoscore.nkey import ACCOUNT, OPERATOR, USER, make_seed, public_key, sign, valid_public_key

LETTERS = {OPERATOR: "O", ACCOUNT: "A", USER: "U"}
SEED = make_seed(USER, bytes(range(32)))


@given(st.binary(min_size=32, max_size=32), st.sampled_from(sorted(LETTERS)), st.binary(max_size=100))
def test_keys_and_signatures_are_those_of_the_library(randomness: bytes, prefix: int, message: bytes) -> None:
    seed = make_seed(prefix, randomness)
    theirs = nkeys.from_seed(bytearray(nkeys.encode_seed(randomness, prefix)))
    assert seed == bytes(theirs.seed)
    assert public_key(seed) == theirs.public_key.decode("ascii")
    assert sign(seed, message) == bytes(theirs.sign(message))
    assert valid_public_key(public_key(seed), LETTERS[prefix])
    assert not any(valid_public_key(public_key(seed), letter) for letter in "OAU" if letter != LETTERS[prefix])


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"SU",
        SEED[:-1],
        SEED + b"A",
        SEED.lower(),
        SEED.replace(b"C", b"D", 1),
        b"\xff" * 58,
        public_key(SEED).encode(),
    ],
)
def test_what_is_no_seed_is_refused_and_not_told(damaged: bytes) -> None:
    for use in (lambda: sign(damaged, b"nonce"), lambda: public_key(damaged)):
        with pytest.raises(StosError) as refused:
            use()
        assert refused.value.code is Code.UNAUTHENTICATED
        assert not damaged or damaged.decode("latin-1") not in str(refused.value)


@given(st.binary(max_size=80))
def test_no_seed_ends_in_anything_but_that_error(anything: bytes) -> None:
    with pytest.raises(StosError):
        sign(anything, b"nonce")


@pytest.mark.parametrize(("prefix", "randomness"), [(USER, b"short"), (OPERATOR, bytes(33)), (18 << 3, bytes(32))])
def test_no_seed_is_made_of_what_makes_none(prefix: int, randomness: bytes) -> None:
    with pytest.raises(ValueError, match="no key"):
        make_seed(prefix, randomness)
