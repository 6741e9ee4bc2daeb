"""Whatever becomes of the files of an identity: it loads as itself, or one clear error says that it is damaged."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoscore.errors import Code, StosError
from stoscore.identity import Identity
from tests.support.ca import TestAuthority

FILES = ("cert.pem", "key.pem", "key.next.pem", "trust.pem", "trust.json", "role", "joined.json")


@pytest.fixture(scope="module")
def home() -> Identity:
    """With everything that a directory may hold."""
    directory = Path(tempfile.mkdtemp())
    authority = TestAuthority()
    identity = authority.issue(directory, "n1")
    identity.apply_trust(authority.trust(authority.issue(directory, "certs", kind="svc"), 3))
    (identity.directory / "role").write_text("node")
    (identity.directory / "joined.json").write_text('{"token_id": "t", "addresses": []}')
    shutil.copy(authority.issue(directory, "n1").directory / "key.pem", identity.directory / "key.next.pem")
    return identity


@given(data=st.data())
@settings(max_examples=200, deadline=None)
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_damage_is_told_or_does_not_matter(home: Identity, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "identity"
        shutil.copytree(home.directory, directory)
        path = directory / data.draw(st.sampled_from(FILES))
        content = bytearray(path.read_bytes())
        match data.draw(st.sampled_from(["flip", "cut", "zeros", "gone"])):
            case "flip":
                bit = data.draw(st.integers(0, 8 * len(content) - 1))
                content[bit // 8] ^= 1 << bit % 8
                path.write_bytes(content)
            case "cut":
                path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
            case "zeros":
                begin = data.draw(st.integers(0, len(content) - 1))
                path.write_bytes(content[:begin] + bytes(len(content) - begin))
            case _:
                path.unlink()
        try:
            loaded = Identity.load(directory)
        except StosError as error:
            assert error.code is Code.UNAUTHENTICATED
            assert error.next_step
            assert path.name in ("cert.pem", "key.pem", "trust.pem", "role")
        else:
            assert loaded.uri == home.uri
            assert loaded.trust in (home.trust, None)
            assert loaded.key.public_key() == home.key.public_key()
