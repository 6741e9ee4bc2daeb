"""What a replication core has to say to the brain, as the brain's event: a core knows nodes, a brain knows members."""

from __future__ import annotations

from typing import get_args

from services.replica.brain import events as ev
from services.replica.driver.snapshots import snapshot_event
from services.replica.driver.volume import Volume
from services.replica.replication import effects as fx

Report = (
    fx.ReportFailed
    | fx.ReportFollows
    | fx.ReportCaughtUp
    | fx.ReportSettled
    | fx.ReportSealed
    | fx.ReportNotSealed
    | fx.ReportStep
    | fx.ReportGiven
)
"""Effects for the brain."""
REPORTS = get_args(Report)


def event_of(report: Report, volume: Volume, epoch: int) -> ev.Event | None:
    """`epoch`: of the core that reports. None: it is about a node that is no member any more."""
    if isinstance(report, fx.ReportSettled):
        return ev.Settled(epoch)
    if isinstance(report, fx.ReportStep):
        return ev.StepReached(report.asked, report.step)
    if isinstance(report, fx.ReportSealed | fx.ReportNotSealed):
        return snapshot_event(report, volume.brain.record)
    member = volume.member_on(report.node)
    if member is None:
        return None
    if isinstance(report, fx.ReportFailed):
        return ev.MemberFailed(member, report.reason)
    if isinstance(report, fx.ReportFollows):
        return ev.MemberFollows(member)
    if isinstance(report, fx.ReportGiven):
        return ev.SnapshotGiven(*report.moment, member)
    return ev.MemberCaughtUp(member)
