"""Which way vouchers go: an explicit policy, with a reason for every way that was passed over.

For plugin.py:
    token = await access_token(ctx, log_on)                              # the whole hook authenticate
    route = await choose(ctx, avoided, {"graphql": …, "soap": soap.probe})   # the hook choose_route

The policy. The ways are tried in the order of the settings; a pinned one is the only one. A way is passed over when it has
refused in this run before anything was sent (``avoided``), when there are no credentials for it, or when its probe says
that it is closed; the reason is kept in words. A file can always be written. No way is ever chosen for something whose
outcome is unknown: the core keeps such an item on the way it went and looks it up there, so nothing here needs to know of
it, and the ways themselves must raise `samband.RetryableError` only when it is certain that nothing was taken. A voucher is
made before its way is chosen, with its number, so it is the same whichever way it goes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import timedelta
from typing import Final, TypeAlias

from pydantic import SecretStr

from samband import AdapterError, AuthError, Context, RemoteError, RetryableError, Route, Token
from samband_xledger.settings import RouteName, XledgerCredentials, XledgerSettings

__all__ = ["LogOn", "Probe", "access_token", "choose"]

Probe: TypeAlias = Callable[[Context], Awaitable[object]]
"""``async (ctx)``: light, changes nothing, within the rights that posting needs. Raises an `samband.AdapterError` when the
way is closed."""

LogOn: TypeAlias = Callable[[Context], Awaitable[Mapping[str, SecretStr]]]

_NEEDS: Final[Mapping[RouteName, tuple[Collection[str], str]]] = {
    "graphql": (("api_token",), "there is no API token"),
    "soap": (
        ("soap_user", "soap_key"),
        "there is no log-on key: the web service user is not set, or its last log-on failed",
    ),
    "file": ((), ""),
}
"""Way → the fills it needs, and what to say without them."""

_AFTER_REFUSAL: Final = timedelta(minutes=30)
_AFTER_SILENCE: Final = timedelta(minutes=2)
_NOTHING: Final = SecretStr("samband-xledger:no-api-token")
"""Stands where a token must have a value and there is none; it is never sent, because the token has no hosts then."""


# ── what opens the ways ──────────────────────────────────────────────────────


async def access_token(ctx: Context, log_on: LogOn) -> Token:
    """Gives one token for both ways: the API token in a header that GraphQL's host alone sees, the SOAP log-on as fills.

    A log-on that fails closes SOAP for a while and leaves GraphQL open, when there is an API token. A refused password is
    tried again only after half an hour, so that no account is locked out by it.

    Raises:
        AuthError: There are no credentials that any way can use, or the log-on was refused and is all there is.
        RetryableError: They are away, and the log-on is all there is.
    """
    settings: XledgerSettings = ctx.settings
    credentials: XledgerCredentials = ctx.credentials
    token = credentials.api_token
    fills: dict[str, SecretStr] = {} if token is None else {"api_token": token}
    lasts: timedelta | None = None
    if credentials.soap_user is not None and "soap" in settings.ways:
        lasts = timedelta(minutes=settings.logon_key_lifetime_min)
        try:
            fills |= await log_on(ctx)
        except (AuthError, RemoteError, RetryableError) as error:
            if token is None and "file" not in settings.ways:
                raise
            lasts = _AFTER_SILENCE if isinstance(error, RetryableError) else _AFTER_REFUSAL
            ctx.log.warning("soap_log_on_failed", code=error.code, said=error.message, again_in_s=lasts.total_seconds())
    if not fills and "file" not in settings.ways:
        raise AuthError(
            "There are no credentials for any of the ways that are switched on.",
            reason="client_unknown",
            hint="Give an API token, or user and password of a web service user, or add 'file' to the routes.",
        )
    return Token(
        value=token or _NOTHING,
        scheme="token",
        hosts=(settings.graphql_host,) if token is not None else (),
        fills=fills,
        expires_at=None if lasts is None else ctx.now() + lasts,
    )


# ── the choice ───────────────────────────────────────────────────────────────


async def choose(ctx: Context, avoided: Mapping[str, str], probes: Mapping[str, Probe]) -> Route:
    """Gives the first way that is open, and why each one before it was not.

    Args:
        avoided: Ways that refused in this run, before anything was sent, and why.
        probes: Way → its probe. A way without one is open when its credentials are there.

    Raises:
        AuthError: No way is open, and each wants credentials or rights that a person has to give.
        RetryableError: No way is open now.
    """
    settings: XledgerSettings = ctx.settings
    reasons: dict[str, str] = {}
    closed: list[AdapterError] = []
    for name in settings.ways:
        problem = await _problem(ctx, name, avoided, probes)
        if problem is None:
            ctx.log.info("route_chosen", route=name, passed_over=dict(reasons), pinned=settings.pinned_route)
            return Route(name=name, reasons=reasons)
        reasons[name] = problem.message
        closed.append(problem)
    raise _no_way(reasons, closed)


async def _problem(
    ctx: Context, name: RouteName, avoided: Mapping[str, str], probes: Mapping[str, Probe]
) -> AdapterError | None:
    """Says why a way is closed, or None when it is open."""
    if name in avoided:
        return RetryableError(f"it refused in this run, before anything was sent: {avoided[name]}")
    needed, without = _NEEDS[name]
    if not needed:
        return None
    try:
        if not set(needed) <= set(await ctx.http.fill_names()):
            return AuthError(without)
        if name in probes:
            await probes[name](ctx)
    except (AuthError, RetryableError, RemoteError) as error:
        return error
    return None


def _no_way(reasons: Mapping[str, str], closed: Collection[AdapterError]) -> AdapterError:
    told = " ".join(f"{name}: {reason.rstrip('.')}." for name, reason in reasons.items())
    if all(isinstance(problem, AuthError) for problem in closed):
        return AuthError(
            f"No way into Xledger is open. {told}",
            hint="Give credentials for one of them, or add 'file' to the routes.",
        )
    waits = [problem.retry_after_s for problem in closed if isinstance(problem, RetryableError)]
    known = [wait for wait in waits if wait is not None]
    return RetryableError(
        f"No way into Xledger is open now. {told}", code="no_route", retry_after_s=min(known, default=None),
        hint="It is tried again; nothing was sent.",
    )  # fmt: skip
