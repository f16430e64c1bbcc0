"""``samband export reconcile``: a month of exports held against the other side's books."""

from __future__ import annotations

import asyncio
import calendar
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Annotated, Any, Final

import typer

from samband.cli.client import HostClient, find_host, find_key
from samband.cli.options import DataDir, Json, Org, Url, data_dir_or_default
from samband.cli.output import ExitCode, show
from samband.client.client import organization_path
from samband.rules.discrepancies import NOTED, month, period_of

__all__ = ["reconcile"]

_PATIENCE_S: Final = 300.0
"""Reading three months of somebody's books takes longer than most requests."""

_WORDS: Final[Mapping[str, str]] = {
    "not_booked_there": "we have it as booked, they do not have it",
    "accepted_but_absent": "they took it, and do not have it now",
    "booked_twice": "booked more than once",
    "booked_unknown_to_us": "they have it under a key of ours that we do not know",
    "booked_unexpectedly": "they have it, though here it is refused, given back, or not sent yet",
    "superseded_still_there": "replaced by a new export, and still in their books",
    "correction_stuck": "its correction was agreed to, and what was booked has not been taken back",
    "reversal_refused": "refused, after the claim had gone out again; both bookings stand",
    "refused_there": "refused by their import, and lies there still",
    "failed_there": "they could not book it",
    "amount_differs": "another amount",
    "currency_differs": "another currency",
    "uncertain": "sent, and no answer is known",
    "account_differs": "on another account",
    "date_moved": "in another month",
    "posted_unnoted": "booked there, not noted here yet",
    "waiting_there": "waits there to be booked",
    "reversed": "taken back by a voucher of its own",
}
_STAGES: Final = ("approved", "sent", "accepted", "posted", "unknown")
_NAMES: Final[Mapping[str, str]] = {
    "posted": "booked", "accepted": "accepted and not booked yet", "sent": "sent without an answer yet",
    "unknown": "uncertain", "reserved": "not sent yet", "reversed": "taken back", "superseded": "replaced",
    "rejected": "refused", "released": "given back unsent",
}  # fmt: skip


