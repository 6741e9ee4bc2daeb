"""What this project is installed with, and under which licences: read from the installed packages themselves."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

ALLOWED = frozenset(
    {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0", "Unlicense", "0BSD"}
)
"""Permissive, or (MPL) with duties only for who changes the files themselves."""
_MEANT = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2 license": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}
"""Names that packages use, in lower case, for what SPDX names otherwise."""


def closure(name: str, *extras: str) -> dict[str, Distribution]:
    """The package and everything that is installed because of it, by normalised name."""
    found: dict[str, Distribution] = {}
    waiting = [(name, extras)]
    while waiting:
        wanted, asked = waiting.pop()
        try:
            dist = distribution(wanted)
        except PackageNotFoundError:
            continue  # its marker allows what this machine does not need
        for text in dist.requires or []:
            requirement = Requirement(text)
            applies = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in ("", *asked)
            )
            if applies and normalised(requirement.name) not in found:
                waiting.append((requirement.name, tuple(requirement.extras)))
        found[normalised(wanted)] = dist
    return found


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licences(dist: Distribution) -> list[str]:
    """What the package says of itself, in its most exact form; [] when it says nothing."""
    if expression := dist.metadata.get("License-Expression"):
        return [expression]
    text = (dist.metadata.get("License") or "").strip()
    if text and "\n" not in text and text.upper() != "UNKNOWN":
        return [_spdx(text)]
    classifiers = [item for item in dist.metadata.get_all("Classifier", []) if item.startswith("License ::")]
    return [_spdx(item.rpartition("::")[2].strip()) for item in classifiers if item != "License :: OSI Approved"]


def _spdx(text: str) -> str:
    return _MEANT.get(text.lower(), text)


def is_allowed(expression: str) -> bool:
    """An SPDX expression of which at least one alternative has only allowed licences. Parentheses are taken for the
    strictest reading: everything in them is needed."""
    return any(
        all(word.strip(" ()") in ALLOWED for word in re.split(r"\bAND\b|\bWITH\b", alternative))
        for alternative in re.split(r"\bOR\b", expression)
    )
