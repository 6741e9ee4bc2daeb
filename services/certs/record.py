"""What the authority is: roots, issuers, who is revoked, and how far a rotation has come. One entry, one truth.

Everything that must change together is in this one record, so that each change is one compare-and-set: an
instance that is killed has made it or has not. The private keys are entries of their own (`keyring`); a key is
stored before a record names it and removed after no record names it any more.

Everything here is a pure value; time comes in as Unix seconds by the clock of certs.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stoscore.certs_messages import Denied, TrustState
from stoscore.errors import precondition
from stoscore.limits import TRUST_DENIED_MAX

NAME = "authority"
"""The entry of the vault."""
Phase = Literal["announce", "sign"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Root(_Part):
    """A self-signed certificate that everybody trusts while it is in the record."""

    key: str
    """its private key's name in the keyring, `root-<n>`"""
    certificate_pem: str


class Issuer(_Part):
    """What signs leaves; its certificate travels with them."""

    key: str
    root: str
    """the key of the root above it"""
    certificate_pem: str
    replaced_s: int = 0
    """since when it signs nothing any more; 0: it signs, or will"""


class Denial(_Part):
    """A revocation while a certificate that it is about has not ended."""

    kind: str
    name: str
    serial: str = ""
    issued_before_s: int = 0
    expires_s: int
    reason: str = ""
    nats_keys: dict[str, int] = {}
    """public NATS user key -> credentials that were issued up to this second are dead"""


class Rotation(_Part):
    """A change of the root that is under way (see `rotation`)."""

    phase: Phase
    root: str
    """the new one"""
    issuer: str
    """the first one below it"""
    number: int
    """number of the trust state that began this phase"""
    since_s: int
    reason: str = ""


class Record(_Part):
    """Everything but the keys."""

    format: Literal[1] = 1
    cluster: str
    kek: str
    """fingerprint of the key-encryption key"""
    founded_s: int
    made: int = 0
    """how many authorities were ever made; the next key's number is one more"""
    number: int = Field(ge=1)
    """of the trust state; rises with each change of it"""
    nats_account: str
    """public key of our NATS account"""
    roots: tuple[Root, ...] = Field(min_length=1)
    issuers: tuple[Issuer, ...] = Field(min_length=1)
    signer: str
    """the issuer that signs now"""
    denials: tuple[Denial, ...] = Field(default=(), max_length=TRUST_DENIED_MAX)
    renew_issued_before_s: int = 0
    rotation: Rotation | None = None

    def issuer(self, key: str) -> Issuer:
        return next(issuer for issuer in self.issuers if issuer.key == key)

    @property
    def signing_root(self) -> Root:
        """The root above what signs now."""
        above = self.issuer(self.signer).root
        return next(root for root in self.roots if root.key == above)

    @property
    def roots_pem(self) -> str:
        return "".join(root.certificate_pem for root in self.roots)

    def trust(self) -> TrustState:
        """As everybody is told."""
        return TrustState(
            cluster=self.cluster,
            number=self.number,
            roots_pem=self.roots_pem,
            denied=[
                Denied(
                    kind=denial.kind,
                    name=denial.name,
                    serial=denial.serial,
                    issued_before_s=denial.issued_before_s,
                    expires_s=denial.expires_s,
                    reason=denial.reason,
                )
                for denial in self.denials
            ],
            renew_issued_before_s=self.renew_issued_before_s,
        )

    def nats_revocations(self) -> dict[str, int]:
        """Public NATS user key -> credentials issued up to that second are dead."""
        found: dict[str, int] = {}
        for denial in self.denials:
            for key, until_s in denial.nats_keys.items():
                found[key] = max(until_s, found.get(key, 0))
        return found

    def issue_time(self, kind: str, name: str, now_s: int) -> int:
        """When a certificate that is issued now says that it was. Never before a revocation of its owner, nor
        before the moment that everybody shall renew at: of two instances whose clocks differ, the later one would
        hand out what is refused, or renewed again and again."""
        moments = [now_s, self.renew_issued_before_s]
        for denial in self.denials:
            if (denial.kind, denial.name) == (kind, name):
                moments.append(denial.issued_before_s)
                moments.extend(until_s + 1 for until_s in denial.nats_keys.values())
        return max(moments)

    def changed(self, now_s: int, **changes: object) -> Record:
        """With these fields, under a number that is above all that were ever told: also by an authority that was
        restored from an old backup, which is why it follows the clock."""
        number = max(self.number + 1, now_s)
        record = self.model_copy(update={**changes, "number": number})
        # model_copy validates nothing.
        return Record.model_validate(record.model_dump())

    def encode(self) -> bytes:
        return self.model_dump_json(indent=1).encode()


def decode(data: bytes) -> Record:
    """Raises StosError FAILED_PRECONDITION when it is not of this version, or damaged."""
    try:
        return Record.model_validate_json(data)
    except ValidationError as error:
        newer = any(problem["loc"] in {("format",), ("format", "")} for problem in error.errors())
        if newer:
            raise precondition("the vault was written by a newer version of certs", "run that version") from None
        what = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
        raise precondition(
            f"the authority's record is damaged: {what}", "restore it from a backup: see docs/runbooks/ca-lost.md"
        ) from None
