"""The control messages of certs: identities are renewed, what to trust is told, and administrators ask for changes.

They are as all others (`messages`).
"""

from typing import Annotated, Literal

from pydantic import Field

from stoscore.limits import TRUST_DENIED_MAX, TRUST_ROOTS_BYTES_MAX, TRUST_STATE_BYTES_MAX
from stoscore.messages import Message


class RenewRequest(Message):
    """certs.renew: a new certificate for the identity that asks, proved by its still valid certificate:
    `proof` signs the CSR with the current key."""

    csr_pem: str = Field(max_length=16_384)
    certificate_pem: str = Field(max_length=16_384)
    proof: str = Field(max_length=1024)
    """base64 of the signature by the current certificate's key over csr_pem"""
    nats_public_key: str = Field(default="", max_length=128)


class Denied(Message):
    """Certificates of one identity that nobody accepts any more although they have not ended: the one with this
    serial, or, when `serial` is "", all that were issued before `issued_before_s`."""

    kind: str = Field(max_length=16)
    name: str = Field(max_length=63)
    serial: str = Field(default="", max_length=40, pattern=r"^([1-9a-f][0-9a-f]*)?\Z")
    """hex, lower case, without leading zeros"""
    issued_before_s: int = Field(default=0, ge=0)
    """Unix seconds by certs' clock; a certificate of that very second is not denied"""
    expires_s: int = Field(ge=0)
    """when every certificate that it can match has ended: then it is left out, so that the list stays short"""
    reason: str = Field(default="", max_length=120)


class TrustState(Message):
    """Whom a cluster trusts, as certs says it: the roots, and who is denied although a root vouches for him."""

    cluster: str = Field(max_length=63)
    number: int = Field(ge=1)
    """rises with every change and never goes back; certs makes it the larger of the last one plus one and the
    Unix time, so that an authority restored from an old backup goes on above all that it had said before"""
    roots_pem: str = Field(max_length=TRUST_ROOTS_BYTES_MAX)
    denied: list[Denied] = Field(default=[], max_length=TRUST_DENIED_MAX)
    renew_issued_before_s: int = Field(default=0, ge=0)
    """Unix seconds by certs' clock: certificates that were issued before are renewed at once"""


class TrustRequest(Message):
    """certs.trust -> SignedTrust. Who asks says what it has in use, which a change of the root waits for."""

    serial: str = Field(default="", max_length=40, pattern=r"^([1-9a-f][0-9a-f]*)?\Z")
    """of its certificate, as in `Denied`"""
    number: int = Field(default=0, ge=0)
    """of its trust state"""


class SignedTrust(Message):
    """certs.trust (published, and the answer to a request): a trust state that svc/certs signed."""

    state_json: str = Field(max_length=TRUST_STATE_BYTES_MAX)
    """a TrustState; the signature is over exactly this text (see `stoscore.trust`)"""
    chain_pem: str = Field(max_length=16_384)
    """the signer's certificate, then its issuer"""
    signature: str = Field(max_length=1024)
    """base64"""


class NatsServerTrust(Message):
    """What a NATS server starts from. Nothing of it is secret: these are signed statements and public keys."""

    operator_jwt: str
    system_key: str
    system_jwt: str
    account_key: str
    account_jwt: str
    store_bytes: int = Field(ge=1)
    """what JetStream may keep"""


class Credentials(Message):
    """What an enrolment or a renewal hands out. No private key ever travels: keys are made by their owner."""

    certificate_pem: str
    """leaf first, then the issuing CA"""
    trust_pem: str
    """the root certificates to trust"""
    nats_jwt: str = ""
    """user JWT for the NATS user key that came with the request"""
    renew_after_s: int = 86_400
    role: str = Field(default="", max_length=63)
    """what the identity may do (`stoscore.access`); its directory keeps it"""
    trust: SignedTrust | None = None
    """the trust state of the moment"""
    nats_server: NatsServerTrust | None = None
    """for NATS servers only"""


# ---- administration ----------------------------------------------------------------------------------

Kind = Literal["node", "svc", "user"]
IdentityName = Annotated[str, Field(max_length=63)]
Serial = Annotated[str, Field(max_length=40, pattern=r"^([1-9a-f][0-9a-f]*)?\Z")]
"""hex, lower case, without leading zeros; "" for none"""


class CertificateView(Message):
    """One certificate that was handed out. Times are Unix seconds by certs' clock."""

    serial: str
    issued_unix_s: int
    ends_unix_s: int
    attestor: str
    issuer: str
    denied: bool = False


class IdentityView(Message):
    """One identity, and its newest certificate."""

    kind: str
    name: str
    role: str
    state: Literal["valid", "overdue", "expired", "revoked"]
    """overdue: its certificate is valid and should have been renewed long ago"""
    certificate: CertificateView | None = None


class RootView(Message):
    key: str
    sha256: str
    ends_unix_s: int


class RotationView(Message):
    """A change of the root that is under way."""

    phase: Literal["announce", "sign"]
    root: str
    since_unix_s: int
    waiting_for: list[str] = Field(max_length=20)
    """kind/name of who holds the phase up, the first of them"""
    waiting_count: int


class AuthorityView(Message):
    cluster: str
    instance: str
    """who answered"""
    addresses: list[str]
    trust_number: int
    roots: list[RootView]
    issuer: str
    issuer_ends_unix_s: int
    rotation: RotationView | None = None
    open_tokens: int
    denied: int
    backup_unix_s: int = 0
    """when the keys were backed up; 0: never"""
    backup_is_current: bool = False
    """that backup holds the keys that are in use"""


class ListIdentities(Message):
    """certs.ls -> IdentityPage"""

    after: str = Field(default="", max_length=80)
    """kind/name of the last one of the page before"""


class IdentityPage(Message):
    authority: AuthorityView
    identities: list[IdentityView]
    more: bool


class ShowIdentity(Message):
    """certs.show -> IdentityDetail"""

    kind: Kind
    name: IdentityName


class IdentityDetail(Message):
    identity: IdentityView
    certificates: list[CertificateView]
    """all that have not ended, oldest first"""
    denied: list[Denied]


class RevokeIdentity(Message):
    """certs.revoke -> Revoked: everything that the identity holds, or one certificate of it."""

    kind: Kind
    name: IdentityName
    serial: Serial = ""
    reason: str = Field(default="", max_length=120)
    unlisted: bool = False
    """also when certs does not know the identity, as after an old backup was restored"""


class Revoked(Message):
    trust_number: int
    """whoever has this trust state, or a later one, refuses it"""
    denied: Denied
    tokens: int
    """open join tokens that were made worthless"""


class RotateAuthority(Message):
    """certs.rotate -> Rotated"""

    what: Literal["issuer", "root"]
    reason: str = Field(default="", max_length=120)


class Rotated(Message):
    trust_number: int
    authority: AuthorityView
    """as it is now; a root changes by phases"""
