"""Mappings: how claims become vouchers, version by version; previews, and what of a mapping no longer holds."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from samband.api.answers import Answer, Listing
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import Cursor, IfMatch, Input, Limit, OrgId, PluginName
from samband.api.problems import SEALED
from samband.rules.chartlisting import ChartKind
from samband.rules.claims import CLAIM_ID
from samband.rules.mapping import Day, MappingBody
from samband.service.mappings import MAX_PREVIEWED
from samband.views.mappings import (
    ChartPartView,
    ChartReadingView,
    MappingCheckView,
    MappingDiffView,
    MappingPreviewView,
    MappingVersionView,
    MappingView,
)

endpoints = Endpoints("Mappings")

_ONE = "/v1/organizations/{org}/integrations/{type}/mapping"
_CHART = "/v1/organizations/{org}/integrations/{type}/chart"
_ETAG = {"ETag": "The newest version; send it as If-Match with the next edit."}
_GONE = ("integration_not_found", "mapping_not_found")
_READING = ("chart_unsupported", "credentials_missing", "unknown_plugin", "plugin_failed")
_NO_SUCH = ("integration_not_found", "mapping_version_not_found")
_VERSION = re.compile(r'"([0-9]{1,9})"')
_NO_VERSION = -1

Version = Annotated[int, Field(ge=1, le=2**31 - 1)]
Note = Annotated[str, Field(max_length=400, pattern=r"^[^\x00-\x1f\x7f]*$", description="Why, for people.")]
Search = Annotated[
    str,
    Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$", description="Only what has this in its code, name or days."),
]
# Longer than other positions: a dimension's name and a code are in it.
ChartCursor = Annotated[
    str, Field(pattern="^[A-Za-z0-9_-]{1,1200}$", description="Goes on after this: the next of the part before.")
]
From = Annotated[Day, Field(strict=False, description="The first day it is in force; null for at once.")]
_EXAMPLE: dict[str, Any] = {
    "payee": {"strategy": "employee", "account": "2910", "code": "{payee.id}"},
    "expense_types": {
        "mileage": {
            "account": "7100",
            "text": "Mileage {date} {claim}",
            "allowance": {"rates": "car", "taxable_account": "5330"},
        },
        "toll": {"account": "7140"},
        "hotel": {"excluded": True},
    },
    "rates": {"car": [{"valid_from": "2026-01-01", "rate": "5.30", "tax_free": "3.50"}]},
    "dimensions": {"department": "10"},
}


class MappingIn(Input):
    """A mapping to be saved as the next version."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"mapping": _EXAMPLE, "note": "The rates of 2026"}]})

    mapping: MappingBody
    effective_from: From | None = None
    note: Note = ""
    strict: bool = Field(default=False, description="Do not save what the other system would refuse.")


class RestoreIn(Input):
    """Which version is to be in force again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": 3}]})

    version: Version
    effective_from: From | None = None
    note: Note = ""


class PreviewIn(Input):
    """What is to be shown."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": ["c-1001", "c-1002", "c-1003"]}]})

    mapping: MappingBody | None = Field(default=None, description="A draft; null for the mapping in force.")
    ids: Annotated[
        list[Annotated[str, Field(pattern=f"^{CLAIM_ID.pattern}$")]] | None,
        Field(min_length=1, max_length=MAX_PREVIEWED, description="Claims; null for the newest approved ones."),
    ] = None


@endpoints.add("GET", _ONE, verb="read", problems=_GONE, headers=_ETAG)
async def get_mapping(call: Call, org: OrgId, type: PluginName) -> Answer[MappingView]:
    """Gives the newest version of the mapping, which may come into force later; active_version is in force today."""
    return _tagged(await call.service.mappings.get(org, type))


@endpoints.add(
    "PUT", _ONE, verb="configure", problems=("integration_not_found", "mapping_incomplete", "revision_mismatch"),
    headers=_ETAG,
)  # fmt: skip
async def put_mapping(
    call: Call, org: OrgId, type: PluginName, body: MappingIn, if_match: IfMatch | None = None
) -> Answer[MappingView]:
    """Saves a mapping as the next version. The same mapping again is no new version.

    Whatever the other system would refuse, as far as its accounts are known here, is listed under warnings.
    """
    saved = await call.service.mappings.put(
        org, type, body.mapping, effective_from=body.effective_from, note=body.note, strict=body.strict,
        if_version=_version(if_match),
    )  # fmt: skip
    return _tagged(saved)


