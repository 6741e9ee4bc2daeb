"""The tables of docs/security.md: the roles' is made from the code, the stolen node's is read by its tests.

`python -m tests.security.document` writes the roles' table again.
"""

from __future__ import annotations

from pathlib import Path

from stoscore.access import KIND, RULES
from stoscore.subjects import PREFIX

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"
_ROLES = ("<!-- roles: begin (python -m tests.security.document) -->\n", "<!-- roles: end -->")
_STOLEN = ("<!-- stolen: begin -->\n", "<!-- stolen: end -->")
CAN, CAN_NOT = "yes", "no"


def _between(text: str, marks: tuple[str, str]) -> str:
    return text.split(marks[0], 1)[1].split(marks[1], 1)[0]


def roles_table() -> str:
    """A row for each request of `stoscore.access`, a column for each role."""
    head = ["request", *KIND, "answered by", "what it is"]
    rows = [head, ["---", *(":---:" for _ in KIND), "---", "---"]]
    for rule in RULES:
        marks = ["●" if rule.privileged else "○"] * len(KIND)
        shown = [mark if role in rule.roles else "" for mark, role in zip(marks, KIND, strict=True)]
        rows.append([f"`{rule.subject.removeprefix(f'{PREFIX}.')}`", *shown, rule.answered_by, rule.why])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", "○ may ask, ● may ask and every use is an audit event, blank is refused.", ""])


def written_roles_table() -> str:
    return _between(DOCUMENT.read_text("utf-8"), _ROLES)


def stolen_table() -> dict[str, bool]:
    """act -> whether the thief of a node's identity can do it."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in _between(DOCUMENT.read_text("utf-8"), _STOLEN).splitlines()
        if line.startswith("| `")
    ]
    table = {act.strip("`"): verdict for act, verdict, _ in rows}
    assert len(table) == len(rows), "an act is told twice"
    assert set(table.values()) <= {CAN, CAN_NOT}, "a verdict is yes or no"
    return {act: verdict == CAN for act, verdict in table.items()}


def main() -> None:
    text = DOCUMENT.read_text("utf-8")
    DOCUMENT.write_text(text.replace(_ROLES[0] + _between(text, _ROLES), _ROLES[0] + roles_table()), "utf-8")


if __name__ == "__main__":
    main()
