"""The token service over real databases, a real lane and a rotating token endpoint behind HTTP; also over real processes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime as dt
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from samband.adapters.adapter import Adapter, Connection
from samband.adapters.sharedtokens import Held
from samband.contract import Token
from samband.errors import AuthError, NotReadyError, UnavailableError
from samband.rules.refresh import Begin, Change, Keep, Row, TakeLease
from samband.store import Store
from samband.store.models import AuditEntry, Integration, KeptToken, Outbox
from samband.store.tokens import Claim, KeptAccess, Tokens
from samband.tokens import TokenService, claim_of
from tests.rotation.caller import adapter_of, connection_of, registry_of
from tests.rotation.server import CLIENT_ID, CLIENT_SECRET, RotatingServer

ROOT = Path(__file__).resolve().parents[2]
LONG_AGO = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
REAUTHENTICATE = "no.samband.integration.needs_reauthentication.v1"
RECOVERED = "no.samband.integration.recovered.v1"


@dataclass
class Scene:
    """One integration that somebody has agreed to, and the system it leads to."""

    store: Store
    server: RotatingServer
    integration: Integration
    database_url: str
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    async def connection(self, **changes: Any) -> Connection:
        integration = await self.store.catalog.integration_by_id(self.integration.id)
        return replace(await connection_of(self.store, integration), **changes)

    async def adopt(self, *, lasts_s: float = -1.0) -> None:
        """Keeps the token that a person brought: its end is ``lasts_s`` away."""
        now = dt.datetime.now(dt.UTC)
        ends = now + dt.timedelta(seconds=lasts_s)
        token = Token(
            value=SecretStr(f"a{self.server.number}"), expires_at=ends,
            refresh_token=SecretStr(f"r{self.server.number}"),
        )  # fmt: skip
        access = KeptAccess(token=token, renew_at=ends - dt.timedelta(seconds=1), renewed_at=now)
        assert await self.store.tokens.adopt(claim_of(await self.connection()), access) is not None

    async def row(self) -> Row:
        return await self.store.tokens.row(claim_of(await self.connection()), dt.datetime.now(dt.UTC))

    async def kept(self) -> tuple[str, str]:
        token = (await self.row()).kept.token
        return token.value.get_secret_value(), token.refresh_token.get_secret_value()

    async def raw(self) -> Any:
        async with self.store.database.read() as conn:
            return (await conn.execute(sa.select(KeptToken.__table__))).one()

    async def events(self) -> list[str]:
        async with self.store.database.read() as conn:
            table = Outbox.__table__
            kinds = await conn.scalars(sa.select(table.c.type).order_by(table.c.seq))
            return [kind for kind in kinds if kind in (REAUTHENTICATE, RECOVERED)]

    async def deeds(self) -> list[str]:
        async with self.store.database.read() as conn:
            table = AuditEntry.__table__
            deeds = await conn.scalars(sa.select(table.c.action).order_by(table.c.seq))
            return [deed for deed in deeds if deed.startswith(("token.", "consent."))]

    async def state(self) -> str:
        return (await self.store.catalog.integration_by_id(self.integration.id)).connection

    def start(self, **orders: Any) -> subprocess.Popen[str]:
        said = {"database": self.database_url, "integration_id": self.integration.id, "lease_s": 30.0, **orders}
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.rotation.caller", json.dumps(said)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.children.append(child)
        return child


@pytest.fixture
async def scene(store: Store, database_url: str) -> AsyncIterator[Scene]:
    async with RotatingServer().running() as server:
        await store.catalog.add_organization("hlf", "HLF")
        pending = store.catalog.pending({"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}, {})
        integration = await store.catalog.add_integration(
            "hlf", "rotating", "Rotating", {"base_url": server.url}, pending
        )
        scene = Scene(store, server, integration, database_url)
        await scene.adopt()
        try:
            yield scene
        finally:
            for child in scene.children:
                child.kill()
                child.wait(30)
                assert child.stdout is not None
                child.stdout.close()


@pytest.fixture
async def adapter(scene: Scene) -> AsyncIterator[Adapter]:
    async with adapter_of(scene.store, lease_s=30.0, owner="host-1/1") as made:
        yield made


@pytest.fixture
async def other(scene: Scene) -> AsyncIterator[Adapter]:
    """A second host over the same database."""
    async with adapter_of(scene.store, lease_s=30.0, owner="host-2/1") as made:
        yield made


# ── one for all ──────────────────────────────────────────────────────────────


async def test_fifty_callers_of_two_hosts_cause_one_refresh(scene: Scene, adapter: Adapter, other: Adapter) -> None:
    scene.server.delay_s = 0.2
    connection = await scene.connection()
    checks = await asyncio.gather(*(host.check(connection) for host in (adapter, other) for _ in range(25)))
    assert {"Foreningen"} == {check.summary for check in checks}
    assert (1, 1, 0, 0) == (
        scene.server.token_calls, scene.server.most_at_once, scene.server.spent_twice, scene.server.api_refusals,
    )  # fmt: skip
    assert ("a1", "r1") == await scene.kept()


async def test_a_kept_token_survives_the_host_and_is_not_asked_for_again(scene: Scene) -> None:
    for _ in range(3):
        async with adapter_of(scene.store) as host:
            await host.check(await scene.connection())
    assert 1 == scene.server.token_calls


async def test_neither_tokens_nor_refresh_tokens_are_readable_in_the_database(scene: Scene, adapter: Adapter) -> None:
    scene.server.number = 100_001
    await scene.adopt()
    await adapter.check(await scene.connection())
    row = await scene.raw()
    assert b"100002" not in b" ".join(str(value).encode() for value in row) + bytes(row.sealed)
    assert ("a100002", "r100002") == await scene.kept()


async def test_a_token_that_the_api_refuses_early_is_renewed_once_for_everybody(
    scene: Scene, adapter: Adapter, other: Adapter
) -> None:
    connection = await scene.connection()
    await asyncio.gather(adapter.check(connection), other.check(connection))
    scene.server.refused_by_api.add(1)
    await asyncio.gather(*(host.check(connection) for host in (adapter, other) for _ in range(25)))
    assert (2, 0) == (scene.server.renewals, scene.server.spent_twice)


async def test_a_refused_token_is_first_looked_up_because_somebody_may_have_renewed_it(
    scene: Scene, adapter: Adapter, other: Adapter
) -> None:
    connection = await scene.connection()
    await asyncio.gather(adapter.check(connection), other.check(connection))
    await other.renew_token(connection)
    scene.server.number += 1  # the token this host remembers is now two behind, and refused
    await scene.adopt(lasts_s=3600)
    await adapter.check(connection)
    assert (2, 1) == (scene.server.renewals, scene.server.api_refusals)


async def test_an_api_that_refuses_every_token_gets_one_refresh_and_then_a_named_failure(
    scene: Scene, adapter: Adapter
) -> None:
    connection = await scene.connection()
    await adapter.check(connection)
    scene.server.refused_by_api |= set(range(1, 50))
    results = await asyncio.gather(*(adapter.check(connection) for _ in range(20)), return_exceptions=True)
    assert {"auth_refused"} == {error.code for error in results if isinstance(error, AuthError)}
    assert 20 == sum(isinstance(error, AuthError) for error in results)
    assert 2 == scene.server.token_calls


async def test_forcing_a_renewal_is_shared_by_those_who_force_it_at_once(
    scene: Scene, adapter: Adapter, other: Adapter
) -> None:
    connection = await scene.connection()
    await adapter.check(connection)
    scene.server.refused_by_api.add(1)  # so that the server does not call it too early
    scene.server.delay_s = 0.3
    held = await asyncio.gather(*(host.renew_token(connection) for host in (adapter, other) for _ in range(5)))
    generations = {one.generation for one in held}
    assert (2, 0) == (scene.server.renewals, scene.server.spent_twice)
    assert {(await scene.row()).generation} == generations


async def test_a_caller_who_gives_up_does_not_cut_off_the_refresh(scene: Scene, adapter: Adapter) -> None:
    scene.server.hold = "after"
    asking = asyncio.create_task(adapter.check(await scene.connection()))
    await asyncio.wait_for(scene.server.arrived.wait(), 30)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    scene.server.hold = ""
    scene.server.release.set()
    await adapter.check(await scene.connection())
    assert (1, 0) == (scene.server.token_calls, scene.server.spent_twice)


async def test_a_host_that_stops_waits_for_the_answer_that_is_on_its_way(scene: Scene) -> None:
    scene.server.hold = "after"
    async with adapter_of(scene.store) as host:
        asking = asyncio.create_task(host.check(await scene.connection()))
        await asyncio.wait_for(scene.server.arrived.wait(), 30)
        asyncio.get_running_loop().call_later(0.2, scene.server.release.set)
    await asyncio.gather(asking, return_exceptions=True)
    assert ("a1", "r1") == await scene.kept()


# ── what stands against it ───────────────────────────────────────────────────


async def test_a_refused_grant_is_told_once_and_nobody_asks_again(
    scene: Scene, adapter: Adapter, other: Adapter
) -> None:
    scene.server.is_revoked = True
    connection = await scene.connection()
    for host in (adapter, other, adapter):
        with pytest.raises(AuthError) as caught:
            await host.check(connection)
        assert ("grant_refused", "They say no.") == (caught.value.reason, caught.value.remote_message)
        assert caught.value.hint
    assert 1 == scene.server.token_calls
    assert ([REAUTHENTICATE], "needs_reauthentication") == (await scene.events(), await scene.state())
    assert "token.refused" in await scene.deeds()
    with pytest.raises(AuthError):
        await adapter.renew_token(connection)
    assert 1 == scene.server.token_calls


async def test_a_new_consent_lifts_the_refusal_and_tells_of_the_recovery(scene: Scene, adapter: Adapter) -> None:
    scene.server.is_revoked = True
    with pytest.raises(AuthError):
        await adapter.check(await scene.connection())
    scene.server.is_revoked = False
    await scene.adopt()
    await adapter.check(await scene.connection())
    assert ([REAUTHENTICATE, RECOVERED], "connected") == (await scene.events(), await scene.state())


async def test_replaced_credentials_make_the_kept_token_and_the_refusal_worthless(
    scene: Scene, adapter: Adapter
) -> None:
    scene.server.is_revoked = True
    old = await scene.connection()
    with pytest.raises(AuthError):
        await adapter.check(old)
    pending = scene.store.catalog.pending({"client_id": "other", "client_secret": CLIENT_SECRET}, {})
    await scene.store.catalog.set_credentials(scene.integration, pending)
    with pytest.raises(AuthError) as caught:
        await adapter.check(await scene.connection())
    assert "sign_in_needed" == caught.value.reason  # asked anew, and there is no refresh token for these
    await scene.adopt()
    assert [REAUTHENTICATE, RECOVERED] == await scene.events()


async def test_whoever_still_has_the_old_credentials_neither_uses_nor_replaces_the_new_token(
    scene: Scene, adapter: Adapter
) -> None:
    old = await scene.connection()
    changed = {"base_url": scene.server.url, "label": "new"}
    await scene.store.catalog.change_integration(scene.integration, settings=changed)
    await scene.adopt(lasts_s=3600)
    before = await scene.raw()
    with pytest.raises(UnavailableError) as caught:
        await adapter.check(old)
    assert "connection_superseded" == caught.value.code
    assert (before, 0) == (await scene.raw(), scene.server.token_calls)


async def test_switching_an_integration_off_and_on_keeps_its_token(scene: Scene, adapter: Adapter) -> None:
    await adapter.check(await scene.connection())
    await scene.store.catalog.change_integration(scene.integration, display_name="Another name")
    await adapter.check(await scene.connection())
    assert 1 == scene.server.token_calls


async def test_a_trial_uses_no_kept_token_and_leaves_none(scene: Scene, adapter: Adapter) -> None:
    before = await scene.raw()
    with pytest.raises(AuthError) as caught:
        await adapter.check(await scene.connection(is_trial=True))
    assert "sign_in_needed" == caught.value.reason
    assert (before, 0) == (await scene.raw(), scene.server.token_calls)


@pytest.mark.parametrize(
    ("trouble", "error", "code"),
    [
        ({"is_away": True}, UnavailableError, "unavailable"),
        ({"answers_nothing": True}, UnavailableError, "token_answer_lost"),
        ({"scope_refused": True}, AuthError, "auth_scope_refused"),
    ],
)
async def test_other_trouble_asks_nobody_to_sign_in_and_is_tried_again(
    scene: Scene, adapter: Adapter, trouble: dict[str, bool], error: type[Exception], code: str
) -> None:
    for name, value in trouble.items():
        setattr(scene.server, name, value)
    with pytest.raises(error) as caught:
        await adapter.check(await scene.connection())
    assert code == getattr(caught.value, "code", "")
    row = await scene.row()
    assert (None, False, []) == (row.refusal, row.is_leased, await scene.events())


async def test_a_token_that_is_not_over_is_used_while_the_endpoint_is_away(scene: Scene, adapter: Adapter) -> None:
    await scene.adopt(lasts_s=60)
    async with scene.store.database.write() as conn:
        table = KeptToken.__table__
        await conn.execute(sa.update(table).values(renew_at=LONG_AGO))
    scene.server.is_away = True
    assert "Foreningen" == (await adapter.check(await scene.connection())).summary


async def test_an_answer_that_was_lost_is_asked_for_once_more_and_then_somebody_has_to_sign_in(
    scene: Scene, adapter: Adapter
) -> None:
    scene.server.answers_nothing = True
    with pytest.raises(UnavailableError):
        await adapter.check(await scene.connection())
    assert (await scene.row()).is_in_flight
    scene.server.answers_nothing = False
    for _ in range(3):
        with pytest.raises(AuthError) as caught:
            await adapter.check(await scene.connection())
        assert "spent by a renewal that ended" in caught.value.message
    assert (2, [REAUTHENTICATE]) == (scene.server.token_calls, await scene.events())


class AwayDoor:
    """A token service whose database can be away."""

    def __init__(self, store: Store) -> None:
        self.service = TokenService(store)
        self.is_away = False

    async def obtain(self, *arguments: Any, **named: Any) -> Held:
        if self.is_away:
            raise NotReadyError("The database does not answer.", code="database_unavailable")
        return await self.service.obtain(*arguments, **named)


async def test_the_database_may_be_away_while_a_token_lasts(scene: Scene) -> None:
    door, ahead = AwayDoor(scene.store), dt.timedelta()
    async with registry_of(door, now=lambda: dt.datetime.now(dt.UTC) + ahead) as registry:
        host, connection = registry.adapter("rotating"), await scene.connection()
        await host.check(connection)
        door.is_away, ahead = True, dt.timedelta(seconds=3550)  # due, and not over
        assert "Foreningen" == (await host.check(connection)).summary
        ahead = dt.timedelta(seconds=3605)
        with pytest.raises(UnavailableError) as caught:
            await host.check(connection)
        assert "database_unavailable" == caught.value.code
        door.is_away = False
        await door.service.close()


class FalteringTokens:
    """The store's tokens, away for the first times that a new one is to be kept."""

    def __init__(self, tokens: Tokens, times: int) -> None:
        self._tokens = tokens
        self.times = times

    async def row(self, *arguments: Any) -> Row:
        return await self._tokens.row(*arguments)

    async def change(self, claim: Claim, change: Change, **named: Any) -> Row | None:
        if isinstance(change, Keep) and self.times:
            self.times -= 1
            raise NotReadyError("The database does not answer.", code="database_unavailable")
        return await self._tokens.change(claim, change, **named)