@endpoints.add("GET", _ONE + "/versions", verb="read", problems=("integration_not_found",))
async def list_mapping_versions(
    call: Call, org: OrgId, type: PluginName, after: Cursor | None = None, limit: Limit = 100
) -> Listing[MappingVersionView]:
    """Lists the versions of the mapping, newest first."""
    return Listing[MappingVersionView].of(await call.service.mappings.versions(org, type, after=after, limit=limit))


@endpoints.add("GET", _ONE + "/versions/{version}", verb="read", problems=_NO_SUCH)
async def get_mapping_version(call: Call, org: OrgId, type: PluginName, version: Version) -> MappingView:
    """Gives one version of the mapping."""
    return await call.service.mappings.version(org, type, version)


@endpoints.add("GET", _ONE + "/diff", verb="read", problems=(*_GONE, "mapping_version_not_found"))
async def diff_mapping(
    call: Call,
    org: OrgId,
    type: PluginName,
    from_: Version | None = None,
    to: Version | None = None,
) -> MappingDiffView:
    """Tells what differs between two versions; without a say between the newest and the one before it."""
    return await call.service.mappings.diff(org, type, before=from_, after=to)


@endpoints.add(
    "POST", _ONE + "/restore", verb="configure", problems=(*_NO_SUCH, "mapping_incomplete", "revision_mismatch"),
    headers=_ETAG,
)  # fmt: skip
async def restore_mapping(
    call: Call, org: OrgId, type: PluginName, body: RestoreIn, if_match: IfMatch | None = None
) -> Answer[MappingView]:
    """Saves an earlier version of the mapping once more, as the newest one."""
    saved = await call.service.mappings.restore(
        org, type, body.version, effective_from=body.effective_from, note=body.note, if_version=_version(if_match)
    )
    return _tagged(saved)


@endpoints.add("POST", _ONE + "/preview", verb="read", problems=(*_GONE, "mapping_incomplete"))
async def preview_mapping(
    call: Call, org: OrgId, type: PluginName, body: PreviewIn | None = None
) -> MappingPreviewView:
    """Shows the vouchers that some claims come to, or why there is none. Nothing is saved or sent."""
    asked = body or PreviewIn()
    return await call.service.mappings.preview(org, type, mapping=asked.mapping, ids=asked.ids)


@endpoints.add(
    "GET", _ONE + "/check", verb="read",
    problems=(*_GONE, *_READING, *SEALED),
)  # fmt: skip
async def check_mapping(call: Call, org: OrgId, type: PluginName, refresh: bool = False) -> MappingCheckView:
    """Tells what of the mapping does not hold at the other side: accounts, dimensions, tax rules, periods.

    By the copy that is made every day; with refresh=true they are read now. Trouble there is an answer, not a problem.
    """
    return await call.service.mappings.check(org, type, refresh=refresh)


@endpoints.add("GET", _CHART, verb="read", problems=("integration_not_found", "chart_not_read", "chart_unsupported"))
async def get_chart(
    call: Call,
    org: OrgId,
    type: PluginName,
    kind: ChartKind | None = None,
    q: Search = "",
    after: ChartCursor | None = None,
    limit: Limit = 100,
) -> ChartPartView:
    """Lists what a mapping may refer to at the other side: accounts, tax rules, dimensions' values, and its periods.

    From the copy that is made every day, by kind, dimension and code; read_at tells when that was.
    """
    return await call.service.charts.part(org, type, kind=kind, search=q, after=after, limit=limit)


@endpoints.add("POST", _CHART + "/refresh", verb="configure", problems=("integration_not_found", *_READING))
async def refresh_chart(call: Call, org: OrgId, type: PluginName) -> ChartReadingView:
    """Reads what a mapping may refer to at the other side now, with or without a mapping.

    Trouble there is an answer, not a problem; what was read before stays.
    """
    return await call.service.charts.refresh(org, type)


def _tagged(mapping: MappingView) -> Answer[MappingView]:
    return Answer(value=mapping, headers={"ETag": f'"{mapping.version}"'})


def _version(if_match: str | None) -> int | None:
    if if_match is None or if_match == "*":
        return None
    match = _VERSION.fullmatch(if_match)
    return int(match[1]) if match else _NO_VERSION
