"""`stos resync`: copies that catch up: how far they are, and what they still lack."""

from __future__ import annotations

from typing import Any

from services.cli.cluster import Directory, Session
from services.cli.output import Format, Output, command_group, table
from services.cli.screen import EVERY_S, Every, Watch, tell
from stoscore.units import format_size

app = command_group()


@app.callback()
def resync() -> None:
    """See copies that catch up.

    \b
      stos resync ls
    """


@app.command()
def ls(
    watch: Watch = False, every: Every = EVERY_S, directory: Directory = None, output: Output = Format.TABLE
) -> None:
    """List every copy that is not in sync and known to a primary: its phase, what was sent and what is left.

    LEFT counts from above: blocks are compared first, and only those that differ travel. The estimate of bytes and time
    is made from a sample before the first is copied, and made again as it goes; behind it what it lies between.

    \b
      stos resync ls
      stos resync ls --watch
      stos resync ls -o json
    """

    def text(rows: list[dict[str, Any]]) -> str:
        headings = ("VOLUME", "NODE", "FROM", "PHASE", "SENT", "LEFT", "ESTIMATE", "TIME LEFT")
        return table(headings, [_row(row) for row in rows])

    nothing = "no copy is catching up; `stos volume ls` tells whether one is missing"
    tell(directory, _resyncs, text, output, watch=watch, every_s=every, sampled=False, nothing=nothing)


async def _resyncs(session: Session) -> list[dict[str, Any]]:
    from services.cli.roster import call_roll
    from services.cli.views import RESYNC_LEFT_OUT
    from stoscore.messages import NodeStatus

    roll = await call_roll(session.bus, await session.catalogue.nodes(), resyncing=True)
    told = [status for status in roll.values() if isinstance(status, NodeStatus)]
    return [
        {
            "name": replica.record.name,
            "volume": replica.record.volume,
            "primary": status.node,
            **one.model_dump(mode="json", exclude=RESYNC_LEFT_OUT),
        }
        for status in told
        for replica in status.replicas
        if replica.record is not None
        for one in replica.resyncs
    ]


def _row(row: dict[str, Any]) -> tuple[object, ...]:
    sent, left = format_size(row["bytes_sent"]), format_size(row["bytes_left"])
    return (row["name"], row["node"], row["primary"], row["phase"], sent, left, *_estimate(row["estimate"]))


def _estimate(estimate: dict[str, Any] | None) -> tuple[str, str]:
    """(bytes, time), each with its band."""
    if estimate is None:
        return "-", "-"
    sizes = [format_size(estimate[name]) for name in ("bytes", "bytes_low", "bytes_high")]
    times = [f"{estimate[name] / 1000:.1f} s" for name in ("ms", "ms_low", "ms_high")]
    return f"{sizes[0]} ({sizes[1]} to {sizes[2]})", f"{times[0]} ({times[1]} to {times[2]})"
