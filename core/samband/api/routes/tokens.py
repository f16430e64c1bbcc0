"""Access tokens: renewing one by hand, and the way of a person to the other side and back."""

from __future__ import annotations

import html
from typing import Annotated

import structlog
from aiohttp import web
from pydantic import Field

from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import OrgId, PluginName
from samband.api.problems import REFUSED_THERE
from samband.errors import AdapterError, ConflictError, NotFoundError, NotReadyError, SambandError
from samband.service.tokens import CALLBACK_PATH, ComeBack
from samband.views.tokens import ConsentView, TokenView

endpoints = Endpoints("Tokens")

IntegrationId = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$", description="The integration's id.")]
_UNABLE = ("integration_not_found", "credentials_missing", "unknown_plugin")

_log = structlog.get_logger("samband.api.tokens")


@endpoints.add(
    "POST",
    "/v1/integrations/{id}/token/refresh",
    verb="operate",
    problems=(*_UNABLE, *REFUSED_THERE, "rate_limited", "remote_error", "unavailable"),
)
async def refresh_oauth_token(call: Call, id: IntegrationId) -> TokenView:
    """Has the integration's access token renewed now; requests at the same time share one renewal.

    The token is never shown. Tokens are renewed before they end without anybody's asking.
    """
    return await call.service.refresh_oauth_token(id, organizations=call.caller.organizations)


@endpoints.add(
    "POST",
    "/v1/organizations/{org}/integrations/{type}/consent",
    verb="configure",
    problems=(*_UNABLE, "consent_unsupported", "public_url_missing", "remote_error", "unavailable"),
)
async def ask_consent(call: Call, org: OrgId, type: PluginName) -> ConsentView:
    """Gives a link by which a person agrees to the connection at the other side.

    It holds for ten minutes and for one sign-in. The redirect URI to register there is the host's public address followed
    by /oauth/callback.
    """
    return await call.service.tokens.ask_consent(org, type)


@endpoints.add("GET", CALLBACK_PATH, verb=None, media_type="text/html", takes_raw=True)
async def come_back(call: Call) -> web.Response:
    """Receives a person's browser from the other side, with `state` and `code` in the query, and answers with a page.

    What is in the query is never repeated on the page.
    """
    if call.request.method == "HEAD":
        return web.Response(content_type="text/html")  # a preview must not use the link up
    query = call.request.query
    back = ComeBack(
        state=query.get("state", ""), code=query.get("code"), iss=query.get("iss"), error=query.get("error")
    )
    try:
        title = await call.service.tokens.take_consent(back)
    except SambandError as error:
        _log.warning("consent_failed", code=error.code)
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        return _page(status, "The connection was not made", [error.message, error.hint])
    return _page(
        200, "The connection is made", [f"{title} is connected.", "You can close this window; nothing more is needed."]
    )


_STATUS: tuple[tuple[type[SambandError], int], ...] = (
    (NotFoundError, 404),
    (ConflictError, 409),
    (NotReadyError, 503),
    (AdapterError, 502),
)


def _page(status: int, heading: str, sentences: list[str]) -> web.Response:
    said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences if sentence)
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(heading)}</title></head>'
        f"<body><main><h1>{html.escape(heading)}</h1>{said}</main></body></html>"
    )
    return web.Response(status=status, text=text, content_type="text/html")
