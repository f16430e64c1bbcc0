"""How a delivery proves whose it is: the usual proofs, ready-made for ``handle_webhook``.

Each ``verify_…`` function works on the raw bytes, tries every secret that is valid now, compares in constant time, and
raises `samband.SignatureError` with one of the codes in `REASONS`; when it returns, the proof held. Parse the body only
after that, for instance with `json_object`::

    @hookimpl
    async def handle_webhook(ctx, request):
        webhooks.verify_hmac(request, header="x-hub-signature-256", prefix="sha256=")
        changed = webhooks.json_object(request)
        return [Trigger(stream="contacts", keys=[str(changed["id"])], delivery_id=request.headers.get("x-delivery"))]
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import orjson

from samband.contract import WebhookProof, WebhookRequest
from samband.errors import RejectedError, SignatureError

__all__ = [
    "REASONS",
    "WINDOW_S",
    "Encoding",
    "Reason",
    "Sample",
    "StandardDelivery",
    "json_object",
    "make_secret",
    "sampling",
    "secret_problem",
    "verify_header",
    "verify_hmac",
    "verify_query",
    "verify_standard_webhooks",
    "verify_timestamp",
]

Reason = Literal["missing", "malformed", "wrong", "too_old", "too_new", "no_secret"]
REASONS: Final[tuple[Reason, ...]] = ("missing", "malformed", "wrong", "too_old", "too_new", "no_secret")
"""Why a proof did not hold. The error's code is ``signature_`` followed by one of these."""

WINDOW_S: Final = 300
"""How far a signed timestamp may be from our clock, either way. Standard Webhooks, Stripe and Svix use the same."""

Encoding = Literal["hex", "base64", "base64url"]
Key = Callable[[str], bytes]
"""Turns a secret, as it was entered, into the bytes of the key."""

_STANDARD_ID: Final = "webhook-id"
_STANDARD_TIMESTAMP: Final = "webhook-timestamp"
_STANDARD_SIGNATURE: Final = "webhook-signature"
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 -- the public prefix of every such secret
_LEAST_KEY_BYTES: Final = 16
_TIMESTAMP: Final = re.compile(r"[0-9]{10}")
# The specification sets no limit; an id is a look-up key, and thousands of characters are an attack on it.
_ID: Final = re.compile(r"[!-\-/-~]{1,255}")
_TEXTS: Final[dict[Reason, str]] = {
    "missing": "The delivery carries no proof of who sent it.",
    "malformed": "The delivery's proof cannot be read.",
    "wrong": "The delivery's proof does not fit its content.",
    "too_old": "The delivery was signed too long ago.",
    "too_new": "The delivery was signed in the future.",
    "no_secret": "No secret is set that the delivery could be checked with.",
}


class StandardDelivery(NamedTuple):
    """What the three headers said, once they were proved."""

    id: str
    timestamp: int


@dataclass
class Sample:
    """What a delivery would have to carry to be believed; filled by the ``verify_…`` functions inside `sampling`."""

    headers: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)

    @property
    def is_signed(self) -> bool:
        return bool(self.headers or self.query)


_sample: ContextVar[Sample | None] = ContextVar("samband_webhook_sample", default=None)


@contextmanager
def sampling() -> Iterator[Sample]:
    """Has the ``verify_…`` functions note how a right delivery would be signed. For the host's test of a webhook.

    Inside the block they still refuse what is not signed; a second delivery with what they noted is then believed.
    """
    sample = Sample()
    token = _sample.set(sample)
    try:
        yield sample
    finally:
        _sample.reset(token)


# ── the proofs ───────────────────────────────────────────────────────────────


def verify_standard_webhooks(request: WebhookRequest, *, window_s: int = WINDOW_S) -> StandardDelivery:
    """Proves a delivery signed as Standard Webhooks say, and gives its id and timestamp.

    Signed is ``id.timestamp.body`` with HMAC-SHA256 under the base64 part of ``whsec_…``. One match among several
    signatures suffices; versions other than ``v1`` are skipped. Ids longer than 255 characters are refused.

    Source: github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md (August 2026).

    Raises:
        SignatureError: With a code of `REASONS`.
    """
    keys = _keys(request, _standard_key)
    _note_standard(request, keys[0])
    id, timestamp, signatures = (
        _header(request, name) for name in (_STANDARD_ID, _STANDARD_TIMESTAMP, _STANDARD_SIGNATURE)
    )
    if _ID.fullmatch(id) is None:
        raise _refused("malformed")
    signed_at = verify_timestamp(timestamp, request.received_at, window_s=window_s)
    given = [version_and_value.partition(",") for version_and_value in signatures.split()]
    if not any(comma for _, comma, _ in given):
        raise _refused("malformed")
    offered = [_bytes(value) for version, _, value in given if version == "v1"]
    expected = [_standard_signature(key, id, timestamp, request.body) for key in keys]
    _demand_match(offered, expected)
    return StandardDelivery(id, signed_at)


