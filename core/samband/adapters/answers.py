"""What single-answer hooks gave, checked before anyone relies on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from samband.contract import Check, ConsentRequest, Route, Token
from samband.errors import ContractError, RemoteError
from samband.rules.selecting import CORE_ROUTES

if TYPE_CHECKING:
    from samband.http.egress import EgressPolicy

__all__ = [
    "broken_promise",
    "checked_account",
    "checked_check",
    "checked_consent",
    "checked_hosts",
    "checked_instant",
    "checked_route",
    "checked_token",
]

_MAX_ROUTE = 40
_MAX_REASONS = 20
_MAX_REASON = 400
_ROUTE = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{_MAX_ROUTE - 1}}}")


def broken_promise(plugin: str, hook: str, what: str, way_out: str) -> ContractError:
    """Gives the error for an answer that is not what the hook promises. ``what`` holds no value."""
    return ContractError(f"{plugin}: {hook} {what}.", hint=f"For the plugin's author: {way_out}")


def checked_token(plugin: str, token: object) -> Token:
    """Gives the token when it can be kept and sent; `ContractError` otherwise."""
    if not isinstance(token, Token):
        raise broken_promise(plugin, "authenticate", f"gave {type(token).__name__}", "return a samband.Token.")
    if not isinstance(token.value, SecretStr) or not token.value.get_secret_value():
        raise broken_promise(plugin, "authenticate", "gave an empty token", "write Token(value=SecretStr(…)).")
    if not isinstance(token.refresh_token, SecretStr | None):
        raise broken_promise(plugin, "authenticate", "gave a refresh token in clear", "wrap it in SecretStr.")
    if token.hosts is not None:
        _checked_list(plugin, "authenticate", token.hosts, "gave hosts that are no list of names")
    if not _are_fills(token.fills):
        raise broken_promise(
            plugin, "authenticate", "gave fills of the wrong shape", 'write fills={"a_name": SecretStr(…)}, none empty.'
        )
    expires_at = token.expires_at
    if expires_at is not None and (not isinstance(expires_at, datetime) or expires_at.utcoffset() is None):
        raise broken_promise(plugin, "authenticate", "gave a time without a zone", "build expires_at on ctx.now().")
    return token


def _are_fills(fills: object) -> bool:
    return isinstance(fills, Mapping) and all(
        isinstance(name, str)
        and re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name)
        and isinstance(value, SecretStr)
        and value.get_secret_value()
        for name, value in fills.items()
    )


def checked_check(plugin: str, check: object, scrub: Callable[[str], str]) -> Check:
    """Gives the check, its texts scrubbed; `ContractError` when it is not one."""
    if not isinstance(check, Check):
        raise broken_promise(plugin, "check", f"gave {type(check).__name__}", "return a samband.Check.")
    if not isinstance(check.facts, Mapping) or isinstance(check.missing, str) or isinstance(check.unneeded, str):
        raise broken_promise(
            plugin, "check", "gave a Check of the wrong shape", "facts is a mapping, missing and unneeded are lists."
        )
    return Check(
        summary=scrub(str(check.summary)),
        facts={scrub(str(label)): scrub(str(value)) for label, value in check.facts.items()},
        missing=[scrub(str(right)) for right in check.missing],
        unneeded=[scrub(str(right)) for right in check.unneeded],
    )


def checked_account(plugin: str, account: object) -> str:
    """Gives the external account's name; `ContractError` when there is none."""
    if not isinstance(account, str) or not account:
        raise broken_promise(plugin, "account", "gave no name", "return a text that is not empty.")
    return account


def checked_hosts(plugin: str, hosts: object) -> tuple[str, ...]:
    """Gives the host names; `ContractError` when it is one text, which would be taken letter by letter."""
    return _checked_list(plugin, "egress_hosts", hosts, "gave no list of names")


def _checked_list(plugin: str, hook: str, hosts: object, what: str) -> tuple[str, ...]:
    if isinstance(hosts, str) or not isinstance(hosts, Collection) or not all(isinstance(h, str) for h in hosts):
        raise broken_promise(plugin, hook, what, "return a list or set of host names.")
    return tuple(hosts)


def checked_instant(plugin: str, hook: str, instant: object) -> datetime | None:
    """Gives the instant in UTC, or None; `ContractError` when it is none, or says no zone."""
    if instant is None:
        return None
    if not isinstance(instant, datetime) or instant.utcoffset() is None:
        raise broken_promise(plugin, hook, "gave no instant with a zone", "return an aware datetime, or None.")
    return instant.astimezone(UTC)


def checked_consent(plugin: str, request: object, policy: EgressPolicy) -> ConsentRequest:
    """Gives where a person is sent to agree, when both addresses are whole and safe; `ContractError` otherwise."""
    if not isinstance(request, ConsentRequest):
        raise broken_promise(plugin, "consent", f"gave {type(request).__name__}", "return a samband.ConsentRequest.")
    if not request.client_id or not isinstance(request.client_secret, SecretStr | None):
        raise broken_promise(plugin, "consent", "gave no client", "give client_id, and the secret as SecretStr.")
    for name in ("authorize_url", "token_url"):
        address = getattr(request, name)
        try:
            policy.check_url(address, [urlsplit(address).netloc])
        except (RemoteError, ValueError) as error:
            said = error.message if isinstance(error, RemoteError) else "it is not an address"
            raise broken_promise(plugin, "consent", f"gave an unsafe {name} ({said})", "use https addresses.") from None
    return request


def checked_route(plugin: str, route: object, scrub: Callable[[str], str], *, can_render: bool) -> Route:
    """Gives the way that was chosen, its reasons scrubbed; `ContractError` when there is none, or none to write a file."""
    if not isinstance(route, Route):
        raise broken_promise(plugin, "choose_route", f"gave {type(route).__name__}", "return a samband.Route.")
    if not isinstance(route.name, str) or not _ROUTE.fullmatch(route.name):
        way_out = "use 1 to 40 lower-case letters, digits, hyphens and underscores."
        raise broken_promise(plugin, "choose_route", "gave a way without a usable name", way_out)
    if route.name in CORE_ROUTES and not can_render:
        raise broken_promise(plugin, "choose_route", "chose the file", "implement render, and list it as a capability.")
    if not isinstance(route.reasons, Mapping):
        raise broken_promise(plugin, "choose_route", "gave reasons that are no mapping", "write {way: why}.")
    kept = list(route.reasons.items())[:_MAX_REASONS]
    reasons = {scrub(str(way))[:_MAX_ROUTE]: scrub(str(why))[:_MAX_REASON].replace("\x00", "") for way, why in kept}
    return Route(name=route.name, reasons=reasons)
