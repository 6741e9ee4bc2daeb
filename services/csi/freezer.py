"""Holds one file system still for a moment; a program of its own, so that nobody's death leaves it frozen.

    freezer.py MOUNTPOINT SECONDS

    prints "synced"      what was dirty is on the volume: the freeze has little left to do
    reads a line         and freezes (FIFREEZE: what is dirty by now is written, and new writes wait)
    prints "frozen"
    reads the end        or SECONDS pass: it thaws
    prints "thawed N"    after N milliseconds

Its input ends when the service that started it dies. It runs without the site's packages, in milliseconds, and touches
the mount point, which may hang for ever, where nobody else waits for it.
"""

import ctypes
import fcntl
import os
import select
import signal
import sys
import time

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
PATIENCE_S = 20.0


def main() -> int:
    path, limit_s = sys.argv[1], float(sys.argv[2])
    for ending in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)
    where = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    ctypes.CDLL(None, use_errno=True).syncfs(where)
    print("synced", flush=True)
    if not wait(PATIENCE_S) or not os.read(0, 64):
        return 1
    try:
        fcntl.ioctl(where, FIFREEZE, 0)
    except OSError as error:
        print(f"it can't be frozen: {error.strerror}", flush=True)
        return 1
    since_s = time.monotonic()
    try:
        print("frozen", flush=True)
        wait(limit_s)
    finally:
        thaw(where)
        os.close(where)  # or it could not be unmounted
    print(f"thawed {(time.monotonic() - since_s) * 1000:.0f}", flush=True)
    return 0


def thaw(where: int) -> bool:
    """False: it was not frozen."""
    try:
        fcntl.ioctl(where, FITHAW, 0)
    except OSError:
        return False
    return True


def wait(limit_s: float) -> bool:
    """For input, or its end."""
    return bool(select.select([0], [], [], limit_s)[0])


if __name__ == "__main__":
    sys.exit(main())
