"""The attacker's process: `python -m tests.security.attacker`, an order a line on standard input, an outcome a line on
standard output. It shares nothing with its victims but the network and the files that it is handed as its identity."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.security.scene import Outcome, Scene

TIMEOUT_S = 120.0
_WORD = "outcome: "


class Attacker:
    """One such process, for one attack after another."""

    def __init__(self, log: Path):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("STOS_")}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.security.attacker"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    async def attack(self, name: str, scene: Scene, identity: Path | None, /, **arguments: Any) -> Outcome:
        """Raises AssertionError when the attack itself is broken, which says nothing about any defence."""
        order = {"name": name, "scene": asdict(scene), "identity": identity and str(identity), "arguments": arguments}
        answer = await asyncio.wait_for(asyncio.to_thread(self._ask, json.dumps(order)), TIMEOUT_S)
        assert "broken" not in answer, f"the attack {name} itself is broken:\n{answer['broken']}"
        return Outcome(**answer)

    def _ask(self, order: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(_WORD):
                answer: dict[str, Any] = json.loads(line.removeprefix(_WORD))
                return answer
        raise AssertionError("the attacker's process has ended")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def main() -> None:
    from tests.security import attacks

    for line in sys.stdin:
        order = json.loads(line)
        identity = Path(order["identity"]) if order["identity"] else None
        try:
            outcome = attacks.run(order["name"], Scene(**order["scene"]), identity, order["arguments"])
            answer = asdict(outcome)
        except Exception:
            answer = {"broken": traceback.format_exc()}
        print(_WORD + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
