"""Stores what is read: every page in one transaction."""

from __future__ import annotations

from collections.abc import Mapping

from samband.flow.reading import Arrival, Observer
from samband.rules.intake import Known
from samband.store import Lease, PageCommit, Store, StreamPosition

__all__ = ["Keeping"]


class Keeping:
    """Commits the pages of one stream, each with the place behind it.

    Args:
        position: Where the read stands; an ``apart`` one leaves the stream's own cursor where it is.
    """

    def __init__(self, store: Store, lease: Lease, position: StreamPosition, observer: Observer | None = None) -> None:
        self._store = store
        self._lease = lease
        self._position = position
        self._observer = observer
        self._streams: Mapping[str, int] | None = None

    async def known(self, keys: list[str]) -> Mapping[str, Known]:
        return await self._store.pages.known(self._lease.organization_id, self._position, keys)

    async def resolve(self, stream: str, keys: list[str]) -> Mapping[str, int]:
        if self._streams is None:
            self._streams = await self._store.streams.ids(self._lease.integration_id)
        stream_id = self._streams.get(stream)
        return {} if stream_id is None else await self._store.pages.resolve(stream_id, keys)

    async def take(self, arrival: Arrival) -> None:
        commit = PageCommit(
            intake=arrival.intake, cursor=arrival.cursor, complete=arrival.complete, advances=arrival.advances,
            total=arrival.total,
        )  # fmt: skip
        counts = await self._store.pages.commit(self._lease, self._position, commit)
        if self._observer is not None:
            self._observer.page_committed(plugin=self._lease.plugin, stream=self._position.name, counts=counts)
