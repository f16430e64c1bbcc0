"""The frozen types that cross the boundary between the core and a plugin.

They hold data and nothing else: no store, no queue, no other organisation. A plugin receives a
`Context`, and its only ways out are to yield, to return and to raise (see `samband.errors`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, SecretStr

from samband.outgoing import (
    Batch,
    Booked,
    Chart,
    ChartEntry,
    ChartPeriod,
    ExportFile,
    Item,
    Receipt,
    Route,
    Sought,
    Voucher,
    VoucherLine,
    VoucherPayee,
)

if TYPE_CHECKING:
    from samband.kinds import FieldClass, Kind

__all__ = [
    "HOOK_API_VERSION",
    "Batch",
    "Booked",
    "Capability",
    "Chart",
    "ChartEntry",
    "ChartPeriod",
    "Check",
    "ConsentRequest",
    "Context",
    "CredentialsModel",
    "Direction",
    "Event",
    "ExportFile",
    "HttpResponse",
    "HttpSession",
    "Item",
    "Limits",
    "Manifest",
    "Page",
    "Receipt",
    "Record",
    "Route",
    "Selection",
    "SettingsModel",
    "Sought",
    "Stream",
    "Token",
    "Trigger",
    "Voucher",
    "VoucherLine",
    "VoucherPayee",
    "WebhookAnswer",
    "WebhookProof",
    "WebhookRequest",
]

HOOK_API_VERSION = 1
"""The hook API this core speaks. A plugin that declares another number is listed as failed and not called."""

Capability = Literal[
    "sync",
    "fetch",
    "export",
    "webhook",
    "check",
    "find_exported",
    "choose_route",
    "chart",
    "booked",
    "render",
    "acknowledge",
]
"""What a plugin can do; each name is the hook that must then exist (``webhook`` is ``handle_webhook``)."""

WebhookProof = Literal["standard-webhooks", "hmac", "header", "query", "none"]
"""How a sender proves that a delivery is theirs; ``none`` is declared, and shown as such wherever the webhook is."""

Direction = Literal["pull", "push", "both"]


class SettingsModel(BaseModel):
    """Base for a plugin's settings: frozen, and an unknown key is an error.

    Give every field a ``title`` and a ``description``: forms are drawn from them. Use `pydantic.AnyUrl` types with
    care: the core checks ``https`` itself for every field whose name ends in ``_url``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class CredentialsModel(BaseModel):
    """Base for a plugin's credentials: frozen, unknown keys refused, every secret a `pydantic.SecretStr`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How hard one external account may be used by default; an operator can lower or raise each.

    Attributes:
        requests_per_s: Mean rate over a second, shared by everything that uses the same account.
        concurrency: Requests in flight at once.
        timeout_s: Time limit of one HTTP call, from connecting to the last byte.
        max_body_bytes: Largest answer read; a longer one is cut off and becomes a `RemoteError`.
    """

    requests_per_s: float = 20.0
    concurrency: int = 8
    timeout_s: float = 10.0
    max_body_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One kind of thing a plugin reads or writes, for instance the contacts of a CRM.

    Attributes:
        name: Stable, ``snake_case``, unique within the plugin. Streams are read in the order the manifest lists them.
        kind: The canonical kind its records become, a key of `samband.kinds.Kinds`.
        title: For people.
        direction: Which way it flows.
        incremental: True when a finished read leaves a cursor from which only changes are read next time.
        convert: A pure function ``(row, settings) -> values``. With it, `Record.values` holds their row as it came and
            the core calls ``convert`` only for rows whose version is new, which makes reading unchanged data cheap.
            Raise `samband.errors.RejectedError` (with the field) for a row that cannot be converted: it becomes that
            row's outcome and the read goes on. Without it, `Record.values` already holds the canonical values.
        references: Canonical field → name of the stream (of this plugin) whose key the field holds. The core replaces
            the key by our record id, and makes an unknown one the record's outcome.
        enabled: Whether these settings switch the stream on.
    """

    name: str
    kind: str
    title: str
    direction: Direction = "pull"
    incremental: bool = True
    convert: Callable[[Mapping[str, Any], Any], Mapping[str, Any]] | None = None
    references: Mapping[str, str] = field(default_factory=dict)
    enabled: Callable[[Any], bool] = lambda settings: True


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentRequest:
    """Where a person is sent to agree, for systems that need one (OAuth 2.0 authorization code with PKCE).

    Attributes:
        authorize_url: Their authorization endpoint.
        token_url: Their token endpoint, where the code is exchanged; its host must be in the egress allow-list.
        client_id: The registered client.
        client_secret: Its secret, or None for a public client.
        scope: What is asked for, separated by spaces.
        auth_method: Where the client's secret goes in the exchange.
        parameters: Added to the authorization address, for instance ``{"prompt": "consent"}``.
        issuer: Their issuer identifier (RFC 8414), which the ``iss`` they send back must then equal (RFC 9207). Without
            it, an ``iss`` must at least be of the authorization endpoint's own origin.
    """

    authorize_url: str
    token_url: str
    client_id: str
    client_secret: SecretStr | None = None
    scope: str = ""
    auth_method: Literal["client_secret_post", "client_secret_basic"] = "client_secret_post"
    parameters: Mapping[str, str] = field(default_factory=dict)
    issuer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a plugin is and can do. Data only: it is read at start, before any hook is called.

    Attributes:
        name: The integration type, ``[a-z][a-z0-9_]*``, unique among the installed plugins.
        title: The external system's own name.
        version: The distribution's version; recorded on every run.
        hook_api: The `HOOK_API_VERSION` it was written for.
        capabilities: The hooks it implements besides ``authenticate``.
        settings: Model of the settings one integration has. Its JSON schema is public.
        credentials: Model of the credentials; write-only everywhere.
        streams: In the order they are to be read.
        field_classes: The data classes it moves. A value of any other class is refused by the core.
        egress_hosts: ``settings -> host names`` the integration may be talked to at, besides nothing else.
        limits: Defaults for one external account.
        account: ``settings -> str`` naming the external account that rate limits are shared by. Left at ``default``,
            every integration counts as an account of its own.
        kinds: Canonical kinds this plugin adds.
        simulator: Module that ``python -m`` runs as a stand-in for the external system, or None.
        webhook: How their deliveries prove themselves; None when the plugin takes none.
        credentials_expire_at: ``credentials -> instant`` at which they stop working (a certificate's end), or None.
            Warned of 14 days ahead.
        consent: ``(settings, credentials) -> ConsentRequest`` for a system that a person has to agree at; the token
            that follows is given to ``authenticate`` as ``ctx.token`` whenever it has to be renewed.
    """

    name: str
    title: str
    version: str
    settings: type[BaseModel]
    credentials: type[BaseModel]
    streams: tuple[Stream, ...] = ()
    hook_api: int = HOOK_API_VERSION
    capabilities: frozenset[Capability] = frozenset()
    field_classes: frozenset[FieldClass] = frozenset({"plain"})
    egress_hosts: Callable[[Any], Collection[str]] = lambda settings: ()
    limits: Limits = field(default_factory=Limits)
    account: Callable[[Any], str] = lambda settings: "default"
    kinds: tuple[Kind, ...] = ()
    simulator: str | None = None
    webhook: WebhookProof | None = None
    credentials_expire_at: Callable[[Any], datetime | None] = lambda credentials: None
    consent: Callable[[Any, Any], ConsentRequest] | None = None

    def stream(self, name: str) -> Stream:
        """Gives the stream of that name; `KeyError` names the ones there are."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise KeyError(f"{self.name} has no stream {name!r}; it has {', '.join(s.name for s in self.streams)}")


# ── what a hook is given ─────────────────────────────────────────────────────


class HttpResponse(Protocol):
    """An answer, read whole within the size limit and already known not to be a transport error."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def url(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    def json(self) -> Any:
        """Parses the body; `RemoteError` when it is not JSON (an HTML page, a cut-off document)."""

    def json_exact(self) -> Any:
        """Parses the body with every number that is not an integer as `decimal.Decimal`. For money; slower."""

    def text(self) -> str: ...


