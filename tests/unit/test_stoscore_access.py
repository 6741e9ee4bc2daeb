"""The table of who may ask what, and the words of a subject."""

from __future__ import annotations

import pytest

from stoscore import subjects
from stoscore.access import KIND, RULES, Caller, addressed, may_answer, payload_max, rule_for, signed_by

VOLUME = "0" * 32


def test_every_subject_of_ours_has_one_row() -> None:
    assert len({rule.subject for rule in RULES}) == len(RULES)
    for subject, action in {
        subjects.node("n1", "create"): "node.create",
        subjects.volume("n1", VOLUME, "attach"): "vol.attach",
        subjects.volume("n1", "*", "attach"): "vol.attach",
        subjects.BID: "bid",
        subjects.placement("rank"): "placement.rank",
        subjects.catalogue("by-name"): "catalogue.by-name",
        subjects.certs("renew"): "certs.renew",
    }.items():
        rule = rule_for(subject)
        assert rule is not None
        assert rule.action == action


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "stos",
        "stos.v1.node.n1",
        "stos.v1.node.n1.unheard",
        "stos.v1.node.n1.create.more",
        "stos.v2.node.n1.create",
        subjects.brain(VOLUME, "n1"),
        subjects.event("n1", "audit"),
        "stos.v1.node.n1.vol.x.y.attach",
    ],
)
def test_what_is_in_no_row_nobody_may_ask(subject: str) -> None:
    assert rule_for(subject) is None


@pytest.mark.parametrize("role", ["viewer", "placement", "certs", "nats"])
def test_who_only_looks_or_serves_changes_no_volume(role: str) -> None:
    assert not [rule for rule in RULES if rule.privileged and role in rule.roles]


def test_a_node_makes_replicas_elsewhere_and_changes_no_volume() -> None:
    """A volume's leader asks for a new home of a lost copy. What was never founded may be dropped again."""
    changing = {rule.action for rule in RULES if rule.privileged and "node" in rule.roles}
    assert changing == {"node.create", "node.remove"}


def test_only_an_administrator_lets_in_and_shuts_out() -> None:
    changing = {rule.action: rule.roles for rule in RULES if rule.privileged and rule.answered_by == "certs"}
    assert changing == dict.fromkeys(("certs.token", "certs.revoke", "certs.rotate"), frozenset({"admin"}))


def test_a_caller_is_read_back() -> None:
    caller = Caller("node", "n1")
    assert signed_by(addressed(subjects.BID, caller)) == (subjects.BID, caller)
    assert (str(caller), caller.kind, caller.inbox) == ("node/n1", "node", "_INBOX.node.n1")
    assert Caller("csi", "csi-node").inbox == "_INBOX.svc.csi-node"


@pytest.mark.parametrize(
    "subject",
    [
        "a",
        "",
        "by.node.n1",
        "a.by.node",
        "a.by.node.",
        "a.by.nobody.n1",
        "a.by..n1",
        "a.BY.node.n1",
        "a.by.node.n1.more",
        "a.x.node.n1",
    ],
)
def test_what_names_no_caller(subject: str) -> None:
    assert signed_by(subject) == (subject, None)


def test_the_last_name_counts() -> None:
    """Whatever stands before is part of the subject, and no subject of the table has it."""
    subject, caller = signed_by("stos.v1.bid.by.admin.bob.by.viewer.eve")
    assert caller == Caller("viewer", "eve")
    assert rule_for(subject) is None


def test_who_may_answer() -> None:
    node, bid = subjects.node("n1", "status"), subjects.BID
    for subject, caller, right in [
        (node, Caller("node", "n1"), True),
        (node, Caller("node", "n2"), False),
        (node, Caller("placement", "n1"), False),
        (bid, Caller("node", "n2"), True),
        (bid, Caller("viewer", "eve"), False),
        (subjects.certs("renew"), Caller("certs", "certs-2"), True),
        (subjects.certs("renew"), Caller("node", "certs"), False),
    ]:
        rule = rule_for(subject)
        assert rule is not None
        assert may_answer(subject, rule, caller) is right


def test_who_answers_may_say_more_at_a_time() -> None:
    sizes = {role: payload_max(role) for role in KIND}
    assert {role for role, size in sizes.items() if size == max(sizes.values())} == {
        "node",
        "csi",
        "placement",
        "certs",
        "nats",
    }
