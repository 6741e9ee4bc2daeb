"""Netlink messages as bytes, and the kernel's own answer to some."""

from __future__ import annotations

import socket
import struct
import sys

import pytest

from services.csi.attachers import kernel_nbd, netlink
from services.csi.attachers.nbd_handshake import Negotiated
from services.csi.attachers.netlink import Answer, Netlink

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the bytes below are little-endian")


def test_an_attribute_is_padded_to_four_bytes() -> None:
    assert netlink.text(2, "nbd") == bytes.fromhex("0800 0200") + b"nbd\0"
    assert netlink.attribute(7, b"abcde") == bytes.fromhex("0900 0700") + b"abcde\0\0\0"


def test_attributes_are_read_as_they_were_written() -> None:
    data = netlink.u32(1, 5) + netlink.text(10, "id") + netlink.nested(7, netlink.u64(2, 9))
    read = dict(netlink.attributes(data))
    assert read == {1: struct.pack("=I", 5), 10: b"id\0", 7: netlink.u64(2, 9)}


@pytest.mark.parametrize("data", [b"\x01", b"\x00\x00\x01\x00", b"\xff\xff\x01\x00abcd", b"\x03\x00\x01\x00"])
def test_attributes_that_are_cut_off_end_the_reading(data: bytes) -> None:
    assert list(netlink.attributes(netlink.u32(1, 5) + data)) == [(1, struct.pack("=I", 5))]


def test_a_datagram_with_an_answer_and_an_acknowledgement() -> None:
    answer = netlink.message(0x1C, 1, 1, 7, netlink.u32(1, 3))
    acknowledgement = struct.pack("=IHHIIi", 20, 2, 0, 7, 0, 0)
    refusal = struct.pack("=IHHIIi", 20, 2, 0, 7, 0, -22)
    assert list(netlink.parse(answer + acknowledgement + refusal)) == [
        Answer(0x1C, 1, {1: struct.pack("=I", 3)}),
        0,
        22,
    ]
    assert list(netlink.parse(b"\x05\x00\x00")) == []


def test_what_the_kernel_is_told_of_a_new_device() -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        payload = kernel_nbd.connect_payload("v", Negotiated(connection, 1 << 30, 0x6D))
        read = dict(netlink.attributes(payload))
        (item,) = netlink.attributes(read[7])
        (descriptor,) = netlink.attributes(item[1])
        assert struct.unpack("=I", descriptor[1])[0] == connection.fileno()
    numbers = {kind: struct.unpack("=Q", read[kind])[0] for kind in (2, 3, 5, 8)}
    assert numbers == {2: 1 << 30, 3: 4096, 5: 0x6D, 8: kernel_nbd.DEAD_LINK_S}
    assert read[10] == b"stos:v\0"


def test_the_kernel_answers_for_itself() -> None:
    with Netlink() as kernel:
        assert kernel.family("nlctrl").number == netlink.CONTROL_FAMILY
        assert "notify" in kernel.family("nlctrl").groups
        with pytest.raises(FileNotFoundError):
            kernel.family("no-such-family")
