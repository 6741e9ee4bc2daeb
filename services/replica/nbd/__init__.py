"""The NBD room: a volume offered to block clients on the node where it is used, on a Unix socket and, where asked
for, on TCP with TLS.

`wire`, `starttls`, `protocol` and `runs` are the server's side of the protocol without any I/O, `client` is one
connection, `server` and `remote` are the two ways in, `listeners` says whose the local sockets are, and `frontend`
joins them to the core that finds the volume's primary (`services.replica.replication.frontend`). What is under way
there is `in_flight`; what comes back is `verified` and becomes `answers`.
"""

from services.replica.nbd.figures import IoFigures
from services.replica.nbd.frontend import Frontend
from services.replica.nbd.listeners import HeldListeners, Listeners, OwnListeners
from services.replica.nbd.remote import RemoteDoor, RemoteIdentity

__all__ = ["Frontend", "HeldListeners", "IoFigures", "Listeners", "OwnListeners", "RemoteDoor", "RemoteIdentity"]
