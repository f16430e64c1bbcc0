"""How every refusal is answered: one table of codes, one document shape (RFC 9457), one place that builds it.

A service error decides its status by its code when the code is in `PROBLEMS`, otherwise by its class in `ERROR_STATUS`.
The same table is the source of the error answers in the OpenAPI document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, get_args

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from samband import errors

__all__ = [
    "ERROR_STATUS",
    "MEDIA_TYPE",
    "PROBLEMS",
    "REFUSED_THERE",
    "SEALED",
    "FieldProblemView",
    "Kind",
    "Problem",
    "UnreadyError",
    "document",
    "explain",
    "organization_not_found",
    "unexpected",
]

MEDIA_TYPE = "application/problem+json"


class Kind(NamedTuple):
    """What a code means on the wire: the HTTP status and the title that never changes."""

    status: int
    title: str


REFUSED_THERE: Final = tuple(f"auth_{reason}" for reason in get_args(errors.AuthReason))
"""What an endpoint that signs in at the other system itself can be told there."""
SEALED: Final = ("master_key_missing", "secret_unreadable", "secret_misplaced")
"""What an endpoint can end in that opens something which is stored encrypted."""

PROBLEMS: Mapping[str, Kind] = {
    "not_json": Kind(400, "The body is not JSON"),
    "body_broken": Kind(400, "The body did not arrive whole"),
    "key_missing": Kind(401, "No key was presented"),
    "key_refused": Kind(401, "The key is not valid"),
    "signature_refused": Kind(401, "The delivery's proof does not hold"),
    "access_refused": Kind(403, "The key does not reach this far"),
    "route_unknown": Kind(404, "There is nothing at this address"),
    "organization_not_found": Kind(404, "There is no such organisation"),
    "unknown_plugin": Kind(404, "There is no such plugin"),
    "integration_not_found": Kind(404, "There is no such integration"),
    "schedule_not_found": Kind(404, "There is no such schedule"),
    "run_not_found": Kind(404, "There is no such run"),
    "never_ran": Kind(404, "The integration has never run"),
    "kind_not_found": Kind(404, "There is no such kind of record"),
    "record_not_found": Kind(404, "There is no such record"),
    "dead_letter_not_found": Kind(404, "There is no such dead letter"),
    "reimbursement_not_found": Kind(404, "There is no such reimbursement"),
    "mapping_not_found": Kind(404, "The integration has no mapping"),
    "chart_not_read": Kind(404, "The other system's accounts have not been read yet"),
    "mapping_version_not_found": Kind(404, "There is no such version of the mapping"),
    "export_not_found": Kind(404, "There is no such export"),
    "batch_not_found": Kind(404, "There is no such batch"),
    "correction_not_found": Kind(404, "There is no such correction"),
    "alert_not_found": Kind(404, "There is no such alert"),
    "key_not_found": Kind(404, "There is no such key"),
    "event_not_found": Kind(404, "There is no such event"),
    "event_type_not_found": Kind(404, "There is no such event type"),
    "export_file_not_found": Kind(404, "There is no such export file"),
    "drop_not_found": Kind(404, "The integration has no drop point"),
    "subscription_not_found": Kind(404, "There is no such subscription"),
    "webhook_not_found": Kind(404, "The integration has no webhook"),
    "not_found": Kind(404, "There is no such thing"),
    "method_not_allowed": Kind(405, "This address does not take this method"),
    "body_too_slow": Kind(408, "The body took too long to arrive"),
    "conflict": Kind(409, "The state of things does not allow this"),
    "organization_exists": Kind(409, "The organisation exists already"),
    "integration_exists": Kind(409, "The integration exists already"),
    "idempotency_outcome_unknown": Kind(409, "It is not known whether the same request was done"),
    "idempotency_in_progress": Kind(409, "The same request is being worked on"),
    "already_exported": Kind(409, "It has been exported"),
    "correction_under_way": Kind(409, "A correction is being carried out"),
    "correction_over": Kind(409, "The correction is decided already"),
    "exporter_ambiguous": Kind(409, "More than one integration takes it"),
    "mapping_missing": Kind(409, "The integration has no mapping in force"),
    "mapping_gap": Kind(409, "The mapping lacks something that these claims need"),
    "nothing_postable": Kind(409, "None of the claims can be booked"),
    "not_approved": Kind(409, "It is not approved"),
    "not_exported": Kind(409, "It has not been exported"),
    "not_uncertain": Kind(409, "It is known what became of it"),
    "lies_there_still": Kind(409, "It lies in the other system still"),
    "still_sending": Kind(409, "A run is still at work on it"),
    "route_unsupported": Kind(409, "The plugin cannot go that way"),
    "reversal_unsupported": Kind(409, "The booking cannot be reversed here"),
    "period_closed": Kind(409, "The period is closed in the books"),
    "voucher_numbers_used_up": Kind(409, "No voucher number is free"),
    "too_many_schedules": Kind(409, "The integration has too many schedules"),
    "chart_unsupported": Kind(409, "The chart of accounts cannot be read"),
    "reconciliation_unsupported": Kind(409, "The books cannot be read"),
    "already_running": Kind(409, "A run is still going on"),
    "backfill_unsupported": Kind(409, "Chosen records cannot be asked for"),
    "nothing_failed": Kind(409, "There is no failed record to read again"),
    "too_many_failed": Kind(409, "Too many records failed"),
    "not_a_dry_run": Kind(409, "The run is no dry run"),
    "not_tested": Kind(409, "The connection has not been tested"),
    "run_ended": Kind(409, "The run has ended already"),
    "nothing_to_retry": Kind(409, "The run left nothing to try again"),
    "not_held": Kind(409, "The run is not held"),
    "nothing_connected": Kind(409, "Nothing that is connected offers this"),
    "not_enabled": Kind(409, "The integration is not enabled"),
    "credentials_missing": Kind(409, "The integration has no credentials"),
    "consent_unsupported": Kind(409, "The system asks no person for consent"),
    "public_url_missing": Kind(409, "The host's public address is not set"),
    "credentials_refused": Kind(409, "The other system refuses the new credentials"),
    "render_unsupported": Kind(409, "The plugin writes no files"),
    "acknowledge_unsupported": Kind(409, "The plugin reads no reports"),
    "drop_root_missing": Kind(409, "The host puts no files into folders"),
    "subscription_disabled": Kind(409, "The subscription is disabled"),
    "subscription_limit": Kind(409, "The organisation has too many subscriptions"),
    "webhook_unsupported": Kind(409, "The plugin takes no webhooks"),
    "webhook_untestable": Kind(409, "A sample cannot be signed here"),
    "plugin_failed": Kind(409, "The plugin is not loaded"),
    **{code: Kind(409, "The other system refused access") for code in REFUSED_THERE},
    "differences_gone": Kind(410, "What the dry run found was thrown away"),
    "events_expired": Kind(410, "These events are no longer kept"),
    "revision_mismatch": Kind(412, "Somebody else changed it first"),
    "body_too_large": Kind(413, "The body is too large"),
    "content_type_unsupported": Kind(415, "The body must be application/json"),
    "content_encoding_unsupported": Kind(415, "The body must not be compressed"),
    "expectation_failed": Kind(417, "The expectation is not supported"),
    "mapping_incomplete": Kind(422, "The mapping lacks something that a voucher needs"),
    "invalid_request": Kind(422, "The request does not say what it must"),
    "credentials_invalid": Kind(422, "The credentials are not what the plugin takes"),
    "delivery_refused": Kind(422, "The delivery is not what is sent here"),
    "idempotency_key_reused": Kind(422, "The idempotency key belongs to another request"),
    "rate_limited": Kind(429, "Too many requests"),
    "too_many_deliveries": Kind(429, "Too many deliveries of this address wait"),
    "internal_error": Kind(500, "Something went wrong here"),
    "remote_error": Kind(502, "The other system answered with an error"),
    "credentials_untested": Kind(503, "The new credentials could not be tested now"),
    "deliveries_waiting": Kind(503, "Too many deliveries wait"),
    "other_side_unreadable": Kind(503, "The other side's books cannot be read now"),
    "sftp_missing": Kind(503, "Delivery over SFTP is not installed here"),
    "not_ready": Kind(503, "A part this needs does not answer now"),
    "unavailable": Kind(503, "The other system does not answer now"),
    "database_unavailable": Kind(503, "The database does not answer now"),
    "database_refused": Kind(503, "The database refuses this host"),
    "master_key_missing": Kind(503, "The key to a stored secret is not here"),
    "secret_unreadable": Kind(503, "A stored secret cannot be read"),
    "secret_misplaced": Kind(503, "A stored secret is not where it belongs"),
}
"""Every code the API itself uses, and those of the service that need their own status or title."""

ERROR_STATUS: tuple[tuple[type[errors.SambandError], Kind], ...] = (
    (errors.InvalidError, PROBLEMS["invalid_request"]),
    (errors.AccessError, PROBLEMS["access_refused"]),
    (errors.NotFoundError, PROBLEMS["not_found"]),
    (errors.ConflictError, PROBLEMS["conflict"]),
    (errors.NotReadyError, PROBLEMS["not_ready"]),
    (errors.ServiceError, Kind(400, "The request was refused")),
    (errors.PluginError, PROBLEMS["plugin_failed"]),
    (errors.ConfigurationError, Kind(503, "The host is not set up for this")),
    (errors.AuthError, Kind(409, "The other system refused access")),
    (errors.RateLimitedError, PROBLEMS["rate_limited"]),
    (errors.RetryableError, PROBLEMS["unavailable"]),
    (errors.AdapterError, PROBLEMS["remote_error"]),
    (errors.StoreError, PROBLEMS["not_ready"]),
)
"""Error class → status, most specific first; what is not listed is a 500 that says nothing but its instance."""

_OF_THE_HOST = (errors.StoreError, errors.ConfigurationError)
_RETRY_AFTER_S = 5


class UnreadyError(errors.NotReadyError):
    """A part of the host is not ready; ``parts`` tells of each how it is."""

    def __init__(self, failing: list[str], parts: Mapping[str, str]) -> None:
        super().__init__(
            f"Not ready: {', '.join(failing)}.", hint="Each part under 'parts' says what is wrong with it."
        )
        self.parts = dict(parts)


class FieldProblemView(BaseModel):
    """One thing that is wrong with one field. The value that was sent is never part of it."""

    field: str = Field(description="Dotted path in the body, or the name of the parameter or header.")
    code: str
    message: str


class Problem(BaseModel):
    """Why a request was refused, after RFC 9457. ``code`` is stable; texts may change."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="/problems/ followed by the code: an identifier, not a page.")
    title: str
    status: int
    code: str
    detail: str
    hint: str | None = Field(default=None, description="The next step, when there is one.")
    instance: str = Field(description="The request id; the log lines of the request carry it.")
    errors: list[FieldProblemView] | None = Field(default=None, description="The fields at fault.")
    remote_message: str | None = Field(default=None, description="The other system's own words, when it said any.")
    run: str | None = Field(default=None, description="With already_running: the run that is alive.")
    parts: dict[str, str] | None = Field(default=None, description="With not_ready: each part and how it is.")


