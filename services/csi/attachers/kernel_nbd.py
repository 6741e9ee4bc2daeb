"""The attacher `kernel-nbd`: the kernel's own NBD client, where the node has that module.

    frontend's socket ──NBD──> kernel ──> /dev/nbdN

The device is configured over netlink and not by ioctl, for two reasons. Nobody has to wait in an ioctl for
the life of the device, so it does not depend on a process of ours. And a lost connection is not an I/O
error: requests wait for `DEAD_LINK_S` while `tend` gives the kernel a new connection as soon as it reports
the loss. Which volume a device belongs to is kept by the kernel itself, as the device's backend identifier.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

from services.csi.attachers import SECTOR_BYTES, Export
from services.csi.attachers.exclusive import refuse_in_use
from services.csi.attachers.nbd_handshake import Negotiated, negotiate
from services.csi.attachers.netlink import Answer, Netlink, nested, parse, text, u32, u64
from services.csi.commands import search_path
from stoscore.errors import Code, StosError, invalid, precondition
from stoscore.files import private_directory, write_private
from stoscore.limits import valid_volume_id
from stoscore.telemetry import get_logger

MODULE = Path("/sys/module/nbd")
SYSFS = Path("/sys/block")
DEAD_LINK_S = 7 * 86_400
"""How long I/O waits for a frontend that is gone before it fails."""
BACKEND_PREFIX = "stos:"
_HANDSHAKE_S = 10.0
_RETRY_S = 0.2
_LOOK_S = 2.0
_LOADING_S = 10.0
_RELEASE_S = 3.0

# linux/nbd-netlink.h
_VERSION = 1
_GROUP = "nbd_mc_group"
_CONNECT, _DISCONNECT, _RECONFIGURE, _LINK_DEAD = 1, 2, 3, 4
_INDEX, _SIZE_BYTES, _BLOCK_BYTES, _SERVER_FLAGS = 1, 2, 3, 5
_SOCKETS, _DEAD_LINK, _BACKEND = 7, 8, 10
_SOCKET_ITEM, _SOCKET_FD = 1, 1

_log = get_logger("csi.kernel_nbd")


class KernelNbdAttacher:
    """See the module."""

    name = "kernel-nbd"

    def __init__(self, state_dir: Path):
        self._state_dir = state_dir

    def obstacle(self) -> str | None:
        if os.geteuid() != 0:
            return "it needs root to configure devices"
        if MODULE.exists() or _load_module():
            return None
        return "the kernel has no nbd module loaded (modprobe nbd, or a kernel that has it)"

    async def attached(self) -> dict[str, str]:
        return {volume: f"/dev/nbd{index}" for volume, index in devices().items()}

    async def attach(self, volume: str, export: Export) -> str:
        self._remember(volume, export)
        index = devices().get(volume)
        if index is not None:
            await self._reconnect(volume, index)
            return f"/dev/nbd{index}"
        negotiated = await asyncio.to_thread(negotiate, export.socket, export.name, timeout_s=_HANDSHAKE_S)
        with negotiated.connection:
            index = _connect(volume, negotiated)
        if devices().get(volume) != index:
            _disconnect(index)
            raise precondition(
                "this kernel does not remember whose an nbd device is", next_step="use Linux 5.14 or newer"
            )
        return f"/dev/nbd{index}"

    async def resize(self, volume: str, export: Export, size_bytes: int) -> None:
        """The frontend has dropped the kernel's connection; the one that replaces it brings the new size."""
        self._remember(volume, export)
        index = devices().get(volume)
        if index is None:
            raise precondition(f"volume {volume} is not attached")
        clock = asyncio.get_running_loop()
        until = clock.time() + _HANDSHAKE_S
        while int((SYSFS / f"nbd{index}" / "size").read_text()) * 512 < size_bytes:
            if clock.time() >= until:
                raise StosError(
                    Code.INTERNAL, f"/dev/nbd{index} does not grow to {size_bytes} bytes", next_step="ask again"
                )
            await self._reconnect(volume, index)
            await asyncio.sleep(_RETRY_S)

    async def detach(self, volume: str) -> None:
        index = devices().get(volume)
        if index is not None:
            # The kernel would disconnect a device under a mounted filesystem.
            refuse_in_use(f"/dev/nbd{index}")
            _disconnect(index)
            await _gone(volume, index)
        shutil.rmtree(self._state_dir / volume, ignore_errors=True)

    async def tend(self) -> None:
        """Give every device whose connection was lost a new one, until cancelled."""
        while not MODULE.exists():
            await asyncio.sleep(_LOOK_S)
        for volume, index in devices().items():
            with contextlib.suppress(StosError):
                await self._reconnect(volume, index)
        loop = asyncio.get_running_loop()
        with Netlink() as netlink:
            netlink.join(netlink.family("nbd").groups[_GROUP])
            netlink.socket.setblocking(False)
            while True:
                for item in parse(await loop.sock_recv(netlink.socket, 65_536)):
                    if isinstance(item, Answer) and item.command == _LINK_DEAD:
                        await self._revive(int(struct.unpack("=I", item.attributes[_INDEX])[0]))

    async def _revive(self, index: int) -> None:
        while volume := {found: name for name, found in devices().items()}.get(index):
            try:
                await self._reconnect(volume, index)
            except StosError as error:
                _log.info("nbd%d waits for its frontend: %s", index, error, extra={"volume": volume})
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _reconnect(self, volume: str, index: int) -> None:
        """A new connection in the place of a lost one; nothing happens when none is lost."""
        export = self._recall(volume)
        if export is None:
            return
        negotiated = await asyncio.to_thread(negotiate, export.socket, export.name, timeout_s=_HANDSHAKE_S)
        with negotiated.connection:
            payload = u32(_INDEX, index) + text(_BACKEND, BACKEND_PREFIX + volume) + _sockets(negotiated)
            payload += u64(_SIZE_BYTES, negotiated.size_bytes) + u64(_BLOCK_BYTES, SECTOR_BYTES)
            try:
                _ask(_RECONFIGURE, payload)
            except OSError as error:
                if error.errno != errno.ENOSPC:  # "no dead connection to replace"
                    raise _refused("reconnect", error) from error

    def _remember(self, volume: str, export: Export) -> None:
        if not valid_volume_id(volume):
            raise invalid(f"{volume!r} is no volume id")
        directory = private_directory(self._state_dir / volume)
        content = json.dumps({"socket": export.socket, "name": export.name})
        write_private(directory / "export.json", content.encode())

    def _recall(self, volume: str) -> Export | None:
        try:
            content = json.loads((self._state_dir / volume / "export.json").read_bytes())
        except FileNotFoundError:
            return None
        return Export(socket=content["socket"], name=content["name"])


