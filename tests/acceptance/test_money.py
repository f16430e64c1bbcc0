"""Every approved claim is in the books exactly once, whatever happens meanwhile.

`SAMBAND_TEST_PROOF_SCHEDULES` and `SAMBAND_TEST_PROOF_CLAIMS` make it longer (300 and 1000 are the proof as it is meant), and
`SAMBAND_TEST_PROOF_SEED` begins somewhere else; a schedule that fails names its seed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from samband.hosting.embedded import EmbeddedServer

from .conftest import Hosts
from .money import ROUTES, attack_of, battle

SCHEDULES = int(os.environ.get("SAMBAND_TEST_PROOF_SCHEDULES", "1"))
CLAIMS = int(os.environ.get("SAMBAND_TEST_PROOF_CLAIMS", "150"))
FIRST = int(os.environ.get("SAMBAND_TEST_PROOF_SEED", "1"))


@pytest.mark.crash
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SCHEDULES))
@pytest.mark.parametrize("route", ROUTES)
async def test_books_hold_every_claim_exactly_once_whatever_happens(
    hosts: Hosts, queue_server: EmbeddedServer, tmp_path: Path, route: str, seed: int
) -> None:
    attack = attack_of(seed, route)
    async with battle(hosts, queue_server.url, tmp_path, attack, CLAIMS) as fighting:
        await fighting.prepare()
        await fighting.fight()
        await fighting.judge()