def explain(error: errors.SambandError, request: web.Request, instance: str) -> web.Response | None:
    """Gives the answer to an error of the tree, or None for one that has no place in the table."""
    if error.code == "organization_not_found":
        error = organization_not_found()
    kind = _kind_of(error)
    if kind is None:
        return None
    members: dict[str, Any] = {}
    if isinstance(error, errors.InvalidError | errors.ConflictError) and error.problems:
        members["errors"] = [{"field": p.field, "code": p.code, "message": p.message} for p in error.problems]
    if error.remote_message:
        members["remote_message"] = error.remote_message
    if isinstance(error, errors.AlreadyRunningError):
        members["run"] = error.run_id
    if isinstance(error, UnreadyError):
        members["parts"] = error.parts
    headers = _headers(error, kind.status, request)
    return document(kind, error.code, error.message, instance, hint=error.hint, headers=headers, **members)


def organization_not_found() -> errors.NotFoundError:
    """Gives the one answer for an organisation that is unknown, impossible, or not this key's to know of."""
    return errors.NotFoundError(
        "There is no such organisation, or none that this key reaches.",
        code="organization_not_found",
        hint="See /v1/organizations for those the key reaches.",
    )


def unexpected(instance: str) -> web.Response:
    """Gives the answer to a defect of ours: nothing but the instance that the log carries."""
    detail = "The request could not be completed because of a fault in samband. Nothing more is told here."
    hint = "Give this instance to whoever runs samband: the log names the fault under it."
    return document(PROBLEMS["internal_error"], "internal_error", detail, instance, hint=hint)


