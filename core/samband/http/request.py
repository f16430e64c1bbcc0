"""One request as it will be sent: checked, encoded once, the same bytes on every try."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson
from yarl import URL

from samband.contract import Token
from samband.errors import AuthError, ContractError
from samband.http.egress import names_place

__all__ = ["OutgoingRequest", "shown_path"]

_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_HOSTS_OWN: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "cookie", "proxy-authorization", "upgrade", "te"}
)
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")
_PLACEHOLDER: Final = re.compile(rb"\{\{(.*?)\}\}", re.DOTALL)
_XML_TEXT: Final = re.compile(r"[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingRequest:
    """A request that has passed every check that needs no network."""

    method: str
    url: URL
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    timeout_s: float
    idempotent: bool
    fill: bool = False

    @property
    def host(self) -> str:
        return self.url.raw_host or ""

    @classmethod
    def build(
        cls,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        json: Any,
        data: bytes | Mapping[str, str] | None,
        timeout_s: float,
        idempotent: bool | None,
        fill: bool = False,
        locate: Callable[[str], URL],
        may_authorise: bool,
    ) -> OutgoingRequest:
        """Checks and encodes what a plugin asks for.

        Args:
            locate: Gives the parsed URL or refuses it.
            may_authorise: Whether an ``Authorization`` header is allowed, which is so while there is no token.

        Raises:
            ContractError: The plugin broke a rule; the message names the argument.
            RemoteError: The address is not one that may be called.
        """
        if not re.fullmatch(r"[A-Z]{3,10}", method):
            raise ContractError("The method of a request must be written in capitals.", field="method")
        if not timeout_s > 0:
            raise ContractError("The time limit of a request must be above zero.", field="timeout_s")
        own = _checked_headers(headers or {}, may_authorise=may_authorise)
        if fill and not isinstance(data, bytes | bytearray):
            raise ContractError("Only a body of bytes can be filled.", field="data")
        body, content_type = _encoded(json, data)
        if content_type is not None and not any(name.lower() == "content-type" for name in own):
            own["Content-Type"] = content_type
        return cls(
            method=method,
            url=locate(_with_params(url, params)),
            headers=own,
            body=body,
            timeout_s=timeout_s,
            idempotent=method in _IDEMPOTENT if idempotent is None else idempotent,
            fill=fill,
        )

    def shows(self, token: Token | None) -> bool:
        """Says whether anything of the token travels with this request, so that a refusal says something about it."""
        return token is not None and (self.fill or self._carries_header_of(token))

    def _carries_header_of(self, token: Token) -> bool:
        return token.hosts is None or names_place(token.hosts, self.url)

    def headers_with(self, token: Token | None) -> Mapping[str, str]:
        """Gives the headers with the token among them, where its hosts may see it.

        Raises:
            ContractError: The plugin set the token's header itself, or the token cannot stand in a header.
        """
        if token is None:
            return self.headers
        name = token.header
        if any(own.lower() == name.lower() for own in self.headers):
            raise ContractError(f"The header {name} is set by the host.", field="headers")
        if not self._carries_header_of(token):
            return self.headers
        value = f"{token.scheme} {token.value.get_secret_value()}".strip()
        if not _FIELD_NAME.fullmatch(name) or not re.fullmatch(r"[\x20-\x7e]+", value):
            raise ContractError("The token holds characters that cannot stand in a header.", field="token")
        return {**self.headers, name: value}

    def body_with(self, token: Token | None) -> bytes | None:
        """Gives the body with the token's fills in the places that name them.

        Each name may stand there once: a second place would have come in with somebody's text.

        Raises:
            AuthError: There is no token, or one without fills.
            ContractError: A place names no fill, stands twice, or there is none; or a fill cannot stand in XML.
        """
        if not self.fill or self.body is None:
            return self.body
        if token is None or not token.fills:
            raise AuthError(
                "The request needs secrets in its body, and the token that is kept has none.",
                code="fills_missing",
                hint="Give the integration the credentials that this way of sending needs.",
            )
        names = [name.decode("utf-8", "replace") for name in _PLACEHOLDER.findall(self.body)]
        if not names:
            raise ContractError("The body to be filled has no place to fill.", field="data")
        if len(set(names)) < len(names):
            raise ContractError("A place of the body to be filled stands there twice.", field="data")
        filled = {name.encode(): _filling(name, token) for name in names}
        return _PLACEHOLDER.sub(lambda place: filled[place[1]], self.body)


def _filling(name: str, token: Token) -> bytes:
    secret = token.fills.get(name)
    if secret is None:
        # The name is not quoted: what stands between the braces may be anything.
        known = ", ".join(sorted(token.fills))
        raise ContractError(
            f"The body to be filled names what the token has no fill for; it has {known}.", field="data"
        )
    value = secret.get_secret_value()
    if not _XML_TEXT.fullmatch(value):
        raise ContractError(f"The fill {name} holds characters that cannot stand in XML.", field="token")
    return html.escape(value).encode()


def shown_path(url: URL) -> str:
    """Gives the path as it may be logged: no query, and no quoted key (OData puts e-mail addresses there)."""
    path = re.sub(r"(?i)('|%27).*?(\1|$)", "'…'", url.raw_path)
    return re.sub(r"[^/]*(?:@|%40)[^/]*", "…", path)[:200]


def _with_params(url: str, params: Mapping[str, str] | None) -> str:
    if not url.isascii() and not re.fullmatch(r"[A-Za-z]+://[^/?#]*[\x21-\x7e]*", url):
        raise ContractError("The address of a request must be percent-encoded; use params.", field="url")
    if not params:
        return url
    # Spaces as %20: a plus sign is a plus sign to some of the systems that read this.
    query = urlencode({k: str(v) for k, v in params.items()}, quote_via=quote, safe="$,:/()'@*")
    bare = url.partition("#")[0]
    return f"{bare}{'&' if '?' in bare else '?'}{query}"


def _checked_headers(headers: Mapping[str, str], *, may_authorise: bool) -> dict[str, str]:
    for name, value in headers.items():
        if not isinstance(value, str) or not _FIELD_NAME.fullmatch(name) or not _FIELD_VALUE.fullmatch(value):
            raise ContractError(
                "A header is no text, or holds a line break or another control character.", field="headers"
            )
        lower = name.lower()
        if lower in _HOSTS_OWN or (lower == "authorization" and not may_authorise):
            raise ContractError(f"The header {name} is set by the host.", field="headers")
    return dict(headers)


def _encoded(json: Any, data: bytes | Mapping[str, str] | None) -> tuple[bytes | None, str | None]:
    if json is not None and data is not None:
        raise ContractError("A request has either json or data.", field="json")
    if json is not None:
        return _encoded_json(json), "application/json"
    if data is None:
        return None, None
    if isinstance(data, bytes | bytearray):
        return bytes(data), None
    return urlencode({k: str(v) for k, v in data.items()}).encode(), "application/x-www-form-urlencoded"


def _encoded_json(document: Any) -> bytes:
    try:
        encoded = orjson.dumps(document, default=_number)
    except (TypeError, ValueError, RecursionError) as error:
        # Not chained: the encoder may quote a value.
        raise ContractError(
            f"The json of a request cannot be encoded ({type(error).__name__}).", field="json"
        ) from None
    # orjson writes NaN as null, which would turn a wrong amount into a missing one.
    if b"null" in encoded and _holds_nan(document):
        raise ContractError("The json of a request holds a number that is not finite.", field="json")
    return encoded


def _number(value: Any) -> Any:
    """Writes a `Decimal` digit for digit as a JSON number; `orjson` asks about what it does not know."""
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(format(value, "f").encode())
    raise TypeError


def _holds_nan(value: Any) -> bool:
    if isinstance(value, float):
        return value != value or value in (float("inf"), float("-inf"))
    if isinstance(value, Mapping):
        return any(map(_holds_nan, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_nan, value))
