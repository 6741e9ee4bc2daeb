"""What is read out of nats-server's log, with lines that version 2.15.1 wrote when it was provoked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.nats.account_roles import roles_of
from services.nats.log_lines import CONNECTIONS_MAX, USERS_MAX, LogReader, Refusal

KEY = "UA6T227JDHZI6RKC62LT6PXOEKNHUAXTFUB5WYLNKTJGRM5MJQRIYQYJ"
ISSUER = "AAQOZP3GCI2C6FBRG53QNPKTAA44K6A663HRABZATAECCPE4YBBTB36U"
ACCOUNT = "ADTEDTYE4SU7SJ4YBZFKA627L3JJUP27E6M5YGWODMGQLXDSCIO6WVN2"
CLIENT = '[1] [ERR] 127.0.0.1:48822 - cid:25 - "v2.16.0:python3:{name}" - "{account}/STOS/jwt:{key}" - {what}'
AUTHENTICATED = (
    f'[1] [DBG] 127.0.0.1:48822 - cid:25 - Authenticated JWT: Client "{KEY}" (claim-name: "n1", claim-tags: []) '
    f'signed with "{ISSUER}" by Account "{ACCOUNT}" (claim-name: "STOS", claim-tags: []) signed with '
    f'"OBQ" has mappings false accused 0xc000123'
)


def reader() -> LogReader:
    reader = LogReader(lambda key: "node" if key == ISSUER else "")
    reader.read(AUTHENTICATED)
    return reader


def said(what: str, name: str = "n1", key: str = KEY) -> str:
    return CLIENT.format(name=name, account=ACCOUNT, key=key, what=what)


def refused(*lines: str) -> Refusal | None:
    one = reader()
    return [one.read(line) for line in lines][-1].refusal


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (
            'Publish Violation - Subject "stos.v1.vol.x.brain.n2"',
            Refusal("node/n1", "nats.publish", "stos.v1.vol.x.brain.n2", "Publish Violation"),
        ),
        (
            'Subscription Violation - Subject "stos.v1.node.n3.>", Queue: "q", SID 2',
            Refusal("node/n1", "nats.subscribe", "stos.v1.node.n3.>", "Subscription Violation"),
        ),
        ('Publish Violation - Reply "$JS.x"', Refusal("node/n1", "nats.publish", "$JS.x", "Publish Violation")),
        ("maximum subscriptions exceeded", Refusal("node/n1", "nats.limit", "", "maximum subscriptions exceeded")),
        ("maximum payload exceeded: 100000 vs 65536", Refusal("node/n1", "nats.limit", "", "maximum payload exceeded")),
        (
            f"User Authentication Revoked - Account:{ACCOUNT}/STOS",
            Refusal("node/n1", "nats.connect", "", "User Authentication Revoked"),
        ),
        ("Client connection closed: Parse Error", Refusal("node/n1", "nats.protocol", "", "Parse Error")),
        ("Client connection closed: Client Closed", None),
        ("Client Ping Timer", None),
    ],
)
def test_what_a_known_user_may_not_do(what: str, expected: Refusal | None) -> None:
    assert refused(said(what)) == expected


@pytest.mark.parametrize(
    ("line", "target", "reason"),
    [
        (
            "[ERR] 10.0.0.9:48728 - cid:15 - TLS handshake error: tls: client didn't provide a certificate",
            "",
            "TLS handshake error: tls: client didn't provide a certificate",
        ),
        (
            "[DBG] 10.0.0.9:1 - cid:16 - TLS handshake error: tls: first record does not look like a TLS handshake",
            "",
            "TLS handshake error: tls: first record does not look like a TLS handshake",
        ),
        (
            "[ERR] 10.0.0.9:48746 - cid:18 - TLS handshake error: tls: failed to verify certificate: x509: certificate "
            "has expired or is not yet valid: current time 2026-11-22T17:30:44Z is after 2026-11-21T17:30:44Z "
            "(CN=stos-903d589b/node/n1 SHA-256: d104768c; CN=stos issuer 4657 SHA-256: 5b19f79b)",
            "CN=stos-903d589b/node/n1",
            "TLS handshake error: tls: failed to verify certificate: x509: certificate has expired or is not yet valid"
            ": it has ended",
        ),
        (
            "[ERR] 10.0.0.9:2 - cid:20 - TLS handshake error: tls: failed to verify certificate: x509: certificate "
            "signed by unknown authority (CN=other/node/n1 SHA-256: ffd8; CN=stos issuer 7771 SHA-256: e4ac)",
            "CN=other/node/n1",
            "TLS handshake error: tls: failed to verify certificate: x509: certificate signed by unknown authority",
        ),
        (
            "[DBG] 10.0.0.9:36592 - cid:32 - TLS handshake error: read tcp 1.1.1.1:5->10.0.0.9:36592: i/o timeout",
            "",
            "TLS handshake error: i/o timeout",
        ),
        ('[ERR] 10.0.0.9:3 - cid:24 - authentication error - User "admin"', "", "authentication error"),
        (
            "[DBG] 10.0.0.9:4 - cid:31 - Authentication Timeout",
            "",
            "Authentication Timeout",
        ),
    ],
)
def test_who_does_not_get_in_is_an_address(line: str, target: str, reason: str) -> None:
    assert refused(f"[27685] {line}") == Refusal("10.0.0.9", "nats.connect", target, reason)


def test_why_a_credential_was_refused_is_told_one_line_before() -> None:
    refusal = refused(
        "[1] [DBG] 10.0.0.9:5 - cid:7 - TLS handshake complete",
        "[1] [DBG] 10.0.0.9:5 - cid:7 - User authentication revoked",
        "[1] [DBG] 10.0.0.8:5 - cid:8 - Signature not verified",
        "[1] [ERR] 10.0.0.9:5 - cid:7 - authentication error",
    )
    assert refusal == Refusal("10.0.0.9", "nats.connect", "", "authentication error: User authentication revoked")


def test_a_stranger_at_the_port_for_servers() -> None:
    line = "[1] [ERR] 10.0.0.9:5 - rid:7 - TLS route handshake error: tls: client didn't provide a certificate"
    refusal = refused(line)
    assert refusal is not None
    assert refusal.action == "nats.connect.route"


@pytest.mark.parametrize(
    "line",
    [
        "[1] [ERR] 127.0.0.1:5 - cid:5 - TLS handshake error: EOF",
        "[1] [ERR] 127.0.0.1:5 - cid:5 - TLS handshake error: read tcp 1.1.1.1:1->2.2.2.2:2: connection reset by peer",
        "[1] [INF] 127.0.0.1:5 - cid:5 - authentication error",
        "[1] [INF] Server is ready",
        "[1] [DBG] 127.0.0.1:5 - cid:5 - TLS handshake complete",
        "panic: runtime error",
        "",
        "[1] [ERR]",
    ],
)
def test_nobody_was_refused(line: str) -> None:
    assert refused(line) is None


@pytest.mark.parametrize(
    "name",
    [
        rf"\" - \"{ACCOUNT}/STOS/jwt:{KEY}",
        r"\\",
        r"x - Publish Violation - Subject \"y\"",
        r"\" - authentication error",
        "%s%n",
    ],
)
def test_a_name_that_a_client_gives_itself_is_nobody(name: str) -> None:
    other = "UB" + KEY[2:]
    refusal = refused(said('Publish Violation - Subject "s"', name=name, key=other))
    assert refusal == Refusal(other, "nats.publish", "s", "Publish Violation")


def test_without_its_authentication_a_key_is_told_as_it_is() -> None:
    """The service was started anew beside a server that was not: it can't be, but nothing depends on that."""
    heard = LogReader(lambda _: "node").read(said("maximum subscriptions exceeded"))
    assert heard.refusal is not None
    assert heard.refusal.who == KEY


