"""Vouchers out over GraphQL: parcels of whole vouchers, each sent once, and a receipt for every voucher.

Whether a mutation that they refuse has stored a part of it is not documented. So before anything of a refused parcel is sent
again, all of it is looked up; what is found there is never sent again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from samband import (
    AdapterError,
    Batch,
    Context,
    Item,
    OutcomeUnknownError,
    Receipt,
    RejectedError,
    Sought,
    UnavailableError,
    Voucher,
)
from samband_xledger import tracing
from samband_xledger.earlier import find_earlier
from samband_xledger.graphql import Xledger
from samband_xledger.postings import Node, Parcel, nodes_of, packed, split_key, to_text, voucher_of
from samband_xledger.refusals import InputRefusedError, Refusal, field_of

_ADD: Final = """
mutation ($inputs: [AddGLImportItemsInput!]!) {
  addGLImportItems(inputs: $inputs) { edges { clientId node { dbId } } }
}"""
_MOST_REFERENCE: Final = 380
_IN_INPUTS: Final = re.compile(r"\binputs\[([0-9]+)\]")
_QUOTED: Final = re.compile(r"'([^']{1,200})'")


async def send(ctx: Context, batch: Batch) -> AsyncGenerator[Receipt, None]:
    """Sends a batch, and yields a receipt for each voucher that was sent or must not be.

    Raises:
        RetryableError: What has no receipt yet was not sent.
    """
    vouchers, nodes = [], {}
    for item in batch.items:
        try:
            voucher = voucher_of(item)
            nodes[voucher.key] = nodes_of(voucher, ctx.settings)
            vouchers.append(voucher)
        except RejectedError as refused:
            yield _refused_here(item, refused)
    wire = Xledger(ctx)
    earlier = await find_earlier(ctx, wire, vouchers)
    for item in batch.items:
        if item.key in earlier.refused:
            yield _refused_here(item, earlier.refused[item.key])
    async for receipt in _already_there(ctx, wire, [v for v in vouchers if v.key in earlier.there]):
        yield receipt
    left = [v for v in vouchers if v.key not in earlier.refused and v.key not in earlier.there]
    open_ = packed(left, nodes)[::-1]
    while open_:
        parcel = open_.pop()
        try:
            data = await wire.write(_ADD, {"inputs": parcel.inputs})
        except InputRefusedError as refused:
            async for receipt in _sort_out(ctx, wire, parcel, refused, open_):
                yield receipt
        except OutcomeUnknownError as err:
            for voucher in parcel.vouchers:
                yield _unknown(ctx, wire, parcel, voucher, err)
            if open_:
                raise UnavailableError(
                    "Xledger gave no answer; what was not sent yet waits.", code="stopped_after_unknown"
                ) from err
        else:
            for receipt in _receipts(ctx, wire, parcel, data):
                yield receipt


async def looked_up_first(ctx: Context, batch: Batch) -> tuple[Batch, list[Receipt]]:
    """Gives what of a batch may go by file, and receipts for claims of which Xledger has another voucher already.

    Asked over GraphQL, so only with a token, and only while that way is open: when it is not, files are the way that is
    left, and what nobody can look up must not close it too.
    """
    items = {item.key: item for item in batch.items if item.voucher is not None}
    try:
        if "api_token" not in await ctx.http.fill_names():
            return batch, []
        earlier = await find_earlier(ctx, Xledger(ctx), [voucher_of(item) for item in items.values()])
    except OutcomeUnknownError:
        raise  # the lease is gone: nothing more goes out
    except AdapterError as err:
        # Nothing has been sent, and this must not make it look otherwise.
        ctx.log.warning("not_looked_before_writing", reason=err.message)
        return batch, []
    receipts = [_refused_here(items[key], refused, route="soap") for key, refused in earlier.refused.items()]
    message = "Lines of this voucher are in Xledger already."
    receipts += [Receipt(key=key, state="unknown", code="there_already", message=message) for key in earlier.there]
    settled = {receipt.key for receipt in receipts}
    return replace(batch, items=[item for item in batch.items if item.key not in settled]), receipts


async def _already_there(ctx: Context, wire: Xledger, vouchers: Sequence[Voucher]) -> AsyncGenerator[Receipt, None]:
    """Yields what became of vouchers that a look before writing has found: they are not sent again."""
    unsettled = {voucher.key: voucher for voucher in vouchers}
    message = "It was there a moment ago and cannot be found now."
    try:
        async for receipt in tracing.find(ctx, wire, [_sought(ctx, voucher) for voucher in vouchers]):
            unsettled.pop(receipt.key)
            yield receipt
    except AdapterError as err:
        # Not passed on: that would say of what is there that it was never sent, and let it go another way.
        message = f"It is there already, and what became of it could not be read: {err.message}"
    for key in unsettled:
        yield Receipt(key=key, state="unknown", code="there_already", message=message)


def _sought(ctx: Context, voucher: Voucher) -> Sought:
    return Sought(
        key=voucher.key,
        state="unknown",
        route="graphql",
        sent_at=ctx.now(),
        number=voucher.number,
        date=voucher.date,
        lines=len(voucher.lines),
    )


async def _sort_out(
    ctx: Context, wire: Xledger, parcel: Parcel, refused: InputRefusedError, open_: list[Parcel]
) -> AsyncGenerator[Receipt, None]:
    """Yields what is certain after a refusal, and puts the rest back in smaller parcels."""
    named = _named(parcel, refused.refusals)
    if len(parcel.vouchers) == 1:
        named = {parcel.vouchers[0].key: refused.refusals[0]}
    stored = await _stored(ctx, wire, parcel)
    for receipt in stored.values():
        yield receipt
    rest = [v for v in parcel.vouchers if v.key not in stored]
    for voucher in rest:
        if voucher.key in named:
            yield _refused_there(ctx, wire, parcel, voucher, named[voucher.key])
    rest = [v for v in rest if v.key not in named]
    ctx.log.warning(
        "mutation_refused", vouchers=len(parcel.vouchers), named=len(named), stored=len(stored), again=len(rest)
    )
    if named or stored:
        open_ += [parcel.only(rest)] if rest else []
    else:
        half = len(rest) // 2
        open_ += [parcel.only(rest[half:]), parcel.only(rest[:half])]


async def _stored(ctx: Context, wire: Xledger, parcel: Parcel) -> dict[str, Receipt]:
    """Gives what a refused mutation has stored after all. Whatever comes in the way makes all of it uncertain."""
    sought = [_sought(ctx, voucher) for voucher in parcel.vouchers]
    try:
        return {receipt.key: receipt async for receipt in tracing.find(ctx, wire, sought)}
    except Exception as err:
        # Nothing of it is sent again before it has been looked up; the host does that for what has no receipt.
        raise OutcomeUnknownError(
            "Xledger refused lines, and whether some of them were stored could not be looked up.", code="lookup_failed"
        ) from err


def _named(parcel: Parcel, refusals: Sequence[Refusal]) -> dict[str, Refusal]:
    """Gives the vouchers that the refusals name beyond doubt: by their place in the input, or by a value they hold."""
    lines = [(v.key, node) for v in parcel.vouchers for node in parcel.nodes[v.key].values()]
    found: dict[str, Refusal] = {}
    for refusal in refusals:
        for key in _keys_named(lines, refusal):
            found.setdefault(key, refusal)
    return found


def _keys_named(lines: Sequence[tuple[str, Node]], refusal: Refusal) -> Iterator[str]:
    field, values = field_of(refusal), set(_QUOTED.findall(refusal.message))
    holding = [key for key, node in lines if field is not None and to_text(_at(node, field)) in values]
    place = _place_of(refusal)
    # A value that they quote says more than a place, which may be one in their answer and not in our input.
    if not holding and not values and place is not None and place < len(lines):
        holding = [lines[place][0]]
    yield from holding


def _place_of(refusal: Refusal) -> int | None:
    said = _IN_INPUTS.search(refusal.message)
    if said:
        return int(said[1])
    return next((part for part in refusal.path if isinstance(part, int) and not isinstance(part, bool)), None)


def _at(node: Node, field: str) -> Any:
    found: Any = node
    for name in field.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


# ── receipts ─────────────────────────────────────────────────────────────────


def _receipts(ctx: Context, wire: Xledger, parcel: Parcel, data: Mapping[str, Any]) -> Iterator[Receipt]:
    ids = _ids(data)
    for voucher in parcel.vouchers:
        found = [ids.get(line.key) for line in voucher.lines]
        if all(found):
            yield Receipt(
                key=voucher.key,
                state="accepted",
                reference=_reference([id for id in found if id]),
                evidence=_evidence(ctx, wire, parcel, voucher, ids),
            )
        else:
            missing = sum(id is None for id in found)
            yield Receipt(
                key=voucher.key,
                state="unknown",
                code="answer_incomplete",
                message=f"Xledger answered without {missing} of the voucher's {len(found)} lines.",
                evidence=_evidence(ctx, wire, parcel, voucher, ids),
            )


def _ids(data: Mapping[str, Any]) -> dict[str, str]:
    """Gives our line key → their dbId, as far as the answer holds them."""
    added = data.get("addGLImportItems")
    edges = added.get("edges") if isinstance(added, Mapping) else None
    found: dict[str, str] = {}
    for edge in edges if isinstance(edges, list) else ():
        node = edge.get("node") if isinstance(edge, Mapping) else None
        id = to_text(node.get("dbId")) if isinstance(node, Mapping) else None
        line = to_text(edge.get("clientId")) if isinstance(edge, Mapping) else None
        if id and line and split_key(line):
            found[line] = id
    return found


def _reference(ids: Sequence[str]) -> str:
    """Gives their ids of the lines, as many as can be kept; the number of lines stands before those that are cut off."""
    whole = ",".join(ids)
    return whole if len(whole) <= _MOST_REFERENCE else f"{ids[0]}…{ids[-1]} ({len(ids)} lines)"


def _evidence(
    ctx: Context, wire: Xledger, parcel: Parcel, voucher: Voucher, ids: Mapping[str, str] | None = None
) -> dict[str, str]:
    told = {
        "route": "graphql",
        "voucher number": str(voucher.number),
        "lines": str(len(voucher.lines)),
        "lines in the request": str(sum(map(len, parcel.nodes.values()))),
        "answered at": ctx.now().isoformat(timespec="seconds"),
        "requests this month, by this process": str(wire.requests_this_month),
    }
    if ids is not None:
        answer = "\n".join(f"{line.key}={ids.get(line.key, '')}" for line in voucher.lines)
        told["sha256 of the answer's ids"] = hashlib.sha256(answer.encode()).hexdigest()
    return told


def _refused_here(item: Item, refused: RejectedError, *, route: str = "graphql") -> Receipt:
    return Receipt(
        key=item.key,
        state="rejected",
        code=refused.code,
        field=refused.field,
        message=str(refused),
        evidence={"route": route, "sent": "no"},
    )


def _refused_there(ctx: Context, wire: Xledger, parcel: Parcel, voucher: Voucher, refusal: Refusal) -> Receipt:
    choices = ", ".join(code for code in (to_text(example.get("code")) for example in refusal.examples) if code)
    return Receipt(
        key=voucher.key,
        state="rejected",
        code=(refusal.detail or "input_refused").lower(),
        field=field_of(refusal),
        message=refusal.message + (f" It would take: {choices[:500]}." if choices else ""),
        evidence=_evidence(ctx, wire, parcel, voucher),
    )


def _unknown(ctx: Context, wire: Xledger, parcel: Parcel, voucher: Voucher, err: OutcomeUnknownError) -> Receipt:
    return Receipt(
        key=voucher.key,
        state="unknown",
        code=err.code,
        message=err.message,
        evidence=_evidence(ctx, wire, parcel, voucher),
    )