def reconcile(
    org: Org,
    period: Annotated[
        str | None, typer.Option("--period", help="The month, for instance 2026-03; the last whole one when not given.")
    ] = None,
    type: Annotated[str | None, typer.Option("--type", help="The integration, where several can be compared.")] = None,
    ours_only: Annotated[bool, typer.Option("--ours-only", help="Without asking the other side.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=0, max=10_000, help="Differences listed at most.")] = 1_000,
    url: Url = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Compares a month of exports with the other side's books, and names every difference.

    Ends with 0 only when nothing is unexplained, nothing uncertain, and nothing asks for a person; with 1 otherwise.
    """
    wanted = period or period_of(month(period_of(dt.datetime.now().astimezone().date()), -1)[0])

    async def ask() -> Any:
        host, key = find_host(url, data_dir_or_default(data_dir)), find_key()
        async with HostClient(host, key, timeout_s=_PATIENCE_S) as client:
            return await client.get(
                f"{organization_path(org)}/exports/reconciliation", period=wanted, type=type, limit=limit,
                ours_only="true" if ours_only else None,
            )  # fmt: skip

    found = asyncio.run(ask())
    show(found, lambda: lines(found), as_json=json)
    if not found["clean"]:
        raise typer.Exit(ExitCode.FAILED)


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Gives a comparison in words: how it stands, then the accounts, then the differences."""
    yield _verdict(found)
    if not found["complete"]:
        yield "The other side was not asked: this is our half alone, and nothing is compared."
    yield f"As of {found['as_of']}, {found['organization']}/{found['type']}."
    if found["waiting"]:
        yield f"Approved and not sent: {_count(found['waiting'], 'claim')}."
    if found["without_voucher"]:
        yield f"Not compared, because they went out without a voucher: {_count(found['without_voucher'], 'item')}."
    if found["other_lines"]:
        yield f"Lines of others in the books, not looked at: {found['other_lines']}."
    yield from map(_account, found["accounts"])
    yield from _differences(found)
    yield from _unmapped(found)


def _verdict(found: Mapping[str, Any]) -> str:
    vouchers, when = found["vouchers"], _month(found["period"])
    alive = {state: n for state, n in vouchers.items() if state not in ("rejected", "released", "superseded")}
    total, booked = sum(alive.values()), alive.get("posted", 0)
    if not total:
        first = f"No voucher of ours belongs to {when}"
    elif booked == total:
        first = f"All {total} vouchers of {when} are booked" if total > 1 else f"The one voucher of {when} is booked"
    else:
        others = [f"{n} {_NAMES.get(state, state)}" for state, n in sorted(alive.items()) if state != "posted"]
        first = f"{booked} of {_count(total, 'voucher')} of {when} {_is(booked)} booked, {', '.join(others)}"
    return f"{first}{_rest(found)}."


def _rest(found: Mapping[str, Any]) -> str:
    if not found["complete"]:
        return ""
    asking = len({d["key"] for d in found["differences"] if d["asks_for_a_person"]})
    person = f"; {_count(asking, 'voucher')} {'asks' if asking == 1 else 'ask'} for a person" if asking else ""
    if found["unexplained"] == "0.00":
        return f"{person}; nothing is unexplained"
    return f"{person}; {found['unexplained']} is UNEXPLAINED, which is a fault in samband or in the plugin: report it"


def _account(account: Mapping[str, Any]) -> str:
    name = "No account, because the mapping has none" if account["account"] is None else f"Account {account['account']}"
    stages = [f"{stage} {account[stage]}" for stage in _STAGES if account[stage] != "0.00"]
    ours = f"{name}, {account['currency'] or 'currency not told'}: {', '.join(stages) or 'nothing of ours'}"
    if account["theirs"] is None:
        return f"{ours}."
    told = f"{ours}; theirs {account['theirs']}"
    if account["difference"] == "0.00":
        return f"{told}; no difference."
    parts = ", ".join(f"{code} {amount}" for code, amount in account["explained"].items())
    return f"{told}; difference {account['difference']} ({parts or 'not explained'}), unexplained {account['unexplained']}."


def _differences(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["differences_total"]:
        return
    yield f"Differences: {_count(found['differences_total'], 'line')}, worst first."
    for _, group in groupby(found["differences"], key=lambda one: (one["code"], one["key"])):
        yield from _difference(found["organization"], list(group))
    left = found["differences_total"] - len(found["differences"])
    if left:
        yield f"Not listed: {left} more; ask with a higher --limit."


def _difference(org: str, group: list[Mapping[str, Any]]) -> Iterator[str]:
    one = group[0]
    what = f"Claim {one['reimbursement']}, voucher {one['voucher']}" if one["voucher"] else f"Key {one['key']}"
    if one["reimbursement"] and not one["voucher"]:
        what += f", which claim {one['reimbursement']} would be sent under AGAIN"
    reversal = ", a reversal" if one["purpose"] == "reversal" else ""
    there = "not there" if one["there"] == "absent" else f"{one['there']} there"
    when = "".join(f", {word} {one[name]}" for word, name in (("dated", "date"), ("as", "reference")) if one[name])
    weight = "" if one["code"] in NOTED else "Look into this. "
    yield f"  {weight}{what}{reversal}: {_WORDS.get(one['code'], one['code'])} ({one['code']}); {there}{when}."
    if one["booked"] is not None:
        yield f"    Booked {one['booked']}, and the claim comes to {one['approved']} {one['currency']}."
        yield f"    {_way_out(org, one)}"
        return
    for line in group:
        yield f"    Line {line['line']}, account {line['account']}: {line['amount']} {line['currency'] or ''}".rstrip()


def _way_out(org: str, one: Mapping[str, Any]) -> str:
    if one["correction"] is None:
        return "Have the older booking taken back in the other system."
    if one["state"] == "accepted":
        return "Mend in the other system what its import refuses, or remove it there; it is noted by itself then."
    return f"Mend what was refused, then agree again: samband claims approve {org} {one['correction']}"


def _unmapped(found: Mapping[str, Any]) -> Iterable[str]:
    for claim in found["unmapped"]:
        why = claim["reason"] + (f", {claim['field']}" if claim["field"] else "")
        yield f"  Claim {claim['reimbursement']}, {claim['total']} {claim['currency']}: cannot be sent, {why}."
    left = found["unmapped_total"] - len(found["unmapped"])
    if left:
        yield f"Not listed: {left} more claims that cannot be sent."


def _month(period: str) -> str:
    year, number = period.split("-")
    return f"{calendar.month_name[int(number)]} {year}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"
