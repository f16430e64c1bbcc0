"""The contract suite: subclass it, name your plugin, and every promise of the hook specifications becomes a test.

    class TestContract(PluginContract):
        plugin = samband_example.plugin

With a simulator in the manifest nothing more is needed; otherwise override the ``counterpart`` fixture. Everything runs
on 127.0.0.1, through the host's own HTTP session and a proxy that breaks the conversation in every known way.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from samband.contract import Manifest, Stream
from samband.testing.counterpart import Counterpart, start_simulator
from samband.testing.driver import PluginDriver
from samband.testing.outlet import Outlet
from samband.testing.promises.access import Access
from samband.testing.promises.declarations import Declarations
from samband.testing.promises.doubts import FIND_CASES, LOST_CASES, Doubts
from samband.testing.promises.exporting import Exports
from samband.testing.promises.fetching import Fetches
from samband.testing.promises.filing import Files
from samband.testing.promises.reading import Reads
from samband.testing.promises.safety import Safety
from samband.testing.promises.trouble import CASES, Trouble
from samband.testing.proxy import FaultProxy
from samband.testing.samples import OUTGOING_KINDS

__all__ = ["PluginContract"]


class PluginContract(Declarations, Access, Reads, Fetches, Trouble, Safety, Exports, Doubts, Files):
    """Every promise of `samband.hookspecs` as a test, for one plugin.

    Attributes:
        plugin: The module with the manifest and the hooks.
        settings: Merged over the settings the simulator prints: switch every stream on, make pages small.
        simulator_arguments: For the simulator's command line.
        exempt: Test name → why this plugin does not keep that promise. The test is skipped and shows the reason.
        tolerated_share: The share of records that may fail to convert, for counterparts that hold bad rows on purpose.
        routes: For a plugin with ``choose_route``: its own names for its ways, as its documentation has them.
    """

    plugin: ClassVar[ModuleType]
    settings: ClassVar[Mapping[str, Any]] = {}
    simulator_arguments: ClassVar[Sequence[str]] = ()
    exempt: ClassVar[Mapping[str, str]] = {}
    tolerated_share: ClassVar[float] = 0.1
    routes: ClassVar[Collection[str]] = ()

    @classmethod
    def touch_order(cls, stream: str) -> Mapping[str, Any] | None:
        """Gives the body for the simulator's ``touch`` that changes something in a stream; None when it cannot."""
        return {"stream": stream, "update": 2}

    # ── what the tests are given ─────────────────────────────────────────────

    @pytest.fixture(scope="class")
    @classmethod
    def counterpart(cls) -> Iterator[Counterpart]:
        """Gives the running other side. Override it for a plugin whose manifest has no simulator."""
        module = cls.plugin.manifest.simulator
        if module is None:
            pytest.fail(
                "The manifest has no simulator: override the 'counterpart' fixture of your PluginContract subclass"
                " and yield a samband.testing.Counterpart.",
                pytrace=False,
            )
        with start_simulator(
            module, arguments=cls.simulator_arguments, settings=cls.settings, touch_order=cls.touch_order
        ) as counterpart:
            yield counterpart

    @pytest.fixture(scope="class")
    @classmethod
    def proxy(cls, counterpart: Counterpart) -> Iterator[FaultProxy]:
        """Gives the proxy that stands in front of the counterpart."""
        with FaultProxy() as proxy:
            proxy.front_settings(counterpart.settings)
            yield proxy

    @pytest.fixture
    def manifest(self) -> Manifest:
        """Gives the plugin's manifest."""
        manifest = getattr(self.plugin, "manifest", None)
        if not isinstance(manifest, Manifest):
            pytest.skip(f"{self.plugin.__name__} has no manifest; see the test that loads the plugin")
        return manifest

    @pytest_asyncio.fixture(loop_scope="function")
    async def driver(
        self, manifest: Manifest, counterpart: Counterpart, proxy: FaultProxy
    ) -> AsyncIterator[PluginDriver]:
        """Gives the host's own machinery around the plugin, with a clock that tests move."""
        async with PluginDriver(self.plugin, counterpart, proxy) as driver:
            yield driver

    @pytest.fixture
    def outlet(self, driver: PluginDriver, counterpart: Counterpart, push_stream: str) -> Outlet:
        """Gives one stream that carries claims to the books."""
        stream = driver.manifest.stream(push_stream)
        if not stream.enabled(driver.settings):
            pytest.skip(f"the counterpart's settings switch {push_stream} off: let them switch it on")
        return Outlet(driver, stream, counterpart, self.item)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        unknown = sorted(set(cls.exempt) - set(cls.promises()))
        if unknown:
            raise TypeError(f"{cls.__name__}.exempt names no promise: {', '.join(unknown)}")

    # ── what pytest asks for at collection ───────────────────────────────────

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Makes one test per stream and per fault, so that a report names both."""
        if "stream" in metafunc.fixturenames:
            manifest = getattr(metafunc.cls.plugin, "manifest", None)
            streams = manifest.streams if isinstance(manifest, Manifest) else ()
            readable = [stream.name for stream in streams if stream.direction in ("pull", "both")]
            metafunc.parametrize("stream", readable)
        if "outlet" in metafunc.fixturenames:
            metafunc.parametrize("push_stream", _outgoing(getattr(metafunc.cls.plugin, "manifest", None)))
        for name, cases in (("lost_case", LOST_CASES), ("find_case", FIND_CASES)):
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, cases, ids=str)
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", CASES, ids=str)
        if "mid_case" in metafunc.fixturenames:
            # Whoever refuses connections cannot count calls, so that one is tested at the start only.
            metafunc.parametrize("mid_case", [case for case in CASES if case.fault is not None], ids=str)

    @pytest.fixture(autouse=True)
    def _skip_exempt(self, request: pytest.FixtureRequest) -> None:
        name = getattr(request.node, "originalname", request.node.name)
        if name in self.exempt:
            pytest.skip(f"exempt: {self.exempt[name]}")

    @classmethod
    def promises(cls) -> list[str]:
        """Gives the names of all tests, for documentation and for checking ``exempt``."""
        return sorted(name for name, _ in inspect.getmembers(cls, inspect.isfunction) if name.startswith("test_"))


def _outgoing(manifest: object) -> list[Any]:
    """Gives the streams that carry claims to the books, or one case that is skipped and says that there is none."""
    streams: Sequence[Stream] = manifest.streams if isinstance(manifest, Manifest) else ()
    names = [s.name for s in streams if s.kind in OUTGOING_KINDS and s.direction in ("push", "both")]
    skipped = pytest.mark.skip(reason="the plugin has no stream that carries vouchers or reimbursements out")
    return names or [pytest.param("none", marks=skipped)]
