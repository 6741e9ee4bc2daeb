"""A pod, by the service-account token that Kubernetes mounted into it, made for our audience.

The API server judges the token (TokenReview): it knows its own signature, and whether the pod and the account still
exist. What it answers is mapped to an identity by the settings, and by nothing that the pod says:

    STOS_CERTS_KUBERNETES_ACCOUNTS=stos/stos-node=node/{node},stos/stos-placement=svc/placement

`{node}` is the node that the token is bound to. So a stolen node can become no other node: Kubernetes gives it tokens
of its own pods only. The token has no date that could be compared with a revocation; an identity that was revoked is
let in again by a join token only.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from services.certs import kubernetes_api
from services.certs.attestors import Claim, Desk, take
from services.certs.kubernetes_api import TIMEOUT_S
from services.certs.settings import AccountRule, parse_accounts
from stoscore.errors import Code, StosError, precondition, unavailable
from stoscore.spiffe import make_uri

if TYPE_CHECKING:
    from services.certs.settings import CertsSettings

NODE_CLAIM, POD_CLAIM = "authentication.kubernetes.io/node-name", "authentication.kubernetes.io/pod-name"
USER_PREFIX = ("system", "serviceaccount")
REVIEWS_MAX = 4
"""At a time. Anybody may knock, and a slow API server must not take all threads away from those who renew."""
_reviews = threading.BoundedSemaphore(REVIEWS_MAX)


class KubernetesServiceAccountAttestor:
    name = "kubernetes-service-account"

    async def attest(self, evidence: dict[str, str], desk: Desk) -> Claim:
        (token,) = take(evidence, ("token",))
        rules = parse_accounts(desk.settings.kubernetes_accounts)
        if not rules:
            raise precondition(
                "nobody may enrol here with a service-account token", "set STOS_CERTS_KUBERNETES_ACCOUNTS"
            )
        status = await asyncio.to_thread(_review, token, desk.settings)
        namespace, account = _account(status, desk.settings.kubernetes_audience)
        rule = next((one for one in rules if (one.namespace, one.account) == (namespace, account)), None)
        if rule is None:
            raise _refused(f"the service account {namespace}/{account} stands for nobody")
        name = _name(rule, _extra(status))
        try:
            make_uri(desk.cluster, rule.kind, name)
        except StosError:
            raise _refused(f"{rule.kind}/{name[:80]} can't be an identity: a name is one RFC 1123 label") from None
        return Claim(rule.kind, name)


def _review(token: str, settings: CertsSettings) -> dict[str, Any]:
    """What the API server says of the token. Raises StosError UNAVAILABLE when it can't be asked."""
    if not _reviews.acquire(blocking=False):
        raise unavailable("too many service-account tokens are being reviewed")
    try:
        return _reviewed(token, settings)
    finally:
        _reviews.release()


def _reviewed(token: str, settings: CertsSettings) -> dict[str, Any]:
    connection = kubernetes_api.connect(settings)
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [settings.kubernetes_audience]},
    }
    try:
        review = connection.authentication.create_token_review(body, _request_timeout=TIMEOUT_S)
    except Exception as error:
        raise kubernetes_api.explain(error, "the review of a token") from None
    status = review.to_dict().get("status")
    return status if isinstance(status, dict) else {}


def _account(status: dict[str, Any], audience: str) -> tuple[str, str]:
    """(namespace, account) of a token that is genuine and was made for us. Raises StosError UNAUTHENTICATED."""
    if status.get("authenticated") is not True or status.get("error"):
        raise _refused("Kubernetes does not know this service-account token, or it has ended")
    # An API server that knows nothing of audiences leaves the field out, and would take a token made for others.
    if audience not in (status.get("audiences") or []):
        raise _refused(f"this service-account token was not made for {audience!r}")
    user = status.get("user")
    words = str(user.get("username", "") if isinstance(user, dict) else "").split(":")
    if len(words) != 4 or tuple(words[:2]) != USER_PREFIX:
        raise _refused("this is not the token of a service account")
    return words[2], words[3]


def _extra(status: dict[str, Any]) -> dict[str, list[str]]:
    return dict(status["user"].get("extra") or {})


def _name(rule: AccountRule, extra: dict[str, list[str]]) -> str:
    name = rule.name
    for mark, claim in (("{node}", NODE_CLAIM), ("{pod}", POD_CLAIM)):
        if mark not in name:
            continue
        values = extra.get(claim) or []
        if len(values) != 1 or not values[0]:
            raise _refused(f"this service-account token is not bound to a {mark[1:-1]} (no claim {claim})")
        name = name.replace(mark, values[0])
    return name


def _refused(why: str) -> StosError:
    return StosError(Code.UNAUTHENTICATED, why)


attestor = KubernetesServiceAccountAttestor()
