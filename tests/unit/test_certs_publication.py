"""What newcomers are told in a ConfigMap: made, and kept right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.certs.publication import Publication, publication
from services.certs.record import Issuer, Record, Root
from services.certs.settings import CertsSettings
from stoscore.errors import Code, StosError
from tests.support.kubernetes_api import KubernetesApi

NAME = "stos-authority"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    made = KubernetesApi(tmp_path)
    yield made
    made.stop()


def of(api: KubernetesApi, name: str = NAME) -> Publication:
    settings = CertsSettings(kubeconfig=api.kubeconfig, kubernetes_namespace="stos", kubernetes_configmap=name)
    found = publication(settings)
    assert found is not None
    return found


def record(number: int, roots: str = "one", cluster: str = "stos-1") -> Record:
    return Record(
        cluster=cluster,
        kek="k",
        founded_s=1,
        number=number,
        nats_account="A",
        roots=(Root(key="root-1", certificate_pem=roots),),
        issuers=(Issuer(key="issuer-1", root="root-1", certificate_pem="i"),),
        signer="issuer-1",
    )


def told(api: KubernetesApi) -> dict[str, str]:
    return dict(api.config_maps[NAME]["data"])


def test_nothing_is_published_unless_asked_for() -> None:
    assert publication(CertsSettings()) is None


def test_the_first_instance_makes_it(api: KubernetesApi) -> None:
    of(api).publish(record(5))
    assert told(api) == {"cluster": "stos-1", "roots.pem": "one"}


def test_what_has_not_changed_is_not_written_again(api: KubernetesApi) -> None:
    of(api).publish(record(5))
    before = len(api.requests)
    of(api).publish(record(6))  # a revocation: another number, the same roots
    assert [line.split()[0] for line in api.requests[before:]] == ["GET"]


def test_new_roots_replace_old_ones(api: KubernetesApi) -> None:
    of(api).publish(record(5))
    of(api).publish(record(7, "one two"))
    assert told(api)["roots.pem"] == "one two"


@pytest.mark.parametrize("spoilt", [{}, {"cluster": "stos-1", "roots.pem": "forged"}])
def test_what_somebody_spoilt_is_made_good(api: KubernetesApi, spoilt: dict[str, str]) -> None:
    of(api).publish(record(5))
    api.config_maps[NAME]["data"] = spoilt
    of(api).publish(record(5))
    assert told(api) == {"cluster": "stos-1", "roots.pem": "one"}


def test_another_authority_takes_the_place(api: KubernetesApi) -> None:
    of(api).publish(record(50))
    of(api).publish(record(7, "new", "stos-2"))
    assert told(api) == {"cluster": "stos-2", "roots.pem": "new"}


def test_what_kubernetes_refuses_is_said(api: KubernetesApi) -> None:
    api.broken = True
    with pytest.raises(StosError, match="the ConfigMap stos-authority") as caught:
        of(api).publish(record(5))
    assert caught.value.code is Code.UNAVAILABLE
