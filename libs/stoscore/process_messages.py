"""The control messages by which a process tells of itself: its traces, what it counts, what it runs with.

They are as all others (`messages`).
"""

from typing import Annotated

from pydantic import Field

from stoscore.limits import NAME_BYTES_MAX
from stoscore.messages import Message

TraceId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}\Z")]
WhenNs = Annotated[int, Field(ge=0, lt=1 << 63)]
"""Unix time in nanoseconds, by the clock of the process that says it."""


class TracesRequest(Message):
    """observe.<role>.traces -> TracesPage: the newest traces of which this process keeps spans."""

    since_unix_ms: int = Field(default=0, ge=0)
    limit: int = Field(default=100, ge=1, le=1000)


class TraceSummary(Message):
    """What one process knows of a trace."""

    trace_id: TraceId
    root: str = ""
    """name of the span that has no parent; "" when another process made it"""
    first: str
    """name of the earliest span here"""
    start_ns: WhenNs
    end_ns: WhenNs
    spans: int = Field(ge=1)
    errors: int = Field(ge=0)


class TracesPage(Message):
    process: str
    """role/name, as the server proves it"""
    traces: list[TraceSummary]


class SpansRequest(Message):
    """observe.<role>.spans -> SpansPage: the spans of the traces whose ids begin so."""

    trace: str = Field(pattern=r"^[0-9a-f]{4,32}\Z")
    after: int = Field(default=0, ge=0)
    """how many of them were told already"""


class SpansPage(Message):
    process: str
    spans: list[str]
    """lines of stoscore.spans.encode"""
    next: int = Field(default=0, ge=0)
    """`after` of the next page; 0: this is the last"""


class MetricsRequest(Message):
    """observe.<role>.metrics -> MetricsPage: what this process has counted, as far as its names begin so."""

    prefixes: list[Annotated[str, Field(max_length=NAME_BYTES_MAX)]] = Field(default=[], max_length=64)
    """none: everything"""
    after: int = Field(default=0, ge=0)
    """how many samples were told already"""


class MetricModel(Message):
    """One sample; what it means says the table in stoscore.metrics."""

    name: str
    value: float
    attributes: list[str] = Field(default=[])
    counts: list[int] = Field(default=[])
    """of a histogram, by bucket"""


class MetricsPage(Message):
    process: str
    at_unix_ns: WhenNs
    samples: list[MetricModel]
    next: int = Field(default=0, ge=0)
    """`after` of the next page; 0: this is the last"""


class SettingsRequest(Message):
    """observe.<role>.settings -> SettingsPage: what this process runs with."""


class SettingsPage(Message):
    process: str
    settings: dict[str, str]
    """replica.port -> 7001; secrets are in files and never among them"""