async def test_a_rotated_token_waits_for_the_database_and_nobody_uses_it_before(scene: Scene) -> None:
    faltering = FalteringTokens(scene.store.tokens, 3)
    tokens = TokenService(SimpleNamespace(tokens=faltering))  # type: ignore[arg-type]
    async with registry_of(tokens) as registry:
        await registry.adapter("rotating").check(await scene.connection())
    assert (0, 1, ("a1", "r1")) == (faltering.times, scene.server.token_calls, await scene.kept())


async def test_a_lane_that_ended_while_it_asked_leaves_a_word_and_no_lease(scene: Scene) -> None:
    def ask(kept: Token | None) -> concurrent.futures.Future[Token]:
        given_up: concurrent.futures.Future[Token] = concurrent.futures.Future()
        given_up.cancel()
        return given_up

    tokens = TokenService(scene.store)
    with pytest.raises(UnavailableError) as caught:
        await tokens.obtain(await scene.connection(), ask, plugin="rotating")
    assert "plugin_stuck" == caught.value.code
    row = await scene.row()
    assert (False, True) == (row.is_leased, row.is_in_flight)


async def test_a_deleted_integration_is_named_and_not_blamed_on_the_plugin(scene: Scene, adapter: Adapter) -> None:
    connection = await scene.connection(integration_id="gone")
    with pytest.raises(UnavailableError) as caught:
        await adapter.check(connection)
    assert "connection_superseded" == caught.value.code


