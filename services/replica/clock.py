"""The clock of everything that may not be fooled by a suspend or by whoever sets the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

boot_time_ns: Callable[[], int] = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
"""CLOCK_BOOTTIME: goes on while the machine sleeps, so that a lease does not outlive a suspend (P2)."""
