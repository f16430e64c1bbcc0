"""What single-answer hooks gave, checked before anyone relies on it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from samband.contract import Check, ConsentRequest, Token
from samband.errors import ContractError, RemoteError

if TYPE_CHECKING:
    from samband.http.egress import EgressPolicy

__all__ = [
    "broken_promise",
    "checked_account",
    "checked_check",
    "checked_consent",
    "checked_hosts",
    "checked_instant",
    "checked_token",
]


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
    expires_at = token.expires_at
    if expires_at is not None and (not isinstance(expires_at, datetime) or expires_at.utcoffset() is None):
        raise broken_promise(plugin, "authenticate", "gave a time without a zone", "build expires_at on ctx.now().")
    return token


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
    if isinstance(hosts, str) or not isinstance(hosts, Collection) or not all(isinstance(h, str) for h in hosts):
        raise broken_promise(plugin, "egress_hosts", "gave no list of names", "return a list or set of host names.")
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