def document(
    kind: Kind,
    code: str,
    detail: str,
    instance: str,
    *,
    hint: str = "",
    headers: Mapping[str, str] | None = None,
    **members: Any,
) -> web.Response:
    """Builds a problem document; ``members`` are the extension members of its code."""
    body: dict[str, Any] = {"type": f"/problems/{code}", "title": kind.title, "status": kind.status, "code": code}
    body |= {"detail": detail} | ({"hint": hint} if hint else {}) | {"instance": instance} | members
    answer = web.Response(status=kind.status, body=orjson.dumps(body), content_type=MEDIA_TYPE, headers=headers)
    if kind.status == 408:
        answer.force_close()  # the rest of the body would be taken for the next request
    return answer


def _kind_of(error: errors.SambandError) -> Kind | None:
    # Only the service's codes are ours; a plugin may call its error anything, "key_missing" included.
    known = PROBLEMS.get(error.code)
    if isinstance(error, errors.ServiceError) and known is not None:
        return known
    kind = next((kind for cls, kind in ERROR_STATUS if isinstance(error, cls)), None)
    # What the database and the vault report has the status of its class, and a title of its own where there is one.
    if isinstance(error, _OF_THE_HOST) and known is not None and kind is not None and known.status == kind.status:
        return known
    return kind


def _headers(error: errors.SambandError, status: int, request: web.Request) -> dict[str, str]:
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="samband"' + (
            ', error="invalid_token"' if error.code == "key_refused" else ""
        )
    if error.code == "signature_refused":
        headers["WWW-Authenticate"] = 'Signature realm="samband webhooks"'  # a key would not help
    if status == 403:
        headers["WWW-Authenticate"] = 'Bearer realm="samband", error="insufficient_scope"'
    if status in (429, 503):
        wait_s = getattr(error, "retry_after_s", None)
        headers["Retry-After"] = str(max(1, math.ceil(_RETRY_AFTER_S if wait_s is None else wait_s)))
    if isinstance(error, errors.AlreadyRunningError):
        headers["Location"] = f"/v1/organizations/{request.match_info['org']}/runs/{error.run_id}"
    return headers
