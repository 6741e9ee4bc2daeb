"""`stos volume` and `stos node` over model nodes: what they print, in both forms, and their exit codes."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.cli import cluster
from services.cli.main import run
from services.cli.roster import frontend_node
from services.cli.waiting import how_far, is_whole
from stoscore.errors import EXIT_CODE, Code, StosError
from stoscore.messages import AttachmentModel, NodeStatus, RecordModel, VoterModel
from stoscore.volumes import Volumes
from tests.support.ca import TestAuthority
from tests.support.model_nodes import ModelCatalogue, ModelCluster, Switchboard

Stos = Callable[..., Any]


@pytest.fixture
def model() -> ModelCluster:
    return ModelCluster("n1", "n2", "n3", "spare")


@pytest.fixture
def catalogue(model: ModelCluster) -> ModelCatalogue:
    return ModelCatalogue(*model.nodes)


@pytest.fixture
def stos(
    model: ModelCluster,
    catalogue: ModelCatalogue,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Stos:
    """stos("volume", "ls") -> the JSON that it printed; with code=N -> what it wrote to stderr."""
    bus = Switchboard(model)

    @asynccontextmanager
    async def connect(access: cluster.Access) -> AsyncGenerator[cluster.Session, None]:
        yield cluster.Session(access, bus, catalogue, Volumes(bus, catalogue))  # type: ignore[arg-type]

    monkeypatch.setattr(cluster, "find", lambda directory: cluster.Access((), tmp_path, "of models"))
    monkeypatch.setattr(cluster, "connect", connect)

    def call(*arguments: str, code: int = 0, table: bool = False) -> Any:
        assert run([*arguments, *([] if table else ["-o", "json"])]) == code
        captured = capsys.readouterr()
        if table:
            return captured.out or captured.err
        return json.loads(captured.err if code else captured.out)

    return call


def test_create_says_how_many_copies_and_where(stos: Stos) -> None:
    told = stos("volume", "create", "data", "--size", "1GiB", table=True)
    assert told == "volume data: 1.0 GiB, 3 copies on n1 (primary), n2, n3\n"
    told = stos("volume", "create", "one", "--size", "1GiB", "--replicas", "0", table=True)
    assert told == "volume one: 1.0 GiB, 1 copy on n1 (primary)\n"
    told = stos("volume", "create", "two", "--size", "1GiB", "--replicas", "1", table=True)
    assert told == "volume two: 1.0 GiB, 2 copies on n1 (primary), n2, witness on n3\n"


def test_create_as_json(stos: Stos) -> None:
    made = stos("volume", "create", "data", "--size", "1GiB", "--label", "app=db=1")
    assert made["name"] == "data"
    assert made["copies"] == 3
    assert made["size_bytes"] == 1 << 30
    assert made["primary"] == "n1"
    assert made["in_sync"] == ["n1", "n2", "n3"]
    assert made["health"] == "healthy"
    assert made["labels"] == {"app": "db=1"}
    assert stos("volume", "create", "data", "--size", "1GiB")["volume"] == made["volume"]


def test_a_policy_is_chosen_at_creation_and_changed_later(stos: Stos) -> None:
    made = stos("volume", "create", "data", "--size", "1GiB", "--failure-mode", "2", "--on-unavailable", "error")
    assert (made["failure_mode"], made["on_unavailable"]) == (2, "error")
    told = stos("volume", "set", "data", "--failure-mode", "soft", table=True)
    assert told == "volume data: 3 copies, failure mode soft, on-unavailable error\n"
    changed = stos("volume", "set", "data", "--replicas", "3", "--on-unavailable", "suspend")
    assert changed == {
        "name": "data",
        "volume": made["volume"],
        "replicas": 3,
        "failure_mode": "soft",
        "on_unavailable": "suspend",
    }
    shown = stos("volume", "show", "data")
    assert (shown["copies"], shown["health"]) == (4, "degraded"), "the fourth copy is not there yet"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--failure-mode", "gentle"],
        ["--failure-mode", "0"],
        ["--failure-mode", "7"],
        ["--on-unavailable", "panic"],
        ["--replicas", "6"],
    ],
)
def test_an_impossible_policy_is_refused_before_anything_is_asked(stos: Stos, arguments: list[str]) -> None:
    stos("volume", "create", "data", "--size", "1GiB")
    error = stos("volume", "set", "data", *arguments, code=EXIT_CODE[Code.INVALID_ARGUMENT])["error"]
    assert error["code"] == Code.INVALID_ARGUMENT and error["next_step"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["data", "--size", "1GiB", "--failure-mode", "4"], Code.INVALID_ARGUMENT),
        (["data", "--size", "1GiB", "--on-unavailable", "no"], Code.INVALID_ARGUMENT),
        (["data", "--size", "0"], Code.INVALID_ARGUMENT),
        (["data", "--size", "-5"], Code.INVALID_ARGUMENT),
        (["data", "--size", "much"], Code.INVALID_ARGUMENT),
        (["data", "--size", "65TiB"], Code.OUT_OF_RANGE),
        (["data", "--size", "1GiB", "--replicas", "6"], Code.INVALID_ARGUMENT),
        (["data", "--size", "1GiB", "--label", "x"], Code.INVALID_ARGUMENT),
        (["a b", "--size", "1GiB"], Code.INVALID_ARGUMENT),
        (["taken", "--size", "2GiB"], Code.ALREADY_EXISTS),
    ],
)
def test_a_bad_create_has_its_code_and_a_next_step(stos: Stos, arguments: list[str], code: Code) -> None:
    stos("volume", "create", "taken", "--size", "1GiB")
    error = stos("volume", "create", *arguments, code=EXIT_CODE[code])["error"]
    assert error["code"] == code
    assert error["next_step"] or "no size" in error["message"]


def test_connect_prefers_a_node_without_a_copy_and_is_idempotent(stos: Stos) -> None:
    made = stos("volume", "create", "data", "--size", "1GiB")
    first = stos("volume", "connect", "data")
    assert first == {
        "volume": made["volume"],
        "name": "data",
        "node": "spare",
        "socket": f"/run/spare/{made['volume']}.sock",
        "uri": f"nbd+unix:///data?socket=/run/spare/{made['volume']}.sock",
        "attach_epoch": 1,
    }
    assert stos("volume", "connect", "data") == first
    assert stos("volume", "connect", "data", "--node", "spare") == first
    assert stos("volume", "connect", "data", table=True) == first["uri"] + "\n"


def test_connected_elsewhere_names_the_node(stos: Stos) -> None:
    stos("volume", "create", "data", "--size", "1GiB")
    stos("volume", "connect", "data", "--node", "n2")
    error = stos("volume", "connect", "data", "--node", "n3", code=EXIT_CODE[Code.FAILED_PRECONDITION])["error"]
    assert "n2" in error["message"]
    assert stos("volume", "rm", "data", code=5)["error"]["code"] == "FAILED_PRECONDITION"


def test_disconnect_closes_and_detaches_and_may_be_repeated(stos: Stos, model: ModelCluster) -> None:
    stos("volume", "create", "data", "--size", "1GiB")
    stos("volume", "connect", "data")
    assert stos("volume", "disconnect", "data") == {"name": "data", "node": "spare", "disconnected": True}
    assert model.nodes["spare"].frontends == {}
    assert stos("volume", "disconnect", "data")["disconnected"] is False
    assert stos("volume", "connect", "data", "--node", "n1")["attach_epoch"] == 2


def test_disconnect_works_when_the_node_is_gone(
    stos: Stos, model: ModelCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.cli.volume.CLOSE_S", 0.1)
    stos("volume", "create", "data", "--size", "1GiB")
    stos("volume", "connect", "data")
    model.nodes["spare"].up = False
    assert stos("volume", "disconnect", "data")["node"] == "spare"
    assert stos("volume", "rm", "data")["removed"]


def test_rm_frees_and_may_be_repeated(stos: Stos) -> None:
    stos("volume", "create", "data", "--size", "1GiB")
    assert stos("volume", "rm", "data") == {"name": "data", "removed": True}
    assert stos("volume", "rm", "data") == {"name": "data", "removed": False}
    assert stos("volume", "ls") == []
    assert stos("volume", "show", "data", code=3)["error"]["code"] == "NOT_FOUND"


def test_ls_and_show_tell_of_a_dead_copy(stos: Stos, model: ModelCluster) -> None:
    stos("volume", "create", "data", "--size", "1GiB")
    model.nodes["n1"].up = False
    (row,) = stos("volume", "ls")
    assert row["primary"] == "n2"
    shown = stos("volume", "show", "data")
    assert {node["node"]: node.get("role", "gone") for node in shown["nodes"]} == {
        "n1": "gone",
        "n2": "primary",
        "n3": "replica",
    }
    told = stos("volume", "show", "data", table=True)
    assert "nobody answers n1" in told
    heading, line = stos("volume", "ls", table=True).splitlines()
    assert heading.split()[:3] == ["NAME", "SIZE", "HEALTH"]
    assert line.split()[:4] == ["data", "1.0", "GiB", "healthy"]


def test_show_tells_who_serves_in_a_generation_that_is_over(
    stos: Stos, model: ModelCluster, catalogue: ModelCatalogue
) -> None:
    """An operator gave n1 and n2 up, and they came back while n3 was away."""
    stos("volume", "create", "data", "--size", "1GiB")
    catalogue.entries["data"] = catalogue.entries["data"].model_copy(update={"generation": 1})
    model.nodes["n3"].up = False
    shown = stos("volume", "show", "data")
    assert (shown["health"], shown["primary"]) == ("unavailable", None)
    n1, n2, n3 = shown["nodes"]
    assert (n1["serving"], n1["generation"], n1["over"]) == (True, 0, True), "its own word, and what it is worth"
    assert n2["over"] and "error" in n3
    table = stos("volume", "show", "data", table=True).splitlines()
    row = next(line for line in table if line.startswith("n1"))
    assert row.split()[:3] == ["n1", "primary", "no"]
    assert row.endswith("of generation 0, which is over")


def test_nodes_that_do_not_answer_are_listed(stos: Stos, model: ModelCluster) -> None:
    stos("volume", "create", "data", "--size", "1GiB")
    model.nodes["n2"].up = False
    nodes = {node["node"]: node for node in stos("node", "ls")}
    assert [name for name, node in nodes.items() if not node["up"]] == ["n2"]
    assert nodes["n1"]["replicas"][0]["name"] == "data"
    assert "no answer" in stos("node", "ls", table=True)
    assert stos("node", "show", "n1")["up"]
    assert "VOLUME" in stos("node", "show", "n1", table=True)
    assert stos("node", "show", "n9", code=3)["error"]["message"] == "there is no node n9"
    assert stos("node", "show", "N 9", code=2)["error"]["code"] == "INVALID_ARGUMENT"


# ---- which node hosts a frontend ---------------------------------------------------------------------


def record(primary: str, attached: str | None = None) -> RecordModel:
    voters = [VoterModel(node=node, incarnation="0" * 16) for node in ("n1", "n2", "n3")]
    return RecordModel(
        volume="0" * 32,
        name="data",
        size_bytes=4096,
        replicas=2,
        generation=0,
        epoch=1,
        version=1,
        voters=voters,
        in_sync=voters,
        primary=next(voter for voter in voters if voter.node == primary),
        attachment=AttachmentModel(node=attached, attach_epoch=1) if attached else None,
    )


def up(node: str, **changes: object) -> NodeStatus:
    fields: dict[str, object] = {"node": node, "zone": "", "version": "0"}
    figures = {"capacity_bytes": 0, "provisioned_bytes": 0, "used_bytes": 0}
    return NodeStatus.model_validate(fields | figures | changes)


HOLDS = [{"node": "n4", "incarnation": "0" * 16, "role": "replica", "epoch": 1, "serving": False}]
DOWN = StosError(Code.UNAVAILABLE, "away")


@pytest.mark.parametrize(
    ("roll", "attached", "chosen"),
    [
        ({"n1": up("n1"), "n4": up("n4", replicas=HOLDS), "app": up("app")}, None, "app"),
        ({"n1": up("n1"), "n4": up("n4", replicas=HOLDS), "app": DOWN}, None, "n4"),
        ({"n1": up("n1"), "n2": up("n2"), "app": DOWN}, None, "n2"),
        ({"n1": up("n1"), "app": up("app")}, "n1", "n1"),
        ({"n1": DOWN, "app": up("app")}, "n1", "app"),
    ],
)
def test_the_frontend_goes_where_losing_a_copy_does_not_take_it_along(
    roll: dict[str, NodeStatus | StosError], attached: str | None, chosen: str
) -> None:
    assert frontend_node(record("n2", attached), roll) == chosen


def test_without_any_node_there_is_no_frontend() -> None:
    with pytest.raises(StosError) as caught:
        frontend_node(record("n1"), {"n1": DOWN, "app": DOWN})
    assert caught.value.code is Code.UNAVAILABLE


# ---- export ------------------------------------------------------------------------------------------------


def test_export_names_the_node_and_its_clients(stos: Stos, model: ModelCluster) -> None:
    stos("volume", "create", "data", "--size", "1GiB")
    stos("volume", "connect", "data", "--node", "spare")
    asked = ("volume", "export", "data", "--listen", "10.0.0.7:10809")
    view = stos(*asked, "--client", "user/eve", "--client", "node/n9")
    assert view["node"] == "spare"
    assert view["clients"] == ["node/n9", "user/eve"]
    assert view["uri"] == "nbds://spare.node.stos.internal:10809/data"
    assert "host=10.0.0.7,port=10809,export=data,tls-creds=tls" in view["qemu"]
    assert view["qemu"].endswith("tls-hostname=spare.node.stos.internal")
    told = stos("volume", "export", "data", "--listen", "[::]:10809", "--client", "user/eve", table=True)
    assert told.startswith("volume data is exported by spare on [::]:10809 to user/eve\n")
    assert "host=spare.node.stos.internal,port=10809" in told
    assert stos("volume", "unexport", "data") == {"name": "data", "node": "spare"}
    assert model.nodes["spare"].exports == {}
    assert model.nodes["spare"].frontends
    assert stos("volume", "unexport", "data", table=True) == "volume data is not exported\n"


@pytest.mark.parametrize(
    ("clients", "listen"),
    [
        (["eve"], "10.0.0.7:1"),
        (["user/eve", "root/x"], "10.0.0.7:1"),
        (["user/*"], "10.0.0.7:1"),
        (["user/../eve"], "10.0.0.7:1"),
        (["user/eve"] + [f"user/u{number}" for number in range(64)], "10.0.0.7:1"),
        (["user/eve"], ""),
        (["user/eve"], "x" * 300),
    ],
)
def test_what_is_no_export_is_refused(stos: Stos, clients: list[str], listen: str) -> None:
    stos("volume", "create", "data", "--size", "1GiB")
    stos("volume", "connect", "data", "--node", "spare")
    named = [part for client in clients for part in ("--client", client)]
    error = stos("volume", "export", "data", "--listen", listen, *named, code=EXIT_CODE[Code.INVALID_ARGUMENT])
    assert "user/NAME" in error["error"]["next_step"]


def test_only_a_volume_in_use_is_exported(stos: Stos) -> None:
    stos("volume", "create", "data", "--size", "1GiB")
    asked = ("volume", "export", "data", "--listen", "10.0.0.7:1", "--client", "user/eve")
    error = stos(*asked, code=EXIT_CODE[Code.FAILED_PRECONDITION])
    assert "stos volume connect" in error["error"]["next_step"]
    assert stos("volume", "unexport", "data") == {"name": "data", "node": None}


def test_client_files_follow_a_renewal(stos: Stos, tmp_path: Path) -> None:
    directory = TestAuthority().issue(tmp_path, "eve", kind="user").directory
    made = Path(stos("volume", "client-files", str(directory))["directory"])
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert (made / "client-key.pem").read_bytes() == (directory / "key.pem").read_bytes()
    (directory / "cert.pem").write_text("renewed")
    assert (made / "client-cert.pem").read_text() == "renewed"
    assert "BEGIN CERTIFICATE" in (made / "ca-cert.pem").read_text()


def test_a_volume_grows_and_never_shrinks(stos: Stos) -> None:
    stos("volume", "create", "data", "--size", "1GiB", "--wait")
    assert stos("volume", "expand", "data", "2GiB", "--wait")["size_bytes"] == 2 << 30
    assert stos("volume", "expand", "data", "1GiB")["size_bytes"] == 2 << 30
    assert stos("volume", "expand", "data", "3GiB", table=True) == "volume data: 3.0 GiB\n"
    assert stos("volume", "expand", "data", "large", code=EXIT_CODE[Code.INVALID_ARGUMENT])
    assert stos("volume", "expand", "none", "1GiB", code=EXIT_CODE[Code.NOT_FOUND])


def test_waiting_tells_how_far_the_copies_are() -> None:
    behind = {"bytes_left": 3 << 20, "bytes_sent": 1 << 20}
    view = {"name": "data", "copies": 3, "in_sync": ["n1", "n2"], "joining": [], "health": "degraded"}
    nodes = [{"node": "n1", "resyncs": [behind]}, {"node": "n3", "error": {}}]
    assert how_far(view | {"nodes": nodes}) == ("data: 2 of 3 copies in sync, 3.0 MiB left", 2.25 / 3)
    assert how_far(view | {"nodes": []}) == ("data: 2 of 3 copies in sync", 2 / 3)
    assert not is_whole(view)
    assert not is_whole(view | {"health": "healthy", "joining": ["n4"]})
    assert is_whole(view | {"health": "healthy"})
