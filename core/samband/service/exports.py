"""Exports: claims in, and each approved one sent to the books exactly once, or known to be uncertain."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import orjson
from pydantic import ValidationError

from samband.adapters.adapter import Adapter
from samband.errors import ConflictError, FieldProblem, InvalidError, SambandError
from samband.kinds import REIMBURSEMENT, field_problems
from samband.presenting import export_item_view, reimbursement_view
from samband.service.parts import Parts
from samband.store.models import Integration
from samband.views import FeedPage
from samband.views.exports import ExportView, ReimbursementView, SkippedView

CLAIM_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
MAX_IDS = 10_000


class Exports:
    """Claims, orders to send them, and what became of each."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def put_reimbursement(
        self, org: str, id: str, values: Mapping[str, Any], *, if_version: int | None = None
    ) -> tuple[ReimbursementView, bool]:
        """Adds a claim or replaces it; telling the same again changes nothing. Gives it, and whether it is new.

        Raises:
            InvalidError: Names every field at fault.
            ConflictError: It has been exported, or was changed since ``if_version``.
        """
        await self._parts.store.catalog.organization(org)
        _check_id(id)
        body = _clean(values)
        digest = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
        told = await self._parts.store.reimbursements.put(
            org, id, status=body["status"], body=body, digest=digest, if_version=if_version
        )
        return reimbursement_view(told.row), told.is_new

    async def reimbursement(self, org: str, id: str) -> ReimbursementView:
        await self._parts.store.catalog.organization(org)
        return reimbursement_view(await self._parts.store.reimbursements.get(org, id))

    async def reimbursements(
        self, org: str, *, status: str | None = None, after: str | None = None, limit: int = 100
    ) -> FeedPage:
        """Gives claims in the order of their ids."""
        await self._parts.store.catalog.organization(org)
        rows = await self._parts.store.reimbursements.page(org, status=status, after=after, limit=limit + 1)
        items = [reimbursement_view(row) for row in rows[:limit]]
        return FeedPage(items=items, next=items[-1].id if len(rows) > limit else None)

    async def order(
        self, org: str, ids: Sequence[str] | None = None, *, type: str | None = None, requested_by: str = "",
        reason: str = "api",
    ) -> ExportView:  # fmt: skip
        """Reserves claims and orders the run that sends them.

        Args:
            ids: Which; None for every approved claim that has not gone out.
            type: Where to; may be left out when one integration takes reimbursements.

        Raises:
            ConflictError: Nothing is connected that takes reimbursements, or more than one is and none was named.
            AlreadyRunningError: An export of that integration is still alive.
        """
        await self._parts.store.catalog.organization(org)
        asked = None if ids is None else _checked_ids(ids)
        integration, adapter, stream = await self._exporter(org, type)
        connection = await self._parts.connection(integration)
        run, choice = await self._parts.store.ledger.reserve(
            integration, claim_ids=asked, stream=stream, plugin_version=adapter.version,
            account=adapter.account(connection.settings), reason=reason, requested_by=requested_by,
        )  # fmt: skip
        if run is not None:
            await self._parts.bell.ring(run.id)
        return ExportView(
            type=integration.plugin, run=None if run is None else await self._parts.run_view(run),
            reserved=[claim.id for claim in choice.taken],
            skipped=[SkippedView(id=id, reason=why) for id, why in choice.skipped],
        )  # fmt: skip

    async def items(
        self, org: str, *, state: str | None = None, reimbursement: str | None = None, run: str | None = None,
        after: str | None = None, limit: int = 100,
    ) -> FeedPage:  # fmt: skip
        """Gives the export ledger's items in the order of their keys."""
        await self._parts.store.catalog.organization(org)
        rows = await self._parts.store.ledger.items(
            org, state=state, reimbursement_id=reimbursement, run_id=run, after=after, limit=limit + 1
        )
        items = [export_item_view(row) for row in rows[:limit]]
        return FeedPage(items=items, next=items[-1].key if len(rows) > limit else None)

    async def _exporter(self, org: str, type: str | None) -> tuple[Integration, Adapter, str]:
        found: list[tuple[Integration, Adapter, str]] = []
        for integration in await self._parts.store.catalog.integrations(org):
            try:
                adapter = self._parts.registry.adapter(integration.plugin)
                stream = _stream_of(adapter, integration)
            except SambandError:
                continue  # not installed any more, or not loaded: it cannot be where claims go
            if stream is not None and type in (None, integration.plugin):
                found.append((integration, adapter, stream))
        enabled = [each for each in found if each[0].state == "enabled"]
        if len(enabled) == 1:
            return enabled[0]
        if enabled:
            names = ", ".join(sorted(integration.plugin for integration, _, _ in enabled))
            raise ConflictError(
                f"Several integrations take reimbursements: {names}.", code="exporter_ambiguous",
                hint="Name one as type.",
            )  # fmt: skip
        raise ConflictError(
            "No enabled integration of the organisation takes reimbursements.",
            code="nothing_connected",
            hint=self._what_to_connect([integration.plugin for integration, _, _ in found]),
        )

    def _what_to_connect(self, saved: Sequence[str]) -> str:
        if saved:
            return f"Test and enable {', '.join(saved)}."
        able = [
            view.name for view in self._parts.registry.views() if {"export", "find_exported"} <= {*view.capabilities}
        ]
        if able:
            return f"Connect one of: {', '.join(able)}."
        return "None of the installed plugins takes them; install one that does, such as an accounting system's."


