"""The common NBD clients against a live volume of three copies: libnbd's, qemu's and fio, through failovers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.dev.demo.verify import disagreements
from stoscore.units import MIB
from tests.support.cluster import RunningCluster
from tests.support.failovers import fail_over, failing_over
from tests.support.nbd import run

pytestmark = pytest.mark.slow
VOLUME = "data"
SIZE_BYTES = 64 * MIB
SOME_S = 240.0


@pytest.fixture
def uri(running: RunningCluster) -> Iterator[str]:
    """Of a new volume that is used on a node without a copy. In the end its copies are equal."""
    created = running.stos("volume", "create", VOLUME, "--size", "64MiB")
    assert created.code == 0, created.errors
    yield running.json("volume", "connect", VOLUME, "--node", "app")["uri"]
    assert running.stos("volume", "disconnect", VOLUME).code == 0
    asyncio.run(running.in_sync(VOLUME, 3))
    assert disagreements(running.copies(VOLUME)) == []
    removed = running.stos("volume", "rm", VOLUME)
    assert removed.code == 0, removed.errors


async def ran(*command: str) -> str:
    code, output = await run(*command, timeout_s=SOME_S)
    assert code == 0, output
    return output


def image(path: Path) -> Path:
    """Data, holes and zeros that were written, of the volume's size."""
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
        for at in (0, 5, 6, 17, 40, 63):
            file.seek(at * MIB)
            file.write(os.urandom(MIB // 2))
        file.seek(30 * MIB)
        file.write(bytes(MIB))
    return path


async def test_copying_in_and_out_through_failovers(running: RunningCluster, uri: str, tmp_path: Path) -> None:
    source, back, converted = image(tmp_path / "source"), tmp_path / "back", tmp_path / "converted"
    (export,) = json.loads(await ran("nbdinfo", "--json", uri))["exports"]
    assert (export["export-size"], export["block_size_minimum"]) == (SIZE_BYTES, 512)
    assert export["can_multi_conn"] and export["contexts"] == ["base:allocation"]
    async with failing_over(running, VOLUME):
        await ran("nbdcopy", "--flush", "--connections=4", str(source), uri)
        await ran("nbdcopy", "--connections=4", uri, str(back))
        await ran("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, str(converted))
        await ran("qemu-img", "compare", "-f", "raw", "-F", "raw", str(source), uri)
    assert source.read_bytes() == back.read_bytes() == converted.read_bytes()
    mapped = json.loads(await ran("nbdinfo", "--json", "--map", uri))
    data = {at // MIB for extent in mapped if extent["type"] == 0 for at in _starts(extent["offset"], extent["length"])}
    assert data == {0, 5, 6, 17, 40, 63}, "written zeros are a hole as well"
    of_qemu = json.loads(await ran("qemu-img", "map", "--output=json", "-f", "raw", uri))
    assert [(one["start"], one["length"]) for one in of_qemu if one["data"]] == [
        (extent["offset"], extent["length"]) for extent in mapped if extent["type"] == 0
    ]
    await ran("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-S", "4k", "--target-is-zero", str(source), uri)
    await ran("qemu-img", "compare", "-f", "raw", "-F", "raw", str(source), uri)


def _starts(offset: int, length: int) -> range:
    return range(offset, offset + length, MIB)


NBDSH = """
import errno
h.set_strict_mode(0)
assert h.get_size() == 64 << 20 and h.get_block_size(nbd.SIZE_MINIMUM) == 512
assert h.can_multi_conn() and h.can_fast_zero() and h.can_cache() and h.can_df()
assert h.can_meta_context("base:allocation")
second = nbd.NBD()
second.connect_uri(h.get_uri())

h.pwrite(b"a" * 512, 512)
second.pwrite(b"b" * 1536, 3072, nbd.CMD_FLAG_FUA)
h.flush()
assert second.pread(8192, 0) == bytes(512) + b"a" * 512 + bytes(2048) + b"b" * 1536 + bytes(3584)
assert second.pread_structured(512, 512, lambda *_: 0, nbd.CMD_FLAG_DF) == b"a" * 512
second.zero(1024, 3072, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(4096, 1024) == bytes(2048 + 1024) + b"b" * 512 + bytes(512)
h.zero(8192, 4096, nbd.CMD_FLAG_FAST_ZERO)
h.cache(32 << 20, 0)
h.trim(32 << 20, 0)
assert h.pread(16384, 0) == bytes(16384)
largest = b"0123456789abcdef" * (2 << 20)
h.pwrite(largest, 512)
assert h.pread(32 << 20, 512) == largest

def status(length, offset, flags=0):
    found = []
    h.block_status(length, offset, lambda context, at, entries, error: found.extend(entries), flags)
    return found
h.zero(64 << 20, 0)
h.pwrite(b"x" * 4096, 8192)
assert status(1 << 20, 0) == [8192, 3, 4096, 0, (1 << 20) - 12288, 3]
assert status(1 << 20, 8704, nbd.CMD_FLAG_REQ_ONE) == [3584, 0]
assert status(1024, 512) == [1024, 3]

def refused(wanted, call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        assert error.errnum == wanted, (call, args, error)
    else:
        raise AssertionError((call, args))
END = 64 << 20
refused(errno.EINVAL, h.pread, 512, END)
refused(errno.EINVAL, h.pread, 100, 0)
refused(errno.EINVAL, h.pread, 512, 100)
refused(errno.ENOSPC, h.pwrite, b"x" * 1024, END - 512)
refused(errno.ENOSPC, h.zero, 4096, END)
refused(errno.EINVAL, h.trim, 4096, END)
refused(errno.EINVAL, h.cache, 4096, END)
refused(errno.ENOTSUP, h.zero, 4096, 512, nbd.CMD_FLAG_FAST_ZERO)
refused(errno.EINVAL, h.trim, 4096, 0, nbd.CMD_FLAG_DF)
refused(errno.EINVAL, h.pread, 4096, 0, nbd.CMD_FLAG_REQ_ONE)
assert h.pread(4096, 8192) == b"x" * 4096
second.shutdown()
"""


async def test_every_request_and_every_refusal_by_libnbd(uri: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(NBDSH)
    # Debian's libnbd is for Debian's Python.
    await ran(
        "env",
        "PATH=/usr/bin:/bin",
        "nbdsh",
        "--base-allocation",
        "--uri",
        uri,
        "--command",
        f"exec(open({str(script)!r}).read())",
    )


async def test_qemu_io_through_a_failover(running: RunningCluster, uri: str) -> None:
    def words(*commands: str) -> list[str]:
        return [word for command in commands for word in ("-c", command)]

    writes = words(
        "write -P 1 0 8M", "write -P 2 1536 512", "aio_write -P 3 5M 100k", "aio_write -P 4 9216 7k", "aio_flush",
        "write -f -P 5 20M 64k", "write -z 2M 1M", "write -z -u 3584 4608", "discard 4M 64k", "flush",
    )  # fmt: skip
    reads = words(
        "read -P 1 0 1536", "read -P 2 1536 512", "read -P 1 2k 1536", "read -P 0 3584 4608", "read -P 1 8k 1k",
        "read -P 4 9216 7k", "read -P 1 16k 1008k", "read -P 0 2M 1M", "read -P 0 4M 64k", "read -P 3 5M 100k",
        "read -P 5 20M 64k",
    )  # fmt: skip
    output = await ran("qemu-io", "-f", "raw", *writes, uri)
    assert "failed" not in output, output
    await fail_over(running, VOLUME)
    output = await ran("qemu-io", "-f", "raw", *reads, uri)
    assert "failed" not in output, output


@pytest.mark.long
@pytest.mark.parametrize("block", ["4k", "512"])
async def test_fio_verifies_what_it_wrote_through_failovers(
    running: RunningCluster, uri: str, tmp_path: Path, block: str
) -> None:
    job = (
        "fio", "--name=verify", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", f"--bs={block}", "--iodepth=32",
        f"--size={16 if block == '4k' else 1}M", "--verify=crc32c", "--randseed=7", f"--aux-path={tmp_path}",
        "--verify_state_save=1", "--output-format=json",
    )  # fmt: skip
    async with failing_over(running, VOLUME):
        written = json.loads(_json(await ran(*job, "--do_verify=1", "--verify_fatal=1")))
    assert [one["error"] for one in written["jobs"]] == [0]
    assert list(tmp_path.glob("*verify.state")), "the state that the next run verifies from"
    await fail_over(running, VOLUME)
    read = json.loads(_json(await ran(*job, "--verify_only=1", "--verify_state_load=1", "--verify_fatal=1")))
    assert [one["error"] for one in read["jobs"]] == [0]


def _json(output: str) -> str:
    """fio may say something before and after."""
    return output[output.index("{\n") : output.rindex("}") + 1]
