"""Settings: environment over file over default, and one clear line for what is not understood."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from stoscore.errors import Code, StosError
from stoscore.settings import COMMON, CommonSettings, ServiceSettings, load


class SampleSettings(ServiceSettings):
    port: int = Field(default=1, ge=1, le=65535)
    label: str = ""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "stos.toml"
    monkeypatch.setenv("STOS_CONFIG", str(path))
    return path


def refused(service: str, why: str, cls: type[ServiceSettings] = SampleSettings) -> None:
    with pytest.raises(StosError, match=why) as caught:
        load(cls, service)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "\n" not in str(caught.value)


def test_the_environment_wins_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('[replica]\nport = 7\nlabel = "file"\n')
    assert load(SampleSettings, "replica") == SampleSettings(port=7, label="file")
    monkeypatch.setenv("STOS_REPLICA_PORT", "8")
    assert load(SampleSettings, "replica") == SampleSettings(port=8, label="file")


def test_a_service_ignores_the_settings_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOS_REPLICA_PORT", "8")
    monkeypatch.setenv("STOS_DEMO_PLAIN", "1")
    monkeypatch.setenv("STOS_DIR", "/x")
    load(CommonSettings, COMMON)
    load(SampleSettings, "placement")


def test_words_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOS_NATS_URLS", "tls://a:1, tls://b:2")
    assert load(CommonSettings, COMMON).nats_urls == ["tls://a:1", "tls://b:2"]


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("STOS_REPLICA_PROT", "1", "unknown setting STOS_REPLICA_PROT .did you mean STOS_REPLICA_PORT"),
        ("STOS_REPLICA_ZZZ", "1", "known: STOS_REPLICA_LABEL, STOS_REPLICA_PORT"),
        ("STOS_REPLICA_PORT", "0", "STOS_REPLICA_PORT='0': "),
        ("STOS_REPLICA_PORT", "1\n2", "STOS_REPLICA_PORT="),
    ],
)
def test_bad_variables(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, why: str) -> None:
    monkeypatch.setenv(variable, value)
    refused("replica", why)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[replica]\nprot = 1\n", "unknown setting prot .*did you mean port"),
        ("[replica]\nport = 99999\n", "port in the settings file=99999"),
        ("[relpica]\nport = 1\n", r"unknown table \[relpica\]"),
        ("replica = 1\n", "must be a table"),
        ("[replica\n", "can't read the settings file"),
    ],
)
def test_bad_files(config: Path, text: str, why: str) -> None:
    config.write_text(text)
    refused("replica", why)


def test_a_missing_file(config: Path) -> None:
    refused(COMMON, "can't read the settings file", CommonSettings)


@pytest.mark.parametrize("url", ["http://x", "ws://x:1", "tls://", "://x"])
def test_only_tls_addresses(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("STOS_NATS_URLS", url)
    refused(COMMON, "STOS_NATS_URLS", CommonSettings)


def test_every_setting_says_what_it_is() -> None:
    from services.certs.settings import CertsSettings

    for cls in (CommonSettings, CertsSettings):
        for name, field in cls.model_fields.items():
            assert field.description, f"{cls.__name__}.{name}"
