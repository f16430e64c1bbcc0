"""The plugin keeps every promise of the hook specifications, proved against its own simulator, on each of its ways."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from samband import ExportFile
from samband.testing import Counterpart, PluginContract, start_simulator
from samband_xledger import plugin

LINE_KEY = re.compile(r"([0-9a-f]{32})-[0-9]+")


class Tenant:
    """The simulator from behind: what came in, the import job, and the drop folder with its reports."""

    def __init__(self, control_url: str | None, folder: Path) -> None:
        self.control_url = control_url
        self.folder = folder

    def entries(self) -> Mapping[str, int]:
        """Gives key of an item → how often any of its lines is staged or posted."""
        lines = self._ask("staging")["items"] + self._ask("books")["entries"]
        places = [place for line in lines if (place := _place_of(line))]
        return {key: times for (key, _), times in Counter(places).most_common()[::-1]}

    def run_job(self) -> None:
        """Has Xledger's scheduler take in what waits."""
        self._ask("job/run", {})

    def take_in(self, file: ExportFile) -> tuple[str, bytes]:
        """Puts a file into the drop folder, runs the job, and gives the report."""
        (self.folder / file.name).write_bytes(file.content)
        self.run_job()
        return file.name, (self.folder / "acknowledged" / file.name).read_bytes()

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.control_url}/{path}", data, {"Content-Type": "application/json"})
        with build_opener(ProxyHandler({})).open(request, timeout=20) as answer:
            return json.load(answer)


def _place_of(line: Mapping[str, Any]) -> tuple[str, str] | None:
    """Gives the keys of item and line that stand in a line; files carry them at the end of its text."""
    found = LINE_KEY.search(line["extIdentifier"] or "") or LINE_KEY.search(line["text"] or "")
    return (found[1], found[0]) if found else None


@contextmanager
def tenant(folder: Path, suite: type[PluginContract], *credentials: str) -> Iterator[Counterpart]:
    """Gives the simulator with these credentials alone, and with what it shows of itself."""
    arguments = ("--vouchers", "40", "--drop-folder", str(folder))
    with start_simulator(
        "samband_xledger.simulator", arguments=arguments, settings=suite.settings, touch_order=suite.touch_order
    ) as found:
        behind = Tenant(found.control_url, folder)
        chosen = {name: value for name, value in found.credentials.items() if name in credentials}
        yield replace(found, credentials=chosen, entries=behind.entries, take_in=behind.take_in, settle=behind.run_job)


class TestContract(PluginContract):
    plugin = plugin
    settings: ClassVar = {"bookings": True, "page_size": 25, "routes": ["graphql", "file"]}
    routes = ("graphql", "soap", "file")

    @classmethod
    def touch_order(cls, stream):
        return {"table": "transactions", "create": 1, "update": 2, "delete": 1}

    @pytest.fixture(scope="class")
    @classmethod
    def counterpart(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counterpart]:
        """Gives the simulator with the API token alone: what a log-on for files does is tested where files are."""
        with tenant(tmp_path_factory.mktemp("drop"), cls, "api_token") as found:
            settings = {name: value for name, value in found.settings.items() if name != "soap_url"}
            # Without the job: what was sent is looked for where it waits.
            yield replace(found, settings=settings, settle=None)


class TestContractOfUploads(PluginContract):
    plugin = plugin
    settings: ClassVar = {"routes": ["soap", "graphql"]}
    routes = ("graphql", "soap", "file")
    exempt: ClassVar = dict.fromkeys(
        ("test_wrong_credentials_are_an_auth_error_with_a_hint", "test_check_refuses_wrong_credentials"),
        "a log-on that fails closes this way for a while and leaves the other one open, on purpose",
    )

    @pytest.fixture(scope="class")
    @classmethod
    def counterpart(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counterpart]:
        """Gives the simulator with token and log-on."""
        with tenant(tmp_path_factory.mktemp("drop"), cls, "api_token", "soap_user", "soap_password") as found:
            yield found
