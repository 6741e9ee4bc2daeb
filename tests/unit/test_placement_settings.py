"""Placement's settings, and the policies that they name."""

from __future__ import annotations

import pytest

from services.placement.app import load_policies
from services.placement.settings import PlacementSettings
from stoscore.errors import Code, StosError
from stoscore.settings import load


def test_the_defaults_are_both_policies() -> None:
    settings = load(PlacementSettings, "placement")
    assert [policy.name for policy in load_policies(settings)] == ["capacity", "spread"]


def test_the_environment_names_policies_as_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOS_PLACEMENT_POLICIES", "spread")
    monkeypatch.setenv("STOS_PLACEMENT_ZONE_SPREAD", "require")
    settings = load(PlacementSettings, "placement")
    (policy,) = load_policies(settings)
    assert policy.name == "spread"


def test_an_unknown_policy_is_told_with_those_that_exist() -> None:
    with pytest.raises(StosError, match="cheapest") as caught:
        load_policies(PlacementSettings(policies=["cheapest"]))
    assert caught.value.code is Code.NOT_FOUND
    assert "capacity, spread" in caught.value.next_step


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("STOS_PLACEMENT_OVERCOMMIT_RATIO", "0"),
        ("STOS_PLACEMENT_ZONE_SPREAD", "maybe"),
        ("STOS_PLACEMENT_BID_WAIT_MS", "soon"),
        ("STOS_PLACEMENT_OVERCOMIT", "1"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StosError, match=variable) as caught:
        load(PlacementSettings, "placement")
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "\n" not in str(caught.value)


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in PlacementSettings.model_fields.values())
