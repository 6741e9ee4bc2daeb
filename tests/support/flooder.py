"""A process that floods one node's peer link, with a real identity: `flooder DIRECTORY PORT KIND VOLUME`.

It never reads what comes back, and when the link is ended it makes another one at once. It prints how many bytes it
has got rid of, once a second.
"""

from __future__ import annotations

import itertools
import secrets
import socket
import ssl
import sys
import time
from pathlib import Path

from services.replica.brain import messages as ms
from services.replica.brain.record import Stamp, Voter
from services.replica.peers import Claim, Type, pack, pack_claims
from services.replica.peers.payloads import Greeting
from stoscore.identity import Identity

CHUNK_BYTES = 512 * 1024


def frames(kind: str, volume: bytes, me: str) -> bytes:
    """About half a MiB of frames of that kind."""
    if kind == "beats":
        one = pack(Type.BEAT, id=1, x=1, y=1)
    elif kind == "opens":
        one = pack(Type.OPEN, volume=volume, id=1, attach_epoch=1)
    elif kind == "reads":
        one = pack(Type.IO_READ, volume=volume, id=1, x=1, y=0, z=8192)
    elif kind == "writes":
        one = pack(Type.WRITE, volume=volume, y=0, z=4, length=4 * 4104) + bytes(4 * 4104)
    elif kind == "claims":
        body = pack_claims([Claim(secrets.token_bytes(16), 0, number) for number in range(1000)])
        one = pack(Type.CLAIMS, x=1, y=1, length=len(body)) + body
    else:
        voter = Voter(me, "ab" * 8)
        body = ms.encode(ms.PreVote(volume.hex(), voter, Voter("n1", "cd" * 8), 9, Stamp(0, 8, 1)))
        one = pack(Type.BRAIN, volume=volume, length=len(body)) + body
    return one * max(1, CHUNK_BYTES // len(one))


def link(identity: Identity, port: int) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), 10)
    found = identity.client_context().wrap_socket(raw, server_hostname="n1")
    greeting = Greeting(identity.name, identity.cluster, "0").pack()
    found.sendall(pack(Type.HELLO, length=len(greeting)) + greeting)
    found.recv(4096)
    return found


def main() -> None:
    directory, port, kind, volume = sys.argv[1:]
    identity = Identity.load(Path(directory))
    sent, told = 0, time.monotonic()
    chunk = b"" if kind == "links" else frames(kind, bytes.fromhex(volume), identity.name)
    for _ in itertools.count():
        try:
            with link(identity, int(port)) as open_link:
                while chunk:
                    open_link.sendall(chunk)
                    sent += len(chunk)
                    if time.monotonic() - told > 1:
                        told = time.monotonic()
                        print(sent, flush=True)
        except OSError:
            pass
        sent += 1
        if time.monotonic() - told > 1:
            told = time.monotonic()
            print(sent, flush=True)


if __name__ == "__main__":
    main()
