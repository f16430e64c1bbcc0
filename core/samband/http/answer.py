"""What came back: an answer read whole within its size limit, and its careful parsing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NoReturn

import orjson
from aiohttp import ClientResponse

from samband.errors import RemoteError
from samband.redaction import Redactor

__all__ = ["Answer", "read_body"]

_TITLE: Final = re.compile(rb"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_SHOWN_OF_TITLE: Final = 80
_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_DIGITS: Final = b"0" * 19
_HUGE_INTEGER: Final = re.compile(rb"(?:^|[:,\[])\s*-?[0-9]{19,}\s*(?:$|[,\]}])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer as `samband.contract.HttpResponse` promises it, with one more way to read numbers.

    Attributes:
        status: The HTTP status; never a redirect.
        headers: Case-insensitive; of a repeated one the first.
        url: What was called, byte for byte.
        body: Decompressed bytes.
        host: For messages; the URL may hold more than an error should.
    """

    status: int
    headers: Mapping[str, str]
    url: str
    body: bytes = field(repr=False)
    host: str
    redactor: Redactor = field(repr=False, compare=False)

    def json(self) -> Any:
        """Parses the body into plain objects. Integers are exact at any size; other numbers are floats.

        Raises:
            RemoteError: Code ``not_json``: another format, a cut-off document, NaN or Infinity, nesting too deep.
        """
        # orjson turns integers beyond 64 bit into floats without a word, which would merge two records' ids.
        # Looking for a run of digits by translation takes a tenth of what the regular expression alone takes.
        has_long_digits = _LONG_DIGITS in self.body.translate(_AS_ZEROS)
        if not (has_long_digits and _HUGE_INTEGER.search(self.body)):
            try:
                return orjson.loads(self.body)
            except orjson.JSONDecodeError:
                pass  # it also refuses lone surrogates and deep nesting, which the slower parser may read
        return self._parsed(parse_float=_finite)

    def json_exact(self) -> Any:
        """Parses the body with every number that is not an integer as `decimal.Decimal`, digit for digit. For money.

        Raises:
            RemoteError: Code ``not_json``, as for `json`.
        """
        return self._parsed(parse_float=Decimal)

    def text(self) -> str:
        """Decodes the body by the charset they name, else as UTF-8.

        Raises:
            RemoteError: Code ``not_text``: bytes that are not of that charset. Nothing is replaced silently.
        """
        named = re.search(r"charset=[\"']?([\w.:-]+)", self.headers.get("Content-Type", ""), re.IGNORECASE)
        charset = named[1] if named else "utf-8"
        try:
            return self.body.decode("utf-8-sig" if charset.lower() in ("utf-8", "utf8") else charset)
        except (UnicodeDecodeError, LookupError):
            raise RemoteError(
                f"{self.host} answered {self.status} with text that is not valid {charset[:40]}.", code="not_text"
            ) from None

    def _parsed(self, **hooks: Any) -> Any:
        try:
            return json.loads(self.body, parse_constant=_refuse_constant, **hooks)
        except (ValueError, InvalidOperation, RecursionError):
            # Not chained: the parser's error carries the whole document.
            raise self._not_json() from None

    def _not_json(self) -> RemoteError:
        kind = self.redactor.scrub(self.headers.get("Content-Type", "no content type"))[:100]
        message = f"{self.host} answered {self.status} with {kind} that is not JSON ({len(self.body)} bytes)."
        title = _TITLE.search(self.body, 0, 16_384)
        said = ""
        if title is not None:
            words = " ".join(title[1].decode("utf-8", "replace").split())
            said = self.redactor.scrub(words)[:_SHOWN_OF_TITLE]
        return RemoteError(message, code="not_json", remote_message=said)


async def read_body(response: ClientResponse, limit: int) -> bytes:
    """Reads an answer's body to its end.

    Args:
        response: Headers have come, the body has not been touched.
        limit: Most bytes to read, counted after decompression, so that a small bomb is a large body.

    Raises:
        RemoteError: Code ``body_too_large``; the connection is then not used again.
    """
    announced = response.content_length
    if response.method != "HEAD" and announced is not None and announced > limit:
        response.close()
        raise _too_large(response, limit)
    chunks: list[bytes] = []
    size = 0
    while chunk := await response.content.readany():
        size += len(chunk)
        if size > limit:
            response.close()
            raise _too_large(response, limit)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(response: ClientResponse, limit: int) -> RemoteError:
    return RemoteError(
        f"{response.url.host} answered {response.status} with more than {limit} bytes.",
        code="body_too_large",
        hint="Ask for smaller pages, or raise the integration's limit.",
    )


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number beyond what a float can hold")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
