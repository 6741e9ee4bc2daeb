"""One FUSE request at a time, because qemu-storage-daemon mixes up the contents of concurrent writes.

Its FUSE export reads every request into one buffer. While a write waits for its block device, the export polls, reads
the next request into that same buffer, and the first write goes on with the second one's bytes. QEMU's own commit
"fuse: Copy write buffer content before polling" (2025) tells and mends it; 7.2 is older. ext4's journal superblock was
the usual victim: right after `mkfs` the file system was corrupt in 12 of 13 runs with 4096-byte sectors, behind
qemu-nbd as behind our own server, and with one request at a time in 0 of 8, one of them with 512-byte sectors.

Direct I/O of a loop device reaches FUSE as background requests, so the connection's `max_background` is the switch.
What comes on another way (a flush, a hole) is shorter than a write's header and can't reach a write's bytes.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from services.csi.commands import run
from stoscore.errors import Code, StosError

CONTROL = Path("/sys/fs/fuse/connections")


async def one_at_a_time(disk: Path) -> None:
    """Limits the connection behind the FUSE file `disk`. Raises StosError when it can't be limited: then the device
    must not be used."""
    connection = str(os.minor(disk.stat().st_dev))
    if (CONTROL / connection).is_dir():
        _limit(CONTROL / connection)
        return
    # The control file system is not mounted here: a mount of our own for the moment.
    with tempfile.TemporaryDirectory(prefix="stos-fusectl-") as own:
        (await run(["mount", "-t", "fusectl", "fusectl", own])).check()
        try:
            _limit(Path(own) / connection)
        finally:
            (await run(["umount", own])).check()


def _limit(connection: Path) -> None:
    switch = connection / "max_background"
    try:
        switch.write_text("1")
        limited = switch.read_text().strip() == "1"
    except OSError as error:
        raise StosError(Code.INTERNAL, f"the FUSE connection can't be limited to one request: {error}") from error
    if not limited:
        raise StosError(Code.INTERNAL, f"{switch} stays {switch.read_text().strip()}: concurrent writes would mix")
