"""Installed distributions that offer a plugin, read without importing any of them.

The only module that imports ``importlib_metadata``: the back-port behaves the same on every Python the host runs on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import importlib_metadata
import structlog

from samband.errors import PluginError
from samband.hookspecs import ENTRY_POINT_GROUP
from samband.settings import AllowedPlugin

__all__ = ["Offer", "files_sha256", "offers"]

log = structlog.stdlib.get_logger("samband.adapters.registry")

_ADD = "To let it load, add these lines to it:"
# Written by the installer at the target, so they differ between machines that have the same wheel.
_INSTALLERS_OWN = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}


@dataclass(frozen=True, slots=True)
class Offer:
    """An entry point of an installed distribution that says it is a plugin.

    Attributes:
        name: Of the entry point, which must be the plugin's.
        distribution: That it belongs to, as it spells itself.
        version: Of that distribution.
    """

    name: str
    distribution: str
    version: str
    _entry_point: importlib_metadata.EntryPoint

    def load(self) -> object:
        """Imports the plugin and gives it."""
        return self._entry_point.load()

    def is_from(self, distribution: str) -> bool:
        """Says whether a distribution of this name offers it; spelling does not matter (PEP 503)."""
        return _normalised(self.distribution) == _normalised(distribution)

    def refusal(self, allowed: AllowedPlugin | None, *, allow_installed: bool) -> tuple[str, str] | None:
        """Says why it may not load, in one sentence and with the lines to write, or gives None when it may."""
        if allowed is None:
            return None if allow_installed else (f"It is not listed in plugins.toml. {_ADD}", self._lines())
        if not self.is_from(allowed.distribution):
            return (
                f"plugins.toml allows {self.name} from {allowed.distribution}, not from {self.distribution}.",
                self._lines(),
            )
        if allowed.version not in ("*", self.version):
            reason = f"plugins.toml allows version {allowed.version}; installed is {self.version}."
            return f"{reason} Install the allowed one, or allow this one.", self._lines()
        if allowed.record_sha256 is not None:
            return self._digest_refusal(allowed.record_sha256)
        return None

    def _digest_refusal(self, wanted: str) -> tuple[str, str] | None:
        try:
            found = files_sha256(self.distribution)
        except PluginError as error:
            return str(error), ""
        if found == wanted:
            return None
        reason = f"The files of {self.distribution} are not those that plugins.toml allows."
        return f"{reason} Install it again from the reviewed wheel.", f'record_sha256 = "{found}"  # as installed now'

    def _lines(self) -> str:
        return f'[plugins.{self.name}]\ndistribution = "{self.distribution}"\nversion = "{self.version}"'


def offers() -> list[Offer]:
    """Gives what installed distributions offer, in the order of their names; damaged ones among them do no harm.

    Of two distributions with one name the first on the path counts: it is the one that would be imported.
    """
    found: dict[tuple[str, str], Offer] = {}
    for distribution in importlib_metadata.distributions():
        for offer in _offers_of(distribution):
            found.setdefault((offer.name, _normalised(offer.distribution)), offer)
    return [found[key] for key in sorted(found)]


def files_sha256(distribution: str) -> str:
    """Gives one digest over the content of every file that a distribution's RECORD lists.

    What the installer writes by itself (RECORD, INSTALLER, compiled files it made) is left out, so that the same wheel
    has the same digest everywhere.

    Raises:
        PluginError: It is not installed, is installed as a link to sources, or a listed file is missing.
    """
    try:
        found = importlib_metadata.distribution(distribution)
    except importlib_metadata.PackageNotFoundError:
        raise PluginError(f"{distribution} is not installed.", code="plugin_missing") from None
    if _is_editable(found):
        raise PluginError(
            f"{distribution} is installed as a link to its sources, which has no digest.",
            code="plugin_unpinnable",
            hint="Install it from a wheel, or leave record_sha256 out.",
        )
    whole = hashlib.sha256()
    for path in sorted(_payload(found)):
        digest = hashlib.sha256(Path(str(found.locate_file(path))).read_bytes()).hexdigest()
        whole.update(f"{path}\0{digest}\n".encode())
    return whole.hexdigest()


def _offers_of(distribution: importlib_metadata.IDistribution) -> list[Offer]:
    # The library's own entry_points() fails for everybody when one distribution is damaged.
    try:
        entry_points = distribution.entry_points.select(group=ENTRY_POINT_GROUP)
        return [Offer(point.name, distribution.name, distribution.version, point) for point in entry_points]
    except Exception as error:  # noqa: BLE001 -- whatever a damaged folder makes the library raise
        log.warning("distribution_unreadable", error=type(error).__name__)
        return []


def _payload(distribution: importlib_metadata.IDistribution) -> Iterator[str]:
    if distribution.files is None:
        raise PluginError(f"{distribution.name} has no RECORD, so it has no digest.", code="plugin_unpinnable")
    for listed in distribution.files:
        path = PurePosixPath(*listed.parts)
        is_installers = path.name in _INSTALLERS_OWN and path.parent.name.endswith(".dist-info")
        # A compiled file that came with the wheel has its hash in RECORD; one the installer made has none.
        is_compiled_here = path.suffix == ".pyc" and listed.hash is None
        is_script = path.parts[0] == ".."  # its first line names this machine's interpreter
        if not (is_installers or is_compiled_here or is_script):
            yield path.as_posix()


def _is_editable(distribution: importlib_metadata.IDistribution) -> bool:
    text = distribution.read_text("direct_url.json")
    try:
        origin = json.loads(text) if text else {}
        return bool(origin.get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        return False


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
