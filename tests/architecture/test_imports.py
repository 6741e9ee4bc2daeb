"""The direction of imports, as `.importlinter` writes it down."""

from __future__ import annotations

import configparser
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / ".importlinter"
CLOCKS_SOCKETS_DICE = {"asyncio", "time", "random", "os", "socket", "logging"}


def read_config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    assert parser.read(CONFIG)
    return parser


def words(text: str) -> set[str]:
    return {word for line in text.splitlines() if not line.startswith("#") for word in line.split()}


def lint(config: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "libs"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    return subprocess.run(
        [sys.executable, "-c", program, "--config", str(config), "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_all_contracts_are_kept() -> None:
    done = lint(CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_service_is_in_the_contract_of_independence() -> None:
    services = {f"services.{path.parent.name}" for path in (ROOT / "services").glob("*/__init__.py")}
    listed = words(read_config()["importlinter:contract:services-are-independent"]["modules"])
    assert listed == services


def test_the_pure_rooms_exist_and_are_kept_from_clocks_sockets_and_dice() -> None:
    contract = read_config()["importlinter:contract:pure-rooms"]
    assert words(contract["forbidden_modules"]) >= CLOCKS_SOCKETS_DICE
    for room in words(contract["source_modules"]):
        assert importlib.util.find_spec(room), f"{room} is named in .importlinter and does not exist"


def test_the_contract_notices_an_impure_import(tmp_path: Path) -> None:
    """A check that can't fail proves nothing: the same contract over a room that does use a socket."""
    text = CONFIG.read_text().replace("services.placement.plan", "services.placement.app")
    planted = tmp_path / "importlinter.ini"
    planted.write_text(text)
    done = lint(planted)
    assert done.returncode != 0
    assert "services.placement.app is not allowed to import asyncio" in done.stdout
