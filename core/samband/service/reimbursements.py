"""Claims in: told one by one or many at once, kept in every version, and corrected only when a person agrees."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from samband.errors import ConflictError, FieldProblem, InvalidError
from samband.rules.claims import MAX_AT_ONCE, id_problems, read_claim
from samband.rules.schedule import DEFAULT_ZONE, to_local
from samband.service.parts import Parts
from samband.service.timeline import timeline_of
from samband.store.models import Correction, Reimbursement, ReimbursementVersion
from samband.store.reimbursements import Told
from samband.views import FeedPage
from samband.views.reimbursements import (
    ClaimProblemView,
    CorrectionView,
    FieldChangeView,
    ReimbursementView,
    TellingView,
    TimelineView,
    ToldView,
    VersionView,
)

MAX_REASON = 1_000
_TIMELINE_VERSIONS = 200
_TIMELINE_ITEMS = 200
_PROBLEMS_PER_CLAIM = 20


class Reimbursements:
    """Claims, their versions, corrections and timelines."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def put(
        self, org: str, id: str, values: Mapping[str, Any], *, if_version: int | None = None
    ) -> tuple[ReimbursementView, str]:
        """Adds a claim or replaces it; telling the same again changes nothing.

        Gives the claim as it is now, and what became of the telling: ``created``, ``updated``, ``unchanged``, or
        ``proposed`` when it is in the books already: then it is as before, and its ``correction`` waits for a person.

        Raises:
            InvalidError: Names every field at fault.
            ConflictError: It is on its way (`already_exported`), a correction of it is being carried out
                (`correction_under_way`), or it was changed since ``if_version`` (`revision_mismatch`).
        """
        await self._parts.store.catalog.organization(org)
        if problems := id_problems(id):
            raise InvalidError("The reimbursement's id is not valid.", problems=problems)
        body, problems = read_claim(values)
        if problems:
            raise InvalidError("The reimbursement is not valid.", problems=problems)
        told = await self._parts.store.reimbursements.put(org, id, body, today=_today(), if_version=if_version)
        return _claim_view(told.row, told.correction), told.outcome

    async def put_many(self, org: str, claims: Sequence[Any]) -> TellingView:
        """Tells up to 1,000 claims at once, each a mapping with its ``id``; gives what became of each, in their order.

        Those that are well are stored, in one transaction, whatever the others are.

        Raises:
            InvalidError: There are none, or too many.
        """
        await self._parts.store.catalog.organization(org)
        if not 1 <= len(claims) <= MAX_AT_ONCE:
            problem = FieldProblem(field="items", code="bad_size", message=f"Tell 1 to {MAX_AT_ONCE} claims at a time.")
            raise InvalidError("The reimbursements cannot be taken in.", problems=[problem])
        bodies, refused = _read_many(claims)
        told: Mapping[str, Told | ConflictError] = {}
        if bodies:
            told = await self._parts.store.reimbursements.put_many(org, bodies, today=_today())
        items = [
            refused[n] if n in refused else _told_view(n, claim["id"], told[claim["id"]])
            for n, claim in enumerate(claims)
        ]
        counts = Counter(item.outcome for item in items)
        return TellingView(
            created=counts["created"], updated=counts["updated"], unchanged=counts["unchanged"],
            proposed=counts["proposed"], refused=counts["refused"], items=items,
        )  # fmt: skip

    async def get(self, org: str, id: str) -> ReimbursementView:
        """Gives one claim, or raises `NotFoundError`."""
        await self._parts.store.catalog.organization(org)
        return _claim_view(*await self._parts.store.reimbursements.get(org, id))

    async def page(
        self, org: str, *, status: str | None = None, after: str | None = None, limit: int = 100
    ) -> FeedPage:
        """Gives claims in the order of their ids."""
        await self._parts.store.catalog.organization(org)
        rows = await self._parts.store.reimbursements.page(org, status=status, after=after, limit=limit + 1)
        items = [_claim_view(*row) for row in rows[:limit]]
        return FeedPage(items=items, next=items[-1].id if len(rows) > limit else None)

    async def versions(self, org: str, id: str, *, after: int | None = None, limit: int = 100) -> FeedPage:
        """Gives a claim as it was told each time, newest first."""
        await self.get(org, id)
        rows = await self._parts.store.reimbursements.versions(org, id, after=after, limit=limit + 1)
        items = [_version_view(row) for row in rows[:limit]]
        return FeedPage(items=items, next=str(items[-1].version) if len(rows) > limit else None)

    async def timeline(self, org: str, id: str) -> TimelineView:
        """Tells where the money of a claim is, and everything that led there."""
        await self._parts.store.catalog.organization(org)
        store = self._parts.store
        claim, _ = await store.reimbursements.get(org, id)
        versions = await store.reimbursements.versions(org, id, after=None, limit=_TIMELINE_VERSIONS)
        items = await store.ledger.items(
            org, state=None, reimbursement_id=id, run_id=None, after=None, limit=_TIMELINE_ITEMS
        )
        corrections = await store.corrections.page(org, reimbursement_id=id)
        return timeline_of(claim, versions, items, corrections)

    # ── corrections ──────────────────────────────────────────────────────────

    async def corrections(
        self, org: str, *, state: str | None = None, reimbursement: str | None = None, after: str | None = None,
        limit: int = 100,
    ) -> FeedPage:  # fmt: skip
        """Gives changes to claims that are in the books, oldest first."""
        await self._parts.store.catalog.organization(org)
        rows = await self._parts.store.corrections.page(
            org, state=state, reimbursement_id=reimbursement, after=after, limit=limit + 1
        )
        items = await self._correction_views(org, rows[:limit])
        return FeedPage(items=items, next=items[-1].id if len(rows) > limit else None)

    async def correction(self, org: str, id: str) -> CorrectionView:
        """Gives one correction, or raises `NotFoundError`."""
        await self._parts.store.catalog.organization(org)
        return await self._correction_view(org, await self._parts.store.corrections.get(org, id))

    async def approve_correction(self, org: str, id: str, *, reason: str = "") -> CorrectionView:
        """Agrees to a change: the claim takes it, and a reversal of the booking is reserved, to go out once that is booked.

        Raises:
            ConflictError: It is over (`correction_over`), its reversal is on its way (`correction_under_way`), or the claim
                has been sent again and it is not known yet where that stands (`already_exported`).
        """
        await self._parts.store.catalog.organization(org)
        text = _checked_reason(reason, is_required=False)
        return await self._correction_view(org, await self._parts.store.corrections.approve(org, id, reason=text))

    async def dismiss_correction(self, org: str, id: str, *, reason: str) -> CorrectionView:
        """Closes a proposed change; the claim and its booking stay as they are.

        Raises:
            InvalidError: No reason was given.
            ConflictError: It is decided already.
        """
        await self._parts.store.catalog.organization(org)
        text = _checked_reason(reason, is_required=True)
        return await self._correction_view(org, await self._parts.store.corrections.dismiss(org, id, reason=text))

    async def _correction_view(self, org: str, row: Correction) -> CorrectionView:
        return (await self._correction_views(org, [row]))[0]

    async def _correction_views(self, org: str, rows: Sequence[Correction]) -> list[CorrectionView]:
        open_ids = [row.reimbursement_id for row in rows if row.state == "proposed"]
        present = await self._parts.store.corrections.bodies(org, open_ids) if open_ids else {}
        return [_correction_view(row, present.get(row.reimbursement_id)) for row in rows]


