"""What a claim for expenses must be, and what becomes of one that is told again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final, Literal

import orjson
from pydantic import ValidationError

from samband.errors import FieldProblem
from samband.kinds import REIMBURSEMENT, field_problems

__all__ = [
    "CLAIM_ID",
    "MAX_AT_ONCE",
    "Outcome",
    "Present",
    "digest_of",
    "id_problems",
    "judge",
    "line_sum",
    "read_claim",
    "with_approval_day",
]

CLAIM_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
MAX_AT_ONCE: Final = 1_000
"""Claims that one request tells at most."""

PARTS: Final = ("toll", "parking", "transport", "other")
"""Fields of a line that are parts of its amount, besides kilometres times rate."""

_ORE: Final = Decimal("0.01")
_MONEY: Final = ("amount", "rate", *PARTS)
_MEASURES: Final = ("kilometres", "quantity")

Outcome = Literal["created", "updated", "unchanged", "proposed"]
Refusal = Literal["revision_mismatch", "already_exported", "correction_under_way"]


# ── what it must be ──────────────────────────────────────────────────────────


def id_problems(id: object, field: str = "id") -> list[FieldProblem]:
    """Says what is wrong with a claim's id; nothing for one that is well."""
    if isinstance(id, str) and CLAIM_ID.fullmatch(id):
        return []
    text = "Use 1 to 100 letters, digits, dots, colons, hyphens and underscores; begin with a letter or digit."
    return [FieldProblem(field=field, code="bad_id", message=text)]


def read_claim(values: Any) -> tuple[dict[str, Any], list[FieldProblem]]:
    """Gives a claim in the one form it is kept in, and what is wrong with it; with problems the form is empty.

    Amounts are text with two decimals, days ISO text, and what is null or has no dimension in it is left out, so that two
    spellings of the same claim are the same claim.
    """
    try:
        valid = REIMBURSEMENT.validator.validate_python(values)
    except ValidationError as error:
        return {}, field_problems(error)
    body = _without_nulls(REIMBURSEMENT.validator.dump_python(valid, mode="json"))
    for place in (body, *body["lines"]):
        if not place.get("dimensions", True):
            del place["dimensions"]
    problems = [
        FieldProblem(field=name, code="nul", message="Leave out the character NUL.") for name in sorted(_with_nul(body))
    ]
    for position, line in enumerate(body["lines"]):
        line |= {name: f"{Decimal(line[name]):.2f}" for name in _MONEY if name in line}
        line |= {name: f"{Decimal(line[name]).normalize():f}" for name in _MEASURES if name in line}
        problems += _line_problems(line, body["currency"], f"lines.{position}")
    return ({}, problems) if problems else (body, [])


def line_sum(line: Mapping[str, Any]) -> Decimal | None:
    """Gives what a line's kilometres, rate and parts come to; None for a line that has none of them.

    Kilometres times rate are rounded to the øre, a half up, before they are added: that is the amount on the voucher.
    """
    given = [Decimal(line[name]) for name in PARTS if name in line]
    if "kilometres" in line and "rate" in line:
        given.append((Decimal(line["kilometres"]) * Decimal(line["rate"])).quantize(_ORE, ROUND_HALF_UP))
    return sum(given, Decimal("0.00")) if given else None


def _line_problems(line: Mapping[str, Any], currency: str, at: str) -> Iterator[FieldProblem]:
    amount = Decimal(line["amount"])
    if amount == 0:
        yield FieldProblem(field=f"{at}.amount", code="zero", message="An amount is above 0.00.")
    if line.get("currency", currency) != currency:
        text = f"A line is in the claim's currency, {currency}; put what is in another one into a claim of its own."
        yield FieldProblem(field=f"{at}.currency", code="currency_differs", message=text)
    if "kilometres" in line and "rate" not in line:
        text = "Give the rate per kilometre that was applied, or leave the kilometres out."
        yield FieldProblem(field=f"{at}.rate", code="missing", message=text)
        return
    expected = line_sum(line)
    if expected is not None and expected != amount:
        text = f"The amount must be what its parts come to: {_reckoning(line)} = {expected:.2f}."
        yield FieldProblem(field=f"{at}.amount", code="sum_differs", message=text)


def _reckoning(line: Mapping[str, Any]) -> str:
    # Only names: what was sent is never repeated, but the sum that is expected has to be.
    names = ["kilometres × rate"] if "kilometres" in line and "rate" in line else []
    return " + ".join([*names, *(name for name in PARTS if name in line)])


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


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


# ── what becomes of one that is told again ───────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """A claim as it is held when it is told again.

    Attributes:
        item_state: Of its booking that is not over; None when there is none.
        correction_state: ``proposed`` or ``approved`` when a correction is open.
        correction_digest: Of what that correction says.
    """

    version: int
    digest: str
    body: Mapping[str, Any]
    item_state: str | None = None
    correction_state: str | None = None
    correction_digest: str | None = None


def with_approval_day(body: Mapping[str, Any], present: Mapping[str, Any] | None, today: str) -> dict[str, Any]:
    """Gives an approved claim the day of its approval when nobody told it: the first day it was told as approved.

    The day is kept with the claim, so that telling the same again on another day is telling the same.

    Args:
        present: What is held of the claim now.
        today: ISO text, as people have it on their calendar.
    """
    if body["status"] != "approved" or "approved_on" in body:
        return dict(body)
    if present is not None and present["status"] == "approved":
        # One that was stored before there was such a day has none, and keeps none.
        return {**body, **{name: day for name, day in present.items() if name == "approved_on"}}
    return {**body, "approved_on": today}


def digest_of(body: Mapping[str, Any]) -> str:
    """Gives the SHA-256 of a claim in the form that `read_claim` gives it."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def judge(present: Present | None, digest: str, if_version: int | None = None) -> Outcome | Refusal:
    """Says what becomes of a claim that is told: what is in the books is never changed silently.

    ``proposed`` means that a correction is to be proposed, or that one which says the same is open already.
    """
    if if_version is not None and (present is None or present.version != if_version):
        return "revision_mismatch"
    if present is None:
        return "created"
    if present.digest == digest:
        return "unchanged"
    if present.correction_state == "approved":
        return "correction_under_way"
    if present.item_state is None:
        return "updated"
    return "proposed" if present.item_state in ("accepted", "posted") else "already_exported"
