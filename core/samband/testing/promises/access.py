"""What `authenticate` and `check` promise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from samband.contract import Check, Manifest, Token
from samband.errors import AuthError, SambandError
from samband.testing.counterpart import Counterpart
from samband.testing.driver import PluginDriver
from samband.testing.promises.declarations import CANARY, secrets_in
from samband.testing.promises.wording import broken

__all__ = ["Access", "spoilt_credentials"]

_AUTHENTICATE = "samband.hookspecs.Hooks.authenticate"
_CHECK = "samband.hookspecs.Hooks.check"
_async = pytest.mark.asyncio(loop_scope="function")


class Access:
    """Tests that sign in."""

    @_async
    async def test_authenticate_gives_a_token_that_works(self, driver: PluginDriver) -> None:
        token = await driver.authenticate()
        assert isinstance(token, Token), broken(
            "authenticate gives a samband.Token.", f"it gave a {type(token).__name__}", see=_AUTHENTICATE
        )
        assert isinstance(token.value, SecretStr), broken(
            "The token's value is a SecretStr.", type(token.value).__name__, see="samband.Token.value"
        )
        if token.expires_at is not None:
            assert token.expires_at.utcoffset() == timedelta(0), broken(
                "A token's expiry is aware UTC.", f"{token.expires_at!r}", see="samband.Token.expires_at"
            )
            assert token.expires_at > driver.clock.now(), broken(
                "A new token is not expired yet.",
                f"it expired {driver.clock.now() - token.expires_at} ago",
                see="samband.Token.expires_at",
                way_out="Count from ctx.now(), not from datetime.now().",
            )
        await driver.prove_access()

    @_async
    async def test_authenticate_may_be_called_again(self, driver: PluginDriver) -> None:
        await driver.authenticate()
        await driver.authenticate()
        await driver.prove_access()

    @_async
    async def test_wrong_credentials_are_an_auth_error_with_a_hint(
        self, driver: PluginDriver, manifest: Manifest, counterpart: Counterpart
    ) -> None:
        for name, spoilt in spoilt_credentials(manifest, counterpart):
            error = await _refusal(driver, spoilt)
            assert isinstance(error, AuthError), broken(
                "Wrong credentials raise AuthError: the core stops and a person is told.",
                f"with a wrong {name}: {_told(error)}",
                see=_AUTHENTICATE,
            )
            assert error.hint, broken(
                "An AuthError has a hint that says what to do next.",
                f"with a wrong {name}: {_told(error)}",
                see="samband.errors.AuthError",
            )

    @_async
    async def test_check_shows_something_real(self, driver: PluginDriver, manifest: Manifest) -> None:
        _skip_without_check(manifest)
        found = await driver.check()
        assert isinstance(found, Check), broken("check gives a samband.Check.", type(found).__name__, see=_CHECK)
        assert found.summary.strip(), broken(
            "A check's summary is one sentence that shows something real.",
            "an empty summary",
            see="samband.Check.summary",
        )
        assert found.is_ok, broken(
            "check passes when nothing is missing.",
            f"against a working counterpart it misses {', '.join(found.missing)}",
            see=_CHECK,
        )

    @_async
    async def test_check_refuses_wrong_credentials(
        self, driver: PluginDriver, manifest: Manifest, counterpart: Counterpart
    ) -> None:
        _skip_without_check(manifest)
        for name, spoilt in spoilt_credentials(manifest, counterpart):
            try:
                found = await driver.with_credentials(spoilt).check()
            except AuthError:
                continue
            except SambandError as err:
                pytest.fail(broken("check raises AuthError.", f"with a wrong {name}: {_told(err)}", see=_CHECK))
            assert found.missing, broken(
                "With bad credentials check raises AuthError or names what is missing.",
                f"with a wrong {name} it said that all is well: {found.summary}",
                see=_CHECK,
            )


def spoilt_credentials(manifest: Manifest, counterpart: Counterpart) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields working credentials with one secret after the other replaced by a wrong one, and that secret's name.

    A wrong value that the model itself refuses is left out: no call is ever made with it.
    """
    good = dict(counterpart.credentials)
    for name, _ in secrets_in(manifest.credentials.model_validate(good)):
        spoilt = _replaced(good, name.split("."), CANARY)
        try:
            manifest.credentials.model_validate(spoilt)
        except ValidationError:
            continue
        yield name, spoilt


def _replaced(values: Mapping[str, Any], path: list[str], value: str) -> dict[str, Any]:
    head, *rest = path
    return {**values, head: _replaced(values[head], rest, value) if rest else value}


async def _refusal(driver: PluginDriver, credentials: Mapping[str, Any]) -> SambandError | None:
    """Signs in and, where that needs no call, makes one; gives the error that this ended with."""
    other = driver.with_credentials(credentials)
    try:
        await other.authenticate()
        await other.prove_access()
    except SambandError as err:
        return err
    return None


def _skip_without_check(manifest: Manifest) -> None:
    if "check" not in manifest.capabilities:
        pytest.skip("the plugin has no check hook")


def _told(error: SambandError | None) -> str:
    return "nothing was raised" if error is None else f"{type(error).__name__}: {error}"
