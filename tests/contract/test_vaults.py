"""Every vault keeps the same promises: one suite, run against each.

The vault of Kubernetes runs against a stand-in for the API server (`tests/support/kubernetes_api.py`); with
STOS_E2E_KUBECONFIG set, against the real one that it names, in the namespace STOS_E2E_NAMESPACE. The test's id says
which.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.certs.settings import CertsSettings
from services.certs.vault import ENTRY_BYTES_MAX, NEW, Conflict, Vault, change, create, open_vault
from stoscore.errors import Code, StosError
from tests.support.kubernetes_api import KubernetesApi

REAL = os.environ.get("STOS_E2E_KUBECONFIG", "")
KUBERNETES = "kubernetes-real-api" if REAL else "kubernetes-stand-in"


@pytest.fixture(params=["directory", KUBERNETES])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CertsSettings]:
    if request.param == "directory":
        yield CertsSettings(data_dir=tmp_path)
        return
    prefix = f"stos-test-{secrets.token_hex(4)}"
    if REAL:
        namespace = os.environ.get("STOS_E2E_NAMESPACE", "default")
        made = CertsSettings(
            data_dir=tmp_path,
            vault="kubernetes",
            kubeconfig=Path(REAL),
            kubernetes_namespace=namespace,
            kubernetes_prefix=prefix,
        )
        yield made
        vault = open_vault(made)
        for section in ("a", "identities", "tokens"):
            for entry in vault.below(section):
                vault.delete(entry.name, entry.revision)
        return
    api = KubernetesApi(tmp_path)
    try:
        yield CertsSettings(
            data_dir=tmp_path,
            vault="kubernetes",
            kubeconfig=api.kubeconfig,
            kubernetes_namespace=api.namespace,
            kubernetes_prefix=prefix,
        )
    finally:
        api.stop()


@pytest.fixture
def vault(settings: CertsSettings) -> Iterator[Vault]:
    opened = open_vault(settings)
    yield opened
    opened.close()


def test_what_is_put_is_there(vault: Vault, settings: CertsSettings) -> None:
    assert vault.get("a/x") is None
    data = bytes(range(256)) * 8
    made = vault.put("a/x", data, NEW)
    assert made.data == data
    assert vault.get("a/x") == made
    assert open_vault(settings).get("a/x") == made


def test_a_change_names_what_it_was_made_from(vault: Vault) -> None:
    first = vault.put("a/x", b"1", NEW)
    with pytest.raises(Conflict):
        vault.put("a/x", b"2", NEW)
    second = vault.put("a/x", b"2", first.revision)
    assert second.revision not in (NEW, first.revision)
    for revision in (first.revision, "no such revision", NEW):
        with pytest.raises(StosError) as caught:
            vault.put("a/x", b"3", revision)
        assert caught.value.code in (Code.ABORTED, Code.FAILED_PRECONDITION)
    found = vault.get("a/x")
    assert found is not None
    assert found.data == b"2"


def test_removing_names_it_as_well(vault: Vault) -> None:
    first = vault.put("a/x", b"1", NEW)
    second = vault.put("a/x", b"2", first.revision)
    for revision in (first.revision, NEW):
        with pytest.raises(Conflict):
            vault.delete("a/x", revision)
    vault.delete("a/x", second.revision)
    assert vault.get("a/x") is None
    with pytest.raises(Conflict):
        vault.delete("a/x", second.revision)
    with pytest.raises(Conflict):
        vault.put("a/x", b"3", second.revision)
    again = vault.put("a/x", b"1", NEW)
    assert again.revision not in (first.revision, second.revision)


def test_what_is_below(vault: Vault) -> None:
    names = ["identities/node/n1", "identities/node/n10", "identities/svc/n1", "identitiesx", "tokens/0a"]
    made = {name: vault.put(name, name.encode(), NEW) for name in names}
    assert vault.below("identities") == [made[name] for name in names[:3]]
    assert vault.below("identities/node") == [made[name] for name in names[:2]]
    assert vault.below("tokens") == [made["tokens/0a"]]
    assert vault.below("nothing") == []


def test_more_than_a_page(vault: Vault) -> None:
    count = 230 if not REAL else 12
    for number in range(count):
        vault.put(f"tokens/{number:04}", b"t", NEW)
    assert [entry.name for entry in vault.below("tokens")] == [f"tokens/{number:04}" for number in range(count)]


@pytest.mark.parametrize("name", ["", "A", "a/../b", "/a", "a/", "a//b", "a.b", "a\0", "a/b/c/d/e", "a" * 70, "-a"])
def test_names_that_no_vault_may_meet(vault: Vault, name: str) -> None:
    for attempt in (lambda: vault.get(name), lambda: vault.put(name, b"", NEW), lambda: vault.below(name)):
        with pytest.raises(StosError) as caught:
            attempt()
        assert caught.value.code is Code.INVALID_ARGUMENT


def test_an_entry_has_a_limit(vault: Vault) -> None:
    with pytest.raises(StosError) as caught:
        vault.put("a/x", b"x" * (ENTRY_BYTES_MAX + 1), NEW)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert vault.get("a/x") is None
    assert len(vault.put("a/x", b"x" * ENTRY_BYTES_MAX, NEW).data) == ENTRY_BYTES_MAX


def in_threads(count: int, work: list[object], act: object) -> None:
    assert callable(act)
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait()
        try:
            work.append(act(number))
        except StosError as error:
            work.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_of_many_at_once_one_wins(settings: CertsSettings, vault: Vault) -> None:
    before = vault.put("a/x", b"start", NEW)
    outcomes: list[object] = []
    in_threads(8, outcomes, lambda number: open_vault(settings).put("a/x", b"%d" % number, before.revision))
    assert sum(not isinstance(item, StosError) for item in outcomes) == 1
    assert sum(isinstance(item, Conflict) for item in outcomes) == 7
    outcomes.clear()
    in_threads(8, outcomes, lambda number: open_vault(settings).put("a/new", b"%d" % number, NEW))
    assert sum(not isinstance(item, StosError) for item in outcomes) == 1


def test_no_change_is_lost(settings: CertsSettings, vault: Vault) -> None:
    def add(_: int) -> None:
        mine = open_vault(settings)
        for _ in range(5):
            change(mine, "a/count", lambda data: b"%d" % (int(data or b"0") + 1))

    outcomes: list[object] = []
    in_threads(4, outcomes, add)
    assert outcomes == [None] * 4
    found = vault.get("a/count")
    assert found is not None
    assert found.data == b"20"


def test_what_all_make_at_once_is_made_once(settings: CertsSettings, vault: Vault) -> None:
    outcomes: list[object] = []
    in_threads(6, outcomes, lambda number: create(open_vault(settings), "a/key", lambda: os.urandom(16)))
    assert len(set(map(bytes, outcomes))) == 1  # type: ignore[arg-type]


def test_what_decides_for_nothing_writes_nothing(vault: Vault) -> None:
    made = vault.put("a/x", b"1", NEW)
    assert change(vault, "a/x", lambda data: data) == b"1"
    assert change(vault, "a/x", lambda data: None) == b"1"
    assert vault.get("a/x") == made
    with pytest.raises(StosError, match="no"):
        change(vault, "a/x", _refuse)
    assert vault.get("a/x") == made


def _refuse(data: bytes | None) -> bytes:
    raise StosError(Code.UNAUTHENTICATED, "no")
