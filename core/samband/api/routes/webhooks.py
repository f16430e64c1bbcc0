"""Webhooks in: an integration's address and secrets, what came to it, replays, and the address itself."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from aiohttp import web
from pydantic import ConfigDict, Field, SecretStr

from samband.api.answers import Answer, Listing
from samband.api.bodies import BodyLimits, read_raw
from samband.api.endpoints import Call, Endpoints
from samband.api.parameters import IfMatch, Input, Instant, Limit, OrgId, PluginName, RowId
from samband.api.problems import SEALED
from samband.receiving import Parcel, Received
from samband.views.webhooks import DeliveryReplayView, ReceivedDeliveryView, WebhookTestView, WebhookView

endpoints = Endpoints("Webhooks")

_ONE = "/v1/organizations/{org}/integrations/{type}/webhook"
_DELIVERIES = _ONE + "/deliveries"
_ADDRESS = "/webhooks/{type}/{key}"
_GONE = ("integration_not_found", "webhook_not_found")
_PLUGIN = ("unknown_plugin", "plugin_failed", "webhook_unsupported", *SEALED)
_ETAG = {"ETag": "The revision; send it as If-Match with the next edit."}
_REVISION = re.compile(r'"([0-9]{1,15})"')
_NO_REVISION = -1
_SLOWEST_BODY_S: Final = 10.0
"""A sender that takes longer than this for one body is no sender anybody waits for."""

Secret = Annotated[
    SecretStr | None,
    Field(max_length=4096, description="The sender's secret. Written, never read back. Null has samband make one."),
]
DeliveryState = Literal["received", "processed", "failed"]


class WebhookIn(Input):
    """How the integration is to be told of changes. Without a body the address is made if there is none."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}]})

    secret: Secret = None
    new_address: Annotated[bool, Field(description="Makes a new address; the old one is unknown at once.")] = False


class WebhookSecretIn(Input):
    """A new secret."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap_s": 3600}]})

    secret: Secret = None
    overlap_s: Annotated[
        int, Field(ge=0, le=604_800, description="How long the present secret goes on counting beside the new one.")
    ] = 0


class DeliveryReplayIn(Input):
    """Which deliveries count once more: ids, or everything of a window and state."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"ids": [1041, 1042]}]})

    ids: Annotated[list[RowId] | None, Field(min_length=1, max_length=1000)] = None
    since: Annotated[Instant | None, Field(description="Received at or after this.")] = None
    until: Annotated[Instant | None, Field(description="Received before this.")] = None
    state: Annotated[DeliveryState | None, Field(description="failed is what went to a run that did not succeed.")] = (
        None
    )


@endpoints.add("GET", _ONE, verb="read", problems=(*_GONE, *_PLUGIN), headers=_ETAG)
async def get_webhook(call: Call, org: OrgId, type: PluginName) -> Answer[WebhookView]:
    """Gives the address, how its deliveries prove themselves, and what came during the last 24 hours.

    The address itself is shown to keys with the verb `configure` only.
    """
    may_see = "configure" in call.caller.verbs
    return _tagged(await call.service.webhooks.get(org, type, with_address=may_see))


@endpoints.add(
    "PUT", _ONE, verb="configure",
    problems=("integration_not_found", *_PLUGIN, "revision_mismatch"), headers=_ETAG,
)  # fmt: skip
async def put_webhook(
    call: Call, org: OrgId, type: PluginName, body: WebhookIn | None = None, if_match: IfMatch | None = None
) -> Answer[WebhookView]:
    """Makes the integration's address, or changes it. A secret or address that is replaced stops counting at once.

    The first time, without a secret, samband makes one: it is in this answer and in no other.
    """
    asked = body or WebhookIn()
    made = await call.service.webhooks.put(
        org, type, secret=_value(asked.secret), new_address=asked.new_address, if_revision=_revision(if_match)
    )
    return _tagged(made)


@endpoints.add("DELETE", _ONE, verb="configure", problems=(*_GONE, *_PLUGIN, "revision_mismatch"))
async def delete_webhook(call: Call, org: OrgId, type: PluginName, if_match: IfMatch | None = None) -> WebhookView:
    """Takes the address away: what is sent there is answered 404. Deliveries that were taken in stay."""
    return await call.service.webhooks.remove(org, type, if_revision=_revision(if_match))


@endpoints.add(
    "POST", _ONE + "/secret", verb="configure", problems=(*_GONE, *_PLUGIN, "revision_mismatch"), headers=_ETAG
)
async def replace_webhook_secret(
    call: Call, org: OrgId, type: PluginName, body: WebhookSecretIn | None = None, if_match: IfMatch | None = None
) -> Answer[WebhookView]:
    """Replaces the secret. The new one works at once; the old one for as long as the overlap says, by default not at all."""
    asked = body or WebhookSecretIn()
    changed = await call.service.webhooks.replace_secret(
        org, type, secret=_value(asked.secret), overlap_s=asked.overlap_s, if_revision=_revision(if_match)
    )
    return _tagged(changed)


