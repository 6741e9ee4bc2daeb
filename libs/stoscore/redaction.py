"""Takes secrets out of text that leaves the machine, pure.

What is collected for somebody's eyes is chosen so that it holds no secrets. This is the second line: people write a
token into a label, a password into an address, and a library puts what it could not parse into its error. Secrets of
stos itself are known by their form, those of others by the word before them.
"""

from __future__ import annotations

import re
from functools import partial

_FORMS = (
    ("private key", r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,20}PRIVATE KEY-----|\Z)"),
    ("join token", r"stos-join-1\.[A-Za-z0-9_=-]+"),
    ("key-encryption key", r"stos-kek-1\.[A-Za-z0-9+/=_-]+"),
    ("NATS seed", r"\bS[ACNOUX][A-Z2-7]{56}\b"),
    ("token", r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}"),
    ("credentials", r"(?<=://)[^/\s\"'@]+(?=@)"),
    ("credentials", r"(?i)(?<=\bbearer )[A-Za-z0-9+/=._~-]{8,}|(?<=\bbasic )[A-Za-z0-9+/=._~-]{8,}"),
    (
        "value",
        r"(?i)(?<![A-Za-z])(?:password|passwd|passphrase|secret|token|api[_-]?key|private[_-]?key)"
        r"\\?[\"']?\s{0,3}[=:]\s{0,3}\\?[\"']?(?!\[redacted)(?P<value>[^\s\"'\\,;}]+)",
    ),
)
_PATTERNS = tuple((what, re.compile(form, re.DOTALL)) for what, form in _FORMS)


def redact(text: str) -> tuple[str, int]:
    """The text with "[redacted: …]" in the place of each secret, and how many there were."""
    total = 0
    for what, pattern in _PATTERNS:
        text, count = pattern.subn(partial(_instead, f"[redacted: {what}]"), text)
        total += count
    return text, total


def _instead(told: str, found: re.Match[str]) -> str:
    if "value" not in found.re.groupindex:
        return told
    start = found.start("value") - found.start()
    return found.group()[:start] + told
