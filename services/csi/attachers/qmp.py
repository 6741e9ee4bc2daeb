"""A word with a qemu-storage-daemon that somebody else started: its monitor on two named pipes.

A Unix socket's path is bound to 107 bytes and a volume's directory may be deeper, so the monitor is a pipe for each
direction. Answers to a process of ours that was killed may still lie in the pipe; each command has its own id.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from pathlib import Path
from typing import Any

from stoscore.errors import Code, StosError, precondition

_ANSWER_S = 10.0
_LINE_BYTES_MAX = 65_536


def make_pipes(base: Path) -> None:
    """`base`.in and `base`.out, for `--chardev pipe,path=base`."""
    for end in ("in", "out"):
        path = base.with_name(f"{base.name}.{end}")
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)


async def ask(base: Path, command: str, arguments: dict[str, Any]) -> None:
    """Raises FAILED_PRECONDITION when the daemon has no such monitor, DEADLINE_EXCEEDED when it is silent, INTERNAL
    with what it says when it refuses."""
    try:
        # Read and write: an end that nobody holds would let the opening wait, or fail.
        commands = os.open(base.with_name(f"{base.name}.in"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        answers = os.open(base.with_name(f"{base.name}.out"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise precondition(
            f"the device's daemon has no monitor ({base}: {error.strerror})",
            next_step="stage the volume anew: it was attached by an older version",
        ) from error
    try:
        async with asyncio.timeout(_ANSWER_S):
            await _asked(commands, answers, "qmp_capabilities", {}, lenient=True)
            await _asked(commands, answers, command, arguments)
    except TimeoutError:
        raise StosError(Code.DEADLINE_EXCEEDED, f"the device's daemon does not answer {command}") from None
    finally:
        os.close(commands)
        os.close(answers)


async def _asked(
    commands: int, answers: int, command: str, arguments: dict[str, Any], *, lenient: bool = False
) -> None:
    """`lenient`: a refusal says that it was done before."""
    number = secrets.token_hex(8)
    os.write(commands, json.dumps({"execute": command, "arguments": arguments, "id": number}).encode() + b"\n")
    pending = b""
    while True:
        pending += await _readable(answers)
        *lines, pending = pending.split(b"\n")
        for line in lines:
            answer = json.loads(line) if line.strip() else {}
            if answer.get("id") != number:
                continue
            if "error" in answer and not lenient:
                told = answer["error"].get("desc", "no reason")
                raise StosError(Code.INTERNAL, f"the device's daemon refused {command}: {told}")
            return


async def _readable(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
    try:
        return os.read(descriptor, _LINE_BYTES_MAX)
    except BlockingIOError:
        return b""
