"""An asyncio NBD client: fixed newstyle, NBD_OPT_GO, structured replies, a Unix socket, many requests at once.

The recorder of the demo writes with it, because it sees each request's answer and so the gaps between them.
Requests of several tasks go out as they come and are matched to their answers by cookie. The protocol is the
NBD project's doc/proto.md; an error that the server reports raises `NbdError` with its errno, a server that
breaks the protocol or goes away ends every waiting request with ConnectionError.

    client = await NbdClient.connect("/run/x.sock", "volume")
    await client.write(0, data)
    await client.flush()
    await client.close()
"""

from __future__ import annotations

import asyncio
import os
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Self

from stoscore.limits import REQUEST_BYTES_MAX

_MAGIC = 0x4E42444D41474943
_OPTION_MAGIC = 0x49484156454F5054
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC = 0x25609513
_SIMPLE_MAGIC = 0x67446698
_STRUCTURED_MAGIC = 0x668E33EF

_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_OPT_GO, _OPT_STRUCTURED_REPLY = 7, 8
_REP_ACK, _REP_INFO, _REP_ERROR = 1, 3, 1 << 31
_REP_NAMES = {1: "unsupported", 2: "forbidden", 3: "invalid", 5: "TLS required", 6: "unknown export"}
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3
_CHUNK_DONE = 1
_CHUNK_NONE, _CHUNK_DATA, _CHUNK_HOLE, _CHUNK_ERROR = 0, 1, 2, 1 << 15
_OPTION_BYTES_MAX = 65_536

_REQUEST = struct.Struct(">IHHQQI")
_SIMPLE = struct.Struct(">IQ")
_STRUCTURED = struct.Struct(">HHQI")


class Command(IntEnum):
    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6


class CommandFlag(IntFlag):
    FUA = 1
    NO_HOLE = 2


class NbdError(OSError):
    """The server's answer to one request: an errno. During the negotiation: what it refused."""


class NbdProtocolError(ConnectionError):
    """The server's fault: an answer that the protocol does not know."""


@dataclass(slots=True)
class _Waiting:
    """A request without its (whole) answer."""

    done: asyncio.Future[bytes]
    offset: int
    data: bytearray = field(default_factory=bytearray)
    missing: int = 0
    """bytes of `data` that did not come yet"""
    error: int = 0


@dataclass(frozen=True, slots=True)
class Export:
    """What the server says of an export. Sizes in bytes; block sizes 1 to 32 MiB where it says nothing."""

    size: int
    flags: int
    block_min: int = 1
    block_preferred: int = 4096
    block_max: int = REQUEST_BYTES_MAX


