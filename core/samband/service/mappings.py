"""Mappings: how an integration's claims become vouchers, version by version."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

from samband.charts import ChartReader, today
from samband.errors import FieldProblem, InvalidError, NotFoundError, SambandError
from samband.outgoing import Chart, ChartPeriod, Voucher, VoucherLine
from samband.rules.chartcheck import MappingFinding, chart_of, check_mapping, periods_of, texts_of, unchecked
from samband.rules.mapping import MappingBody, gaps, parse_mapping
from samband.rules.mappingdiff import differences
from samband.rules.posting import Unpostable, voucher_of
from samband.service.charts import read_now, trouble_view
from samband.service.parts import Parts
from samband.store.models import ChartCopy, Integration
from samband.store.models import Mapping as MappingRow
from samband.views import FeedPage
from samband.views.mappings import (
    MappingCheckView,
    MappingDifferenceView,
    MappingDiffView,
    MappingFindingView,
    MappingGapView,
    MappingPreviewView,
    MappingVersionView,
    MappingView,
    PreviewLineView,
    PreviewProblemView,
    PreviewView,
    PreviewVoucherView,
)

__all__ = ["MAX_PREVIEWED", "Mappings"]

MAX_PREVIEWED: Final = 5
"""Claims that a preview shows at most."""
_NO_KEY: Final = "0" * 32


class Mappings:
    """What an organisation's accounts are."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.store.mappings
        self._charts = ChartReader(store=parts.store, registry=parts.registry)

    # ── versions ─────────────────────────────────────────────────────────────

    async def get(self, org: str, type: str) -> MappingView:
        """Gives the newest version, whether or not it is in force yet; `NotFoundError` before the first."""
        integration = await self._parts.integration(org, type)
        return await self._view(integration, await self._newest(integration))

    async def version(self, org: str, type: str, version: int) -> MappingView:
        """Gives one version."""
        integration = await self._parts.integration(org, type)
        return await self._view(integration, await self._store.one(integration.id, version))

    async def versions(self, org: str, type: str, *, after: str | None = None, limit: int = 100) -> FeedPage:
        """Gives versions, newest first.

        Args:
            after: The ``next`` of the part before.
        """
        integration = await self._parts.integration(org, type)
        before = None if after is None else _position(after)
        rows = await self._store.versions(integration.id, before=before, limit=limit + 1)
        active = await self._store.active(integration.id, today())
        items = [MappingVersionView(**_told(row, active and active[0])) for row in rows[:limit]]
        return FeedPage(items=items, next=str(rows[limit - 1].version) if len(rows) > limit else None)

    async def put(
        self, org: str, type: str, mapping: Mapping[str, Any] | MappingBody, *, effective_from: dt.date | None = None,
        note: str = "", strict: bool = False, if_version: int | None = None,
    ) -> MappingView:  # fmt: skip
        """Saves a mapping as the next version. The same mapping again is no new one.

        What the other side would refuse, as far as its accounts are known, is a warning in the answer.

        Args:
            mapping: See `samband.rules.mapping.MappingBody`.
            effective_from: The first day it is in force; None for at once.
            note: Why, for people.
            strict: Do not save a mapping that the other side would refuse.
            if_version: Only if this is still the newest version.

        Raises:
            InvalidError: Names every field that is malformed or lacking.
            ConflictError: Somebody has saved another version meanwhile.
        """
        integration = await self._parts.integration(org, type)
        body = parse_mapping(mapping)
        return await self._save(integration, body, effective_from, note, if_version, strict=strict)

    async def restore(
        self, org: str, type: str, version: int, *, effective_from: dt.date | None = None, note: str = "",
        if_version: int | None = None,
    ) -> MappingView:  # fmt: skip
        """Saves an earlier version once more, as the newest one."""
        integration = await self._parts.integration(org, type)
        row = await self._store.one(integration.id, version)
        body = parse_mapping(row.body)
        return await self._save(integration, body, effective_from, note, if_version, restored_from=version)

    async def diff(
        self, org: str, type: str, *, before: int | None = None, after: int | None = None
    ) -> MappingDiffView:
        """Tells what differs between two versions; without a say between the newest and the one before it."""
        integration = await self._parts.integration(org, type)
        newest = await self._newest(integration)
        last = newest.version if after is None else after
        first = max(1, last - 1) if before is None else before
        rows = [await self._store.one(integration.id, version) for version in (first, last)]
        found = differences(*(MappingBody.model_validate(row.body) for row in rows))
        told = [MappingDifferenceView(field=d.field, before=d.before, after=d.after, words=d.words) for d in found]
        return MappingDiffView(before=first, after=last, differences=told)

    async def _save(
        self, integration: Integration, body: MappingBody, effective_from: dt.date | None, note: str,
        if_version: int | None, *, strict: bool = False, restored_from: int | None = None,
    ) -> MappingView:  # fmt: skip
        day = today()
        copy = await self._parts.store.charts.get(integration.id)
        chart = None if copy is None else chart_of(copy.body)
        found = [] if chart is None else check_mapping(body, chart, day)
        if strict:
            _refuse(found)
        # At once means at once in every zone: nowhere is it earlier in the day than in UTC where this is used.
        begins = min(day, dt.datetime.now(dt.UTC).date()) if effective_from is None else effective_from
        saved = await self._store.put(
            integration, body, effective_from=begins, today=day, note=note, if_version=if_version,
            restored_from=restored_from,
        )  # fmt: skip
        if saved.is_new:
            await self._charts.judge(integration)
        planned = await self._store.planned(integration.id, before=saved.row.version, after=max(day, begins))
        warnings = [*map(_finding_view, found), *(_overtaken(saved.row.version, *plan) for plan in planned)]
        return await self._view(integration, saved.row, warnings=warnings)

    # ── what it comes to ─────────────────────────────────────────────────────

    async def preview(
        self, org: str, type: str, *, mapping: Mapping[str, Any] | MappingBody | None = None,
        ids: Sequence[str] | None = None,
    ) -> MappingPreviewView:  # fmt: skip
        """Shows what claims come to. Nothing is saved or sent.

        Args:
            mapping: A draft; None for the one in force.
            ids: Up to five claims; None for the approved ones that were told last.
        """
        integration = await self._parts.integration(org, type)
        if ids is not None and not 1 <= len(ids) <= MAX_PREVIEWED:
            text = f"Name 1 to {MAX_PREVIEWED} claims, or none at all for the newest."
            problem = FieldProblem(field="ids", code="out_of_range", message=text)
            raise InvalidError("The preview cannot be made.", problems=[problem])
        version, body = await self._shown(integration, mapping)
        claims = dict(await self._store.samples(org, ids=ids, limit=MAX_PREVIEWED))
        copy = await self._parts.store.charts.get(integration.id)
        kept = {} if copy is None else copy.body
        lacking = gaps(body, claims)
        items = [
            _preview(claim_id, claims.get(claim_id), body, version, kept) for claim_id in dict.fromkeys(ids or claims)
        ]
        return MappingPreviewView(
            version=version, items=items,
            gaps=[MappingGapView(kind=g.kind, name=g.name, claims=list(g.claims), message=g.message) for g in lacking],
        )  # fmt: skip

    async def _shown(
        self, integration: Integration, draft: Mapping[str, Any] | MappingBody | None
    ) -> tuple[int | None, MappingBody]:
        if draft is not None:
            return None, parse_mapping(draft)
        active = await self._store.active(integration.id, today())
        if active is None:
            raise _no_mapping()
        return active

    # ── whether it holds ─────────────────────────────────────────────────────

    async def check(self, org: str, type: str, *, refresh: bool = False) -> MappingCheckView:
        """Tells what of the mapping does not hold at the other side, by the copy of its accounts.

        Of the version in force; of the newest one while none is. Trouble at the other side is an answer, not an error.

        Args:
            refresh: Read the accounts now.

        Raises:
            NotFoundError: There is no mapping, or (with ``refresh``) the plugin cannot read accounts.
        """
        integration = await self._parts.integration(org, type)
        active = await self._store.active(integration.id, today())
        if active is None:
            newest = await self._newest(integration)
            active = newest.version, MappingBody.model_validate(newest.body)
        trouble: SambandError | None = None
        if refresh:
            trouble = await read_now(self._parts, self._charts, integration)
        copy = await self._parts.store.charts.get(integration.id)
        return _check_view(integration, *active, copy, trouble)

    # ── what is shown ────────────────────────────────────────────────────────

    async def _newest(self, integration: Integration) -> MappingRow:
        row = await self._store.newest(integration.id)
        if row is None:
            raise _no_mapping()
        return row

    async def _view(
        self, integration: Integration, row: MappingRow, *, warnings: Sequence[MappingFindingView] = ()
    ) -> MappingView:
        active = await self._store.active(integration.id, today())
        newest = await self._newest(integration)
        return MappingView(
            **_told(row, active and active[0]), organization=integration.organization_id, type=integration.plugin,
            mapping=MappingBody.model_validate(row.body).model_dump(mode="json"),
            active_version=active and active[0], is_newest=row.version == newest.version, warnings=list(warnings),
        )  # fmt: skip


