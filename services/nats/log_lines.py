r"""What nats-server's log says about who is refused. Pure.

The server pins permissions and shuts strangers out, and tells it to its log alone, half of it at the level "debug".
Its forms (version 2.15; address, connection, what the client calls itself, account and user, what happened):

    [17] [DBG] 10.0.0.7:4101 - cid:9 - Authenticated JWT: Client "UAB…" (claim-name: "n1", …) signed with "ACD…" by …
    [17] [ERR] 10.0.0.7:4101 - cid:9 - "v2.16:python3:n1" - "…/STOS/jwt:UAB…" - Publish Violation - Subject "…"
    [17] [DBG] 10.0.0.8:4102 - cid:10 - User authentication revoked
    [17] [ERR] 10.0.0.8:4102 - cid:10 - authentication error
    [17] [ERR] 10.0.0.9:4103 - cid:11 - TLS handshake error: tls: client didn't provide a certificate
    [17] [DBG] 10.0.0.9:4104 - cid:12 - Client connection closed: Protocol Violation

Who somebody is counts only from "Authenticated JWT" on, where the server has verified the credential; before that it
is an address. Quoted parts are escaped, so a client can't write a second one into the name that it gives itself.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_LINE = re.compile(r"\[\d+\] (?:\S+ \S+ )?\[(?P<level>[A-Z]{3})\] (?P<text>.*)", re.DOTALL)
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_CLIENT = re.compile(
    rf"(?P<address>\S+):\d+ - (?P<kind>cid|rid):(?P<number>\d+)(?P<quoted>(?: - {_QUOTED})*) - (?P<what>.*)", re.DOTALL
)
_AUTHENTICATED = re.compile(
    r'Authenticated JWT: \w+ "(?P<key>U[A-Z2-7]{55})" \(claim-name: "(?P<name>(?:[^"\\]|\\.)*)"'
    r'.*? signed with "(?P<issuer>A[A-Z2-7]{55})"',
    re.DOTALL,
)
_USER = re.compile(r'/jwt:(U[A-Z2-7]{55})"\Z')
_SUBJECT = re.compile(rf"(?:Subject|Reply) ({_QUOTED})")
_CERTIFICATE = re.compile(r" \((CN=.*?) SHA-256: .*\)\Z", re.DOTALL)
_CLOSED = "Client connection closed: "
_PASSING = (
    (re.compile(r": current time \S+ is before \S+"), ": it has not begun"),
    (re.compile(r": current time \S+ is after \S+"), ": it has ended"),
    (re.compile(r"read tcp \S+: |: \d+ vs \d+\Z"), ""),
)
"""Parts of a reason that differ each time, although it is the same."""

_LEFT = ("EOF", "connection reset by peer", "broken pipe", "use of closed network connection")
"""Somebody connected and went away without a word: a probe, or a client that was killed. Nobody was refused."""
_BEGINS = (
    ("Publish Violation", "nats.publish"),
    ("Subscription Violation", "nats.subscribe"),
    ("TLS handshake", "nats.connect"),
    ("TLS route handshake", "nats.connect"),
    ("authentication error", "nats.connect"),
    ("Authentication Timeout", "nats.connect"),
    ("User Authentication Expired", "nats.connect"),
    ("User Authentication Revoked", "nats.connect"),
    ("Account Authentication Expired", "nats.connect"),
    ("Outside connect times", "nats.connect"),
    ("Bad src Ip", "nats.connect"),
    ("maximum", "nats.limit"),
)
"""How the server's sentences begin, and what was attempted."""
_CLOSINGS = {
    "Parse Error": "nats.protocol",
    "Protocol Violation": "nats.protocol",
    "Bad Client Protocol Version": "nats.protocol",
    "Maximum Control Line Exceeded": "nats.protocol",
    "Message Header Violation": "nats.protocol",
    "Incorrect Port": "nats.protocol",
}
"""Why a connection was ended that said so nowhere else."""
_WAYPOINTS = ("Client connection", "Starting TLS", "TLS handshake complete", "TLS version")

USERS_MAX, CONNECTIONS_MAX = 16_384, 4096


@dataclass(frozen=True, slots=True)
class Refusal:
    """Somebody was not let in, or may not do what it tried."""

    who: str
    """role/name once the server had verified the credential, else the address"""
    action: str
    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class Heard:
    """One line."""

    level: str
    """DBG, INF, WRN, ERR, FTL; INF for what has no such form (a Go panic)"""
    text: str
    refusal: Refusal | None = None


class LogReader:
    """Reads the lines in order and remembers what later ones refer to. `role_of` is the role whose key that is, ""
    for an unknown one."""

    def __init__(self, role_of: Callable[[str], str]):
        self._role_of = role_of
        self._users: OrderedDict[str, str] = OrderedDict()
        self._why: OrderedDict[str, str] = OrderedDict()
        """connection -> what was said about it last"""

    def read(self, line: str) -> Heard:
        match = _LINE.fullmatch(line)
        if match is None:
            return Heard("INF", line)
        level, text = match["level"], match["text"]
        client = _CLIENT.fullmatch(text) if level in ("DBG", "ERR", "WRN") else None
        if client is None:
            return Heard(level, text)
        what = client["what"]
        if (authenticated := _AUTHENTICATED.match(what)) is not None:
            self._remember(authenticated)
            return Heard(level, text)
        refusal = self._refusal(client, what)
        if refusal is None and not client["quoted"] and not what.startswith(_WAYPOINTS):
            _keep(self._why, client["number"], what, CONNECTIONS_MAX)
        return Heard(level, text, refusal)

    def _remember(self, authenticated: re.Match[str]) -> None:
        role = self._role_of(authenticated["issuer"]) or "unknown"
        _keep(self._users, authenticated["key"], f"{role}/{authenticated['name']}", USERS_MAX)

    def _refusal(self, client: re.Match[str], what: str) -> Refusal | None:
        action = next((action for begin, action in _BEGINS if what.startswith(begin)), None)
        if what.startswith(_CLOSED):
            what = what.removeprefix(_CLOSED)
            action = _CLOSINGS.get(what)
        if action is None or what.endswith(_LEFT) or what == "TLS handshake complete":
            return None
        certificate, subject = _CERTIFICATE.search(what), _SUBJECT.search(what)
        reason = what[: certificate.start()] if certificate else what.partition(" - ")[0]
        for passing, lasting in _PASSING:
            reason = passing.sub(lasting, reason)
        if reason == "authentication error" and (why := self._why.pop(client["number"], "")):
            reason = f"{reason}: {why.partition(':')[0]}"
        user = _USER.search(client["quoted"])
        return Refusal(
            who=self._users.get(user[1], user[1]) if user else client["address"].strip("[]"),
            action=action if client["kind"] == "cid" else f"{action}.route",
            target=certificate[1] if certificate else subject[1].strip('"') if subject else "",
            reason=reason,
        )


def _keep(memory: OrderedDict[str, str], key: str, value: str, at_most: int) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > at_most:
        memory.popitem(last=False)