def devices(sysfs: Path = SYSFS) -> dict[str, int]:
    """volume -> index of its nbd device, as the kernel tells."""
    found = {}
    for backend in sorted(sysfs.glob("nbd*/backend")):
        try:
            identifier = backend.read_text().strip()
        except OSError:
            continue  # disconnected meanwhile
        volume = identifier.removeprefix(BACKEND_PREFIX)
        if volume != identifier and valid_volume_id(volume):
            found[volume] = int(backend.parent.name.removeprefix("nbd"))
    return found


def connect_payload(volume: str, negotiated: Negotiated) -> bytes:
    """No index: the kernel chooses a free device."""
    return b"".join(
        (
            u64(_SIZE_BYTES, negotiated.size_bytes),
            u64(_BLOCK_BYTES, SECTOR_BYTES),
            u64(_SERVER_FLAGS, negotiated.flags),
            u64(_DEAD_LINK, DEAD_LINK_S),
            text(_BACKEND, BACKEND_PREFIX + volume),
            _sockets(negotiated),
        )
    )


def _sockets(negotiated: Negotiated) -> bytes:
    return nested(_SOCKETS, nested(_SOCKET_ITEM, u32(_SOCKET_FD, negotiated.connection.fileno())))


def _connect(volume: str, negotiated: Negotiated) -> int:
    try:
        answer = _ask(_CONNECT, connect_payload(volume, negotiated))
    except OSError as error:
        raise _refused("connect", error) from error
    if answer is None or _INDEX not in answer.attributes:
        raise StosError(Code.INTERNAL, "the kernel connected an nbd device and did not say which")
    return int(struct.unpack("=I", answer.attributes[_INDEX])[0])


def _disconnect(index: int) -> None:
    try:
        _ask(_DISCONNECT, u32(_INDEX, index))
    except OSError as error:
        if error.errno != errno.EINVAL:  # not connected any more
            raise _refused("disconnect", error) from error


def _ask(command: int, payload: bytes) -> Answer | None:
    with Netlink() as netlink:
        return netlink.ask(netlink.family("nbd").number, command, _VERSION, payload)


async def _gone(volume: str, index: int) -> None:
    for _ in range(int(_RELEASE_S / 0.02)):
        if devices().get(volume) != index:
            return
        await asyncio.sleep(0.02)
    raise StosError(Code.ABORTED, f"/dev/nbd{index} is still disconnecting", next_step="ask again")


def _load_module() -> bool:
    program = shutil.which("modprobe", path=search_path())
    if program is None:
        return False
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        command = [program, "--quiet", "nbd"]
        subprocess.run(command, timeout=_LOADING_S, check=False, capture_output=True)  # noqa: S603  (all ours)
    return MODULE.exists()


def _refused(what: str, error: OSError) -> StosError:
    return StosError(Code.INTERNAL, f"the kernel's nbd refused to {what}: {error.strerror}")


attacher = KernelNbdAttacher
"""The plugin."""
