"""One integration played through from end to end over the public API, with every number checked against the other side.

Connect, test, enable, read everything, let the other side change, read the changes, read them again. What was found is
compared with what the simulator says it changed, and with what the API gives back record by record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from samband.cli.client import HostClient
from samband.cli.following import progress_lines
from samband.cli.output import note
from samband.cli.simulators import SimulatorProcess, Touched
from samband.errors import NotFoundError, RemoteError

__all__ = ["Finding", "Rehearsal"]

_CREATED, _UPDATED, _DELETED = 12, 40, 5
_PAGE_SIZE: Final = 1_000
_PART: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was checked, with what it should be and what it is."""

    name: str
    expected: object
    found: object

    @property
    def is_ok(self) -> bool:
        return self.expected == self.found

    def document(self) -> dict[str, object]:
        """Gives it in the shape of the demo's JSON."""
        return {"check": self.name, "ok": self.is_ok, "expected": self.expected, "found": self.found}


class Rehearsal:
    """Plays one plugin of one organisation through.

    Args:
        host: The running host.
        org: An organisation that exists.
        plugin: The plugin's view, as the host gives it.
        simulator: Its other side, running.
        members: How many members the simulator was asked to have, at least.

    Attributes:
        runs: The runs, in order, as the host gives them.
        findings: What was checked.
    """

    def __init__(
        self, host: HostClient, org: str, plugin: Mapping[str, Any], simulator: SimulatorProcess, members: int
    ) -> None:
        self._host = host
        self._org = f"/v1/organizations/{org}"
        self._plugin = plugin
        self._simulator = simulator
        self._members = members
        self._path = f"{self._org}/integrations/{plugin['name']}"
        self.runs: list[dict[str, Any]] = []
        self.findings: list[Finding] = []

    async def play(self) -> None:
        """Goes through all of it; what does not come out right is in ``findings``.

        Raises:
            SambandError: The host refused a step, so that there is nothing further to check.
        """
        await self._connect()
        known = await self._last_change()
        # Nothing refers to a record that was just made, so that deleting it later changes no other record.
        doomed = await self._simulator.touch(create=_DELETED)
        first = await self._sync("The first read, of everything", full=True)
        await self._check_first(first, known)
        touched = await self._simulator.touch(create=_CREATED, update=_UPDATED, delete=doomed.created)
        changes = len(touched.created) + len(touched.updated) + len(touched.deleted)
        note(f"{self._plugin['title']}: {changes} records were changed at the other side.")
        known = await self._last_change(known)
        await self._check_delta(await self._sync("The second read, of the changes"), touched, known)
        again = await self._sync("The third read, when nothing has changed")
        self._find("a read without changes changes nothing", 0, _moved(again["counts"]))
        await self._check_records()

    async def _connect(self) -> None:
        title, settings = self._plugin["title"], dict(self._simulator.address["settings"])
        if "page_size" in self._plugin["settings_schema"].get("properties", {}):
            settings["page_size"] = _PAGE_SIZE
        credentials = self._simulator.address["credentials"]
        try:
            await self._host.get(self._path)
        except NotFoundError:
            body = {"type": self._plugin["name"], "settings": settings, "credentials": credentials}
            await self._host.post(f"{self._org}/integrations", body)
        else:  # a data directory from an earlier demonstration
            await self._host.patch(self._path, {"settings": settings})
            await self._host.put(f"{self._path}/credentials", {"credentials": credentials})
        check = await self._host.post(f"{self._path}/test")
        if not check["ok"]:
            error = check["error"] or {}
            raise RemoteError(
                f"The connection test of {title} failed: {error.get('message', 'rights are missing')}",
                hint=error.get("hint", ""),
            )
        note(f"{title}: connected. {check['summary']}")
        await self._host.post(f"{self._path}/enable")

    async def _sync(self, what: str, *, full: bool = False) -> dict[str, Any]:
        note(f"{self._plugin['title']}: {what}.")
        order = await self._host.post(f"{self._path}/runs", {"full": full})
        run: dict[str, Any] = await self._host.follow(order, progress_lines())
        self.runs.append(run)
        self._find(f"run {len(self.runs)} succeeded", "succeeded", run["state"])
        self._find(f"run {len(self.runs)} failed with no record", 0, run["counts"]["failed"])
        self._find(f"run {len(self.runs)} left a cursor for the next one", True, run["cursor_present"])
        return run

    # ── checking ─────────────────────────────────────────────────────────────

    async def _check_first(self, run: Mapping[str, Any], known: int) -> None:
        counts = run["counts"]
        seen = counts["created"] + counts["updated"] + counts["unchanged"]
        self._find("the first read found every member", True, seen >= self._members)
        self._find("it took several pages", True, run["pages"] > len(run["streams"]))
        self._find("records held after the first read", seen, await self._held())
        changed = [change async for change in self._changes(known)]
        self._find("changes told of the first read", _moved(counts), len(changed))

    async def _check_delta(self, run: Mapping[str, Any], touched: Touched, known: int) -> None:
        counts, changes = run["counts"], [change async for change in self._changes(known)]
        for what in ("created", "updated", "deleted"):
            wanted: frozenset[str] = getattr(touched, what)
            self._find(f"records {what} in the second read", len(wanted), counts[what])
            keys = {await self._key_of(change) for change in changes if change["op"] == what}
            self._find(f"keys {what} in the second read that should not be", 0, len(keys - wanted))
            self._find(f"keys {what} at the other side that did not arrive", 0, len(wanted - keys))

    async def _check_records(self) -> None:
        """Reads every record back over the API and counts."""
        kinds = sorted({stream["kind"] for stream in self._plugin["streams"]})
        count = 0
        for kind in kinds:
            records = await self._host.items(f"{self._org}/records/{kind}", limit=10_000_000)
            count += sum(self._is_ours(record) for record in records)
        self._find("records read back over the API", await self._held(), count)

    async def _held(self) -> int:
        status = await self._host.get(f"{self._path}/status")
        return sum(stream["records"] for stream in status["streams"])

    async def _key_of(self, change: Mapping[str, Any]) -> str:
        record = await self._host.get(f"{self._org}/records/{change['kind']}/{change['record_id']}")
        return next((binding["key"] for binding in record["bindings"]), "no binding")

    def _is_ours(self, record: Mapping[str, Any]) -> bool:
        integration = self.runs[0]["integration"]
        return any(binding["integration"] in (integration, self._plugin["name"]) for binding in record["bindings"])

    async def _last_change(self, after: int = 0) -> int:
        last = after
        async for change in self._changes(after):
            last = change["seq"]
        return last

    async def _changes(self, after: int) -> Any:
        while True:
            page = await self._host.get(f"{self._org}/changes", after=after, limit=_PART)
            for change in page["items"]:
                yield change
            after = page["next"]
            if not page["has_more"]:
                return

    def _find(self, name: str, expected: object, found: object) -> None:
        self.findings.append(Finding(name=f"{self._plugin['name']}: {name}", expected=expected, found=found))


def _moved(counts: Mapping[str, int]) -> int:
    return counts["created"] + counts["updated"] + counts["deleted"]


def wrong(findings: Iterable[Finding]) -> list[Finding]:
    """Gives the findings that are not as they should be."""
    return [finding for finding in findings if not finding.is_ok]