def _today() -> str:
    """Gives the day it is for the people whose claims these are."""
    return to_local(dt.datetime.now(dt.UTC), DEFAULT_ZONE)[:10]


def _read_many(claims: Sequence[Any]) -> tuple[dict[str, dict[str, Any]], dict[int, ToldView]]:
    """Gives the claims that are well by their ids, and by its place what is wrong with each of the others."""
    ids = Counter(claim["id"] for claim in claims if isinstance(claim, Mapping) and isinstance(claim.get("id"), str))
    bodies: dict[str, dict[str, Any]] = {}
    refused: dict[int, ToldView] = {}
    for n, claim in enumerate(claims):
        body, problems = _read_one(claim, ids)
        if problems:
            code = problems[0].code if problems[0].code == "twice" else "invalid_request"
            refused[n] = _refused(n, claim, code, problems)
        else:
            bodies[claim["id"]] = body
    return bodies, refused


def _read_one(claim: Any, ids: Mapping[str, int]) -> tuple[dict[str, Any], list[FieldProblem]]:
    if not isinstance(claim, Mapping):
        return {}, [FieldProblem(field="", code="dict_type", message="A claim is an object with its id.")]
    if problems := id_problems(claim.get("id")):
        return {}, problems
    if ids[claim["id"]] > 1:
        text = "The id is in this request more than once; tell each claim once, as it is to be."
        return {}, [FieldProblem(field="id", code="twice", message=text)]
    return read_claim({name: value for name, value in claim.items() if name != "id"})


