"""Real processes: the majority of a volume is lost, an operator decides, and what comes back later is thrown away (I4)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from services.dev.cluster import Cluster
from services.dev.demo.verify import disagreements
from tests.support.cluster import RunningCluster, completed

pytestmark = [pytest.mark.long, pytest.mark.slow]
VOLUME = "data"
