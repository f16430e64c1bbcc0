"""The audit trail: who did what, of an organisation and of the host itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from aiohttp import web
from pydantic import Field

from samband.api.access import require_everywhere
from samband.api.answers import Listing
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import After, Instant, Limit, OrgId
from samband.service.audit import HOST, Wanted
from samband.views.audit import AuditEntryView, AuditVerificationView

endpoints = Endpoints("Audit")

_OF_ORGANIZATION = "/v1/organizations/{org}/audit"
_OF_HOST = "/v1/audit"
_CSV = "text/csv"

_TEXT = r"^[^\x00-\x1f\x7f]+$"
Action = Annotated[
    str, Field(pattern=r"^[a-z][a-z0-9_.]{0,63}$", description="One action, or what is before its dot: key for all.")
]
Actor = Annotated[
    str, Field(pattern=_TEXT, max_length=300, description="One actor, or what is before its blank: key:3f9c.")
]
Subject = Annotated[
    str, Field(pattern=_TEXT, max_length=300, description="One subject, or what is before its slash: integration.")
]
Since = Annotated[Instant, Field(description="Not earlier than this, in ISO 8601 with its zone.")]
Until = Annotated[Instant, Field(description="Earlier than this, in ISO 8601 with its zone.")]
Expect = Annotated[
    str, Field(pattern="^[0-9a-f]{64}$", description="A newest_hash of before, kept elsewhere: it must be met.")
]


@endpoints.add("GET", _OF_ORGANIZATION, verb="read")
async def list_audit_entries(
    call: Call,
    org: OrgId,
    action: Action | None = None,
    actor: Actor | None = None,
    subject: Subject | None = None,
    since: Since | None = None,
    until: Until | None = None,
    after: After = 0,
    limit: Limit = 100,
) -> Listing[AuditEntryView]:
    """Lists who did what in an organisation, oldest first."""
    wanted = Wanted(action=action, actor=actor, subject=subject, since=since, until=until)
    return Listing[AuditEntryView].of(await call.service.audit.page(org, wanted, after=after, limit=limit))


@endpoints.add("GET", _OF_ORGANIZATION + ".csv", verb="read", media_type=_CSV)
async def export_audit_entries(
    call: Call,
    org: OrgId,
    action: Action | None = None,
    actor: Actor | None = None,
    subject: Subject | None = None,
    since: Since | None = None,
    until: Until | None = None,
) -> web.StreamResponse:
    """Gives the entries as a table in CSV. A text that a spreadsheet would take for a formula begins with an apostrophe."""
    wanted = Wanted(action=action, actor=actor, subject=subject, since=since, until=until)
    return await _send(call, f"audit-{org}.csv", await call.service.audit.table(org, wanted))


@endpoints.add("GET", _OF_ORGANIZATION + "/verification", verb="read")
async def verify_audit_trail(call: Call, org: OrgId, expect: Expect | None = None) -> AuditVerificationView:
    """Walks an organisation's chain of entries and tells what is wrong with it first, if anything is."""
    return await call.service.audit.verify(org, expect=expect)


@endpoints.add("GET", _OF_HOST, verb="admin")
async def list_host_audit_entries(
    call: Call,
    action: Action | None = None,
    actor: Actor | None = None,
    subject: Subject | None = None,
    since: Since | None = None,
    until: Until | None = None,
    after: After = 0,
    limit: Limit = 100,
) -> Listing[AuditEntryView]:
    """Lists who did what to the host itself, oldest first. Needs a key that is not bound to certain organisations."""
    require_everywhere(call.caller)
    wanted = Wanted(action=action, actor=actor, subject=subject, since=since, until=until)
    return Listing[AuditEntryView].of(await call.service.audit.page(HOST, wanted, after=after, limit=limit))


@endpoints.add("GET", _OF_HOST + ".csv", verb="admin", media_type=_CSV)
async def export_host_audit_entries(
    call: Call,
    action: Action | None = None,
    actor: Actor | None = None,
    subject: Subject | None = None,
    since: Since | None = None,
    until: Until | None = None,
) -> web.StreamResponse:
    """Gives the host's own entries as a table in CSV. Needs a key that is not bound to certain organisations."""
    require_everywhere(call.caller)
    wanted = Wanted(action=action, actor=actor, subject=subject, since=since, until=until)
    return await _send(call, "audit-host.csv", await call.service.audit.table(HOST, wanted))


@endpoints.add("GET", _OF_HOST + "/verification", verb="admin")
async def verify_host_audit_trail(call: Call, expect: Expect | None = None) -> AuditVerificationView:
    """Walks the host's own chain of entries. Needs a key that is not bound to certain organisations."""
    require_everywhere(call.caller)
    return await call.service.audit.verify(HOST, expect=expect)


async def _send(call: Call, name: str, parts: AsyncIterator[bytes]) -> web.StreamResponse:
    """Sends a table as it is read; one that breaks off half-way is cut, never ended as if it were whole."""
    headers = {"Content-Type": f"{_CSV}; charset=utf-8", "Content-Disposition": f'attachment; filename="{name}"'}
    first = await anext(parts)  # what goes wrong before it is answered as any other problem
    if call.request.method == "HEAD":
        return web.Response(headers=headers)
    answer = web.StreamResponse(headers=headers)
    await answer.prepare(call.request)
    try:
        await answer.write(first)
        async for part in parts:
            await answer.write(part)
        await answer.write_eof()
    except BaseException:
        if call.request.transport is not None:
            call.request.transport.abort()
        raise
    return answer
