"""Exports: each approved claim sent to the books exactly once, or known to be uncertain."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, Literal

from samband.charts import today
from samband.errors import ConflictError, FieldProblem, InvalidError
from samband.outgoing import Voucher
from samband.presenting import batch_view, export_item_view
from samband.rules.claims import CLAIM_ID
from samband.rules.selecting import Choice, Claim, Scope, Skipped, check_scope, total_of, totals
from samband.service.exporters import Exporter, exporter
from samband.service.parts import Parts
from samband.store.ledger import Order, Plan
from samband.views import FeedPage
from samband.views.exports import (
    BatchView,
    ExportItemView,
    ExportPreviewView,
    ExportView,
    OverlapView,
    RefusalView,
    RepeatView,
    SkippedView,
    VoucherSumView,
)

MAX_IDS: Final = 10_000
MAX_EXCLUDED: Final = 100
MIN_REASON: Final = 5
MAX_REASON: Final = 400

_SHOWN_VOUCHERS: Final = 500
_SHOWN_CLAIMS: Final = 20
_KEY: Final = re.compile(r"[0-9A-Za-z_-]{1,40}")


class Exports:
    """Orders to send claims, and what became of each."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # ── ordering ─────────────────────────────────────────────────────────────

    async def order(
        self, org: str, ids: Sequence[str] | None = None, *, type: str | None = None, first: dt.date | None = None,
        last: dt.date | None = None, exclude: Mapping[str, str] | None = None, route: str | None = None,
        requested_by: str = "", reason: str = "api",
    ) -> ExportView:  # fmt: skip
        """Reserves claims and orders the run that sends them.

        Args:
            ids: Which; None for every approved claim that has not gone out.
            type: Where to; may be left out when one integration takes reimbursements.
            first: Without ids: only claims that were approved on this day or later.
            last: Without ids: only claims that were approved on this day or earlier.
            exclude: Claim → why it is left out.
            route: ``file`` or ``download``, for claims that are to go that way; None leaves it to the plugin.

        Raises:
            InvalidError: The order contradicts itself; names the fields.
            ConflictError: Nothing is connected that takes reimbursements (`nothing_connected`), or more than one is and
                none was named (`exporter_ambiguous`); there is no mapping (`mapping_missing`), or it lacks something
                (`mapping_gap`); or none of the claims in scope can be booked (`nothing_postable`).
            AlreadyRunningError: An export of that integration is still alive.
        """
        await self._parts.store.catalog.organization(org)
        scope = _scope(ids, first, last, exclude)
        target = await exporter(self._parts, org, type)
        order = await self._order(target, scope, route, reason, requested_by)
        run, plan = await self._parts.store.ledger.reserve(target.integration, order)
        if run is not None:
            await self._parts.bell.ring(run.id)
        return ExportView(
            type=target.integration.plugin, run=None if run is None else await self._parts.run_view(run),
            reserved=[claim.id for claim in plan.choice.taken], skipped=_skipped(plan.choice),
            totals=_totals(plan.choice), mapping_version=plan.mapping_version,
            overlaps=await self._overlaps(target, scope, plan.choice, None if run is None else run.id),
        )  # fmt: skip

    async def preview(
        self, org: str, ids: Sequence[str] | None = None, *, type: str | None = None, first: dt.date | None = None,
        last: dt.date | None = None, exclude: Mapping[str, str] | None = None, route: str | None = None,
    ) -> ExportPreviewView:  # fmt: skip
        """Gives what an order would come to now, or the refusal it would get; writes nothing. Arguments as of `order`."""
        await self._parts.store.catalog.organization(org)
        scope = _scope(ids, first, last, exclude)
        target = await exporter(self._parts, org, type)
        order = await self._order(target, scope, route, "preview", "")
        plan = await self._parts.store.ledger.preview(target.integration, order)
        return ExportPreviewView(
            type=target.integration.plugin, count=len(plan.choice.taken),
            claims=[claim.id for claim in plan.choice.taken], skipped=_skipped(plan.choice),
            totals=_totals(plan.choice), mapping_version=plan.mapping_version, vouchers=_vouchers(plan),
            overlaps=await self._overlaps(target, scope, plan.choice, None),
            refused_before=await self._refused_before(org, plan.choice),
        )  # fmt: skip

    async def again(
        self, org: str, id: str, *, reason: str, type: str | None = None, requested_by: str = ""
    ) -> RepeatView:
        """Exports a claim once more under a new key and number; nobody asks what became of its former item.

        For a booking that is gone, or that a person knows never to have arrived. Whether the books then have it twice is
        that person's word.

        Raises:
            InvalidError: The reason is missing or too short.
            NotFoundError: There is no such claim.
            ConflictError: It has no export (`not_exported`) or is on its way (`still_sending`), is not approved as it is
                now (`not_approved`), is being reversed (`correction_under_way`), or lies at the other side, which cannot
                book it as it is (`lies_there_still`); and as `order`.
        """
        await self._parts.store.catalog.organization(org)
        _check_reason(reason)
        await self._parts.store.reimbursements.get(org, id)
        target = await exporter(self._parts, org, type)
        order = await self._order(target, Scope(ids=[id]), None, "again", requested_by)
        try:
            run, plan = await self._parts.store.ledger.again(target.integration, order, id, reason=reason)
        except ConflictError as error:
            if error.code == "lies_there_still":
                await self._parts.store.ledger.ask_about_claim(org, id)
            raise
        await self._parts.bell.ring(run.id)
        return RepeatView(reimbursement=id, item=plan.keys[id], run=await self._parts.run_view(run))

    # ── what became of it ────────────────────────────────────────────────────

    async def resolve(
        self, org: str, key: str, *, outcome: Literal["booked", "not_booked"], reason: str, reference: str | None = None
    ) -> ExportItemView:
        """Settles an item whose fate nobody knows by a person's word.

        One that was accepted, or rejected, can be settled as booked under a reference: somebody has seen it in the books.

        Args:
            outcome: With ``booked`` it is accepted, and posted when a reference is given; with ``not_booked`` the claim is
                free to be exported again.
            reason: How the person knows; kept for ever in the audit trail.
            reference: The number it is booked under.

        Raises:
            InvalidError: The reason is missing or too short, or there is a reference to what is not booked.
            NotFoundError: There is no such item.
            ConflictError: It is known what became of it (`not_uncertain`), it is being sent (`still_sending`), or its claim
                has gone out again since (`already_exported`).
        """
        await self._parts.store.catalog.organization(org)
        _check_reason(reason)
        if outcome == "not_booked" and reference is not None:
            text = "Leave the reference out: what is not booked has none."
            problem = FieldProblem(field="reference", code="unexpected", message=text)
            raise InvalidError("The item cannot be resolved like this.", problems=[problem])
        row = await self._parts.store.ledger.resolve(
            org, key if _KEY.fullmatch(key) else "", outcome=outcome, reference=reference, reason=reason
        )
        return export_item_view(row, (await self._parts.store.catalog.integration_by_id(row.integration_id)).plugin)

    async def items(
        self, org: str, *, state: str | None = None, reimbursement: str | None = None, run: str | None = None,
        after: str | None = None, limit: int = 100,
    ) -> FeedPage:  # fmt: skip
        """Gives the export ledger's items in the order of their keys."""
        await self._parts.store.catalog.organization(org)
        rows = await self._parts.store.ledger.items(
            org, state=state, reimbursement_id=reimbursement, run_id=run, after=after, limit=limit + 1
        )
        types = {each.id: each.plugin for each in await self._parts.store.catalog.integrations(org)}
        items = [export_item_view(row, types[row.integration_id]) for row in rows[:limit]]
        return FeedPage(items=items, next=items[-1].key if len(rows) > limit else None)

    async def batches(
        self, org: str, *, type: str | None = None, after: str | None = None, limit: int = 20
    ) -> FeedPage:
        """Gives what went out together, newest first."""
        await self._parts.store.catalog.organization(org)
        integration = None if type is None else await self._parts.store.catalog.integration(org, type)
        found = await self._parts.store.ledger.batches(
            org, integration_id=None if integration is None else integration.id, before=after, limit=limit + 1,
            claims=_SHOWN_CLAIMS,
        )  # fmt: skip
        items = [batch_view(batch) for batch in found[:limit]]
        return FeedPage(items=items, next=items[-1].run if len(found) > limit else None)

    async def batch(self, org: str, run: str) -> BatchView:
        """Gives one batch with all its claims, or raises `NotFoundError`."""
        await self._parts.store.catalog.organization(org)
        return batch_view(await self._parts.store.ledger.batch(org, run))

    # ── parts ────────────────────────────────────────────────────────────────

    async def _order(self, target: Exporter, scope: Scope, route: str | None, reason: str, requested_by: str) -> Order:
        target.check_route(route)
        connection = await self._parts.connection(target.integration)
        return Order(
            scope=scope, stream=target.stream.name, posts=target.posts, plugin_version=target.adapter.version,
            account=target.adapter.account(connection.settings), reason=reason, requested_by=requested_by,
            today=today(), route=route,
        )  # fmt: skip

    async def _overlaps(self, target: Exporter, scope: Scope, choice: Choice, run_id: str | None) -> list[OverlapView]:
        """Gives earlier batches over the same days; the days that were asked for, or else those of the claims."""
        days = [claim.day for claim in choice.taken]
        if not days:
            return []
        first = scope.first.isoformat() if scope.first else min(days)
        last = scope.last.isoformat() if scope.last else max(days)
        found = await self._parts.store.ledger.overlaps(target.integration.id, first, last, not_run=run_id)
        return [OverlapView(run=each.run_id, days=list(each.days), claims=each.claims) for each in found]

    async def _refused_before(self, org: str, choice: Choice) -> list[RefusalView]:
        """Gives what was said of claims whose last export was refused, so that nobody sends the same again unseen."""
        now = {claim.id: claim.version for claim in choice.taken}
        found = await self._parts.store.ledger.refusals(org, list(now))
        return [
            RefusalView(
                claim=item.reimbursement_id, key=item.key, number=item.number, version=item.version,
                is_changed=item.version != now[item.reimbursement_id], code=item.code, field=item.field,
                message=item.message,
            )
            for item in found
        ]  # fmt: skip


