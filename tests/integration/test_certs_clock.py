"""The clock of certs is five minutes off: what it issues is good at once, for TLS and for the NATS server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.certs.authority import Authority
from services.certs.streams import make_streams
from services.certs.vault import open_vault
from stoscore.bus import Bus
from stoscore.spiffe import BACKDATED_S
from tests.support.control_plane import ControlPlane
from tests.support.tls import shake_hands

SKEW_S = 300


def test_the_margin_is_more_than_the_skew() -> None:
    """Both sides may be off, and a handshake takes a moment."""
    assert BACKDATED_S >= 2 * SKEW_S


@pytest.mark.parametrize("ahead_s", [-SKEW_S, SKEW_S])
async def test_what_such_a_certs_issues_is_good_at_once(tmp_path: Path, ahead_s: int) -> None:
    plane = ControlPlane(tmp_path, clock_ahead_s=ahead_s)
    try:
        await asyncio.to_thread(plane.nats.start)
        certs = await Bus.connect(plane.identity("svc", "certs"), plane.nats_urls, name="certs")
        assert await certs.wait_connected(30)
        await make_streams(certs, plane.settings.events_bytes, plane.settings.events_age_s)
        skewed = plane.identity("node", "n1")
        # Another instance, whose clock is right, on the same vault.
        other = Authority(plane.settings, open_vault(plane.settings), lambda: datetime.now(UTC))
        right = other.own_identity(tmp_path / "n2", "node", "n2")
        now = datetime.now(UTC)
        for identity in (skewed, right):
            assert identity.not_before + timedelta(seconds=SKEW_S - 30) < now
            assert identity.not_after - timedelta(days=3.9) > now
        shown = shake_hands(skewed.server_context(), right.client_context())
        assert [right.verified_peer(shown[1]).name, skewed.verified_peer(shown[0]).name] == ["n1", "n2"]
        for identity in (skewed, right):
            bus = await Bus.connect(identity, plane.nats_urls, name=identity.name)
            assert await bus.wait_connected(30)
            await bus.close()
        await certs.close()
    finally:
        plane.stop()
