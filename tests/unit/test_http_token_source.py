from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from samband.contract import Token
from samband.errors import AuthError, RemoteError, UnavailableError
from samband.oauth import TokenSource

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Lines:
    def __init__(self) -> None:
        self.text = ""

    def debug(self, event: str, **values: Any) -> None:
        self.text += f"{event} {values}\n"

    info = warning = error = debug


@dataclass
class Issuing:
    """Issues numbered tokens, slowly; or fails."""

    now: datetime = START
    lifetime_s: float | None = 3600
    fetched: int = 0
    failure: Exception | None = None
    same_value: bool = False
    lines: Lines = field(default_factory=Lines)

    async def fetch(self) -> Token:
        self.fetched += 1
        await asyncio.sleep(0.01)
        if self.failure is not None:
            raise self.failure
        ends = None if self.lifetime_s is None else self.now + timedelta(seconds=self.lifetime_s)
        return Token(value=SecretStr("same" if self.same_value else f"value-{self.fetched}"), expires_at=ends)

    def source(self, **changes: Any) -> TokenSource:
        return TokenSource(self.fetch, now=lambda: self.now, log=self.lines, **changes)


async def test_fifty_who_ask_at_once_cause_one_fetch() -> None:
    issuing = Issuing()
    source = issuing.source()
    tokens = await asyncio.gather(*(source.get() for _ in range(50)))
    assert ({token.value.get_secret_value() for token in tokens}, issuing.fetched) == ({"value-1"}, 1)
    assert "value-1" not in issuing.lines.text


async def test_fifty_refusals_of_one_token_cause_one_renewal() -> None:
    issuing = Issuing()
    source = issuing.source()
    stale = await source.get()
    tokens = await asyncio.gather(*(source.renew(stale) for _ in range(50)))
    assert ({token.value.get_secret_value() for token in tokens}, issuing.fetched) == ({"value-2"}, 2)
    assert (await source.renew(stale)).value.get_secret_value() == "value-2"
    assert issuing.fetched == 2


async def test_an_issuer_that_gives_the_same_token_again_is_not_asked_in_a_loop() -> None:
    issuing = Issuing(same_value=True)
    source = issuing.source()
    stale = await source.get()
    await asyncio.gather(*(source.renew(stale) for _ in range(50)))
    await source.renew(stale)
    assert issuing.fetched == 2


async def test_a_fetch_that_fails_fails_for_all_who_waited_and_is_tried_anew_later() -> None:
    issuing = Issuing(failure=AuthError("no", reason="secret_wrong"))
    source = issuing.source()
    results = await asyncio.gather(*(source.get() for _ in range(50)), return_exceptions=True)
    assert (all(isinstance(result, AuthError) for result in results), issuing.fetched) == (True, 1)
    issuing.failure = None
    assert (await source.get()).value.get_secret_value() == "value-2"


@pytest.mark.parametrize(
    ("lifetime_s", "after_s", "is_renewed"),
    [(3600, 3479, False), (3600, 3480, True), (60, 29, False), (60, 30, True), (2, 0, False), (None, 10**8, False)],
)
async def test_a_token_is_renewed_before_its_end_by_a_leeway_that_shrinks(
    lifetime_s: float | None, after_s: float, is_renewed: bool
) -> None:
    issuing = Issuing(lifetime_s=lifetime_s)
    source = issuing.source()
    await source.get()
    issuing.now += timedelta(seconds=after_s)
    await source.get()
    assert (issuing.fetched == 2) is is_renewed


async def test_an_early_renewal_that_fails_leaves_the_token_in_use_while_it_lasts() -> None:
    issuing = Issuing()
    source = issuing.source()
    await source.get()
    issuing.now += timedelta(seconds=3500)
    issuing.failure = UnavailableError("away")
    tokens = await asyncio.gather(*(source.get() for _ in range(20)))
    assert ({token.value.get_secret_value() for token in tokens}, issuing.fetched) == ({"value-1"}, 2)
    issuing.now += timedelta(seconds=10)
    await source.get()
    assert issuing.fetched == 3
    issuing.now += timedelta(seconds=90)
    with pytest.raises(UnavailableError):
        await source.get()


async def test_a_refused_early_renewal_is_told_at_once() -> None:
    issuing = Issuing()
    source = issuing.source()
    await source.get()
    issuing.now += timedelta(seconds=3500)
    issuing.failure = AuthError("no")
    with pytest.raises(AuthError):
        await source.get()


async def test_a_cancelled_fetch_does_not_take_the_others_with_it() -> None:
    issuing = Issuing()
    source = issuing.source()
    first = asyncio.create_task(source.get())
    await asyncio.sleep(0)
    second = asyncio.create_task(source.get())
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).value.get_secret_value() == "value-2"


async def test_a_token_that_is_over_when_it_comes_is_refused() -> None:
    with pytest.raises(RemoteError) as caught:
        await Issuing(lifetime_s=-5).source().get()
    assert caught.value.code == "token_expired"


async def test_a_forgotten_token_is_fetched_anew() -> None:
    issuing = Issuing()
    source = issuing.source()
    await source.get()
    source.forget()
    assert (await source.get()).value.get_secret_value() == "value-2"
