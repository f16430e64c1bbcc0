"""Reconciliation: a month of our export ledger held against the other side's books as they are now."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

from samband.adapters.adapter import Adapter
from samband.errors import (
    ConflictError,
    FieldProblem,
    InvalidError,
    NotReadyError,
    RemoteError,
    RetryableError,
    SambandError,
)
from samband.rules.discrepancies import OurVoucher, month
from samband.rules.forthcoming import forthcoming
from samband.rules.reconciling import Books, Waiting, reconcile
from samband.rules.schedule import DEFAULT_ZONE, to_local
from samband.service.parts import Parts
from samband.store.models import Integration
from samband.views.reconciliation import ReconciliationView

PERIOD: Final = re.compile(r"20[0-9]{2}-(0[1-9]|1[0-2])")
READ_LIMIT_S: Final = 240.0
"""How long the other side may take for three months of its books."""
MAX_DIFFERENCES: Final = 10_000
_RETRY_AFTER_S: Final = 60


class Reconciliation:
    """Compares; changes nothing here or there.

    Args:
        read_limit_s: How long the other side's books may take to be read.
    """

    def __init__(self, parts: Parts, *, read_limit_s: float = READ_LIMIT_S) -> None:
        self._parts = parts
        self._read_limit_s = read_limit_s

    async def month(
        self, org: str, period: str, *, type: str | None = None, ours_only: bool = False, limit: int = 1_000
    ) -> ReconciliationView:
        """Gives a month account by account, with every difference named.

        Our half is read first: what the other side books meanwhile shows as booked there and not noted here yet, and
        never as missing there.

        Args:
            period: ``2026-03``.
            type: The integration, enabled or not; may be left out when only one can be compared.
            ours_only: Without asking the other side.
            limit: How many differences are listed; sums and counts are always whole.

        Raises:
            ConflictError: No integration can be compared, or more than one and none was named.
            NotReadyError: ``other_side_unreadable``: its books cannot be read now.
        """
        await self._parts.store.catalog.organization(org)
        _check_period(period)
        integration, adapter = await self._compared(org, type, must_read=not ours_only)
        as_of, reconciling = dt.datetime.now(dt.UTC), self._parts.store.reconciling
        ours = await reconciling.of_period(org, integration.id, period)
        waiting, keys = await self._waiting(integration, period)
        stuck = await reconciling.stuck(org, integration.id, period)
        books = None if ours_only else await self._read(integration, adapter, period)
        if books is not None:
            ours += await self._strangers(integration, ours, books)
        compared = await asyncio.to_thread(reconcile, period, ours, books, waiting, claims=keys, stuck=stuck)
        return ReconciliationView.of(
            compared, organization=org, type=integration.plugin, as_of=as_of, limit=limit,
            other_lines=None if books is None else books.others,
            without_voucher=await reconciling.without_voucher(org, integration.id),
        )  # fmt: skip

    async def _compared(self, org: str, type: str | None, *, must_read: bool) -> tuple[Integration, Adapter]:
        """Gives the integration whose books are meant; one that is not enabled can be read as well."""
        if type is not None:
            integration = await self._parts.integration(org, type)
            adapter = self._parts.registry.adapter(type)
            if must_read and "booked" not in adapter.manifest.capabilities:
                raise _unsupported(f"The books of {adapter.manifest.title} cannot be read.")
            return integration, adapter
        found: list[tuple[Integration, Adapter]] = []
        for integration in await self._parts.store.catalog.integrations(org):
            try:
                adapter = self._parts.registry.adapter(integration.plugin)
            except SambandError:
                continue  # not installed any more, or not loaded: there is nobody to ask
            wanted = {"export", "booked"} if must_read else {"export"}
            if wanted <= adapter.manifest.capabilities:
                found.append((integration, adapter))
        if len(found) > 1:
            names = ", ".join(sorted(integration.plugin for integration, _ in found))
            raise ConflictError(
                f"Several integrations can be compared: {names}.", code="exporter_ambiguous", hint="Name one as type."
            )
        if not found:
            raise _unsupported("No integration of the organisation has books that can be read.")
        return found[0]

    async def _waiting(self, integration: Integration, period: str) -> tuple[list[Waiting], dict[str, str]]:
        """Gives the claims that would be booked in the month, and of every claim the key it would go out under."""
        reconciling, found, keys = self._parts.store.reconciling, list[Waiting](), dict[str, str]()
        today = dt.date.fromisoformat(to_local(dt.datetime.now(dt.UTC), DEFAULT_ZONE)[:10])
        practice = await reconciling.practice(integration.id, today)
        async with aclosing(reconciling.waiting(integration)) as parts:
            async for part in parts:
                keys |= {claim.key: claim.id for claim in part}
                bodies = {claim.id: claim.body for claim in part}
                found += await asyncio.to_thread(lambda given: list(forthcoming(period, given, practice)), bodies)
        return found, keys

    async def _read(self, integration: Integration, adapter: Adapter, period: str) -> Books:
        """Reads the month and the ones around it, for what has been moved."""
        connection, books = await self._parts.connection(integration), Books()
        first, last = month(period, -1)[0], month(period, 1)[1]
        try:
            async with asyncio.timeout(self._read_limit_s), aclosing(adapter.booked(connection, first, last)) as lists:
                async for lines in lists:
                    books.add(lines)
        except TimeoutError:
            raise _unreadable(f"{adapter.manifest.title} did not give its books in time.") from None
        except (RetryableError, RemoteError) as error:
            retry_after_s = getattr(error, "retry_after_s", None)
            raise _unreadable(error.message, retry_after_s, error.remote_message) from error
        return books

    async def _strangers(self, integration: Integration, ours: Sequence[OurVoucher], books: Books) -> list[OurVoucher]:
        """Gives our items that the books have and the month does not: those of other months."""
        keys = sorted(books.lines.keys() - {voucher.key for voucher in ours})
        return await self._parts.store.reconciling.by_keys(integration.organization_id, integration.id, keys)


def _check_period(period: str) -> None:
    if PERIOD.fullmatch(period) is None:
        problem = FieldProblem(field="period", code="bad_period", message="Write a month as 2026-03.")
        raise InvalidError("The period is not a month.", problems=[problem])


def _unsupported(message: str) -> ConflictError:
    return ConflictError(
        message, code="reconciliation_unsupported", hint="Ask with ours_only=true for what samband itself knows."
    )


def _unreadable(message: str, retry_after_s: float | None = None, remote_message: str = "") -> NotReadyError:
    error = NotReadyError(
        f"The other side's books cannot be read now. {message}", code="other_side_unreadable",
        retry_after_s=_RETRY_AFTER_S if retry_after_s is None else max(1, min(3600, round(retry_after_s))),
        hint="Try again later, or ask with ours_only=true for what samband itself knows.",
    )  # fmt: skip
    error.remote_message = remote_message
    return error
