"""The NBD room: a volume offered to block clients on a Unix socket of the node where it is used.

`wire` and `protocol` are the server's side of the protocol without any I/O, `server` is the socket, and
`frontend` joins it to the core that finds the volume's primary (`services.replica.replication.frontend`).
"""

from services.replica.nbd.frontend import Frontend

__all__ = ["Frontend"]
