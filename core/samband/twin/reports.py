"""What the other side tells of files it took in: reports that lie in the drop point's folder for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import orjson
import structlog
from pydantic import SecretStr, ValidationError

from samband.adapters.adapter import Adapter, Connection
from samband.contract import Receipt, Sought
from samband.errors import AdapterError
from samband.rules.reporting import number_of, understood
from samband.store import Store
from samband.twin.place import Place, trouble
from samband.twin.points import Point, PointSecret, parse_point

__all__ = ["MAX_REPORT_BYTES", "Reports", "point_of", "secret_bytes"]

log = structlog.stdlib.get_logger("samband.twin")

MAX_REPORT_BYTES: Final = 1024 * 1024
_REMEMBERED: Final = 1_000
_READ_AT_ONCE: Final = 200


class Reports:
    """Reads reports, each once as long as it stays the same."""

    def __init__(self, store: Store, adapter: Adapter) -> None:
        self._store = store
        self._adapter = adapter
        self._known: OrderedDict[tuple[str, str, int, float], list[Receipt]] = OrderedDict()

    async def told(
        self, place: Place, point: Point, connection: Connection, sought: Sequence[Sought]
    ) -> dict[str, Receipt]:
        """Gives key → what the newest report that names it says. A file that is no report is passed over, and logged.

        Args:
            sought: Which items are asked for; others may be told of too, but those that a report has only the number of.

        Raises:
            UnavailableError: The folder cannot be read now.
        """
        if "acknowledge" not in self._adapter.manifest.capabilities:
            return {}
        reports = await self._readable(place, point, connection)
        numbers = {each.number for each in sought if each.number is not None}
        with_numbers = [name for name, told in reports if any(number_of(receipt) in numbers for receipt in told)]
        carried = await self._store.reports.carried(connection.integration_id, numbers if with_numbers else ())
        own = await self._store.reports.own_names(connection.integration_id, with_numbers)
        found: dict[str, Receipt] = {}
        for name, told in reports:
            known = understood(told, carried, report_file=name if name in own else None)
            found |= {receipt.key: receipt for receipt in known.receipts}
        return found

    async def _readable(self, place: Place, point: Point, connection: Connection) -> list[tuple[str, list[Receipt]]]:
        """Gives reports with what they say, oldest first."""
        found = []
        entries = sorted(await place.entries(point.acknowledged), key=lambda entry: (entry.changed, entry.name))
        fresh = 0
        for entry in entries:
            known = (connection.integration_id, entry.name, entry.size, entry.changed)
            if known not in self._known:
                if fresh == _READ_AT_ONCE:
                    break  # the others are read when it is asked again
                fresh += 1
                self._remember(known, await self._read(place, point, connection, entry.name))
            self._known.move_to_end(known)
            found.append((entry.name, self._known[known]))
        return found

    async def _read(self, place: Place, point: Point, connection: Connection, name: str) -> list[Receipt]:
        content = await place.read(point.acknowledged, name, MAX_REPORT_BYTES)
        if content is None:
            return []
        if len(content) > MAX_REPORT_BYTES:
            log.warning("report_too_large", integration=connection.integration_id)
            return []
        try:
            told = await self._adapter.acknowledge(connection, name, content)
        except AdapterError as error:
            log.warning("report_not_read", integration=connection.integration_id, code=error.code)
            return []
        return [replace(receipt, evidence={**receipt.evidence, "report": name[:200]}) for receipt in told]

    def _remember(self, known: tuple[str, str, int, float], told: list[Receipt]) -> None:
        self._known[known] = told
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


async def point_of(store: Store, connection: Connection) -> tuple[Point, PointSecret | None]:
    """Gives an integration's drop point and what signs in there.

    Raises:
        UnavailableError: It has none, or one that this program does not understand.
    """
    kept = await store.drops.find(connection.integration_id)
    if kept is None:
        raise trouble(
            "The integration has no drop point, so there is nowhere to put the file.", code="drop_missing",
            hint="Set its drop point, or order the export with the route download.",
        )  # fmt: skip
    try:
        point = parse_point(kept.settings)
    except ValidationError:
        raise trouble("The drop point's settings are not understood here.", hint="Set the drop point again.") from None
    return point, None if kept.secret is None else _secret_of(kept.secret)


def secret_bytes(secret: PointSecret) -> bytes:
    """Gives what is sealed of a secret."""
    fields = {name: getattr(secret, name) for name in ("password", "private_key", "passphrase")}
    return orjson.dumps({name: value.get_secret_value() for name, value in fields.items() if value is not None})


def _secret_of(content: bytes) -> PointSecret:
    return PointSecret(**{name: SecretStr(value) for name, value in orjson.loads(content).items()})
