"""A dry run: reads and compares as a sync does, and keeps what would change instead of changing it.

What the pages before would have changed is remembered for the pages that follow, so that a key that comes twice, or a
reference to a record that is new itself, is told as a sync would treat it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from samband.contract import Page, Stream
from samband.errors import CursorExpiredError, RemoteError
from samband.flow.reading import Arrival, Source, StreamReading
from samband.rules.brake import Removal, ends
from samband.rules.difference import DRY_RUN_RECORDS, changed_fields
from samband.rules.intake import Intake, Known
from samband.store import Lease, Store, StreamPosition
from samband.store.differences import Found

__all__ = ["Rehearsal"]

_AT_ONCE = 2_000


class Rehearsal:
    """One dry run, from its first stream to its last.

    Attributes:
        is_over: Whether as many records were read as were ordered, so that nothing more is to be read.
    """

    def __init__(self, store: Store, lease: Lease) -> None:
        self.store = store
        self.lease = lease
        self._left = int((lease.selection or {}).get("limit") or DRY_RUN_RECORDS)
        self._position = 1
        self._new_ids = 0
        self._streams: dict[str, _Pretence] = {}
        self.is_over = False

    async def begin(self) -> None:
        """Clears what an earlier start left: a dry run that was cut off begins again."""
        await self.store.differences.begin(self.lease)

    def bounded(self, source: Source) -> Source:
        """Gives the same pages until as many records have come as were ordered."""

        async def pages(cursor: str | None) -> AsyncGenerator[Page, None]:
            async with contextlib.aclosing(source(cursor)) as given:
                async for page in given:
                    size = len(page.records) + len(page.deleted)
                    if size > self._left:
                        page = _cut(page, self._left)
                    self._left = max(0, self._left - size)
                    self.is_over = self._left == 0 and not page.complete
                    yield page
                    del page
                    if self.is_over:
                        return

        return pages

    async def read(
        self, reading: StreamReading, stream: Stream, *, is_apart: bool, digest: str, reference_kinds: Sequence[str]
    ) -> None:
        """Reads one stream to its end, or to the end of what was ordered."""
        position = await self.store.streams.peek(
            self.lease, name=stream.name, kind=stream.kind, digest=digest, incremental=stream.incremental,
            reference_kinds=reference_kinds, has_arrived=self._has_created(reference_kinds), apart=is_apart,
        )  # fmt: skip
        pretence = self._streams[stream.name] = _Pretence(self, stream, position)
        try:
            await reading.read(position.cursor, pretence)
        except CursorExpiredError as err:
            await self._note(f"{stream.name}: {err.message} A sync would read everything again, and so did this.")
            pretence.position = replace(position, cursor=None, reading_full=True, generation=position.generation + 1)
            try:
                await reading.read(None, pretence)
            except CursorExpiredError as again:
                raise RemoteError("They refuse even a read from the beginning.", code="cursor_refused") from again
        if not self.is_over:
            await pretence.reconcile()
        await self._tell_brake(pretence)
        if not self.is_over:
            return
        left_out = " What a full read would delete at its end is not among them." if position.reading_full else ""
        await self._note(f"{stream.name}: stopped after as many records as were ordered.{left_out}")

    async def _tell_brake(self, pretence: _Pretence) -> None:
        streams = await self.store.feeds.streams(self.lease.integration_id)
        held = next((stream.held for stream in streams if stream.name == pretence.stream.name), 0)
        removal = Removal(
            held=held or pretence.counts["created"],
            deleted=pretence.counts["deleted"],
            deactivated=pretence.deactivated,
        )
        if self.store.differences.brake.stops(removal):
            await self._note(
                f"{pretence.stream.name}: a sync would be held until someone agrees: it would delete {removal.deleted} and "
                f"deactivate {removal.deactivated} of {removal.held} records, and "
                f"{self.store.differences.brake.limit(removal.held)} may go without asking."
            )

    async def _note(self, text: str) -> None:
        await self.store.runs.note(self.lease, text)

    def _has_created(self, kinds: Sequence[str]) -> bool:
        return any(p.counts["created"] for p in self._streams.values() if p.position.kind in kinds)

    # ── what the pretences of the streams share ──────────────────────────────

    def new_id(self) -> int:
        """Gives a number that stands for a record which has none yet; ours begin at one."""
        self._new_ids -= 1
        return self._new_ids

    def pretended(self, stream: str) -> Mapping[str, Known]:
        """Gives what this dry run would have changed in a stream so far."""
        pretence = self._streams.get(stream)
        return {} if pretence is None else pretence.changed

    def key_of(self, stream: str, new_id: int) -> str | None:
        """Gives the key that a number of `new_id` was given for."""
        pretence = self._streams.get(stream)
        return None if pretence is None else pretence.new.get(new_id)

    async def add(self, found: Sequence[Found], counts: Mapping[str, int]) -> None:
        """Keeps what was found."""
        await self.store.differences.add(self.lease, self._position, found, counts)
        self._position += len(found)


@dataclass(slots=True)
class _Pretence:
    """One stream of a dry run: what is held, with what the dry run would have changed laid over it."""

    rehearsal: Rehearsal
    stream: Stream
    position: StreamPosition
    changed: dict[str, Known] = field(default_factory=dict)
    new: dict[int, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    held: dict[str, Known] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    deactivated: int = 0

    @property
    def _store(self) -> Store:
        return self.rehearsal.store

    @property
    def _lease(self) -> Lease:
        return self.rehearsal.lease

    async def known(self, keys: list[str]) -> Mapping[str, Known]:
        held = await self._store.pages.known(self._lease.organization_id, self.position, keys)
        found = held | {key: self.changed[key] for key in keys if key in self.changed}
        self.held.update(found)
        return found

    async def resolve(self, stream: str, keys: list[str]) -> Mapping[str, int]:
        ids = await self._store.streams.ids(self._lease.integration_id)
        held = await self._store.pages.resolve(ids[stream], keys) if stream in ids else {}
        pretended = self.rehearsal.pretended(stream)
        for key in keys:
            if (known := pretended.get(key)) is not None:
                held.pop(key, None)
                if known.hash is not None:
                    held[key] = known.record_id
        return held

    async def take(self, arrival: Arrival) -> None:
        intake = arrival.intake
        found = await self._found(intake)
        if self.position.reading_full:
            self.seen |= arrival.keys
        await self._add(found, intake.counts())
        self._remember(intake)
        for key in arrival.keys:
            self.held.pop(key, None)

    async def _add(self, found: Sequence[Found], counts: Mapping[str, int]) -> None:
        await self.rehearsal.add(found, counts)
        self.counts.update(counts)

    async def reconcile(self) -> None:
        """Finds what the end of a full read would delete."""
        if not self.position.reading_full:
            return
        gone = await self._store.differences.gone(self.position, self.seen)
        for start in range(0, len(gone), _AT_ONCE):
            part = dict(gone[start : start + _AT_ONCE])
            bodies = await self._bodies(part)
            found = [self._differing(key, "deleted", id, bodies[key], {}) for key, id in part.items()]
            await self._add(found, {"deleted": len(found)})
        # The streams behind this one must not find them any more.
        self.changed |= {key: Known(id, 0, None, None) for key, id in gone}

    async def _found(self, intake: Intake) -> list[Found]:
        """Gives what a page would change, in the order in which a sync numbers its changes."""
        touched = {u.key: u.record_id for u in intake.updated} | {d.key: d.record_id for d in intake.deleted}
        bodies = await self._bodies(touched)
        ending = set(intake.ending)
        self.deactivated += sum(u.record_id in ending and not ends(bodies[u.key]) for u in intake.updated)
        found = [self._differing(c.key, "created", None, {}, orjson.loads(c.body)) for c in intake.created]
        found += [
            self._differing(u.key, u.op, u.record_id, bodies[u.key], orjson.loads(u.body)) for u in intake.updated
        ]
        found += [self._differing(d.key, "deleted", d.record_id, bodies[d.key], {}) for d in intake.deleted]
        found += [
            Found(
                stream=self.stream.name, key=f.key, op=f.outcome, code=f.code, field=f.field, message=f.message
            )
            for f in intake.failures
        ]  # fmt: skip
        return found

    async def _bodies(self, ids: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Gives the records behind keys, as they would be before this page."""
        held = await self._store.differences.bodies(
            self._lease.organization_id, self.position.kind, [id for id in ids.values() if id > 0]
        )
        bodies = {key: held.get(id, {}) for key, id in ids.items()}
        again = {key: bodies[key] for key in ids if key in self.changed}
        if again:
            bodies |= await self._store.differences.after(self._lease, self.stream.name, again)
        return bodies

    def _differing(
        self, key: str, op: str, record_id: int | None, before: dict[str, Any], after: dict[str, Any]
    ) -> Found:
        was, becomes = changed_fields(before, self._readable(after))
        shown = None if record_id is None or record_id < 0 else record_id
        return Found(stream=self.stream.name, key=key, op=op, record_id=shown, before=was, after=becomes)

    def _readable(self, body: dict[str, Any]) -> dict[str, Any]:
        """Names a record that is new itself by stream and key, where a sync would put the number it gets."""
        for name, stream in self.stream.references.items():
            value = body.get(name)
            if isinstance(value, int) and (key := self.rehearsal.key_of(stream, value)) is not None:
                body[name] = {"stream": stream, "key": key}
        return body

    def _remember(self, intake: Intake) -> None:
        for created in intake.created:
            id = self.rehearsal.new_id()
            self.new[id] = created.key
            self.changed[created.key] = Known(id, 1, created.tag, created.hash)
        for updated in intake.updated:
            self.changed[updated.key] = Known(updated.record_id, updated.version, updated.tag, updated.hash)
        for _, key, tag in intake.retagged:
            self.changed[key] = self.held[key]._replace(tag=tag)
        for deleted in intake.deleted:
            self.changed[deleted.key] = Known(deleted.record_id, deleted.version, None, None)


def _cut(page: Page, size: int) -> Page:
    """Gives the first ``size`` things of a page, which then is no longer the last one."""
    records = page.records[:size]
    return replace(page, records=records, deleted=page.deleted[: size - len(records)], cursor=None, complete=False)
