"""Whatever is done to trust states on their way: nobody believes what certs did not say, and nobody goes back."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoscore.certs_messages import Denied, SignedTrust, TrustState
from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from stoscore.trust import verify_trust
from tests.support.ca import TestAuthority

NUMBERS = st.integers(1, 6)


class World:
    """A cluster, a second one of the same name, and everybody who might sign."""

    def __init__(self) -> None:
        directory = Path(tempfile.mkdtemp())
        self.ours, theirs = TestAuthority("stos-1"), TestAuthority("stos-1")
        self.certs = self.ours.issue(directory, "certs", kind="svc")
        self.node = self.ours.issue(directory, "n1")
        self.strangers = [
            self.node,
            self.ours.issue(directory, "certs", kind="user"),
            self.ours.issue(directory, "placement-1", kind="svc"),
            self.ours.issue(directory, "certs", kind="svc", cluster="stos-2"),
            theirs.issue(directory, "certs", kind="svc"),
        ]
        denied = [Denied(kind="node", name="n9", serial="abc", expires_s=1, reason="stolen")]
        self.states = {
            number: self.ours.trust(self.certs, number, denied=denied[: number % 2]) for number in range(1, 7)
        }

    def verify(self, signed: SignedTrust, current: TrustState | None = None) -> TrustState:
        return verify_trust(signed, (self.ours.root,), "stos-1", current=current)


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@given(data=st.data())
@settings(max_examples=1000, deadline=None)
def test_a_flipped_bit_is_noticed(world: World, data: st.DataObject) -> None:
    """Any bit of the text or of the signature. Of the certificates only their content counts, not their wrapping:
    a flip there is refused, or leaves the very same state."""
    good = world.states[1]
    field = data.draw(st.sampled_from(["state_json", "signature", "chain_pem"]))
    content = bytearray(base64.b64decode(good.signature) if field == "signature" else getattr(good, field).encode())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    text = base64.b64encode(content).decode() if field == "signature" else content.decode("latin-1")
    bad = good.model_copy(update={field: text})
    try:
        believed = world.verify(bad)
    except StosError as error:
        assert error.code is Code.UNAUTHENTICATED
    else:
        assert field == "chain_pem"
        assert believed == world.verify(good)


@given(order=st.lists(NUMBERS, max_size=20))
@settings(max_examples=200, deadline=None)
def test_in_any_order_the_newest_wins(world: World, order: list[int]) -> None:
    current: TrustState | None = None
    highest = 0
    for number in order:
        try:
            current = world.verify(world.states[number], current)
            assert number >= highest
        except StosError as error:
            assert error.code is Code.FAILED_PRECONDITION
            assert number < highest
        highest = max(highest, number)
    assert (current.number if current else 0) == highest


@given(
    signer=st.integers(0, 4),
    number=NUMBERS,
    foreign_roots=st.booleans(),
    chain_of=st.sampled_from(["signer", "certs", "both"]),
)
@settings(max_examples=100, deadline=None)
def test_no_other_signer_is_believed(
    world: World, signer: int, number: int, foreign_roots: bool, chain_of: str
) -> None:
    """Also when it shows the certificate of certs instead of, or before, its own."""
    stranger: Identity = world.strangers[signer]
    roots_pem = world.ours.root_pem + (world.strangers[4].trust_pem if foreign_roots else "")
    signed = world.ours.trust(stranger, number, roots_pem=roots_pem)
    certs_pem = world.states[1].chain_pem
    shown = {"signer": signed.chain_pem, "certs": certs_pem, "both": certs_pem + signed.chain_pem}[chain_of]
    with pytest.raises(StosError) as caught:
        world.verify(signed.model_copy(update={"chain_pem": shown}))
    assert caught.value.code is Code.UNAUTHENTICATED