def _told(row: MappingRow, active: int | None) -> dict[str, Any]:
    return {
        "version": row.version, "effective_from": row.effective_from, "is_active": row.version == active,
        "author": row.author, "note": row.note, "restored_from": row.restored_from, "digest": row.digest,
        "created_at": row.created_at,
    }  # fmt: skip


def _refuse(found: Sequence[MappingFinding]) -> None:
    problems = [
        FieldProblem(field=f"mapping.{finding.field}", code=finding.code, message=finding.message)
        for finding in found
        if not finding.code.startswith("period_")  # which is no fault of the mapping
    ]
    if problems:
        raise InvalidError(
            "The other system would refuse this mapping, so it was not saved.", problems=problems,
            hint="Mend what is named, or save it without strict.",
        )  # fmt: skip


def _overtaken(newest: int, version: int, day: dt.date) -> MappingFindingView:
    text = f"Version {version} was to come into force on {day}; version {newest} is newer, so it never will. Save it again."
    return MappingFindingView(code="plan_overtaken", field="effective_from", message=text)


def _preview(
    claim_id: str, claim: Mapping[str, Any] | None, body: MappingBody, version: int | None, kept: Mapping[str, Any]
) -> PreviewView:
    if claim is None:
        text = "There is no such reimbursement."
        problem = PreviewProblemView(code="reimbursement_not_found", field="ids", message=text)
        return PreviewView(claim=claim_id, problem=problem)
    lacking = gaps(body, {claim_id: claim})
    if lacking:
        told = PreviewProblemView(code="mapping_gap", field="lines", message=lacking[0].message)
        return PreviewView(claim=claim_id, problem=told)
    periods: Sequence[ChartPeriod] | None = periods_of(kept)
    try:
        voucher = voucher_of(
            claim, claim_id=claim_id, key=_NO_KEY, number=1, mapping=body, mapping_version=version or 0, today=today(),
            periods=periods,
        )  # fmt: skip
    except Unpostable as error:
        problem = PreviewProblemView(code=error.code, field=error.field, message=error.message)
        return PreviewView(claim=claim_id, problem=problem)
    return PreviewView(claim=claim_id, voucher=_voucher_view(voucher, texts_of(kept)))


