"""How claims become vouchers, as people see it: versions, what differs, what a claim would come to, what no longer holds."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from pydantic import Field

from samband.views.shapes import View

__all__ = [
    "ChartEntryView",
    "ChartPartView",
    "ChartReadingView",
    "ChartTroubleView",
    "MappingCheckView",
    "MappingDiffView",
    "MappingDifferenceView",
    "MappingFindingView",
    "MappingGapView",
    "MappingPreviewView",
    "MappingVersionView",
    "MappingView",
    "PreviewLineView",
    "PreviewProblemView",
    "PreviewView",
    "PreviewVoucherView",
]


class MappingFindingView(View):
    """One thing about a mapping that a person should look at."""

    code: str
    field: str = Field(description="Dotted path in the mapping.")
    message: str
    suggestion: str | None = Field(default=None, description="The code that was perhaps meant.")


class MappingVersionView(View):
    """A version of a mapping, without the mapping itself."""

    version: int
    effective_from: dt.date = Field(description="The first day it is in force.")
    is_active: bool = Field(description="Whether it is the one in force today.")
    author: str
    note: str
    restored_from: int | None = Field(default=None, description="The version that it repeats.")
    digest: str = Field(description="SHA-256; two versions that mean the same have the same.")
    created_at: dt.datetime


class MappingView(MappingVersionView):
    """A version of how an integration's claims become vouchers."""

    organization: str
    type: str
    mapping: dict[str, Any]
    active_version: int | None = Field(default=None, description="The version in force today; null when none is yet.")
    is_newest: bool
    warnings: list[MappingFindingView] = Field(default=[], description="After saving: what to look at. It is saved.")


class MappingDifferenceView(View):
    """One field that differs."""

    field: str
    before: Any = None
    after: Any = None
    words: str = Field(description="The same as a sentence.")


class MappingDiffView(View):
    """What differs between two versions; nothing when they mean the same."""

    before: int
    after: int
    differences: list[MappingDifferenceView]


class MappingGapView(View):
    """Something that the mapping has to say before these claims can go out."""

    kind: Literal["expense_type", "lookup", "rate"]
    name: str
    claims: list[str]
    message: str


class PreviewLineView(View):
    """A posting. Either debit or credit is set, as text with two decimals."""

    n: int
    account: str
    account_name: str | None = Field(default=None, description="As the other system calls it, when that is known.")
    text: str
    debit: str | None = None
    credit: str | None = None
    dimensions: dict[str, str] = Field(default={})
    tax_rule: str | None = None
    payee: str | None = Field(default=None, description="On lines that owe somebody something: subledger and number.")
    kilometres: str | None = None


class PreviewVoucherView(View):
    """A voucher as the accountant will see it. Its number is only given when it is exported."""

    type: str
    date: dt.date
    currency: str
    text: str
    lines: list[PreviewLineView]
    debit: str
    credit: str


class PreviewProblemView(View):
    """Why a claim would not go out."""

    code: str
    field: str
    message: str


class PreviewView(View):
    """What one claim comes to: a voucher, or the reason why there is none."""

    claim: str
    voucher: PreviewVoucherView | None = None
    problem: PreviewProblemView | None = None


class MappingPreviewView(View):
    """What some claims come to. Nothing is saved or sent."""

    version: int | None = Field(default=None, description="Of the mapping; null for the draft that was sent.")
    items: list[PreviewView]
    gaps: list[MappingGapView] = Field(default=[], description="What the mapping lacks for these claims.")


class ChartTroubleView(View):
    """Why the other side's accounts could not be read."""

    code: str
    message: str
    failures: int = Field(description="How many readings have failed one after the other.")
    since: dt.datetime


class ChartEntryView(View):
    """Something that a mapping may refer to at the other side, or a period of its books."""

    kind: Literal["account", "tax_rule", "dimension", "period"]
    dimension: str | None = Field(
        default=None, description="Of a dimension's value: the dimension's name in a mapping."
    )
    code: str | None = Field(default=None, description="What a mapping says; null for a period.")
    name: str = ""
    is_open: bool = Field(description="Whether anything may still be booked on it.")
    first: dt.date | None = Field(default=None, description="Of a period: its first day.")
    last: dt.date | None = Field(default=None, description="Of a period: its last day, included.")


class ChartPartView(View):
    """A part of the copy that is kept of the other side's accounts, tax rules, dimensions and periods."""

    organization: str
    type: str
    read_at: dt.datetime = Field(description="When the copy was made.")
    trouble: ChartTroubleView | None = Field(default=None, description="Why a later reading failed, if one did.")
    unlisted: list[str] = Field(default=[], description="Lists that the other side does not tell.")
    items: list[ChartEntryView]
    next: str | None = Field(default=None, description="The after= of the following part; null at the end.")


class ChartReadingView(View):
    """What a reading has brought: how much there is of each kind, or why there is nothing new."""

    organization: str
    type: str
    read_at: dt.datetime | None = Field(default=None, description="When the copy there is now was made; null if never.")
    accounts: int | None = None
    tax_rules: int | None = Field(default=None, description="Null when the other side does not list them.")
    dimensions: dict[str, int] = Field(default={}, description="A dimension's name in a mapping → its values.")
    periods: int | None = Field(default=None, description="Null when the other side does not list them.")
    trouble: ChartTroubleView | None = Field(default=None, description="Why the reading failed; null when it did not.")


class MappingCheckView(View):
    """What of the mapping does not hold at the other side."""

    organization: str
    type: str
    version: int
    ok: bool = Field(description="Whether the accounts were read and nothing was found.")
    findings: list[MappingFindingView]
    unchecked: list[str] = Field(default=[], description="What the other side does not list, so that nobody can tell.")
    read_at: dt.datetime | None = Field(default=None, description="When its accounts were read; null if never.")
    trouble: ChartTroubleView | None = Field(default=None, description="Why the last reading failed, if it did.")