class HttpSession(Protocol):
    """The only way out to the network: authorised, rate-limited, time-limited, retried and redacted by the host.

    429, 502, 503, 504, time limits and lost connections are retried by the host for safe methods and end as
    `RateLimitedError` or `UnavailableError`; a 401 renews the token once and then is `AuthError`. Every other
    status comes back as an `HttpResponse` for the plugin to judge. Hosts outside the egress allow-list and
    redirects are refused with `RemoteError` before anything is sent.
    """

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        data: bytes | Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        idempotent: bool | None = None,
        fill: bool = False,
    ) -> HttpResponse:
        """Sends one request. ``url`` is used byte for byte when ``params`` is None (paging links).

        Args:
            method: In capitals.
            url: Absolute.
            params: Encoded and appended; None leaves ``url`` as it is.
            headers: Added to the host's own; ``Authorization`` is set by the host and refused here, except during
                ``authenticate``, where there is no token yet.
            json: Body, encoded as JSON.
            data: Body as bytes, or a form.
            timeout_s: Another time limit than the integration's.
            idempotent: Whether an interrupted request may be sent again. Default: GET, HEAD, PUT, DELETE and OPTIONS.
            fill: Whether the host writes the token's ``fills`` into the body, in place of ``{{name}}``, escaped as XML
                text. For systems that want a secret inside the document; the plugin itself never sees it.
        """

    async def renew_token(self) -> None:
        """Has the token renewed now, for systems that say with another answer than 401 that it has expired.

        Those who ask at once share one renewal. Raises `AuthError` when no new one is to be had.
        """

    async def fill_names(self) -> Collection[str]:
        """Gives the names of the token's ``fills``: which secrets there are, for a plugin that has to choose its way."""


