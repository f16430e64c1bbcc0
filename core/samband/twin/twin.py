"""Sends items as files, and finds out what became of them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final

import structlog

from samband.adapters.adapter import Adapter, Connection
from samband.contract import Batch, ExportFile, Item, Receipt, Sought
from samband.errors import RejectedError, RetryableError
from samband.store import Lease, Store
from samband.store.files import OPEN_STATES, SENT_STATES, FileFacts
from samband.twin.delivery import put_ready, release, whereabouts
from samband.twin.doors import Doors
from samband.twin.manifest import batch_id, manifest_of
from samband.twin.place import Place, trouble
from samband.twin.points import Point
from samband.twin.reports import Reports, point_of

__all__ = ["MAX_BYTES", "ROUTES", "Twin"]

log = structlog.stdlib.get_logger("samband.twin")

ROUTES: Final = frozenset({"file", "download"})
MAX_BYTES: Final = 10 * 1024 * 1024
"""How large a file may be that leaves the host; a batch that makes a larger one goes out as several."""

_Written = tuple[ExportFile, Sequence[Item]]


class Twin:
    """One plugin's way out by file.

    Args:
        store: Keeps every file before it goes anywhere.
        adapter: Writes files and reads reports; nobody is called for either.
        doors: What the operator allows.
        max_bytes: How large a file may be.
    """

    def __init__(self, store: Store, adapter: Adapter, doors: Doors, *, max_bytes: int = MAX_BYTES) -> None:
        self._store = store
        self._adapter = adapter
        self._doors = doors
        self._max_bytes = max_bytes
        self._reports = Reports(store, adapter)

    # ── out ──────────────────────────────────────────────────────────────────

    async def send(self, connection: Connection, batch: Batch, *, lease: Lease, route: str) -> AsyncIterator[Receipt]:
        """Yields a receipt for each item, as its file is delivered or kept.

        A batch becomes one file, or several when one would be too large; a voucher is never split. An item that cannot
        be written is rejected, and the others go out without it.

        Raises:
            RetryableError: Nothing of what has no receipt was delivered.
            OutcomeUnknownError: It is not known whether what has no receipt was delivered.
            StaleLeaseError: Another worker owns the run now; what has no receipt was not delivered.
        """
        if route not in ROUTES:
            raise ValueError("there are two routes of files: file and download")
        written, rejected = await self._written(connection, list(batch.items), route)
        for receipt in rejected:
            yield receipt
        if not written:
            return
        if route == "download":
            for file, items in written:
                for receipt in await self._keep(file, items, lease):
                    yield receipt
            return
        point, secret = await point_of(self._store, connection)
        whose = {"organization_id": lease.organization_id, "plugin": lease.plugin}
        async with self._doors.opened(point, secret, **whose) as place:
            for file, items in written:
                for receipt in await self._deliver(place, point, file, items, lease):
                    yield receipt

    async def _keep(self, file: ExportFile, items: Sequence[Item], lease: Lease) -> list[Receipt]:
        digest, keys = _digest(file), [item.key for item in items]
        facts = await self._store.files.begin(lease, file, digest=digest, keys=keys, state="ready")
        await self._store.runs.note(lease, _remark(file, "is ready to be fetched"))
        return [_accepted(key, facts, "download") for key in keys]

    async def _deliver(
        self, place: Place, point: Point, file: ExportFile, items: Sequence[Item], lease: Lease
    ) -> list[Receipt]:
        digest, keys = _digest(file), [item.key for item in items]
        facts = await self._store.files.begin(lease, file, digest=digest, keys=keys, state="made")
        try:
            await put_ready(place, point, file, manifest_of(file, digest, items, made_for=lease.run_id))
        except RetryableError:
            await self._store.files.give_up(facts.id, ("made",))
            raise
        if not await self._store.files.release(lease, facts.id):
            raise trouble("The file was given up meanwhile; it is made again.", code="file_given_up")
        await release(place, file.name)
        await self._store.files.deliver(facts)
        await self._store.runs.note(lease, _remark(file, "was delivered"))
        return [_accepted(key, facts, point.kind) for key in keys]

    # ── writing ──────────────────────────────────────────────────────────────

    async def _written(
        self, connection: Connection, items: list[Item], route: str
    ) -> tuple[list[_Written], list[Receipt]]:
        """Gives the files that carry these items, and the rejections of those that cannot be written."""
        try:
            file = await self._render(connection, items, route)
        except RejectedError as error:
            return await self._without_unwritable(connection, items, route, error)
        if len(file.content) <= self._max_bytes:
            return [(file, items)], []
        if len(items) == 1:
            problem = RejectedError(f"It makes a file of more than {self._max_bytes} bytes.", code="voucher_too_large")
            return [], [_rejected(items[0].key, problem)]
        half = len(items) // 2
        first, second = [await self._written(connection, part, route) for part in (items[:half], items[half:])]
        return first[0] + second[0], first[1] + second[1]

    async def _without_unwritable(
        self, connection: Connection, items: list[Item], route: str, error: RejectedError
    ) -> tuple[list[_Written], list[Receipt]]:
        if len(items) == 1:
            return [], [_rejected(items[0].key, error)]
        good, rejected = [], []
        for item in items:
            try:
                await self._render(connection, [item], route)
                good.append(item)
            except RejectedError as own:
                rejected.append(_rejected(item.key, own))
        if not rejected:  # each alone, but not together
            return [], [_rejected(item.key, error) for item in items]
        written, further = await self._written(connection, good, route) if good else ([], [])
        return written, rejected + further

    async def _render(self, connection: Connection, items: Sequence[Item], route: str) -> ExportFile:
        batch = Batch(id=batch_id(items), items=items, route=route)
        return await self._adapter.render(connection, batch, "machine")

    # ── finding out ──────────────────────────────────────────────────────────

    async def find(self, connection: Connection, sought: Sequence[Sought]) -> AsyncIterator[Receipt]:
        """Yields what is known of items that went out as files.

        ``posted`` or ``rejected`` when the other side has told so; ``accepted`` when the file was delivered or kept;
        ``unknown`` when that cannot be told. Nothing for an item that certainly did not go out, and cannot any more.

        Raises:
            RetryableError: The drop point has to be looked at and cannot be now.
        """
        files = await self._store.files.carrying(connection.integration_id, [each.key for each in sought])
        verdicts, told = await self._look(connection, files, sought)
        reported = [each.key for each in sought if each.key in told]
        if reported:
            await self._store.files.acknowledge(connection.integration_id, reported)
        for each in sought:
            receipt = _settled(each, [f for f in files if each.key in f.keys], verdicts, told.get(each.key))
            if receipt is not None:
                yield receipt

    async def _look(
        self, connection: Connection, files: Sequence[FileFacts], sought: Sequence[Sought]
    ) -> tuple[dict[str, str], dict[str, Receipt]]:
        """Gives file → where it is, and key → what a report says of it."""
        verdicts = {file.id: "delivered" if file.state in SENT_STATES else "not_delivered" for file in files}
        doubtful = [file for file in files if file.state in OPEN_STATES]
        reads_reports = "acknowledge" in self._adapter.manifest.capabilities
        if not doubtful and not (reads_reports and any(file.delivered_at for file in files)):
            return verdicts, {}
        try:
            point, secret = await point_of(self._store, connection)
            whose = {"organization_id": connection.organization_id, "plugin": self._adapter.manifest.name}
            async with self._doors.opened(point, secret, **whose) as place:
                for file in doubtful:
                    verdicts[file.id] = await self._judge(place, point, file)
                return verdicts, await self._reports.told(place, point, connection, sought)
        except RetryableError as error:
            if doubtful:
                raise
            log.warning("reports_unreachable", integration=connection.integration_id, code=error.code)
            return verdicts, {}

    async def _judge(self, place: Place, point: Point, file: FileFacts) -> str:
        # Given up before it is looked for: from here on nobody can release it.
        if file.state == "made" and not await self._store.files.give_up(file.id, ("made",)):
            return "unknown"
        verdict = await whereabouts(place, point, file)
        if verdict == "delivered":
            await self._store.files.deliver(file)
        if verdict == "not_delivered":
            await self._store.files.give_up(file.id)
        return verdict


def _settled(
    sought: Sought, files: Sequence[FileFacts], verdicts: dict[str, str], told: Receipt | None
) -> Receipt | None:
    delivered = next((file for file in reversed(files) if verdicts[file.id] == "delivered"), None)
    if told is not None:
        name = delivered.name if delivered is not None else sought.reference
        return told if told.reference else replace(told, reference=name)
    if delivered is not None:
        return _accepted(sought.key, delivered, "download" if delivered.delivered_at is None else "file")
    if any(verdicts[file.id] == "unknown" for file in files):
        code, message = "file_outcome_unknown", "Its file was about to be delivered and is nowhere to be seen now."
        return Receipt(key=sought.key, state="unknown", code=code, message=message)
    if sought.state == "accepted":  # somebody has taken its word for it before; that is not undone by looking
        return Receipt(key=sought.key, state="accepted", reference=sought.reference)
    return None


def _accepted(key: str, facts: FileFacts, where: str) -> Receipt:
    evidence = {"file": facts.name, "sha256": facts.digest, "where": where}
    return Receipt(key=key, state="accepted", reference=facts.name, evidence=evidence)


def _rejected(key: str, error: RejectedError) -> Receipt:
    return Receipt(key=key, state="rejected", code=error.code, field=error.field, message=error.message)


def _digest(file: ExportFile) -> str:
    return hashlib.sha256(file.content).hexdigest()


def _remark(file: ExportFile, what: str) -> str:
    return f"{file.name} {what}: {file.rows} rows, {len(file.content)} bytes, {file.media_type}."
