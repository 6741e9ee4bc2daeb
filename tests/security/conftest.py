"""One cluster for all attacks that must fail: each leaves it as it was, or the next one tells."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.security.stage import Stage
from tests.support.cluster import AlteredCluster


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    directory = tmp_path_factory.mktemp("security")
    # As talkative as it can be: what must not be in a log must not be in this one.
    talkative = {"STOS_LOG_LEVEL": "debug", "STOS_OTEL_EXPORTER": "console"}
    names = ("certs", "nats", "placement", "n1", "n2", "n3", "app", "csi")
    cluster = AlteredCluster(directory / "dev", settings=dict.fromkeys(names, talkative))
    async with Stage.play(cluster, directory / "arms") as stage:
        yield stage
