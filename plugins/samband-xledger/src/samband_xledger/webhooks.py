"""Xledger's deliveries: proved over the raw bytes, and taken for no more than "something was posted".

Signed is ``{unix seconds of Date}.{raw body}`` with HMAC-SHA256, written as base64url in ``X-XL-Webhook-Signature``; the key is
the API token, base64url-decoded; a delivery is good for 15 minutes. Source: Xledger's own GraphQL samples (webhooks in C#).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, Final

from samband import SignatureError, Trigger, WebhookRequest, webhooks

STREAM: Final = "bookings"
WINDOW_S: Final = 15 * 60
SIGNATURE: Final = "x-xl-webhook-signature"


def triggers_of(request: WebhookRequest) -> list[Trigger]:
    """Proves a delivery, and gives a trigger for the stream when it tells of a change.

    Raises:
        SignatureError: It is not theirs, or too old.
        RejectedError: The body is no JSON object.
    """
    _prove(request)
    versions = _versions(webhooks.json_object(request))
    if not versions:
        return []
    # The versions of all changes it tells of: the same delivery sent again has the same ones. Where one has none, what was
    # signed has to do: else the next change would be taken for this one.
    named = [version for version in versions if version is not None]
    is_named = len(named) == len(versions)
    told = "\n".join(named).encode("utf-8", "surrogatepass") if is_named else _signed(request)
    digest = hashlib.sha256(told).hexdigest()
    return [Trigger(stream=STREAM, delivery_id=digest)]


def _prove(request: WebhookRequest) -> None:
    said = request.headers.get("date", "").strip()
    if said:
        webhooks.verify_timestamp(f"{_seconds(said):010d}", request.received_at, window_s=WINDOW_S)
    # Without a date there is nothing that could have been signed; the host's own sample is then signed with one of now.
    dated = request if said else replace(request, headers={**request.headers, "date": _written(request.received_at)})
    webhooks.verify_hmac(dated, header=SIGNATURE, encoding="base64url", content=_signed, key=_key)
    if not said:
        raise SignatureError("The delivery carries no proof of when it was sent.", code="signature_missing")


def _signed(request: WebhookRequest) -> bytes:
    return b"%d." % _seconds(request.headers["date"].strip()) + request.body


def _seconds(date: str) -> int:
    """Gives the seconds since 1970 of an HTTP date; `SignatureError` for any other text."""
    try:
        instant = parsedate_to_datetime(date)
        # RFC 9110, 5.6.7: the one form that senders may write. Of anything looser two readers could make two times.
        is_strict = instant.tzinfo is not None and _written(instant) == date
    except (ValueError, OverflowError):
        is_strict = False
    if not is_strict:
        raise SignatureError("The delivery's date cannot be read.", code="signature_malformed")
    return int(instant.timestamp())


def _written(instant: datetime) -> str:
    return format_datetime(instant.astimezone(UTC), usegmt=True)


def _key(secret: str) -> bytes:
    """Gives the key that an API token stands for; empty, which lets nothing pass, for a text that is none."""
    bare = secret.strip().rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


def _versions(body: Mapping[str, Any]) -> list[str | None]:
    data = body.get("data")
    found: list[str | None] = []
    for name, connection in sorted(data.items()) if isinstance(data, Mapping) else ():
        edges = connection.get("edges") if isinstance(connection, Mapping) else None
        for edge in edges if isinstance(edges, list) else ():
            version = edge.get("syncVersion") if isinstance(edge, Mapping) else None
            found.append(f"{name}={version}" if isinstance(version, str | int) and version != "" else None)
    return found
