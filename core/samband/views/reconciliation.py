"""A month of the export ledger held against the other side's books. Ids, keys and sums; no names and no texts."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Literal

from pydantic import Field

from samband.rules.discrepancies import NOTED, Code, Explanation, Place, There
from samband.rules.reconciling import Account, Comparison, Waiting
from samband.views.shapes import View

__all__ = ["AccountView", "BookDifferenceView", "ReconciliationView", "UnmappedClaimView"]


class AccountView(View):
    """One account and currency. Amounts are text with two decimals, debit above zero; each of ours is in one stage."""

    account: str | None = Field(description="Null for approved claims that cannot be mapped.")
    currency: str | None
    approved: str = Field(description="Approved, and not sent yet.")
    sent: str = Field(description="Sent, no answer yet.")
    accepted: str = Field(description="Taken by the other side, not booked yet as far as we know.")
    posted: str = Field(description="Booked, as far as we know.")
    unknown: str = Field(description="Sent, and nobody knows whether it arrived.")
    theirs: str | None = Field(default=None, description="Booked there under keys of our form; null when not read.")
    difference: str | None = Field(default=None, description="theirs − posted.")
    explained: dict[str, str] = Field(default={}, description="Code → its part of the difference.")
    unexplained: str | None = Field(
        default=None, description="difference − everything explained; 0.00 when all is named."
    )

    @classmethod
    def of(cls, place: Place, sums: Account, *, is_read: bool) -> AccountView:
        account, currency = place
        return cls(
            account=account, currency=currency, approved=money(sums.approved), sent=money(sums.sent),
            accepted=money(sums.accepted), posted=money(sums.posted), unknown=money(sums.unknown),
            theirs=money(sums.theirs) if is_read else None, difference=money(sums.difference) if is_read else None,
            explained={code: money(amount) for code, amount in sums.explained.items() if amount},
            unexplained=money(sums.unexplained) if is_read else None,
        )  # fmt: skip


class BookDifferenceView(View):
    """One difference of one voucher line, or of a whole voucher."""

    code: Code
    asks_for_a_person: bool = Field(description="False for what passes by itself, or was an accountant's deed.")
    key: str = Field(description="The item's key.")
    line: int | None = Field(description="Null for what is about the whole voucher.")
    account: str | None = Field(description="Null for what is about the whole voucher.")
    currency: str | None
    amount: str = Field(description="Its part of the account's difference; 0.00 when it has none (yet).")
    there: There = Field(description="How the other side has it.")
    reimbursement: str | None = Field(
        default=None,
        description="The claim. Of an item that we do not have, the approved claim that would be sent under its key.",
    )
    voucher: int | None = Field(default=None, description="The voucher's number.")
    purpose: Literal["booking", "reversal"] | None = None
    state: str | None = Field(default=None, description="Of our item; null when we have none.")
    date: dt.date | None = Field(default=None, description="The day it is booked on there.")
    reference: str | None = Field(default=None, description="The other side's own number of it.")
    correction: str | None = Field(default=None, description="The correction that waits to be agreed to again.")
    booked: str | None = Field(default=None, description="What the booking comes to that should have been taken back.")
    approved: str | None = Field(default=None, description="What the claim of that booking comes to now.")

    @classmethod
    def of(cls, found: Explanation) -> BookDifferenceView:
        return cls(
            code=found.code, asks_for_a_person=found.code not in NOTED, key=found.key, line=found.n or None,
            account=found.account, currency=found.currency, amount=money(found.amount), there=found.there,
            reimbursement=found.claim, voucher=found.number, purpose=found.purpose, state=found.state,
            date=found.date, reference=found.reference, correction=found.correction,
            booked=None if found.booked is None else money(found.booked),
            approved=None if found.approved is None else money(found.approved),
        )  # fmt: skip


class UnmappedClaimView(View):
    """An approved claim that cannot be turned into a voucher."""

    reimbursement: str
    total: str
    currency: str
    reason: str = Field(description="A code, for instance mapping_missing or mapping_gap.")
    field: str | None = Field(default=None, description="Of the claim, or what the mapping lacks.")

    @classmethod
    def of(cls, claim: Waiting) -> UnmappedClaimView:
        return cls(
            reimbursement=claim.claim, total=money(claim.total), currency=claim.currency, reason=claim.reason or "",
            field=claim.field,
        )  # fmt: skip


class ReconciliationView(View):
    """One month, account by account, with every difference that was found."""

    organization: str
    type: str
    period: str
    as_of: dt.datetime = Field(description="When we began to look.")
    complete: bool = Field(description="Whether the other side was read whole; false for our half alone.")
    clean: bool | None = Field(
        description="Nothing unexplained, nothing uncertain, nothing that asks for a person; null when not complete."
    )
    vouchers: dict[str, int] = Field(description="State → how many of the month's items are in it.")
    waiting: int = Field(description="Approved claims of the month that have not been taken.")
    uncertain: int = Field(description="Items of the month that were sent and of which no answer is known.")
    without_voucher: int = Field(description="Items of any month that went out as claims and cannot be compared.")
    accounts: list[AccountView]
    unexplained: str | None = Field(
        default=None, description="Over all accounts, without regard to sign; null when not complete."
    )
    other_lines: int | None = Field(default=None, description="Lines there that carry no key of our form.")
    differences_total: int = Field(description="How many there are; the list may be shorter.")
    differences: list[BookDifferenceView] = Field(description="Worst first.")
    unmapped_total: int
    unmapped: list[UnmappedClaimView]

    @classmethod
    def of(
        cls, compared: Comparison, *, organization: str, type: str, as_of: dt.datetime, limit: int,
        other_lines: int | None, without_voucher: int,
    ) -> ReconciliationView:  # fmt: skip
        """Gives a comparison as it is shown; ``other_lines`` is None when the other side was not read."""
        is_read = other_lines is not None
        return cls(
            organization=organization, type=type, period=compared.period, as_of=as_of, complete=is_read,
            clean=compared.is_clean if is_read else None, vouchers=dict(sorted(compared.vouchers.items())),
            waiting=compared.waiting, uncertain=compared.uncertain, without_voucher=without_voucher,
            accounts=[AccountView.of(place, sums, is_read=is_read) for place, sums in _in_order(compared)],
            unexplained=money(compared.unexplained) if is_read else None, other_lines=other_lines,
            differences_total=len(compared.differences),
            differences=[BookDifferenceView.of(found) for found in compared.differences[:limit]],
            unmapped_total=len(compared.unmapped),
            unmapped=[UnmappedClaimView.of(claim) for claim in compared.unmapped[:limit]],
        )  # fmt: skip


def money(amount: Decimal) -> str:
    """Gives an amount as text; a zero has no sign."""
    return f"{amount + 0:.2f}"


def _in_order(compared: Comparison) -> list[tuple[Place, Account]]:
    """Gives the accounts by number, and last what stands under none."""
    return sorted(compared.accounts.items(), key=lambda one: (one[0][0] is None, one[0][0] or "", one[0][1] or ""))
