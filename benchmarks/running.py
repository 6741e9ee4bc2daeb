"""How a benchmark that starts a cluster begins and ends: in a directory of its own, of which nothing is left."""

from __future__ import annotations

import compileall
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.contenders import ROOT
from stoscore.errors import StosError


def run(name: str, measure: Callable[[Path], int], parent: Path | None = None) -> int:
    """`measure` gets the directory, and says how the process is to end: 0 when every bound held, 1 when one did not."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for sources in ("libs", "services"):
        # As an installed stos has it. *Where Python may keep no bytecode, a node that was started again compiled all of
        # ours first, for half a second of a core, beside what was measured.*
        compileall.compile_dir(ROOT / sources, quiet=1)
    directory = Path(tempfile.mkdtemp(prefix=f"stos-{name}-", dir=parent))
    try:
        return measure(directory)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; everything it started is stopped and removed", file=sys.stderr)
        return 130
    except (StosError, TimeoutError, OSError, RuntimeError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def plotted(draw: Callable[[], None]) -> None:
    try:
        draw()
    except ImportError:
        print("no plot: matplotlib is not installed (pip install -e '.[bench]')", file=sys.stderr)
