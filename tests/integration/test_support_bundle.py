"""A support bundle of a real cluster has everything that helps, names who was silent, and holds no secret: not the
cluster's own, and none of those that somebody has put where none belong."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.dev.cluster import Cluster
from tests.security import secrets_of
from tests.support.cluster import RunningCluster
from tests.unit.test_cli_bundle import contents

pytestmark = pytest.mark.slow
PASSWORD = "Xq7-hunter2-planted"


def test_all_of_a_cluster_and_none_of_its_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOS_OTEL_ENDPOINT", f"http://me:{PASSWORD}@127.0.0.1:1")
    cluster = Cluster(tmp_path / "dev")
    ThreadPoolExecutor(1).submit(cluster.up).result()
    try:
        running = RunningCluster(cluster)
        secrets = secrets_of.collect(cluster.layout.root)
        assert {"private key", "NATS seed", "join token"} <= {secret.what for secret in secrets}
        _plant(running)
        assert running.stos("dev", "kill", "n3").code == 0
        out = tmp_path / "b.tar.gz"
        done = running.stos("support-bundle", str(out))
    finally:
        ThreadPoolExecutor(1).submit(cluster.stop).result()
    assert done.code == 1, done.errors
    assert "missing: node n3" in done.errors
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    found = contents(out)
    _has_what_helps(found)
    places = {name: text.encode() for name, text in found.items()}
    assert secrets_of.leaks(secrets, places) == []
    assert PASSWORD not in "".join(found.values())
    assert all(name not in found["events/audit.jsonl"] for name in ("BEGIN PRIVATE", "stos-join-1."))


def _plant(running: RunningCluster) -> None:
    """Secrets in a label, in a reason that becomes an event, and in a log."""
    layout = running.cluster.layout
    key = next(iter(layout.root.rglob("key.pem"))).read_text()
    seed = next(path for path in layout.root.rglob("*") if path.is_file() and path.read_bytes().startswith(b"SU"))
    label = ("--label", f"contact=tls://me:{PASSWORD}@host")
    made = running.stos("volume", "create", "planted", "--size", "8MiB", *label)
    assert made.code == 0, made.errors
    assert running.stos("volume", "connect", "planted").code == 0
    forced = running.stos("volume", "connect", "planted", "--node", "n1", "--force", "--reason", f"password={PASSWORD}")
    assert forced.code == 0, forced.errors
    with layout.log("n1").open("a") as log:
        log.write(json.dumps({"message": key}) + "\n" + seed.read_text() + "\n")


def _has_what_helps(found: dict[str, str]) -> None:
    assert {"nodes.json", "nodes/n1.json", "volumes.json", "catalogue.json", "identities.json"} <= found.keys()
    assert {"capacity.json", "doctor.json", "traces.json", "cluster.json", "logs/n1.log"} <= found.keys()
    assert any(voter["record"] for voter in json.loads(found["nodes/n1.json"])["replicas"]), "records"
    assert json.loads(found["settings/node-n1.json"])["replica.node"] == "n1"
    assert {sample["name"] for sample in json.loads(found["metrics/node-n2.json"])} >= {"stos.build"}
    assert any(json.loads(line)["decision"] == "lead" for line in found["events/decision.jsonl"].splitlines())
    assert any("attach" in line for line in found["events/audit.jsonl"].splitlines())
    assert [name for name in found if name.startswith("traces/")], "spans"
    missing = {one["what"] for one in json.loads(found["manifest.json"])["missing"]}
    assert {"node n3", "metrics of node n3", "settings of node n3"} <= missing
    assert missing <= {"node n3", "metrics of node n3", "settings of node n3"}
