"""The archive that `stos support-bundle` makes: nobody else can read it, and no secret gets past its door.

Everything enters through `add`, which redacts. What could not be had is named in manifest.json, so that a file that is
not there is never taken for a thing that is not there. An archive that was not finished is removed.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from stoscore.errors import precondition
from stoscore.redaction import redact

_UNUSUAL = re.compile(r"[^A-Za-z0-9._/-]", re.ASCII)


class Bundle:
    """Use it in a `with` block; the archive is whole when the block ends without an exception."""

    def __init__(self, path: Path, about: dict[str, Any]):
        self.path = path
        self.files: list[dict[str, Any]] = []
        self.missing: list[dict[str, str]] = []
        self._about = about
        self._root = path.name.removesuffix(".tar.gz")

    def __enter__(self) -> Bundle:
        """Raises StosError when the file exists already or can't be made."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self.path, flags, 0o600), "wb")
        except FileExistsError:
            raise precondition(f"{self.path} exists already", "name another file") from None
        except OSError as error:
            raise precondition(f"can't make {self.path}: {error.strerror}", "name another file") from None
        self._archive = tarfile.open(fileobj=self._file, mode="w:gz")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        except OSError as full:
            self.path.unlink(missing_ok=True)
            raise precondition(f"can't write {self.path}: {full.strerror}", "name a file on another disk") from None
        finally:
            self._file.close()
            if error is not None:
                self.path.unlink(missing_ok=True)

    def add(self, name: str, text: str) -> None:
        """One file; the names of what it is about may be anything."""
        clean, secrets = redact(text)
        content = clean.encode("utf-8", "backslashreplace")
        name = self._free(_UNUSUAL.sub("_", name))
        self.files.append({"file": name, "bytes": len(content), "redacted": secrets})
        self._write(name, content)

    def add_json(self, name: str, document: Any) -> None:
        self.add(name, json.dumps(document, indent=2) + "\n")

    def lacks(self, what: str, why: str) -> None:
        self.missing.append({"what": what, "why": redact(why)[0]})

    def _free(self, name: str) -> str:
        """Two names may be one after the unusual letters are gone."""
        taken, wanted, number = {file["file"] for file in self.files}, name, 1
        while name in taken:
            number += 1
            name = f"{wanted}.{number}"
        return name

    def _finish(self) -> None:
        manifest = {**self._about, "missing": self.missing, "files": self.files}
        self._write("manifest.json", (redact(json.dumps(manifest, indent=2))[0] + "\n").encode())
        self._archive.close()
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write(self, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(f"{self._root}/{name}")
        entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
        self._archive.addfile(entry, io.BytesIO(content))