# ── leases ───────────────────────────────────────────────────────────────────


async def test_a_lease_is_given_to_one_and_an_older_fence_is_refused(scene: Scene) -> None:
    claim, now = claim_of(await scene.connection()), dt.datetime.now(dt.UTC)
    rows = await asyncio.gather(
        *(scene.store.tokens.change(claim, TakeLease(), now=now, lease_s=30) for _ in range(10))
    )
    (taken,) = [row for row in rows if row is not None]
    assert await scene.store.tokens.change(claim, Begin(taken.fence - 1), now=now, lease_s=30) is None
    assert await scene.store.tokens.change(claim, Begin(taken.fence), now=now, lease_s=-1) is not None
    after = await scene.store.tokens.change(claim, TakeLease(), now=now, lease_s=30)
    assert after is not None
    assert (taken.fence + 1, True) == (after.fence, after.is_in_flight)
    assert await scene.store.tokens.change(claim, Begin(taken.fence), now=now, lease_s=30) is None


async def test_a_host_that_starts_again_frees_what_its_former_self_held(scene: Scene) -> None:
    claim, now = replace(claim_of(await scene.connection()), owner="host-1/77"), dt.datetime.now(dt.UTC)
    await scene.store.tokens.change(claim, TakeLease(), now=now, lease_s=3600)
    assert 0 == await scene.store.tokens.free_leases_of("host-2/")
    assert 1 == await scene.store.tokens.free_leases_of("host-1/")
    async with adapter_of(scene.store) as host:
        await host.check(await scene.connection())