def _refused(n: int, claim: Any, code: str, problems: Sequence[FieldProblem]) -> ToldView:
    id = claim.get("id") if isinstance(claim, Mapping) else None
    return ToldView(
        n=n, id=None if id_problems(id) else id, outcome="refused", code=code,
        problems=[
            ClaimProblemView(field=f"items.{n}.{p.field}".rstrip("."), code=p.code, message=p.message)
            for p in problems[:_PROBLEMS_PER_CLAIM]
        ],
    )  # fmt: skip


def _told_view(n: int, id: str, told: Told | ConflictError) -> ToldView:
    if isinstance(told, ConflictError):
        problem = ClaimProblemView(field=f"items.{n}", code=told.code, message=f"{told.message} {told.hint}")
        return ToldView(n=n, id=id, outcome="refused", code=told.code, problems=[problem])
    return ToldView(n=n, id=id, outcome=told.outcome, version=told.row.version, correction=told.correction)


def _checked_reason(reason: str, *, is_required: bool) -> str:
    text = reason.strip()
    problem = None
    if is_required and not text:
        problem = FieldProblem(field="reason", code="missing", message="Say why, for whoever asks later.")
    elif len(text) > MAX_REASON or "\x00" in text:
        message = f"Write at most {MAX_REASON} characters, without NUL."
        problem = FieldProblem(field="reason", code="bad_text", message=message)
    if problem is not None:
        raise InvalidError("The decision is not valid.", problems=[problem])
    return text


# ── views ────────────────────────────────────────────────────────────────────


def total_of(body: Mapping[str, Any]) -> str:
    """Gives the sum of a claim's lines."""
    return f"{sum((Decimal(line['amount']) for line in body['lines']), Decimal(0)):.2f}"


def _claim_view(row: Reimbursement, correction: str | None) -> ReimbursementView:
    return ReimbursementView(
        id=row.id, organization=row.organization_id, version=row.version, status=row.status, total=total_of(row.body),
        currency=row.body["currency"], values=row.body, correction=correction, created_at=row.created_at,
        updated_at=row.updated_at,
    )  # fmt: skip


def _version_view(row: ReimbursementVersion) -> VersionView:
    return VersionView(
        version=row.version, status=row.status, total=total_of(row.body), currency=row.body["currency"],
        values=row.body, actor=row.actor, created_at=row.created_at,
    )  # fmt: skip


def _correction_view(row: Correction, present: Mapping[str, Any] | None) -> CorrectionView:
    changed = [] if present is None else _differing(present, row.body)
    return CorrectionView(
        id=row.id, organization=row.organization_id, reimbursement=row.reimbursement_id, state=row.state,
        item=row.item_key, reversal=row.reversal_key, total=total_of(row.body), currency=row.body["currency"],
        total_before=None if present is None else total_of(present),
        currency_before=None if present is None else present["currency"], values=row.body, changed=changed,
        changes=[] if present is None else _changes(present, row.body), reason=row.reason,
        proposed_by=row.proposed_by, decided_by=row.decided_by,
        created_at=row.created_at, decided_at=row.decided_at,
    )  # fmt: skip


def _differing(before: Any, after: Any, at: str = "") -> list[str]:
    """Gives the paths at which two claims differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = dict.fromkeys([*before, *after])
        return [path for name in names for path in _differing(before.get(name), after.get(name), f"{at}.{name}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            path for n, pair in enumerate(zip(before, after, strict=True)) for path in _differing(*pair, f"{at}.{n}")
        ]
    return [] if before == after else [at.lstrip(".")]


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[FieldChangeView]:
    """Gives every single value in which two claims differ; one that a claim does not have is None there."""
    old, new = dict(_values(before)), dict(_values(after))
    differing = [path for path in dict.fromkeys([*old, *new]) if old.get(path) != new.get(path)]
    return [FieldChangeView(field=path, before=old.get(path), after=new.get(path)) for path in differing]


def _values(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the single values of a claim with their paths."""
    if not isinstance(value, Mapping | list) or not value:
        yield at.lstrip("."), value
        return
    for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _values(inner, f"{at}.{name}")
