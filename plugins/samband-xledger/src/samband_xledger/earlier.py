"""A look before writing: whether Xledger has lines of the same claim already, under another key.

The import job takes up again what it once refused, as soon as somebody opens the period or mends the line. A claim whose first
voucher was refused and which is sent anew, as another voucher, would then be booked twice. So every line names its claim in
``yourReference``, which staged and posted lines both show, and a claim that is still in Xledger's books or on its way into them
is not sent again.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from samband import Context, RejectedError, Voucher
from samband_xledger.graphql import Xledger
from samband_xledger.lines import complaints, look_up
from samband_xledger.postings import claim_mark, read_line, to_text
from samband_xledger.refusals import InputRefusedError, Row

_FIELDS: Final = "dbId extIdentifier yourReference invoiceNumber amount invoiceAmount text account { code }"
_AT_ONCE: Final = 500
_LOOK: Final = f"""
query ($claims: [String!]!, $first: Int!) {{
  staged: glImportItems(first: $first, filter: {{yourReference_in: $claims}}) {{
    edges {{ node {{ trRegNumber {_FIELDS} }} }} pageInfo {{ hasNextPage }}
  }}
  posted: journalEntries(first: $first, filter: {{yourReference_in: $claims}}) {{
    edges {{ node {{ transactionNumber {_FIELDS} }} }} pageInfo {{ hasNextPage }}
  }}
}}"""
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_KEY: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What must not be sent now.

    Attributes:
        refused: Voucher's key → why: another voucher of the claim is there.
        there: Keys of vouchers that are there themselves, because a send that nobody had an answer to arrived after all.
    """

    refused: Mapping[str, RejectedError]
    there: Collection[str]


async def find_earlier(ctx: Context, wire: Xledger, vouchers: Sequence[Voucher]) -> Earlier:
    """Looks for the vouchers' claims.

    What was booked and taken back again does not count. A voucher that takes another one back is refused when nothing is left
    that it could take back.

    Raises:
        RetryableError: It cannot be told; nothing has been sent.
    """
    found: dict[str, RejectedError] = {}
    there: set[str] = set()
    for start in range(0, len(vouchers), _AT_ONCE):
        part = vouchers[start : start + _AT_ONCE]
        try:
            claims = {"claims": [claim_mark(v.claim) for v in part]}
            # A tenant's first voucher goes into empty books; that it is the first is the host's own ledger's knowledge.
            rows = await look_up(wire, _LOOK, claims, ["staged", "posted"], may_be_new=True)
        except InputRefusedError as err:
            ctx.log.warning("not_looked_before_writing", reason=err.remote_message)
            return Earlier(refused=found, there=there)
        refused = await complaints(wire, [to_text(row.get("dbId")) or "" for row in rows["staged"]])
        by_claim = _by_claim(rows["staged"], rows["posted"])
        for voucher in part:
            lines = by_claim.get(claim_mark(voucher.claim), ())
            problem = _problem(voucher, lines, refused)
            if any(_is_of(row, voucher) for row in lines):
                there.add(voucher.key)
            elif problem is not None:
                found[voucher.key] = problem
    return Earlier(refused=found, there=there)


def _by_claim(staged: Iterable[Row], posted: Sequence[Row]) -> Mapping[str, list[Row]]:
    keys = {to_text(row.get("extIdentifier")) for row in posted} - {None}
    found: dict[str, list[Row]] = defaultdict(list)
    # A line that the job has just moved, or that is kept after it was posted, is one line.
    for row in (*(row for row in staged if to_text(row.get("extIdentifier")) not in keys), *posted):
        found[to_text(row.get("yourReference")) or ""].append(row)
    return found


def _problem(voucher: Voucher, rows: Sequence[Row], refused: Mapping[str, Sequence[Row]]) -> RejectedError | None:
    others = [row for row in rows if not _is_of(row, voucher)]
    if not any(_is_ours(row) for row in others):
        return None  # somebody else's reference happens to read like the claim
    numbers = ", ".join(
        sorted({n for row in others if (n := to_text(row.get("invoiceNumber"))) and _NUMBER.fullmatch(n)})
    )
    if any((to_text(row.get("dbId")) or "") in refused for row in others):
        return RejectedError(
            f"Lines of an earlier voucher of this claim ({numbers or 'without a number'}) lie in Xledger's import list with"
            " errors, and are booked as soon as these are mended.",
            code="earlier_lines_left",
            hint="Remove them there, or mend them and leave this claim alone.",
        )
    sums: dict[str | None, Decimal] = defaultdict(Decimal)
    is_readable = True
    for row in others:
        account = row.get("account")
        # In the voucher's own currency: that in the books' may be missing, and a reversal may have had another rate.
        amount = read_line(row).amount
        is_readable = is_readable and amount is not None
        sums[to_text(account.get("code")) if isinstance(account, Mapping) else None] += amount or Decimal()
    is_balanced = is_readable and not any(sums.values())
    if voucher.reverses is not None:
        return _nothing_left(numbers) if is_balanced else None
    if is_balanced:
        return None
    return RejectedError(
        f"Xledger has another voucher of this claim ({numbers or 'without a number'}), and nothing that takes it back.",
        code="booked_already",
        hint="Take it back first, with a voucher that names the claim in the same place.",
    )


def _nothing_left(numbers: str) -> RejectedError:
    return RejectedError(
        f"What this takes back has been taken back already, or is about to be ({numbers or 'without a number'}).",
        code="reversed_already",
        hint="Look at the claim's vouchers in Xledger; when one of them takes the booking back, resolve this item as booked"
        " under its number.",
    )


def _is_ours(row: Row) -> bool:
    place = read_line(row).place
    return place is not None and _KEY.fullmatch(place[0]) is not None


def _is_of(row: Row, voucher: Voucher) -> bool:
    place = read_line(row).place
    return place is not None and place[0] == voucher.key
