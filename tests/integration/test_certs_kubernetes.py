"""The real certs process with its vault in Kubernetes (a stand-in for the API server): it keeps nothing on its disk."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoscore.bus import Bus
from stoscore.errors import Code, StosError
from stoscore.renewal import renew
from tests.support.certs_process import CertsProcess
from tests.support.kubernetes_api import KubernetesApi


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesApi]:
    made = KubernetesApi(tmp_path)
    yield made
    made.stop()


def settings(api: KubernetesApi) -> dict[str, str]:
    return {
        "STOS_CERTS_VAULT": "kubernetes",
        "STOS_CERTS_KUBECONFIG": str(api.kubeconfig),
        "STOS_CERTS_KUBERNETES_NAMESPACE": api.namespace,
    }


async def test_another_pod_goes_on(api: KubernetesApi, tmp_path: Path) -> None:
    certs = CertsProcess(tmp_path, **settings(api))
    try:
        await asyncio.to_thread(certs.start)
        node = await certs.enrolled("node", "n1")
        names = set(api.secrets)
        assert {"stos-certs.authority", "stos-certs.kek", "stos-certs.keys.root-1"} <= names
        assert "stos-certs.identities.node.n1" in names
        for name, secret in api.secrets.items():
            assert b"PRIVATE KEY" not in base64.b64decode(secret["data"]["entry"]), name
        await asyncio.to_thread(certs.kill)
        shutil.rmtree(certs.data)
        await asyncio.to_thread(certs.start)
        bus = await Bus.connect(node, certs.nats_urls, name="nowhere")
        before = node.certificate
        await renew(node, bus)  # at the door
        assert node.certificate != before

        api.broken = True
        with pytest.raises(StosError) as caught:
            await renew(node, bus)
        assert caught.value.code is Code.UNAVAILABLE
        api.broken = False
        async with asyncio.timeout(30):
            while True:
                try:
                    await renew(node, bus)
                    break
                except StosError:
                    await asyncio.sleep(0.2)
        assert "Traceback" not in certs.logged()
        await bus.close()
    finally:
        certs.stop()


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        ({"STOS_CERTS_KUBERNETES_NAMESPACE": "elsewhere"}, 7, "has the service account of certs its Role?"),
        ({"STOS_CERTS_KUBERNETES_NAMESPACE": ""}, 5, "set STOS_CERTS_KUBERNETES_NAMESPACE"),
        ({"STOS_CERTS_KUBECONFIG": "/nowhere"}, 5, "can't reach the Kubernetes API"),
        ({"STOS_CERTS_KEK_FILE": "/nowhere/kek"}, 5, "there is no key-encryption key /nowhere/kek"),
    ],
)
async def test_what_is_wrong_is_said(
    api: KubernetesApi, tmp_path: Path, spoil: dict[str, str], code: int, said: str
) -> None:
    certs = CertsProcess(tmp_path, **settings(api))
    ended = await asyncio.to_thread(certs.run_to_end, **spoil)
    assert ended.returncode == code, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("stos serve")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not any(name.endswith(".authority") for name in api.secrets)


async def test_an_api_server_that_is_away_at_the_start(api: KubernetesApi, tmp_path: Path) -> None:
    api.broken = True
    certs = CertsProcess(tmp_path, **settings(api))
    ended = await asyncio.to_thread(certs.run_to_end)
    assert ended.returncode == 8
    assert "Kubernetes fails at the Secret of authority: 503" in ended.stderr


async def test_newcomers_find_the_authority_in_a_config_map(api: KubernetesApi, tmp_path: Path) -> None:
    certs = CertsProcess(tmp_path, **settings(api), STOS_CERTS_KUBERNETES_CONFIGMAP="stos-authority")
    try:
        await asyncio.to_thread(certs.start)
        node = await certs.enrolled("node", "n1")
        async with asyncio.timeout(30):
            while "stos-authority" not in api.config_maps:
                await asyncio.sleep(0.05)
        assert api.config_maps["stos-authority"]["data"] == {"cluster": node.cluster, "roots.pem": node.trust_pem}
    finally:
        certs.stop()