def _scope(
    ids: Sequence[str] | None, first: dt.date | None, last: dt.date | None, exclude: Mapping[str, str] | None
) -> Scope:
    scope = Scope(
        ids=None if ids is None else _checked_ids(ids),
        first=first,
        last=last,
        exclude=_checked_exclusions(exclude or {}),
    )
    check_scope(scope)
    return scope


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


def _checked_exclusions(exclude: Mapping[str, str]) -> dict[str, str]:
    problems: list[FieldProblem] = []
    if len(exclude) > MAX_EXCLUDED:
        text = f"Leave out at most {MAX_EXCLUDED}; name the ids that go out instead."
        problems.append(FieldProblem(field="exclude", code="too_many", message=text))
    for position, (id, reason) in enumerate(list(exclude.items())[:MAX_EXCLUDED]):
        if not CLAIM_ID.fullmatch(id):
            text = "This is no reimbursement's id."
            problems.append(FieldProblem(field=f"exclude.{position}.id", code="bad_id", message=text))
        problems += _reason_problems(reason, f"exclude.{position}.reason")
    if problems:
        raise InvalidError("The export cannot be ordered.", problems=problems[:20])
    return dict(exclude)


def _check_reason(reason: str) -> None:
    if problems := _reason_problems(reason, "reason"):
        raise InvalidError("This needs a reason.", problems=problems)


