"""The fixtures every pytest run gets when samband is installed.

pytest imports this module at every start, in every project of the environment: it must stay light, so each fixture
imports what it needs when it is used. All of them are plain fixtures and work in plain and in async tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from aiohttp import web

    from samband.testing.fakes import FakeClock, FakeLog
    from samband.testing.proxy import FaultProxy

# The promises are plain assertions in an installed package; without this their failures would show no values.
pytest.register_assert_rewrite("samband.testing.promises")


@pytest.fixture
def loopback() -> Iterator[Callable[[web.Application], str]]:
    """Serves aiohttp applications on 127.0.0.1: ``url = loopback(app)``. They stop when the test ends."""
    from samband.testing.loopback import serve

    with ExitStack() as stack:
        yield lambda app: stack.enter_context(serve(app))


@pytest.fixture
def fault_proxy() -> Iterator[FaultProxy]:
    """Gives a `samband.testing.FaultProxy` that closes when the test ends."""
    from samband.testing.proxy import FaultProxy

    with FaultProxy() as proxy:
        yield proxy


@pytest.fixture
def fake_clock() -> FakeClock:
    """Gives a clock that stands still until it is told to move."""
    from samband.testing.fakes import FakeClock

    return FakeClock()


@pytest.fixture
def fake_log() -> FakeLog:
    """Gives a logger that keeps what it is told."""
    from samband.testing.fakes import FakeLog

    return FakeLog()
