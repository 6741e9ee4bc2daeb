"""The ledger: bounded, nothing valid forgotten, and revoked stays revoked."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.certs.ledger import CERTIFICATES_MAX, FORGOTTEN_AFTER_S, Issued, Ledger, live
from services.certs.vault.directory import DirectoryVault
from stoscore.errors import Code, StosError


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(DirectoryVault(tmp_path))


def issued(number: int, issued_s: int = 100, ends_s: int = 200) -> Issued:
    return Issued(serial=f"{number:x}", issued_s=issued_s, ends_s=ends_s, attestor="join-token")


def serials(ledger: Ledger) -> list[str]:
    known = ledger.find("node", "n1")
    assert known is not None
    return [one.serial for one in known.certificates]


def test_the_valid_ones_are_kept(ledger: Ledger) -> None:
    assert ledger.find("node", "n1") is None
    ledger.issued("node", "n1", "node", issued(1, 100, 200))
    ledger.issued("node", "n1", "node", issued(2, 150, 250))
    assert serials(ledger) == ["1", "2"]
    ledger.issued("node", "n1", "node", issued(3, 220, 320))
    assert serials(ledger) == ["2", "3"]
    # An instance whose clock is behind: still in the order of their issue.
    ledger.issued("node", "n1", "node", issued(4, 210, 310))
    assert serials(ledger) == ["2", "4", "3"]


def test_who_asks_again_and_again_does_not_fill_it(ledger: Ledger) -> None:
    for number in range(1, CERTIFICATES_MAX + 20):
        ledger.issued("node", "n1", "node", issued(number, 100 + number, 10_000))
    assert len(serials(ledger)) == CERTIFICATES_MAX
    assert serials(ledger)[-1] == f"{CERTIFICATES_MAX + 19:x}"


def test_what_was_never_handed_out(ledger: Ledger) -> None:
    for number in (1, 2):
        ledger.issued("node", "n1", "node", issued(number))
    ledger.withdraw("node", "n1", "1")
    assert serials(ledger) == ["2"]


def test_what_is_in_use_only_grows(ledger: Ledger) -> None:
    ledger.issued("node", "n1", "node", issued(1))
    for number in (7, 5):
        ledger.in_use("node", "n1", "1", number)
    known = ledger.find("node", "n1")
    assert known is not None
    assert known.certificates[0].used == 7


def test_revoked_and_let_in_again_in_any_order(ledger: Ledger) -> None:
    """Instances write both; the later moment counts, not the later writer."""
    for revoked_s, readmitted_s, expected in ((50, 60, False), (60, 50, True), (60, 60, False)):
        name = f"n{revoked_s}{readmitted_s}"
        ledger.issued("node", name, "node", issued(1), readmitted_s)
        ledger.revoked("node", name, "node", revoked_s)
        ledger.issued("node", name, "node", issued(2), readmitted_s - 10)
        known = ledger.find("node", name)
        assert known is not None
        assert known.revoked is expected


def test_the_long_gone_are_forgotten_but_for_the_revoked(ledger: Ledger) -> None:
    for name in ("n1", "n2"):
        ledger.issued("node", name, "node", issued(1, 100, 200))
    ledger.issued("node", "n3", "node", issued(1, 100, 10**9))
    ledger.revoked("node", "n2", "node", 150)
    assert ledger.forget_old(200 + FORGOTTEN_AFTER_S) == []
    assert ledger.forget_old(201 + FORGOTTEN_AFTER_S) == ["node/n1"]
    assert [str(one) for one in ledger.all()] == ["node/n2", "node/n3"]
    assert [str(one) for one in live(ledger.all(), 1000)] == ["node/n3"]


def test_a_damaged_entry_is_named(ledger: Ledger, tmp_path: Path) -> None:
    DirectoryVault(tmp_path).put("identities/node/n9", b"{}", "")
    with pytest.raises(StosError, match="entry identities/node/n9 is damaged") as caught:
        ledger.all()
    assert caught.value.code is Code.FAILED_PRECONDITION
    DirectoryVault(tmp_path).put(f"tokens/{'0' * 16}", b"[]", "")
    with pytest.raises(StosError, match="entry tokens/0000000000000000 is damaged"):
        ledger.token("0" * 16)
