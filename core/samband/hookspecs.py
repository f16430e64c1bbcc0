"""The hooks a plugin may implement.

A plugin module has one ``manifest`` (a `samband.Manifest`) and functions marked with ``@hookimpl`` that carry the names
below. An implementation may take fewer arguments than listed here, never others: a misspelt hook or argument is refused
at start and listed by ``samband plugins``.

Hooks are ``async``. They run on an event loop that belongs to the plugin, under a time limit, and may be cancelled at
any ``await``. Raise the types of `samband.errors`: each says what the core does next. Anything else that is raised fails
the run and is shown with the plugin's name.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence

import pluggy

from samband.contract import (
    Batch,
    Booked,
    Chart,
    Check,
    Context,
    Event,
    ExportFile,
    Page,
    Receipt,
    Route,
    Selection,
    Sought,
    Token,
    Trigger,
    WebhookAnswer,
    WebhookRequest,
)

PROJECT = "samband"
ENTRY_POINT_GROUP = "samband.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    """Every hook, in the order an integration meets them."""

    # ── connecting ───────────────────────────────────────────────────────────

    @hookspec
    async def authenticate(self, ctx: Context) -> Token:
        """Obtains a credential now.

        Called when there is no token, shortly before one expires, and once after a 401. The core keeps the result,
        shares it between all calls of the integration, in all processes, and never runs two renewals at once.
        ``ctx.credentials`` is set only here; ``ctx.http`` carries no token here. ``ctx.token`` is the token kept last: a
        plugin whose system gives refresh tokens uses that one, and returns the new one beside the new access token.

        Shape: a `Token`; ``expires_at`` None means that it never expires.
        Raises: `AuthError` (the core stops and a person is told), `RetryableError` (tried again).
        Again: may be called any number of times.
        """

    @hookspec
    async def check(self, ctx: Context) -> Check:
        """Proves access with one light read, and shows something real. Optional.

        Called by a person who tests the connection and by the health probe. Must not change anything at the other side
        and should answer within ten seconds.

        Shape: a `Check`; ``missing`` names every right that the integration's settings need and the account lacks.
        Raises: `AuthError`, `RetryableError`, `RemoteError`.
        Again: safe.
        """

    # ── reading ──────────────────────────────────────────────────────────────

    @hookspec
    def sync(self, ctx: Context, stream: str, cursor: str | None) -> AsyncIterator[Page]:
        """Reads a stream, page by page.

        With ``cursor`` None everything is read; with a cursor that an earlier page carried, what comes after that page.
        The core stores each page in one transaction together with its cursor, and asks for the next page meanwhile.

        Shape: an async generator of `Page`. Exactly the last page has ``complete=True``; it may be empty. Its cursor,
        if it has one, is where the next run begins.
        Raises: `CursorExpiredError` (the core starts the stream again with ``cursor=None``), `AuthError`,
        `RetryableError` (the run waits and resumes at the last cursor), `RemoteError` (the run fails).
        Again: the same cursor may be given again after a crash; the same pages must follow as far as the other
        side's data allows. May be closed after any page.
        """

    @hookspec
    def fetch(self, ctx: Context, stream: str, selection: Selection) -> AsyncIterator[Page]:
        """Reads chosen records of a stream, apart from its cursor. Optional.

        Used for backfills, for reading failed records again, and for webhooks that name what changed. Without it these
        read the stream's changes instead, or are refused.

        Shape: as ``sync``; the last page has ``complete=True``. Cursors are ignored. A key of ``selection.keys`` that
        is gone at the other side belongs in ``Page.deleted``; nothing else is deleted because of this read.
        Raises: as ``sync``, without `CursorExpiredError`.
        Again: safe.
        """

    # ── writing ──────────────────────────────────────────────────────────────

    @hookspec
    def export(self, ctx: Context, batch: Batch) -> AsyncIterator[Receipt]:
        """Sends items that the core has reserved.

        Shape: one `Receipt` per item, in any order. An item without one becomes ``unknown``.
        Raises: `RetryableError` only when nothing of the batch was sent; `OutcomeUnknownError` when that is not certain.
        Again: never by itself. An ``unknown`` item is looked up with ``find_exported`` first.
        """

    @hookspec
    def find_exported(self, ctx: Context, keys: Sequence[str], sought: Sequence[Sought]) -> AsyncIterator[Receipt]:
        """Looks items up at the other side by our idempotency key. Optional.

        Without it a plugin exports by file only, because an interrupted send could never be settled. ``sought`` tells of
        each of the ``keys`` how it went out; items that were accepted are asked about too, until they are posted.

        Shape: a receipt for each key that is found: ``accepted`` (with a code, when it cannot be booked as it is and lies
        there still), ``posted`` or ``rejected``. Nothing for one that is certainly not there: it is sent again.
        ``unknown`` for one of which that cannot be told yet.
        Raises: `RetryableError`, `AuthError`.
        Again: safe; must not change anything.
        """

    @hookspec
    async def choose_route(self, ctx: Context, avoided: Mapping[str, str]) -> Route:
        """Chooses the way that the next items go, for systems that have several. Optional.

        Called before items are marked as sent. An item whose outcome was unknown goes the way it went before, whatever is
        chosen here. ``avoided`` names ways that refused in this run, before anything was sent, and why.

        Shape: a `Route`, with a reason for each way that was passed over. ``file`` needs the capability ``render``.
        Raises: `RetryableError` when no way is open now, `AuthError`.
        Again: safe; may read, must not change anything.
        """

    @hookspec
    async def render(self, ctx: Context, batch: Batch, profile: str) -> ExportFile:
        """Writes a batch as the file that the other system takes in by hand or from a folder. Optional.

        Pure: no remote calls. ``profile`` is ``machine`` for the other system, ``human`` for a person's spreadsheet.

        Shape: an `ExportFile`. Raises: `RejectedError` for a batch that cannot be written.
        Again: the same batch gives the same bytes.
        """

    @hookspec
    async def acknowledge(self, ctx: Context, name: str, content: bytes) -> list[Receipt]:
        """Reads the report that the other system made of a file it took in. Optional.

        Shape: a receipt for each item that the report tells of; ``key`` is the item's key. Where the report names no key,
        it is the voucher's number in digits: a key has 32 of them, so the two cannot be confused. Then ``evidence["file"]``
        names the file that the report tells of, if it says so, and only an item which that file carried is settled; a
        file that is not ours settles nothing. Without a file, a number is never believed to be refused.
        Raises: `RemoteError` for a file that is no such report.
        Again: safe. Pure: no remote calls.
        """

    # ── the other side's books ───────────────────────────────────────────────

    @hookspec
    async def chart(self, ctx: Context) -> Chart:
        """Reads the accounts, dimensions, tax rules and periods that a mapping may refer to. Optional.

        Called every night, and when a person writes a mapping. Raises: `AuthError`, `RetryableError`, `RemoteError`.
        Again: safe; must not change anything.
        """

    @hookspec
    def booked(self, ctx: Context, first: dt.date, last: dt.date) -> AsyncIterator[Sequence[Booked]]:
        """Reads the lines that the other side has between two days, both included, for comparison with ours. Optional.

        What is staged and what failed belongs to it as well as what is posted. Lines that others booked may be left out.

        Shape: an async generator of lists. Raises: `AuthError`, `RetryableError`, `RemoteError`.
        Again: safe; must not change anything.
        """

    # ── being told ───────────────────────────────────────────────────────────

    @hookspec
    async def handle_webhook(self, ctx: Context, request: WebhookRequest) -> list[Trigger] | WebhookAnswer:
        """Verifies a delivery over its raw bytes and says what to fetch.

        Called before the sender is answered: no remote calls, no slow work; ``ctx.http`` refuses everything.
        ``samband.webhooks`` has the usual proofs ready-made. Declare in ``Manifest.webhook`` which one it is.

        Shape: triggers, possibly none. What they name is read by ``sync`` or ``fetch``; the body itself is never
        stored as data. A `WebhookAnswer` where the sender expects one, as for a challenge.
        Raises: `SignatureError` (answered 401, nothing stored but a count).
        Again: a delivery may come twice; answer the same.
        """

    # ── broadcast ────────────────────────────────────────────────────────────

    @hookspec
    async def on_event(self, event: Event) -> None:
        """Hears of something that was committed. Optional; the only hook that every plugin is called for.

        Cannot stop or change anything: an error is logged with the plugin's name and otherwise ignored.
        Again: an event may come twice, with the same id.
        """