# ── processes ────────────────────────────────────────────────────────────────


def told_by(child: subprocess.Popen[str]) -> Counter[str]:
    assert child.stdout is not None
    return Counter(json.loads(child.stdout.read().splitlines()[-1]))


@pytest.mark.parametrize("is_strict", [False, True], ids=["rotating", "family"])
async def test_fifty_callers_in_four_processes_cause_exactly_one_refresh_for_each_expiry(
    scene: Scene, is_strict: bool
) -> None:
    scene.server.lifetime_s, scene.server.is_strict, scene.server.delay_s = 2, is_strict, 0.05
    children = [scene.start(callers=callers, seconds=5.0) for callers in (13, 13, 12, 12)]
    told = sum(await asyncio.gather(*(asyncio.to_thread(told_by, child) for child in children)), Counter())
    assert ["ok"] == list(told)
    assert (0, 0, 1) == (scene.server.spent_twice, scene.server.too_early, scene.server.most_at_once)
    # Each token that was ever given is the one of a generation of its own, and each but the last was replaced once.
    assert scene.server.renewals == scene.server.number == (await scene.row()).generation - 1
    assert scene.server.renewals >= 2
    assert (f"a{scene.server.number}", f"r{scene.server.number}") == await scene.kept()


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_process_killed_in_mid_refresh_leaves_a_valid_token_or_a_word_that_somebody_has_to_sign_in(
    scene: Scene, moment: str
) -> None:
    scene.server.hold = moment
    child = scene.start(callers=5, seconds=60.0, lease_s=2.0)
    await asyncio.wait_for(scene.server.arrived.wait(), 60)
    child.kill()
    await asyncio.to_thread(child.wait, 30)
    scene.server.hold = ""
    survivors = [scene.start(callers=5, seconds=4.0, lease_s=2.0) for _ in range(2)]
    told = sum(await asyncio.gather(*(asyncio.to_thread(told_by, one) for one in survivors)), Counter())
    if moment == "before":
        # The killed one's question was never worked on: it is asked once more, and all is well.
        assert (["ok"], 1, []) == (list(told), scene.server.renewals, await scene.events())
    else:
        assert ["auth_grant_refused"] == list(told)
        assert (2, [REAUTHENTICATE]) == (scene.server.token_calls, await scene.events())


