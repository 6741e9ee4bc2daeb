"""What each contender is asked to do."""

from __future__ import annotations

from benchmarks.fio import Job

FILL = Job("fill", "write", "128k", 4)
JOBS = (
    Job("randwrite-4k-q1", "randwrite", "4k", 1),
    Job("randwrite-4k-q4", "randwrite", "4k", 4),
    Job("randwrite-4k-q16", "randwrite", "4k", 16),
    Job("randwrite-4k-q32", "randwrite", "4k", 32),
    Job("randread-4k-q1", "randread", "4k", 1),
    Job("randread-4k-q16", "randread", "4k", 16),
    Job("randrw-4k-q16", "randrw", "4k", 16, reads_percent=70),
    Job("write-128k-q4", "write", "128k", 4),
    Job("read-1m-q4", "read", "1m", 4),
    Job("randwrite-4k-fsync", "randwrite", "4k", 1, fsync=True),
)
