"""Integrations: one organisation's use of one plugin, from its settings to its being switched on."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from samband.api.answers import Answer, Listing, etag
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import Cursor, IfMatch, Input, Instant, Limit, OrgId, PluginName
from samband.views import CheckView, IntegrationView, StatusView

endpoints = Endpoints("Integrations")

_ETAG = {"ETag": "The revision; send it as If-Match with the next edit."}
_BASE = "/v1/organizations/{org}/integrations"
_ONE = _BASE + "/{type}"
_GONE = ("integration_not_found",)
_UNABLE = ("credentials_missing", "unknown_plugin")
_REVISION = re.compile(r'"([0-9]{1,15})"')
# No integration ever has it, so an ETag that is not one of ours ends as a mismatch, or as 404 when nothing is there.
_NO_REVISION = -1

DisplayName = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$", description="For people.")]
Settings = Annotated[dict[str, Any], Field(description="As the plugin's settings_schema says.")]
Credentials = Annotated[
    dict[str, Any], Field(description="As the plugin's credentials_schema says. Written, never read back.")
]


ExpiresAt = Annotated[
    Instant,
    Field(description="When the credentials stop working, if they do not say so themselves. Warned of 14 days ahead."),
]
_SETTINGS_EXAMPLE: JsonDict = {
    "environment_url": "https://contoso.crm4.dynamics.com",
    "tenant_id": "11111111-2222-3333-4444-555555555555",
}


class IntegrationIn(Input):
    """A new integration."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"type": "dynamics365", "display_name": "Min Side", "settings": _SETTINGS_EXAMPLE}]
        }
    )

    type: PluginName
    display_name: DisplayName = ""
    settings: Settings
    credentials: Credentials | None = None
    credentials_expire_at: ExpiresAt | None = None


class IntegrationPatch(Input):
    """What to change; a field that is left out, or null, stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"display_name": "Min Side (prod)"}]})

    display_name: DisplayName | None = None
    settings: Settings | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> IntegrationPatch:
        if self.display_name is None and self.settings is None:
            raise ValueError("give display_name, settings or both")
        return self


class CredentialsIn(Input):
    """The credentials of an integration, all of them."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"credentials": {"client_id": "…", "client_secret": "…"}}]}
    )

    credentials: Credentials
    expires_at: ExpiresAt | None = None
    test: bool = Field(
        default=True,
        description="Of a tested or enabled integration, test them first and keep the present ones if that fails. With "
        "false they are stored as they are, and the integration has to be tested and enabled again.",
    )


@endpoints.add("GET", _BASE, verb="read")
async def list_integrations(
    call: Call, org: OrgId, after: Cursor | None = None, limit: Limit = 100
) -> Listing[IntegrationView]:
    """Lists the organisation's integrations by type."""
    return Listing[IntegrationView].of(await call.service.integrations.page(org, after=after, limit=limit))


@endpoints.add(
    "POST",
    _BASE,
    verb="configure",
    status=201,
    problems=("integration_exists", "unknown_plugin"),
    headers={"Location": "The integration."} | _ETAG,
)
async def create_integration(call: Call, org: OrgId, body: IntegrationIn) -> Answer[IntegrationView]:
    """Adds an integration, saved but not enabled."""
    created = await call.service.integrations.create(
        org,
        body.type,
        display_name=body.display_name,
        settings=body.settings,
        credentials=body.credentials,
        credentials_expire_at=body.credentials_expire_at,
    )
    location = f"/v1/organizations/{org}/integrations/{created.type}"
    return Answer(value=created, headers={"Location": location, "ETag": etag(created)})


@endpoints.add("GET", _ONE, verb="read", problems=_GONE, headers=_ETAG)
async def get_integration(call: Call, org: OrgId, type: PluginName) -> Answer[IntegrationView]:
    """Gives one integration. Of its credentials, only the last four characters."""
    return _tagged(await call.service.integrations.get(org, type))


@endpoints.add(
    "PATCH",
    _ONE,
    verb="configure",
    problems=(*_GONE, "revision_mismatch", "unknown_plugin"),
    headers=_ETAG,
)
async def update_integration(
    call: Call, org: OrgId, type: PluginName, body: IntegrationPatch, if_match: IfMatch | None = None
) -> Answer[IntegrationView]:
    """Changes the name or the settings of an integration.

    Send the ETag you have read as If-Match to be refused when somebody else has changed it since.
    """
    changed = await call.service.integrations.update(
        org, type, settings=body.settings, display_name=body.display_name, if_revision=_revision(if_match)
    )
    return _tagged(changed)


@endpoints.add(
    "PUT",
    _ONE + "/credentials",
    verb="configure",
    problems=(
        *_GONE, "credentials_invalid", "credentials_refused", "credentials_untested", "revision_mismatch",
        "unknown_plugin",
    ),
    headers=_ETAG,
)  # fmt: skip
async def set_credentials(
    call: Call, org: OrgId, type: PluginName, body: CredentialsIn, if_match: IfMatch | None = None
) -> Answer[IntegrationView]:
    """Replaces the credentials of an integration. They are encrypted and never read back.

    Those of a tested or enabled integration are tried with one light read first; if that fails the present ones stay
    in force. Send the ETag you have read as If-Match to be refused when somebody else has changed it since.
    """
    changed = await call.service.integrations.set_credentials(
        org, type, body.credentials, expires_at=body.expires_at, test=body.test, if_revision=_revision(if_match)
    )
    return _tagged(changed)


@endpoints.add("POST", _ONE + "/test", verb="configure", problems=(*_GONE, *_UNABLE))
async def test_integration(call: Call, org: OrgId, type: PluginName) -> CheckView:
    """Tries the connection with one light read. Trouble at the other side is an answer, not a problem."""
    return await call.service.integrations.test(org, type)


@endpoints.add(
    "POST",
    _ONE + "/enable",
    verb="configure",
    problems=(*_GONE, "not_tested", "credentials_missing", "revision_mismatch"),
    headers=_ETAG,
)
async def enable_integration(call: Call, org: OrgId, type: PluginName) -> Answer[IntegrationView]:
    """Switches an integration on. Safe to call again."""
    return _tagged(await call.service.integrations.enable(org, type))


@endpoints.add("POST", _ONE + "/disable", verb="configure", problems=_GONE, headers=_ETAG)
async def disable_integration(call: Call, org: OrgId, type: PluginName) -> Answer[IntegrationView]:
    """Switches an integration off. Safe to call again."""
    return _tagged(await call.service.integrations.disable(org, type))


@endpoints.add("GET", _ONE + "/status", verb="read", problems=_GONE)
async def get_integration_status(call: Call, org: OrgId, type: PluginName) -> StatusView:
    """Tells how an integration is doing: its connection, the run that is alive and the last one."""
    return await call.service.get_integration_status(org, type)


def _tagged(integration: IntegrationView) -> Answer[IntegrationView]:
    return Answer(value=integration, headers={"ETag": etag(integration)})


def _revision(if_match: str | None) -> int | None:
    if if_match is None or if_match == "*":
        return None
    match = _REVISION.fullmatch(if_match)
    return int(match[1]) if match else _NO_REVISION
