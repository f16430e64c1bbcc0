"""One place that keeps secrets out of logs, errors and everything else a person or a disk may see.

A `Redactor` knows the values that are secret in this process and the shapes secrets come in. Everything that
leaves the host as text passes `Redactor.scrub`; nothing else in the package cuts or masks secrets.
"""

from __future__ import annotations

import base64
import html
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote, quote_plus
from uuid import UUID

from pydantic import SecretBytes, SecretStr

__all__ = ["MASK", "MAX_TEXT", "Redactor"]

MASK: Final = "***"
"""What stands where a secret stood."""

MAX_TEXT: Final = 4_000
"""Characters kept of one text, cut after redaction so that the cut can never uncover half a secret."""

_MAX_SCANNED: Final = 64 * 1024
_MIN_SECRET: Final = 4
_MAX_SECRETS: Final = 2_048
_MAX_DEPTH: Final = 6

_SECRET_NAMES: Final = (
    "access[_-]?token",
    "refresh[_-]?token",
    "id[_-]?token",
    "session[_-]?token",
    "client[_-]?secret",
    "client[_-]?assertion",
    "private[_-]?key(?:[_-]?pem)?",
    "passw(?:or)?d",
    "passphrase",
    "pwd",
    "(?:x[_-])?api[_-]?key",
    "subscription[_-]?key",
    "functions[_-]?key",
    "(?:x[_-])?csrf[_-]?token",
    "code[_-]?verifier",
    "secret",
    "token",
)
_NAMES: Final = "|".join(_SECRET_NAMES)

# A cheap look first: most texts are a method, a host or a number and hold nothing to mask.
_SUSPECT: Final = re.compile(
    r"eyj|-----begin|authori[sz]ation|bearer|basic|cookie|token|secret|assertion|passw|passphrase|pwd|key|"
    r"verifier|://[^/\s]*@|code=",
    re.IGNORECASE,
)

_PATTERNS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), MASK),
    (
        re.compile(
            r"(?i)((?<![\w-])(?:proxy-)?authorization\\*[\"']?\s*[:=,]\s*\\*[\"']?|(?<![\w-])(?:set-)?cookie\\*[\"']?\s*[:=]"
            r"\s*\\*[\"']?)[^\"'\r\n]+"
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"(?i)\b(bearer\s+)(?=\S*[0-9A-Z._~+/=-])[\w.~+/=-]{6,}"), rf"\1{MASK}"),
    (re.compile(r"(?i)\b(basic\s+)(?=\S*[0-9=+/])[A-Za-z0-9+/]{8,}={0,2}"), rf"\1{MASK}"),
    (re.compile(r"\beyJ[\w-]{6,}(?:\.[\w-]*){1,4}"), MASK),
    # A quoted value in JSON or in a Python repr; then the same inside an escaped string, then bare after = or :.
    (re.compile(rf"(?is)((?<![a-z])(?:{_NAMES})([\"'])\s*:\s*)([\"'])(?:\\.|(?!\3).)*\3?"), rf"\1\3{MASK}\3"),
    (
        re.compile(rf"(?is)((?<![a-z])(?:{_NAMES})(\\+[\"'])\s*:\s*)(\\+[\"'])(?:(?!\3).)*(?:\3)?"),
        rf"\1\3{MASK}\3",
    ),
    (
        re.compile(rf"(?i)((?<![a-z])(?:{_NAMES})\\*[\"']?\s*[=:]\s*)(?!\\*[\"'](?:\*\*\*)?)[^\s&;,\"'<>}}\]]+"),
        rf"\1{MASK}",
    ),
    (re.compile(rf"(?is)((?<![a-z])(?:{_NAMES})\s*=\s*([\"']))(?:(?!\2).)*"), rf"\1{MASK}"),
    (re.compile(rf"(?i)(<(?:[\w.-]+:)?(?:{_NAMES})(?:\s[^<>]*)?>)[^<]+"), rf"\1{MASK}"),
    # An authorisation code travels in a form or a query; a bare "code=500" in a sentence is a status.
    (re.compile(r"(?i)((?:^|[?&])code=)[^&\s\"']+"), rf"\1{MASK}"),
    (re.compile(r"(://)[^/@\s\"']+@"), rf"\1{MASK}@"),
)

_SECRET_KEY: Final = re.compile(
    rf"(?i)(?:^|.*[_.-])(?:{_NAMES}|authorization|cookie|set-cookie|credentials|secrets|assertion)$"
)

_PLAIN: Final = (bool, int, float, Decimal, datetime, date, time, timedelta, UUID, type(None))


