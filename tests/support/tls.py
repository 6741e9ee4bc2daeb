"""A TLS handshake without sockets."""

from __future__ import annotations

import ssl


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """(the server's end, the client's end) after both have verified the other. Raises ssl.SSLError as the first of
    them does that refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepting = server.wrap_bio(to_server, to_client, server_side=True)
    dialling = client.wrap_bio(to_client, to_server, server_hostname="peer")
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for end in (dialling, accepting):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
        if len(done) == 2:
            return accepting, dialling
    raise AssertionError("the handshake does not end")
