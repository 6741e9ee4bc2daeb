"""The page that `stos trace show -o html` makes, in a real browser: it draws, says nothing to the console and asks
nobody for anything, also with a missing parent, clocks apart, a hundred thousand spans and names that attack."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from services.cli.trace_html import render
from services.cli.waterfall import Told, arrange
from stoscore.spans import Link, SpanRecord
from stoscore.units import MS, SECOND
from tests.support.feeds import ATTACK, TRACE, spans

CHROMIUM = shutil.which("chromium")
TIMEOUT_S = 180
OF_ITSELF = "not an origin"
START_NS = 1_800_000_000 * SECOND
EVIL = f"<script>document.title='taken'</script><img src=https://example.org/x>{ATTACK}"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt install chromium"),
]


@dataclass(frozen=True)
class Shown:
    """What the browser made of a page."""

    dom: str
    console: list[str]
    asked: set[str]
    """Addresses of all its requests but the page itself."""
    picture: Path


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    yield Browser(tmp_path)


class Browser:
    def __init__(self, directory: Path):
        self._directory = directory

    def show(self, page: str) -> Shown:
        path, log, picture = (self._directory / name for name in ("page.html", "net.json", "page.png"))
        path.write_text(page, "utf-8")
        done = self._run(f"--log-net-log={log}", "--dump-dom", path.as_uri())
        self._run(f"--screenshot={picture}", "--window-size=1280,720", path.as_uri())
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return Shown(done.stdout, console, _asked(log) - {path.as_uri()}, picture)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert CHROMIUM is not None
        quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
        # Inside a container it has no sandbox of its own; the page is ours.
        command = (CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *quiet)
        profile = f"--user-data-dir={self._directory / 'profile'}"
        done = subprocess.run(
            (*command, profile, *arguments), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done


def _asked(log: Path) -> set[str]:
    """What a page asked for, by the browser's own record; the browser itself looks for updates, on nobody's behalf."""
    events = [event.get("params", {}) for event in json.loads(log.read_text("utf-8", "replace"))["events"]]
    asked = [about for about in events if about.get("initiator", OF_ITSELF) != OF_ITSELF]
    return {str(about["url"]) for about in asked if re.match(r"(https?|file|wss?):", str(about.get("url", "")))}


def size_of(picture: Path) -> tuple[int, int]:
    """Of a PNG."""
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return int(width), int(height)


def told(many: list[SpanRecord], process: str = "node/n1") -> list[Told]:
    return [Told(process, span) for span in many]


def span(number: int, parent: int, start_ms: float, took_ms: float, name: str) -> SpanRecord:
    above = f"{parent:016x}" if parent else ""
    return SpanRecord(TRACE, f"{number:016x}", above, name, START_NS + int(start_ms * MS), int(took_ms * MS))


def quiet(shown: Shown) -> None:
    assert shown.console == []
    assert shown.asked == set()
    assert size_of(shown.picture) == (1280, 720)
    assert shown.picture.stat().st_size > 5000, "an empty page is smaller"


def test_a_page_that_asks_and_complains_is_noticed(browser: Browser) -> None:
    shown = browser.show("<p>hello</p><img src='http://127.0.0.1:1/x'><script>console.error('no')</script>")
    assert shown.asked == {"http://127.0.0.1:1/x"}
    assert any("no" in line for line in shown.console)


def test_a_page_draws_and_asks_nobody(browser: Browser) -> None:
    shown = browser.show(render(arrange(told(spans()))))
    quiet(shown)
    assert shown.dom.count("<summary>") == 4
    assert "which was not kept" in shown.dom


def test_names_that_attack_are_only_names(browser: Browser) -> None:
    evil = SpanRecord(
        TRACE,
        f"{1:016x}",
        "",
        EVIL,
        START_NS,
        10 * MS,
        error=EVIL,
        attributes={EVIL: EVIL},
        links=(Link("5" * 32, "6" * 16, EVIL),),
    )
    shown = browser.show(render(arrange([Told(EVIL, evil)])))
    quiet(shown)
    assert "<title>taken" not in shown.dom
    assert "<img" not in shown.dom and "<script" not in shown.dom


def test_clocks_that_are_an_hour_apart(browser: Browser) -> None:
    ours = told([span(1, 0, 0, 40, "request")])
    served = replace(span(2, 1, 3_600_000, 10, "serve"), kind="server")
    theirs = told([served, span(3, 2, 3_600_002, 4, "work")], "svc/other")
    shown = browser.show(render(arrange(ours + theirs)))
    quiet(shown)
    assert "corrected by" in shown.dom
    lefts = [float(left) for left in re.findall(r"left:([0-9.]+)%", shown.dom)]
    assert len(lefts) == 3 and max(lefts) <= 100


def test_a_hundred_thousand_spans(browser: Browser) -> None:
    many = [span(1, 0, 0, 1000, "all")]
    many += [span(number, number // 10 or 1, number / 200, 5, f"step {number}") for number in range(2, 100_001)]
    page = render(arrange(told(many)))
    shown = browser.show(page)
    quiet(shown)
    assert "100,000 spans" in shown.dom or "100000 spans" in shown.dom
    assert re.search(r"… \d+ more", shown.dom), "what is left out is said"
