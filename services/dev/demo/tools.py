"""The other programs that the demonstration uses: the `stos` command itself, and the filesystem check."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from stoscore.errors import Code, StosError

_TIMEOUT_S = 120.0
_SYSTEM_PATH = "/usr/sbin:/sbin"
E2FSCK_CLEAN = 0
T = TypeVar("T")


class Command:
    """`stos`, run as a person would, for one embedded cluster."""

    def __init__(self, directory: Path):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("STOS_")}
        self._environment = inherited | {"STOS_DIR": str(directory)}

    async def run(self, *arguments: str) -> bytes:
        """Its standard output. Raises StosError with its error line when it fails."""
        argv = (sys.executable, "-m", "services.cli.main", *arguments)
        code, output, errors = await run_program(argv, self._environment)
        if code:
            said = errors.decode("utf-8", "replace").strip()
            raise StosError(Code.INTERNAL, f"`stos {' '.join(arguments)}` failed ({code}): {said}")
        return output

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.run(*arguments, "-o", "json"))


async def run_program(argv: tuple[str, ...], environment: dict[str, str] | None = None) -> tuple[int, bytes, bytes]:
    """(exit code, output, errors). Raises TimeoutError after two minutes."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            output, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output, errors


async def in_thread(work: Callable[[], T]) -> T:
    """The work's result. Unlike the loop's own threads this one is not waited for at the end: a file operation on
    a volume that nobody serves any more returns only when the mount is torn down."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[], None]) -> None:
        if not done.done():
            set_it()

    def run() -> None:
        try:
            result = work()
        except OSError as error:
            failed = error
            told = partial(settle, lambda: done.set_exception(failed))
        else:
            told = partial(settle, lambda: done.set_result(result))
        with suppress(RuntimeError):  # The loop was closed meanwhile: nobody waits any more.
            loop.call_soon_threadsafe(told)

    Thread(target=run, daemon=True).start()
    return await done


def find_program(name: str) -> str | None:
    """Also in the directories that only root's PATH has."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")


def why_no_mount() -> str:
    """ "" when this machine can mount a volume, else the reason, in words for a person."""
    if os.geteuid() != 0:
        return "mounting needs root"
    if not Path("/sys/module/nbd").exists():
        if not Path("/dev/fuse").exists():
            return "there is neither the nbd module nor /dev/fuse"
        if not Path("/dev/loop-control").exists():
            return "there are no loop devices"
        if find_program("qemu-storage-daemon") is None:
            return "qemu-storage-daemon is not installed (Debian: qemu-system-common)"
    if find_program("mkfs.ext4") is None:
        return "mkfs.ext4 is not installed (Debian: e2fsprogs)"
    return ""


async def check_filesystem(image: Path) -> tuple[bool, str]:
    """`e2fsck -fn` on an image: (clean, its last line)."""
    program = find_program("e2fsck")
    if program is None:
        return False, "e2fsck is not installed"
    code, output, errors = await run_program((program, "-fn", str(image)))
    lines = (output or errors).decode("utf-8", "replace").strip().splitlines()
    said = lines[-1].removeprefix(f"{image}: ") if lines else f"exit code {code}"
    return code == E2FSCK_CLEAN, said
