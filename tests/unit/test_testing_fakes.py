"""The stand-ins authors test with behave like what they stand for."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest

import samband.testing
from samband.errors import ConfigurationError
from samband.testing import FakeClock, FakeLog, ProgressRecorder, fake_context


async def test_sleeping_moves_the_fake_clock_and_is_remembered(fake_clock: FakeClock) -> None:
    start = fake_clock.now()
    await fake_clock.sleep(90.5)
    fake_clock.advance(9.5)
    assert fake_clock.now() - start == timedelta(seconds=100)
    assert fake_clock.monotonic() == 100
    assert fake_clock.slept == [90.5]


def test_the_fake_clock_speaks_aware_utc(fake_clock: FakeClock) -> None:
    assert fake_clock.now().utcoffset() == timedelta(0)


def test_a_bound_fake_log_shares_its_entries(fake_log: FakeLog) -> None:
    fake_log.bind(run="r1").warning("page_failed", page=2)
    fake_log.info("done")
    assert [(e.level, e.event, dict(e.values)) for e in fake_log.entries] == [
        ("warning", "page_failed", {"run": "r1", "page": 2}),
        ("info", "done", {}),
    ]
    assert "page_failed" in fake_log.text


def test_a_fake_context_has_everything_a_hook_may_use() -> None:
    progress = ProgressRecorder()
    ctx = fake_context(settings={"api_url": "http://127.0.0.1:1"}, progress=progress)
    ctx.progress(3, None)
    ctx.log.info("hello")
    assert progress.reports == [(3, None)]
    assert ctx.now().tzinfo is not None


async def test_a_fake_context_without_a_session_says_how_to_get_one() -> None:
    with pytest.raises(ConfigurationError, match="has no HTTP session") as caught:
        await fake_context().http.request("GET", "http://127.0.0.1:1/members?name=Kari")
    assert "Kari" not in str(caught.value)


@pytest.mark.parametrize("name", samband.testing.__all__)
def test_every_public_name_of_samband_testing_resolves(name: str) -> None:
    assert getattr(samband.testing, name) is not None


def test_an_unknown_name_of_samband_testing_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'FaultProxi'"):
        samband.testing.FaultProxi  # noqa: B018


def test_the_pytest_plugin_itself_imports_no_server_and_no_suite() -> None:
    import subprocess

    code = (
        "import sys, samband.testing.pytest_plugin;"
        "print(sorted({'aiohttp', 'samband.testing.contract_suite', 'samband.http', 'sqlmodel'} & set(sys.modules)))"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert seen.stdout.strip() == "[]"