class Logger(Protocol):
    """A structured logger; every value passes the host's redaction."""

    def debug(self, event: str, **values: Any) -> Any: ...
    def info(self, event: str, **values: Any) -> Any: ...
    def warning(self, event: str, **values: Any) -> Any: ...
    def error(self, event: str, **values: Any) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything a hook may use, for one integration of one organisation.

    Attributes:
        organization_id: Whose data this is.
        integration_id: Which integration.
        run_id: The run on whose behalf the hook is called; None for checks and token renewals.
        settings: An instance of the manifest's settings model.
        credentials: An instance of the manifest's credentials model during ``authenticate``, else None.
        token: During ``authenticate``, the token kept last, for its refresh token; None at the first time and otherwise.
        http: The authorised session; during ``authenticate`` it carries no token.
        now: The clock, aware UTC. Use it instead of ``datetime.now`` so that tests can move time.
        log: Structured logger, bound to the integration and the run.
        progress: ``(done, total)`` for people who wait; ``total`` is None when it is not known.
    """

    organization_id: str
    integration_id: str
    run_id: str | None
    settings: Any
    http: HttpSession
    now: Callable[[], datetime]
    log: Logger
    credentials: Any = None
    token: Token | None = None
    progress: Callable[[int, int | None], None] = lambda done, total: None


# ── what hooks give back ─────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A credential for the host to keep and to put on every request.

    Attributes:
        value: The secret itself.
        expires_at: Aware UTC; None for one that does not expire. The host renews it before that.
        header: Name of the header it travels in.
        scheme: Written before the value, as in ``Bearer …``; empty for a bare value.
        refresh_token: Kept by the host, encrypted, for grants that have one.
        hosts: The only hosts that see the header; None for every host of the integration.
        fills: Further secrets by name, which the host writes into bodies that are sent with ``fill=True``.
    """

    value: SecretStr
    expires_at: datetime | None = None
    header: str = "Authorization"
    scheme: str = "Bearer"
    refresh_token: SecretStr | None = None
    hosts: Collection[str] | None = None
    fills: Mapping[str, SecretStr] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One thing as the other side knows it.

    Attributes:
        key: Their id, at most 400 characters. None or empty becomes a failed outcome of this record alone.
        values: Canonical values; with `Stream.convert`, their row as it came.
        version: Any token that changes whenever their row does (an ETag); None when they have none.
    """

    key: str | None
    values: Mapping[str, Any]
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a read that is stored whole, in one transaction with its cursor.

    Attributes:
        records: In their order; of two with the same key the later one counts.
        deleted: Keys that are gone at the other side; unknown ones do no harm.
        cursor: An opaque string from which ``sync`` can go on after this page, or None where that is not safe.
            At most 64 KiB.
        complete: True on the last page of the read, and only there. A read that ends without it fails, and nothing
            is deleted because of it.
        total: Records the whole read is expected to have, when they say so.
    """

    records: Sequence[Record] = ()
    deleted: Sequence[str] = ()
    cursor: str | None = None
    complete: bool = False
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which records of a stream are meant, apart from its cursor: some keys, or those changed within a window.

    Attributes:
        keys: Their ids, at most 1,000; empty when a window is meant.
        since: Changed at or after this instant, aware UTC; None for no lower bound.
        until: Changed before this instant, aware UTC; None for no upper bound.
    """

    keys: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one light read proved about access.

    Attributes:
        summary: One sentence that shows something real, such as the organisation's name at the other side.
        facts: Shown as a list, label → value. No secrets, no member data.
        missing: Rights that are needed and not there, in the other system's own names. Empty when all is well.
        unneeded: Rights that are there and not needed.
    """

    summary: str
    facts: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()
    unneeded: Sequence[str] = ()

    @property
    def is_ok(self) -> bool:
        return not self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRequest:
    """A delivery, byte for byte as it came in.

    Attributes:
        method: In capitals.
        headers: Lower-case names.
        query: The decoded query.
        body: Raw bytes: verify over these, never over a parsed copy.
        received_at: Aware UTC.
        secrets: The integration's webhook secrets that are valid now, newest first.
    """

    method: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    received_at: datetime
    secrets: Sequence[SecretStr] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """What a delivery says should be fetched.

    Attributes:
        stream: Which stream changed.
        keys: Which records; empty for "read the changes".
        delivery_id: Their id of the delivery, for recognising a repeat; None when they send none.
    """

    stream: str
    keys: Sequence[str] = ()
    delivery_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookAnswer:
    """What a sender gets instead of the plain 202: the answer to a challenge that proves the address is ours.

    Attributes:
        status: Of the answer.
        body: At most 64 KiB.
        content_type: Of the body.
        triggers: What to fetch, if the delivery says something as well.
    """

    body: bytes = b""
    status: int = 200
    content_type: str = "text/plain"
    triggers: Sequence[Trigger] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, told to every plugin after it was committed. Holds ids, never member data."""

    id: str
    type: str
    organization_id: str
    subject: str
    time: datetime
    data: Mapping[str, Any]