@pytest.fixture(autouse=True)
def no_secret_is_logged(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    said = "".join(capfd.readouterr())
    assert CLIENT_SECRET not in said


async def test_a_token_that_is_over_when_it_comes_does_not_take_the_refresh_token_with_it(scene: Scene) -> None:
    # The service's clock is ahead of the lane's, by which the token's end was reckoned.
    async with adapter_of(scene.store, now=lambda: dt.datetime.now(dt.UTC) + dt.timedelta(days=1)) as host:
        await host.check(await scene.connection())
    assert ("a1", "r1") == await scene.kept()


# ── figures ──────────────────────────────────────────────────────────────────


class Watcher:
    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str]] = []

    def token_refreshed(self, *, plugin: str, outcome: str) -> None:
        self.outcomes.append((plugin, outcome))


async def test_what_became_of_each_question_is_counted(scene: Scene) -> None:
    watcher = Watcher()
    async with adapter_of(scene.store, observer=watcher) as host:
        connection = await scene.connection()
        scene.server.is_away = True
        with pytest.raises(UnavailableError):
            await host.check(connection)
        scene.server.is_away = False
        await host.check(connection)
        scene.server.is_revoked = True
        for _ in range(2):
            with pytest.raises(AuthError):
                await host.renew_token(connection)
    assert [("rotating", outcome) for outcome in ("failed", "renewed", "refused")] == watcher.outcomes


async def test_what_comes_after_a_new_consent_is_dropped_and_the_consent_s_token_used(scene: Scene) -> None:
    watcher = Watcher()
    scene.server.hold = "after"
    async with adapter_of(scene.store, observer=watcher) as host:
        asking = asyncio.create_task(host.check(await scene.connection()))
        await asyncio.wait_for(scene.server.arrived.wait(), 30)
        scene.server.number = 500  # what the person brought
        await scene.adopt(lasts_s=3600)
        scene.server.release.set()
        assert "Foreningen" == (await asking).summary
    assert ([("rotating", "dropped")], ("a500", "r500")) == (watcher.outcomes, await scene.kept())