def test_a_key_of_no_role_is_told_as_unknown() -> None:
    one = LogReader(lambda _: "")
    one.read(AUTHENTICATED)
    refusal = one.read(said("maximum subscriptions exceeded")).refusal
    assert refusal is not None
    assert refusal.who == "unknown/n1"


def test_its_memory_is_bounded() -> None:
    one = LogReader(lambda _: "node")
    for number in range(max(USERS_MAX, CONNECTIONS_MAX) + 100):
        key = "U" + "".join("ABCDEFGHIJKLMNOP"[(number >> shift) & 15] for shift in range(0, 24, 4)).ljust(55, "A")
        one.read(AUTHENTICATED.replace(KEY, key))
        one.read(f"[1] [DBG] 1.1.1.1:1 - cid:{number} - User authentication revoked")
    assert len(one._users) == USERS_MAX
    assert len(one._why) == CONNECTIONS_MAX


@given(st.lists(st.one_of(st.text(), st.text().map(lambda text: f"[1] [ERR] 1.1.1.1:2 - cid:3 - {text}")), max_size=5))
def test_any_line_is_read(lines: list[str]) -> None:
    one = reader()
    for line in lines:
        one.read(line)


def test_roles_are_read_from_the_accounts_statement() -> None:
    for rubbish in ("", "a.b.c", "a.e30.c", "x.eyJuYXRzIjogW119.y", "x.eyJuYXRzIjogeyJzaWduaW5nX2tleXMiOiBbMV19fQ.y"):
        assert roles_of(rubbish) == {}
