"""What a NATS server is given with its identity: whom it trusts, as signed statements. Nothing of it is secret.

It is what a server starts from and never an update of what it has: the statement about our account carries the
oldest possible date, and the servers keep the newer one. Changes reach the running servers by `nats_orders`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.certs import nats_jwt
from services.certs.roles import ROLES
from stoscore.certs_messages import NatsServerTrust
from stoscore.nkey import public_key

if TYPE_CHECKING:
    from services.certs.authority import Authority


def server_trust(authority: Authority) -> NatsServerTrust:
    """Blocks: it looks at the record."""
    keys, founded_s, store_bytes = authority.nats_keys, authority.founded_s, authority.settings.nats_store_bytes
    content = nats_jwt.account_content(keys, ROLES, store_bytes, authority.nats_revocations())
    return NatsServerTrust(
        operator_jwt=nats_jwt.operator_jwt(keys, authority.cluster, founded_s),
        system_key=public_key(keys.system),
        system_jwt=nats_jwt.system_jwt(keys, founded_s),
        account_key=keys.account,
        account_jwt=nats_jwt.account_jwt(keys, content, founded_s),
        store_bytes=store_bytes,
    )
