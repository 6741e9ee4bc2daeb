"""docs/subjects.md says what the table of the code says: who may ask what, who answers, what is audited."""

from __future__ import annotations

import re
from pathlib import Path

from stoscore.access import KIND, RULES

DOCUMENT = Path(__file__).parents[2] / "docs" / "subjects.md"


def documented() -> dict[str, tuple[frozenset[str], bool]]:
    """Subject -> roles, and whether its use is audited, of the table below "## Requests"."""
    found = {}
    requests = DOCUMENT.read_text("utf-8").partition("## Requests")[2].partition("## Streams")[0]
    for line in requests.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 5 or not cells[1].startswith("`stos."):
            continue
        first, *others = re.findall(r"`([^`]+)`", cells[1])
        said = cells[2].partition(",")[0]
        roles = frozenset(KIND) if said == "everybody" else frozenset(said.split())
        for subject in (first, *(first.rpartition(".")[0] + other for other in others)):
            found[re.sub(r"<\w+>", "*", subject)] = (roles, cells[1].endswith("!"))
    return found


def test_the_document_has_every_row_and_no_other() -> None:
    assert documented() == {rule.subject: (rule.roles, rule.privileged) for rule in RULES}