def _stream_of(adapter: Adapter, integration: Integration) -> str | None:
    """Gives the stream that claims go to; None for a plugin that cannot find what it sent, which could send it twice."""
    if not {"export", "find_exported"} <= adapter.manifest.capabilities:
        return None
    settings = adapter.parse_settings(integration.settings)
    for stream in adapter.manifest.streams:
        if stream.kind == "reimbursement" and stream.direction != "pull" and stream.enabled(settings):
            return stream.name
    return None


def _clean(values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        valid = REIMBURSEMENT.validator.validate_python(values)
    except ValidationError as error:
        raise InvalidError("The reimbursement is not valid.", problems=field_problems(error)) from None
    plain: dict[str, Any] = REIMBURSEMENT.validator.dump_python(valid, mode="json")
    if wrong := sorted(_with_nul(plain)):
        problems = [FieldProblem(field=name, code="nul", message="Leave out the character NUL.") for name in wrong]
        raise InvalidError("The reimbursement is not valid.", problems=problems)
    for position, line in enumerate(plain["lines"]):
        line["amount"] = f"{Decimal(line['amount']):.2f}"
        if Decimal(line["amount"]) == 0:
            problem = FieldProblem(field=f"lines.{position}.amount", code="zero", message="An amount is above 0.00.")
            raise InvalidError("The reimbursement is not valid.", problems=[problem])
    return plain


def _with_nul(value: Any, at: str = "") -> Iterator[str]:
    """Gives the fields that hold NUL, which PostgreSQL cannot store."""
    if isinstance(value, str):
        if "\x00" in value:
            yield at
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _with_nul(inner, f"{at}.{name}".lstrip("."))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _with_nul(inner, f"{at}.{position}")


def _check_id(id: str) -> None:
    if not CLAIM_ID.fullmatch(id):
        problem = FieldProblem(
            field="id", code="bad_id", message="Use 1 to 100 letters, digits, dots, colons, hyphens and underscores."
        )
        raise InvalidError("The reimbursement's id is not valid.", problems=[problem])


def _checked_ids(ids: Sequence[str]) -> list[str]:
    wrong = [position for position, id in enumerate(ids) if not CLAIM_ID.fullmatch(id)]
    problems = [
        FieldProblem(field=f"ids.{position}", code="bad_id", message="This is no reimbursement's id.")
        for position in wrong[:20]
    ]
    if len(ids) > MAX_IDS:
        problems.append(FieldProblem(field="ids", code="too_many", message=f"Name at most {MAX_IDS} at a time."))
    if problems:
        raise InvalidError("The export cannot be ordered.", problems=problems)
    return list(dict.fromkeys(ids))
