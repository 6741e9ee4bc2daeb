"""Alerts and dashboards as code: promtool runs the alerts' own tests, and no metric is named that does not exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import pytest
import yaml

from stoscore.metrics import INSTRUMENTS
from stoscore.prometheus import prometheus_name
from tools import reference

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy/kustomize/components/monitoring"
RUNBOOKS = ROOT / "docs/runbooks"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARDS = sorted((MONITORING / "dashboards").glob("*.json"))
KNOWN = {
    name
    for instrument in INSTRUMENTS
    for base in [prometheus_name(instrument)]
    for name in ([f"{base}_bucket", f"{base}_sum", f"{base}_count"] if instrument.kind == "histogram" else [base])
}


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:stos|process)_[a-z_]+", re.sub(r'"[^"]*"', "", expression)))


@pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")])
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_has_its_page_and_its_tests(rule: dict[str, Any]) -> None:
    name = rule["alert"]
    assert metrics_in(rule["expr"]) <= KNOWN
    assert rule["annotations"]["runbook"] == f"docs/runbooks/{name}.md"
    page = (RUNBOOKS / f"{name}.md").read_text("utf-8")
    assert rule["expr"] in page, "the page quotes what is alerted on"
    assert all(f"## {heading}" in page for heading in ("What it means", "Where to look", "What to do"))
    cases = [case["name"] for case in yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]]
    assert {f"{name} fires", f"{name} keeps quiet"} <= set(cases)


def test_a_runbook_is_of_an_alert_that_exists() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("Stos*.md")}
    assert pages == {rule["alert"] for rule in RULES}


def searches() -> list[Any]:
    (menu,) = json.loads((ROOT / "deploy/kustomize/components/tracing/jaeger-ui.json").read_text("utf-8"))["menu"]
    return [pytest.param(urlsplit(item["url"]), id=item["label"]) for item in menu["items"]]


@pytest.mark.parametrize("url", searches())
def test_a_saved_search_looks_for_spans_that_there_are(url: SplitResult) -> None:
    assert (url.scheme, url.netloc, url.path) == ("", "", "/search")
    asked = {name: value for name, (value,) in parse_qs(url.query, strict_parsing=True).items()}
    assert asked.keys() <= {"service", "operation", "lookback", "limit", "minDuration", "tags"}
    assert asked["service"].removeprefix("stos-") in {point.name for point in entry_points(group="stos.services")}
    decision = asked.get("operation", "").removeprefix("brain ")
    patterns = [re.escape(name).replace(r"\{\}", r"\w+") for name in reference.SPANS if name != "{}"]
    known = any(re.fullmatch(pattern, decision) for pattern in patterns)
    assert "operation" not in asked or known or decision in reference.DECISIONS


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_shows_what_exists(path: Path) -> None:
    dashboard = json.loads(path.read_text("utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    assert expressions
    for expression in expressions:
        assert metrics_in(expression), expression
        assert metrics_in(expression) <= KNOWN, expression
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