def verify_hmac(
    request: WebhookRequest,
    *,
    header: str,
    encoding: Encoding = "hex",
    prefix: str = "",
    algorithm: str = "sha256",
    content: Callable[[WebhookRequest], bytes] | None = None,
    key: Key | None = None,
    timestamp_header: str | None = None,
    window_s: int = WINDOW_S,
) -> None:
    """Proves a delivery whose header holds an HMAC over its content.

    Args:
        request: As it came in.
        header: Name of the header that holds the signature.
        encoding: How the signature is written; padding of base64 may be missing.
        prefix: Stands before the signature, for instance ``sha256=``.
        algorithm: A name that `hashlib` knows.
        content: What is signed; the raw body when None.
        key: Turns a secret into the key; its UTF-8 bytes when None.
        timestamp_header: Header with Unix seconds that must lie within ``window_s`` of now. Only worth something when
            ``content`` includes it.

    Raises:
        SignatureError: With a code of `REASONS`.
    """
    keys = _keys(request, key or _plain_key)
    signed = content or _body_of
    _note_hmac(request, keys[0], header, encoding, prefix, algorithm, signed, timestamp_header)
    given = _header(request, header)
    if timestamp_header is not None:
        verify_timestamp(_header(request, timestamp_header), request.received_at, window_s=window_s)
    if not given.startswith(prefix):
        raise _refused("malformed")
    digest = _readable_digest(given.removeprefix(prefix).strip(), encoding, hashlib.new(algorithm).digest_size)
    data = signed(request)
    _demand_match([digest], [hmac.digest(k, data, algorithm) for k in keys])


def verify_header(request: WebhookRequest, *, header: str, prefix: str = "") -> None:
    """Proves a delivery that carries the secret itself in a header, for instance ``x-api-key``.

    Raises:
        SignatureError: With a code of `REASONS`.
    """
    keys = _keys(request, _plain_key)
    if (sample := _sample.get()) is not None:
        sample.headers[header.lower()] = prefix + _newest(request)
    given = _header(request, header)
    if not given.startswith(prefix):
        raise _refused("malformed")
    _demand_match([_bytes(given.removeprefix(prefix))], keys)


def verify_query(request: WebhookRequest, *, parameter: str) -> None:
    """Proves a delivery that carries the secret itself in a query parameter, for instance ``code``.

    Such a secret is written into the logs of every proxy on the way: prefer another proof where the sender has one.

    Raises:
        SignatureError: With a code of `REASONS`.
    """
    keys = _keys(request, _plain_key)
    if (sample := _sample.get()) is not None:
        sample.query[parameter] = _newest(request)
    given = request.query.get(parameter, "")
    if not given:
        raise _refused("missing")
    _demand_match([_bytes(given)], keys)


def verify_timestamp(value: str, received_at: datetime, *, window_s: int = WINDOW_S) -> int:
    """Gives a timestamp in Unix seconds that is within the window; its shape is checked before it is a number.

    Raises:
        SignatureError: ``signature_malformed``, ``signature_too_old`` or ``signature_too_new``.
    """
    if _TIMESTAMP.fullmatch(value) is None:
        raise _refused("malformed")
    age_s = received_at.timestamp() - int(value)
    if age_s > window_s:
        raise _refused("too_old")
    if age_s < -window_s:
        raise _refused("too_new")
    return int(value)


# ── what follows a proof that held ───────────────────────────────────────────


