"""The configuration of a NATS server: nothing plain, nothing unsynced, and only NATS servers for its routes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from services.nats.configuration import Files, NatsServer, Routes, server_conf
from services.nats.settings import SETTINGS, NatsSettings
from stoscore import nats_server
from stoscore.certs_messages import NatsServerTrust
from stoscore.errors import StosError
from stoscore.settings import COMMON, CommonSettings, load

TRUST = NatsServerTrust(
    operator_jwt="OP", system_key="SYSKEY", system_jwt="SYSJWT", account_key="AKEY", account_jwt="AJWT", store_bytes=99
)
FILES = Files("/cert", "/key", "/roots", "/accounts", '/a "b"/store')
ROUTES = Routes("stos-1", "10.0.0.1", 6222, ("nats-1.x:6222", "nats-2.x:6222"), "nats.stos.internal")


def test_alone() -> None:
    text = server_conf(NatsServer("nats", "::1", 4222, FILES), TRUST)
    for line in (
        'server_name: "nats"',
        'listen: "[::1]:4222"',
        "verify: true",
        "handshake_first: true",
        'min_version: "1.3"',
        "sync_interval: always",
        "type: full",
        "allow_delete: false",
        'ca_file: "/roots"',
        r'store_dir: "/a \"b\"/store"',
        "max_file_store: 99",
        "SYSKEY: SYSJWT",
        "AKEY: AJWT",
    ):
        assert line in text
    for never in ("http", "cluster {", "leafnodes", "websocket", "mqtt", "gateway", "no_auth_user"):
        assert never not in text


def test_a_cluster_lets_in_who_has_the_servers_own_name() -> None:
    text = server_conf(NatsServer("nats-1", "0.0.0.0", 4222, FILES, ROUTES), TRUST)
    routes = text[text.index("cluster {") :]
    for line in (
        'name: "stos-1"',
        'listen: "10.0.0.1:6222"',
        '"nats-route://nats-1.x:6222"',
        '"nats-route://nats-2.x:6222"',
        "verify_and_map: true",
        'user: "nats.stos.internal"',
        'min_version: "1.3"',
    ):
        assert line in routes


def test_what_is_quoted_stays_one_string() -> None:
    evil = 'x"\n}\nno_auth_user: admin\n#'
    text = server_conf(NatsServer(evil, "h", 1, FILES), TRUST)
    assert "no_auth_user" not in [line.partition(":")[0].strip() for line in text.splitlines()]


@pytest.mark.parametrize("routes", [None, ROUTES])
def test_the_server_itself_reads_it(tmp_path: Path, routes: Routes | None) -> None:
    """But for the files and credentials, which are none here."""
    config = tmp_path / "server.conf"
    config.write_text(server_conf(NatsServer("n", "127.0.0.1", 4222, FILES, routes), TRUST))
    done = subprocess.run([nats_server.executable(), "-t", "-c", config], capture_output=True, text=True, timeout=30)
    assert "/cert" in done.stderr + done.stdout  # the first thing it misses, after all of it was parsed
    assert "unknown field" not in done.stderr + done.stdout


# ---- settings ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOS_NATS_URLS", "tls://a:1,tls://b:2")


def test_the_servers_settings_and_everybodys_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOS_NATS_SERVER_ROUTES", "a:1, b:2")
    assert load(NatsSettings, SETTINGS).routes == ["a:1", "b:2"]
    assert load(CommonSettings, COMMON).nats_urls == ["tls://a:1", "tls://b:2"]


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("ROUTES", "a", "write host:port"),
        ("ROUTES", "a:b", "write host:port"),
        ("ROUTES", ":1", "write host:port"),
        ("PORT", "0", "greater than or equal"),
        ("PROT", "1", "did you mean"),
    ],
)
def test_bad_settings_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str) -> None:
    monkeypatch.setenv(f"STOS_NATS_SERVER_{name}", value)
    with pytest.raises(StosError, match=why):
        load(NatsSettings, SETTINGS)