def _voucher_view(voucher: Voucher, names: Mapping[str, str]) -> PreviewVoucherView:
    debit = sum(line.amount for line in voucher.lines if line.amount > 0)
    credit = -sum(line.amount for line in voucher.lines if line.amount < 0)
    return PreviewVoucherView(
        type=voucher.type, date=voucher.date, currency=voucher.currency, text=voucher.text,
        lines=[_line_view(line, names) for line in voucher.lines], debit=f"{debit:.2f}", credit=f"{credit:.2f}",
    )  # fmt: skip


def _line_view(line: VoucherLine, names: Mapping[str, str]) -> PreviewLineView:
    payee = line.payee
    owed = None if payee is None else f"{payee.strategy} {payee.code or ''}".rstrip()
    return PreviewLineView(
        n=line.n, account=line.account, account_name=names.get(line.account) or None, text=line.text,
        debit=f"{line.amount:.2f}" if line.amount > 0 else None,
        credit=f"{-line.amount:.2f}" if line.amount < 0 else None, dimensions=dict(line.dimensions),
        tax_rule=line.tax_rule, payee=owed, kilometres=None if line.quantity is None else f"{line.quantity:f}",
    )  # fmt: skip


def _check_view(
    integration: Integration, version: int, body: MappingBody, copy: ChartCopy | None, error: SambandError | None
) -> MappingCheckView:
    chart: Chart | None = None if copy is None else chart_of(copy.body)
    found = [] if chart is None else check_mapping(body, chart, today())
    trouble = trouble_view({} if copy is None else copy.findings, error)
    return MappingCheckView(
        organization=integration.organization_id, type=integration.plugin, version=version,
        ok=chart is not None and not found and trouble is None, findings=[_finding_view(f) for f in found],
        unchecked=[] if chart is None else unchecked(body, chart),
        read_at=None if copy is None or chart is None else copy.read_at,
        trouble=trouble,
    )  # fmt: skip


def _finding_view(finding: MappingFinding) -> MappingFindingView:
    return MappingFindingView(
        code=finding.code, field=finding.field, message=finding.message, suggestion=finding.suggestion
    )


def _position(after: str) -> int:
    if after.isdecimal() and len(after) < 10:
        return int(after)
    problem = FieldProblem(field="after", code="bad_position", message="Use the next of the part before.")
    raise InvalidError("The position is not one of this listing.", problems=[problem])


def _no_mapping() -> NotFoundError:
    return NotFoundError(
        "The integration has no mapping yet.", code="mapping_not_found",
        hint="Save one: 'samband mapping put', or PUT it here.",
    )  # fmt: skip