def json_object(request: WebhookRequest) -> dict[str, Any]:
    """Gives the body as a JSON object. Call it only when the proof has held.

    Raises:
        RejectedError: It is not one: NaN, an array, a cut-off document. The sender is answered 422 and nothing is done.
    """
    try:
        # .NET serialisers may put a byte order mark in front.
        parsed = orjson.loads(request.body.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        parsed = None  # the cause would hold the body
    if not isinstance(parsed, dict):
        raise RejectedError("The delivery's body is not a JSON object.", code="delivery_malformed")
    return parsed


# ── secrets ──────────────────────────────────────────────────────────────────


def make_secret(proof: WebhookProof) -> str:
    """Gives a fresh secret of 256 random bits in the form the proof's senders take."""
    if proof == "standard-webhooks":
        return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_urlsafe(32)


def secret_problem(proof: WebhookProof, secret: str) -> str | None:
    """Tells in one sentence why a secret cannot be used with a proof, or None. Never repeats the secret."""
    if not secret.isascii() or not secret.isprintable() or secret != secret.strip():
        return "Use printable ASCII characters without space around them."
    if proof == "standard-webhooks":
        if len(_standard_key(secret)) < _LEAST_KEY_BYTES:
            return "Give the sender's whsec_… secret: base64 of at least 16 bytes."
        return None
    return None if _LEAST_KEY_BYTES <= len(secret) <= 4096 else "Use 16 to 4,096 characters."


def _keys(request: WebhookRequest, key: Key) -> list[bytes]:
    """Gives the keys of all secrets, newest first; an empty one would let anybody sign, so it is no key."""
    found = [made for made in (key(secret.get_secret_value()) for secret in request.secrets) if made]
    if not found:
        raise _refused("no_secret")
    return found


def _newest(request: WebhookRequest) -> str:
    return next(value for value in (secret.get_secret_value() for secret in request.secrets) if value)


def _plain_key(secret: str) -> bytes:
    return secret.encode()


def _standard_key(secret: str) -> bytes:
    """Gives the key of ``whsec_…``, with or without its prefix and padding; empty for what is not base64."""
    text = secret.removeprefix(_SECRET_PREFIX).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


# ── the pieces ───────────────────────────────────────────────────────────────


def _refused(reason: Reason) -> SignatureError:
    return SignatureError(_TEXTS[reason], code=f"signature_{reason}")


def _header(request: WebhookRequest, name: str) -> str:
    value = request.headers.get(name.lower(), "").strip()
    if not value:
        raise _refused("missing")
    return value


def _bytes(text: str) -> bytes:
    # Bytes that are not UTF-8 come out of the wire as lone surrogates, which plain encoding would stumble over.
    return text.encode("utf-8", "surrogatepass")


def _body_of(request: WebhookRequest) -> bytes:
    return request.body


def _demand_match(offered: list[bytes], expected: list[bytes]) -> None:
    """Refuses unless one of the offered values is one of the expected; how long it takes tells nothing about them."""
    is_match = False
    for value in offered:
        for right in expected:
            # Digests of equal length, so that not even the length of a static secret shows.
            is_match |= hmac.compare_digest(hashlib.sha256(value).digest(), hashlib.sha256(right).digest())
    if not is_match:
        raise _refused("wrong")


def _standard_signature(key: bytes, id: str, timestamp: str, body: bytes) -> bytes:
    signed = b".".join((id.encode(), timestamp.encode(), body))
    return base64.b64encode(hmac.digest(key, signed, "sha256"))


def _readable_digest(text: str, encoding: Encoding, size: int) -> bytes:
    """Gives the digest that a text stands for; `SignatureError` when it stands for none of that size."""
    try:
        if encoding == "hex":
            digest = bytes.fromhex(text) if len(text) == 2 * size else b""
        else:
            bare = text.rstrip("=")
            altchars = b"-_" if encoding == "base64url" else None
            digest = base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=altchars, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != size:
        raise _refused("malformed")
    return digest


def _note_standard(request: WebhookRequest, key: bytes) -> None:
    if (sample := _sample.get()) is None:
        return
    id, timestamp = f"msg_{secrets.token_hex(12)}", str(int(request.received_at.timestamp()))
    signature = _standard_signature(key, id, timestamp, request.body).decode()
    sample.headers |= {_STANDARD_ID: id, _STANDARD_TIMESTAMP: timestamp, _STANDARD_SIGNATURE: f"v1,{signature}"}


def _note_hmac(
    request: WebhookRequest, key: bytes, header: str, encoding: Encoding, prefix: str, algorithm: str,
    content: Callable[[WebhookRequest], bytes], timestamp_header: str | None,
) -> None:  # fmt: skip
    if (sample := _sample.get()) is None:
        return
    headers = dict(request.headers)
    if timestamp_header is not None:
        headers[timestamp_header.lower()] = str(int(request.received_at.timestamp()))
    digest = hmac.digest(key, content(replace(request, headers=headers)), algorithm)
    sample.headers |= headers | {header.lower(): prefix + _written(digest, encoding)}


def _written(digest: bytes, encoding: Encoding) -> str:
    if encoding == "hex":
        return digest.hex()
    return base64.b64encode(digest, altchars=b"-_" if encoding == "base64url" else None).decode()