@endpoints.add("POST", _ONE + "/test", verb="configure", problems=(*_GONE, *_PLUGIN, "webhook_untestable", "not_ready"))
async def test_webhook(call: Call, org: OrgId, type: PluginName) -> WebhookTestView:
    """Sends ourselves a sample, signed with the newest secret, through the verification that deliveries go through.

    It does not leave this host: that the address can be reached from outside is not tested.
    """
    return await call.service.webhooks.test(org, type)


@endpoints.add("GET", _DELIVERIES, verb="read", problems=("integration_not_found",))
async def list_deliveries_received(
    call: Call,
    org: OrgId,
    type: PluginName,
    state: DeliveryState | None = None,
    after: RowId | None = None,
    limit: Limit = 50,
) -> Listing[ReceivedDeliveryView]:
    """Lists deliveries, newest first. What they held is not shown, only its size and digest."""
    page = await call.service.webhooks.deliveries(org, type, state=state, after=after, limit=limit)
    return Listing[ReceivedDeliveryView].of(page)


@endpoints.add("POST", _DELIVERIES + "/replay", verb="operate", status=202, problems=("integration_not_found",))
async def replay_deliveries(call: Call, org: OrgId, type: PluginName, body: DeliveryReplayIn) -> DeliveryReplayView:
    """Lets chosen deliveries count once more. Each becomes a new one, marked with the one it repeats and by whom."""
    return await call.service.webhooks.replay(
        org, type, ids=body.ids or (), since=body.since, until=body.until, state=body.state
    )


# ── the address itself ───────────────────────────────────────────────────────

_INTAKE = (
    "not_found", "signature_refused", "delivery_refused", "body_broken", "body_too_slow", "body_too_large",
    "content_encoding_unsupported", "too_many_deliveries", "deliveries_waiting", "not_ready",
)  # fmt: skip


@endpoints.add("POST", _ADDRESS, verb=None, status=202, problems=_INTAKE, takes_raw=True)
async def receive_delivery(call: Call, type: str, key: str) -> web.Response:
    """Takes a delivery in. Answered only after it is stored: 202 for a new one, 200 for one that came before.

    Deliveries are proved as the integration's plugin declares, over the raw body. To an unknown address every delivery is
    answered 404. Send again what is answered 429 or 503.
    """
    return await _receive(call, type, key)


@endpoints.add("GET", _ADDRESS, verb=None, status=202, problems=_INTAKE, takes_raw=True)
async def answer_challenge(call: Call, type: str, key: str) -> web.Response:
    """Answers the handshake with which some senders make sure that the address is ours; the plugin decides what to say."""
    return await _receive(call, type, key)


_PLAIN: Final = {outcome: f'{{"outcome":"{outcome}"}}'.encode() for outcome in ("accepted", "repeated", "ignored")}


async def _receive(call: Call, type: str, key: str) -> web.Response:
    request, webhooks = call.request, call.service.webhooks
    limits = BodyLimits(max_bytes=webhooks.limits.max_bytes, timeout_s=min(call.body_timeout_s, _SLOWEST_BODY_S))
    await webhooks.knock(type, key)
    announced = request.content_length
    size = limits.max_bytes if announced is None and request.body_exists else min(announced or 0, limits.max_bytes)
    with webhooks.room_for(key, size):
        body = await read_raw(request, limits)
        parcel = Parcel(method=request.method, headers=_headers(request), query=_query(request), body=body)
        return _answered(await webhooks.receive(type, key, parcel))


def _answered(received: Received) -> web.Response:
    if (answer := received.answer) is not None:
        headers = {"Content-Type": answer.content_type}
        return web.Response(status=answer.status, body=answer.body, headers=headers)
    status = 200 if received.outcome == "repeated" else 202
    return web.Response(status=status, body=_PLAIN[received.outcome], content_type="application/json")


def _headers(request: web.Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        lower = name.lower()
        # A header that comes twice is one list (RFC 9110, 5.3): a proof with something smuggled in beside it fails.
        found[lower] = f"{found[lower]}, {value}" if lower in found else value
    return found


def _query(request: web.Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.query.items():
        found.setdefault(name, value)
    return found


def _tagged(webhook: WebhookView) -> Answer[WebhookView]:
    return Answer(value=webhook, headers={"ETag": f'"{webhook.revision}"'})


def _value(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _revision(if_match: str | None) -> int | None:
    if if_match is None or if_match == "*":
        return None
    match = _REVISION.fullmatch(if_match)
    return int(match[1]) if match else _NO_REVISION
