"""A volume's condition: when somebody has to look, and what he is told."""

from __future__ import annotations

from services.csi.condition import condition
from stoscore.errors import Code, StosError
from stoscore.messages import RecordModel, ReplicaStatus, ResyncStatus, VoterModel
from stoscore.volumes import Survey

COPIES = [VoterModel(node=f"n{number}", incarnation=f"{number:016x}") for number in (1, 2, 3)]


def status(in_sync: int, **more: object) -> ReplicaStatus:
    record = RecordModel(
        volume="a" * 32,
        name="data",
        size_bytes=1 << 20,
        replicas=2,
        generation=0,
        epoch=3,
        version=4,
        voters=COPIES,
        in_sync=COPIES[:in_sync],
        primary=COPIES[0],
    )
    fields: dict[str, object] = {"node": "n1", "incarnation": "0" * 16, "role": "primary", "epoch": 3, "serving": True}
    return ReplicaStatus.model_validate({**fields, "record": record, **more})


def asked(*statuses: ReplicaStatus) -> Survey:
    survey = Survey()
    for each in statuses:
        survey.add(each.node, each)
    return survey


def test_all_copies_are_in_sync() -> None:
    found = condition(asked(status(3)))
    assert not found.abnormal
    assert found.message == "3 of 3 copies in sync, served by n1"


def test_a_missing_copy_is_named() -> None:
    behind = ResyncStatus(node="n3", phase="copy", blocks_left=2, bytes_left=8192, blocks_sent=0, bytes_sent=0)
    found = condition(asked(status(1, resyncs=[behind])))
    assert found.abnormal
    assert found.message == "1 of 3 copies in sync (n3 lacks 8.0 KiB, n2 is not in sync)"


def test_writes_that_wait_or_fail_are_told() -> None:
    assert "writes wait" in condition(asked(status(1, write_state="suspended"))).message
    assert "writes fail" in condition(asked(status(1, write_state="failing"))).message


def test_nobody_serves() -> None:
    survey = asked(status(3, serving=False, role="replica"))
    survey.add("n2", StosError(Code.UNAVAILABLE, "no answer"))
    found = condition(survey)
    assert found.abnormal
    assert found.message == "no copy serves, I/O waits: n1: replica in epoch 3; n2: no answer"
    assert condition(Survey()).abnormal


def test_blocks_that_nobody_has_are_abnormal_and_healed_ones_are_told() -> None:
    found = condition(asked(status(3, rotten_blocks=5, healed_blocks=3, lost_blocks=2)))
    assert found.abnormal and "2 rotten blocks" in found.message
    found = condition(asked(status(3, rotten_blocks=3, healed_blocks=3)))
    assert not found.abnormal and "3 rotten blocks healed" in found.message