class NbdClient:
    """One connection. Not to be made directly: `connect`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, export: Export) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, _Waiting] = {}
        self._cookie = 0
        self._closing = False
        self.export = export
        self.size = export.size
        self._receiver = asyncio.create_task(self._receive(), name="nbd-receive")

    @classmethod
    async def connect(cls, socket_path: str | os.PathLike[str], export: str = "") -> Self:
        """Raises OSError when nobody listens, NbdError when the export is refused."""
        reader, writer = await asyncio.open_unix_connection(os.fspath(socket_path), limit=REQUEST_BYTES_MAX)
        try:
            found = await _negotiate(reader, writer, export)
        except asyncio.IncompleteReadError:
            writer.close()
            raise ConnectionError("the server hung up during the negotiation") from None
        except BaseException:
            writer.close()
            raise
        return cls(reader, writer, found)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- requests ---

    async def read(self, offset: int, length: int) -> bytes:
        """Raises NbdError, ConnectionError."""
        return await self._request(Command.READ, offset, length)

    async def write(self, offset: int, data: bytes | bytearray | memoryview, *, fua: bool = False) -> None:
        """`fua`: answered when it is durable."""
        await self._request(Command.WRITE, offset, len(data), CommandFlag.FUA if fua else 0, data)

    async def flush(self) -> None:
        """Every write that was answered before is durable when this returns."""
        await self._request(Command.FLUSH, 0, 0)

    async def trim(self, offset: int, length: int) -> None:
        await self._request(Command.TRIM, offset, length)

    async def write_zeroes(self, offset: int, length: int, *, fua: bool = False, no_hole: bool = False) -> None:
        flags = (CommandFlag.FUA if fua else 0) | (CommandFlag.NO_HOLE if no_hole else 0)
        await self._request(Command.WRITE_ZEROES, offset, length, flags)

    async def close(self) -> None:
        """Say goodbye and hang up. Idempotent; waiting requests end with ConnectionError."""
        if not self._closing:
            self._closing = True
            self._writer.write(_REQUEST.pack(_REQUEST_MAGIC, 0, Command.DISCONNECT, 0, 0, 0))
        self._writer.close()
        self._receiver.cancel()
        with suppress(OSError, asyncio.CancelledError):
            await self._receiver
        with suppress(OSError):
            await self._writer.wait_closed()
        self._fail_all(ConnectionError("the connection was closed"))

    async def _request(
        self,
        command: Command,
        offset: int,
        length: int,
        flags: int = 0,
        data: bytes | bytearray | memoryview = b"",
    ) -> bytes:
        if self._closing or self._receiver.done():
            raise ConnectionError("the NBD connection is closed")
        self._cookie += 1
        cookie = self._cookie
        waiting = _Waiting(asyncio.get_running_loop().create_future(), offset)
        if command is Command.READ:
            waiting.data, waiting.missing = bytearray(length), length
        self._waiting[cookie] = waiting
        self._writer.write(_REQUEST.pack(_REQUEST_MAGIC, flags, command, cookie, offset, length))
        if data:
            self._writer.write(data)
        await self._writer.drain()
        return await waiting.done

    # --- answers ---

    async def _receive(self) -> None:
        try:
            while True:
                (magic,) = struct.unpack(">I", await self._reader.readexactly(4))
                if magic == _STRUCTURED_MAGIC:
                    await self._structured()
                elif magic == _SIMPLE_MAGIC:
                    await self._simple()
                else:
                    raise NbdProtocolError(f"no reply starts with {magic:#010x}")
        except asyncio.IncompleteReadError:
            self._fail_all(ConnectionError("the NBD server hung up"))
        except OSError as error:
            self._fail_all(error)
        finally:
            self._writer.close()

    async def _simple(self) -> None:
        error, cookie = _SIMPLE.unpack(await self._reader.readexactly(_SIMPLE.size))
        waiting = self._find(cookie)
        waiting.error = error
        if not error and waiting.data:
            data = await self._reader.readexactly(len(waiting.data))
            self._place(waiting, waiting.offset, memoryview(data))
        self._answer(cookie)

    async def _structured(self) -> None:
        flags, kind, cookie, length = _STRUCTURED.unpack(await self._reader.readexactly(_STRUCTURED.size))
        if length > REQUEST_BYTES_MAX + 8:
            raise NbdProtocolError(f"a reply of {length} bytes")
        body = await self._reader.readexactly(length)
        waiting = self._find(cookie)
        if kind == _CHUNK_DATA and length > 8:
            self._place(waiting, int.from_bytes(body[:8], "big"), memoryview(body)[8:])
        elif kind == _CHUNK_HOLE and length == 12:
            offset, size = struct.unpack(">QI", body)
            self._place(waiting, offset, memoryview(bytes(size)))
        elif kind & _CHUNK_ERROR and length >= 6:
            (waiting.error,) = struct.unpack_from(">I", body)
        elif kind != _CHUNK_NONE:
            raise NbdProtocolError(f"a reply chunk of type {kind} and {length} bytes")
        if flags & _CHUNK_DONE:
            self._answer(cookie)

    def _find(self, cookie: int) -> _Waiting:
        waiting = self._waiting.get(cookie)
        if waiting is None:
            raise NbdProtocolError(f"an answer to request {cookie}, which waits for none")
        return waiting

    def _place(self, waiting: _Waiting, offset: int, data: memoryview) -> None:
        at = offset - waiting.offset
        if at < 0 or at + len(data) > len(waiting.data):
            raise NbdProtocolError("data that was not asked for")
        waiting.data[at : at + len(data)] = data
        waiting.missing -= len(data)

    def _answer(self, cookie: int) -> None:
        waiting = self._waiting[cookie]
        if waiting.missing and not waiting.error:
            raise NbdProtocolError(f"{waiting.missing} bytes of a read are missing")
        del self._waiting[cookie]
        if waiting.done.done():
            return
        if waiting.error:
            waiting.done.set_exception(NbdError(waiting.error, os.strerror(waiting.error)))
        else:
            waiting.done.set_result(bytes(waiting.data))

    def _fail_all(self, error: OSError) -> None:
        waiting, self._waiting = self._waiting, {}
        for request in waiting.values():
            if not request.done.done():
                request.done.set_exception(error)


async def _negotiate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, export: str) -> Export:
    magic, options, flags = struct.unpack(">QQH", await reader.readexactly(18))
    if (magic, options) != (_MAGIC, _OPTION_MAGIC) or not flags & _FIXED_NEWSTYLE:
        raise NbdProtocolError("the server does not speak fixed newstyle NBD")
    writer.write(struct.pack(">I", _FIXED_NEWSTYLE | (flags & _NO_ZEROES)))
    await _option(reader, writer, _OPT_STRUCTURED_REPLY, b"")
    name = export.encode()
    wanted = struct.pack(">I", len(name)) + name + struct.pack(">HH", 1, _INFO_BLOCK_SIZE)
    refused, infos = await _option(reader, writer, _OPT_GO, wanted)
    if refused:
        why = _REP_NAMES.get(refused, f"error {refused}")
        raise NbdError(2 if refused == 6 else 22, f"the server refuses export {export!r}: {why}")
    size = transmission = -1
    blocks = (1, 4096, REQUEST_BYTES_MAX)
    for info in infos:
        kind = int.from_bytes(info[:2], "big")
        if kind == _INFO_EXPORT and len(info) == 12:
            size, transmission = struct.unpack(">QH", info[2:])
        elif kind == _INFO_BLOCK_SIZE and len(info) == 14:
            blocks = struct.unpack(">III", info[2:])
    if size < 0:
        raise NbdProtocolError("the server does not tell the export's size")
    return Export(size, transmission, *blocks)


async def _option(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, option: int, body: bytes
) -> tuple[int, list[bytes]]:
    """(0 or the refusal's number, the infos) of one option."""
    writer.write(struct.pack(">QII", _OPTION_MAGIC, option, len(body)) + body)
    infos: list[bytes] = []
    while True:
        magic, replied, kind, length = struct.unpack(">QIII", await reader.readexactly(20))
        if magic != _OPTION_REPLY_MAGIC or replied != option or length > _OPTION_BYTES_MAX:
            raise NbdProtocolError("no answer to the option that was sent")
        content = await reader.readexactly(length)
        if kind == _REP_ACK:
            return 0, infos
        if kind & _REP_ERROR:
            return kind & ~_REP_ERROR, infos
        if kind == _REP_INFO:
            infos.append(content)