def _reason_problems(reason: str, field: str) -> list[FieldProblem]:
    if MIN_REASON <= len(reason.strip()) and len(reason) <= MAX_REASON and "\x00" not in reason:
        return []
    text = f"Say why, in {MIN_REASON} to {MAX_REASON} characters; name no person, it is kept for ever."
    return [FieldProblem(field=field, code="reason_needed", message=text)]


def _skipped(choice: Choice) -> list[SkippedView]:
    return [_skipped_view(skipped) for skipped in choice.skipped]


def _skipped_view(skipped: Skipped) -> SkippedView:
    return SkippedView(
        id=skipped.id, reason=skipped.reason, code=skipped.code, field=skipped.field, message=skipped.message
    )


def _totals(choice: Choice) -> dict[str, str]:
    def amount(claim: Claim) -> tuple[str, Decimal]:
        return str(claim.body["currency"]), total_of(claim.body)

    return totals(amount(claim) for claim in choice.taken)


def _vouchers(plan: Plan) -> list[VoucherSumView]:
    taken = [plan.vouchers[claim.id] for claim in plan.choice.taken[:_SHOWN_VOUCHERS] if claim.id in plan.vouchers]
    return [_voucher_sum(voucher) for voucher in taken]


def _voucher_sum(voucher: Voucher) -> VoucherSumView:
    debit = sum((line.amount for line in voucher.lines if line.amount > 0), Decimal(0))
    return VoucherSumView(
        claim=voucher.claim, number=voucher.number, date=voucher.date.isoformat(), period=voucher.date.strftime("%Y-%m"),
        currency=voucher.currency, amount=f"{debit:.2f}", lines=len(voucher.lines),
    )  # fmt: skip
