"""Xledger as an integration: the manifest and the hooks."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from importlib.metadata import version

from samband import (
    Batch,
    Booked,
    Chart,
    Check,
    Context,
    ExportFile,
    Limits,
    Manifest,
    Page,
    Receipt,
    RemoteError,
    RetryableError,
    Route,
    Sought,
    Stream,
    Token,
    Trigger,
    WebhookRequest,
    hookimpl,
)
from samband_xledger import bookings, books, charts, files, rights, routing, sending, soap, tracing
from samband_xledger.graphql import Xledger
from samband_xledger.records import LEDGER_ENTRY, to_ledger_entry
from samband_xledger.settings import XledgerCredentials, XledgerSettings
from samband_xledger.webhooks import STREAM, triggers_of


def _egress_hosts(settings: XledgerSettings) -> Collection[str]:
    # What was sent by any way is looked up over GraphQL, so that host is always one of them.
    return (settings.graphql_host, *((settings.soap_host,) if "soap" in settings.ways else ()))


manifest = Manifest(
    name="xledger",
    title="Xledger",
    version=version("samband-xledger"),
    settings=XledgerSettings,
    credentials=XledgerCredentials,
    capabilities=frozenset(
        {
            "sync",
            "export",
            "find_exported",
            "choose_route",
            "render",
            "acknowledge",
            "chart",
            "booked",
            "check",
            "webhook",
        }
    ),
    streams=(
        Stream(name="vouchers", kind="voucher", title="Vouchers", direction="push", incremental=False),
        Stream(
            name=STREAM,
            kind="ledger_entry",
            title="Bookings",
            convert=to_ledger_entry,
            enabled=lambda settings: settings.bookings,
        ),
    ),
    # Payees' names and bank accounts go out with vouchers; nothing of a person is read.
    field_classes=frozenset({"plain", "personal"}),
    egress_hosts=_egress_hosts,
    # Xledger lets 20 requests pass in 5 seconds (as seen by a client of others), and limits how many at once.
    limits=Limits(requests_per_s=3.5, concurrency=2, timeout_s=60.0),
    account=lambda settings: settings.account,
    kinds=(LEDGER_ENTRY,),
    simulator="samband_xledger.simulator",
    webhook="hmac",
)


@hookimpl
async def authenticate(ctx: Context) -> Token:
    """Gives the API token, and the log-on key for files over SOAP where that way is in use."""
    return await routing.access_token(ctx, soap.log_on)


@hookimpl
async def check(ctx: Context) -> Check:
    """Reads one row of each list that posting needs, and lists the rights that are missing."""
    settings: XledgerSettings = ctx.settings
    names = await ctx.http.fill_names()
    found = await rights.examine(ctx) if "api_token" in names else rights.without_token(settings)
    if "soap" not in settings.ways:
        return found
    problem = await _soap_problem(ctx, names)
    is_needed = problem is not None and "graphql" not in settings.ways and "file" not in settings.ways
    return replace(
        found,
        facts={**found.facts, "Files over SOAP": problem or "open"},
        missing=[*found.missing, *([f"SOAP: {problem}"] if is_needed else [])],
    )


async def _soap_problem(ctx: Context, names: Collection[str]) -> str | None:
    if not {"soap_user", "soap_key"} <= set(names):
        return "no log-on key: there is no web service user, or its log-on was refused"
    try:
        await soap.probe(ctx)
    except (RemoteError, RetryableError) as err:
        return err.message
    return None


@hookimpl
async def choose_route(ctx: Context, avoided: Mapping[str, str]) -> Route:
    """Gives the first way of the settings that is open, and why those before it are not."""
    return await routing.choose(ctx, avoided, {"graphql": rights.probe, "soap": soap.probe})


@hookimpl
async def export(ctx: Context, batch: Batch) -> AsyncIterator[Receipt]:
    """Sends vouchers the way that was chosen for them."""
    route = batch.route or "graphql"
    if route not in ("graphql", "soap"):
        raise RemoteError(f"There is no way {route!r} to send vouchers by.", code="route_unknown")
    if route == "soap":
        batch, refused = await sending.looked_up_first(ctx, batch)
        for receipt in refused:
            yield receipt
    sent = soap.export_by_soap(ctx, batch) if route == "soap" else sending.send(ctx, batch)
    async for receipt in sent:
        yield receipt


@hookimpl
async def find_exported(ctx: Context, keys: Sequence[str], sought: Sequence[Sought]) -> AsyncIterator[Receipt]:
    """Looks vouchers up among what is staged, refused and posted, whichever way they went."""
    known = {one.key: one for one in sought}
    wanted = [known.get(key) or Sought(key=key, state="unknown") for key in keys]
    async with aclosing(tracing.find(ctx, Xledger(ctx), wanted)) as receipts:
        async for receipt in receipts:
            yield receipt


@hookimpl
async def render(ctx: Context, batch: Batch, profile: str) -> ExportFile:
    """Writes vouchers as the file that Xledger imports, or as a spreadsheet for people."""
    return await asyncio.to_thread(files.render, batch, profile, ctx.settings)


@hookimpl
async def acknowledge(ctx: Context, name: str, content: bytes) -> list[Receipt]:
    """Reads the report about a file that Xledger took in."""
    receipts = await asyncio.to_thread(files.acknowledge, content)
    if open_ := [receipt for receipt in receipts if receipt.state == "unknown"]:
        # A report that contradicts itself about one voucher settles nothing of that one, and still the others.
        ctx.log.warning("report_contradicts_itself", file=name, vouchers=[receipt.key for receipt in open_])
    return [receipt for receipt in receipts if receipt.state != "unknown"]


@hookimpl
async def chart(ctx: Context) -> Chart:
    """Reads accounts, values of dimensions, tax rules and periods."""
    return await charts.read_chart(ctx, Xledger(ctx))


@hookimpl
async def booked(ctx: Context, first: dt.date, last: dt.date) -> AsyncIterator[Sequence[Booked]]:
    """Reads the lines that are staged, failed or posted between two days."""
    async with aclosing(books.booked(Xledger(ctx), first, last)) as pages:
        async for lines in pages:
            yield lines


@hookimpl
async def sync(ctx: Context, stream: str, cursor: str | None) -> AsyncIterator[Page]:
    """Reads what is posted: all of it first, and from then on what Xledger's log says has changed."""
    async with aclosing(bookings.read(ctx, cursor)) as pages:
        async for page in pages:
            yield page


@hookimpl
async def handle_webhook(ctx: Context, request: WebhookRequest) -> list[Trigger]:
    """Proves a delivery; it says no more than that bookings have changed."""
    settings: XledgerSettings = ctx.settings
    triggers = triggers_of(request)
    return triggers if settings.bookings else []
