"""What a process that holds keys owes to them before it reads the first one.

* Files are private from their first moment: a file that is restricted after it was made was open until then.
* A crash leaves no memory behind. Without core files a machine may still pipe cores into a program that keeps
  them (core_pattern, core(5)), and no limit stops that; such a core is left without any memory mapping instead.
* Nobody else looks into it: other processes of the same user can neither read its memory and its environment nor
  attach a debugger (PR_SET_DUMPABLE, prctl(2)). An administrator with CAP_SYS_PTRACE still can.

The first two are inherited by the programs that the process starts; the last one an exec takes back.
"""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path

UMASK = 0o077
_PR_SET_DUMPABLE = 4
_MAPPINGS_DUMPED = Path("/proc/self/coredump_filter")


def confine_process() -> None:
    """To be called once, at the start, before there are threads."""
    os.umask(UMASK)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # a sandbox without this file pipes no cores either
        _MAPPINGS_DUMPED.write_text("0")
    # Last: from here on /proc/self belongs to root.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