class Redactor:
    """Masks every secret it was told about, in each form it may travel in, and everything that looks like one."""

    def __init__(self) -> None:
        self._forms: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        # The first four characters of each form → the forms. A text is only searched for the forms whose start
        # it holds, so that ten thousand known tokens cost a log line no more than ten do.
        self._starts: dict[str, set[str]] = {}
        # Plugins' threads learn secrets while the host's thread writes its log.
        self._lock = threading.Lock()

    def add(self, secret: str | SecretStr) -> None:
        """Makes a value secret from now on.

        Values shorter than four characters are ignored: masking them would mask half of every text. Adding one again
        is cheap. The 2,048 values added last are remembered, so add long-lived ones whenever they are used.

        Args:
            secret: The value as it is; its URL-encoded, base64, JSON- and XML-escaped forms follow from it.
        """
        value = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        if len(value) < _MIN_SECRET:
            return
        with self._lock:
            if value in self._forms:
                self._forms.move_to_end(value)
                return
            if len(self._forms) >= _MAX_SECRETS:
                self._forget_oldest()
            forms = self._forms[value] = _forms_of(value)
            for form in forms:
                self._starts.setdefault(form[:_MIN_SECRET], set()).add(form)

    def scrub(self, text: str) -> str:
        """Gives the text without secrets, at most 4,000 characters of it.

        Idempotent. Vendor error codes and trace ids stay: they are what support asks for.
        """
        cut = len(text) > _MAX_SCANNED
        result = self._without_values(text[:_MAX_SCANNED] if cut else text)
        if _SUSPECT.search(result):
            for pattern, replacement in _PATTERNS:
                result = pattern.sub(replacement, result)
        if cut and len(result) <= MAX_TEXT:
            # Nearly all of it was secret, and the first cut may have left half of one at the end.
            return result[: result.rfind(MASK) + len(MASK)]
        return result[:MAX_TEXT]

    def scrub_value(self, key: str, value: Any) -> Any:
        """Gives a value fit for a log: masked whole when its key says so, else scrubbed to the last nested text.

        Args:
            key: Its name, as in ``client_secret``; decides before the value does.
            value: Anything. Numbers, instants and None stay what they are; unknown objects become scrubbed text.
        """
        return self._scrubbed(key, value, depth=0)

    def structlog_processor(self, logger: Any, method: str, event_dict: MutableMapping[str, Any]) -> Any:
        """Scrubs an event of structlog; stands after the processors that render exceptions and before the renderer."""
        for key, value in event_dict.items():
            if key != "exc_info":
                event_dict[key] = self._scrubbed(key, value, depth=0)
        return event_dict

    def _scrubbed(self, key: str, value: Any, *, depth: int) -> Any:
        if isinstance(value, SecretStr | SecretBytes):
            return MASK
        if value is not None and not isinstance(value, bool) and _SECRET_KEY.match(key):
            return MASK
        if isinstance(value, str):
            return self.scrub(value)
        if isinstance(value, _PLAIN):
            return value
        if depth >= _MAX_DEPTH:
            return self.scrub(repr(value))
        if isinstance(value, Mapping):
            return {self.scrub(str(k)): self._scrubbed(str(k), v, depth=depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._scrubbed(key, v, depth=depth + 1) for v in value]
        if isinstance(value, bytes | bytearray):
            return self.scrub(value.decode("utf-8", "replace"))
        return self.scrub(str(value) if isinstance(value, BaseException) else repr(value))

    def _without_values(self, text: str) -> str:
        if not self._starts or len(text) < _MIN_SECRET:
            return text
        grams = {text[i : i + _MIN_SECRET] for i in range(len(text) - _MIN_SECRET + 1)}
        with self._lock:
            if self._starts.keys().isdisjoint(grams):
                return text
            found = [form for start in self._starts.keys() & grams for form in self._starts[start] if form in text]
        for form in sorted(found, key=len, reverse=True):
            text = text.replace(form, MASK)
        return text

    def _forget_oldest(self) -> None:
        _, forms = self._forms.popitem(last=False)
        for form in forms:
            start = form[:_MIN_SECRET]
            holders = self._starts.get(start, set())
            holders.discard(form)
            if not holders:
                self._starts.pop(start, None)


def _forms_of(value: str) -> tuple[str, ...]:
    # A lone surrogate cannot be encoded; such a value can only leak as it is.
    raw = value.encode("utf-8", "surrogatepass")
    percent = [quote(raw, safe=""), quote_plus(raw), quote(raw)]
    forms = {
        value,
        *percent,
        *(re.sub(r"%[0-9A-F]{2}", lambda m: m[0].lower(), form) for form in percent),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        html.escape(value),
        html.escape(value, quote=False),
        repr(value)[1:-1],
        *_base64_forms(raw),
    }
    if "\n" in value:  # a PEM key may be logged line by line
        forms.update(line.strip() for line in value.splitlines() if len(line) >= 32 and not line.startswith("-----"))
    return tuple(form for form in forms if len(form) >= _MIN_SECRET)


def _base64_forms(raw: bytes) -> set[str]:
    """Gives what base64 makes of the bytes at each of the three places they can start at within a longer text."""
    forms = set()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).decode()
        # The first and the last characters also depend on the neighbours: leave those out.
        start = (0, 2, 3)[offset]
        end = len(encoded) if (offset + len(raw)) % 3 == 0 else len(encoded) - 4 + (offset + len(raw)) % 3
        core = encoded[start:end]
        forms.update({core, core.replace("+", "-").replace("/", "_")})
    # Of a very short secret so few characters are left that they would be found by chance.
    return {form for form in forms if len(form) >= 6}
