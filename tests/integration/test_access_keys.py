"""API keys with a real database behind them: what opens, what does not, and who may hand out what."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest
import sqlalchemy as sa
from aiohttp.test_utils import TestClient, TestServer

from samband.access import Keys
from samband.api import create_app
from samband.errors import InvalidError
from samband.service import Service
from samband.store import Store, Vault
from samband.store.api_keys import ApiKeys
from samband.store.models import ApiKey

Client = TestClient[Any, Any]
Ask = Callable[..., Awaitable[tuple[int, dict[str, Any]]]]
ALL = ["read", "operate", "configure", "admin"]
_key: sa.Table = ApiKey.__table__


@pytest.fixture
async def service(store: Store) -> Service:
    made = Service(store=store, registry=cast(Any, None), bell=cast(Any, None))
    for id in ("hlf", "nbf"):
        await made.organizations.create(id, id.upper())
    return made


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    async with TestClient(TestServer(create_app(service))) as running:
        yield running


@pytest.fixture
def ask(client: Client) -> Ask:
    async def send(key: str, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        answer = await client.request(method, path, headers={"Authorization": f"Bearer {key}"}, **options)
        return answer.status, await answer.json()

    return send


async def made(service: Service, *, verbs: list[str] = ALL, organizations: list[str] | None = None) -> str:
    return await service.create_key("test", verbs=cast(Any, verbs), organizations=organizations)


def id_of(key: str) -> str:
    return key.split("_")[1]


async def set_columns(store: Store, key: str, **values: Any) -> None:
    async with store.database.write() as conn:
        await conn.execute(sa.update(_key).where(_key.c.id == id_of(key)).values(**values))


# ── what opens ───────────────────────────────────────────────────────────────


async def test_key_is_shown_once_and_kept_as_a_hash(store: Store, service: Service, ask: Ask) -> None:
    status, shown = await ask(await made(service), "POST", "/v1/keys", json={"name": "Platform", "verbs": ["read"]})
    assert 201 == status
    secret = shown["key"].split("_", 2)[2]
    assert secret[-4:] == shown["last_four"]
    async with store.database.read() as conn:
        kept = [str(tuple(row)) for row in await conn.execute(sa.text("SELECT * FROM api_key"))]
        kept += [str(tuple(row)) for row in await conn.execute(sa.text("SELECT * FROM audit_entry"))]
    assert 2 == sum(shown["id"] in line for line in kept), "one key and one entry"
    assert not any(secret in line for line in kept)
    _, again = await ask(shown["key"], "GET", "/v1/organizations")
    assert ["hlf", "nbf"] == [o["id"] for o in again["items"]]


async def test_wrong_revoked_and_expired_keys_get_the_same_answer(
    store: Store, service: Service, client: Client
) -> None:
    revoked, expired, good = await made(service), await made(service), await made(service)
    await Keys(store.api_keys).revoke(None, id_of(revoked))
    await set_columns(store, expired, expires_at=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1))
    wrong = [good[:-1] + ("a" if good[-1] != "a" else "b"), "smb_000000000000_nothing", "smb_", "x" * 400]
    answers = set()
    for key in [revoked, expired, *wrong]:
        headers = {"Authorization": f"Bearer {key}", "X-Request-Id": "same"}
        answer = await client.get("/v1/organizations", headers=headers)
        answers.add((answer.status, await answer.text(), answer.headers["WWW-Authenticate"]))
    assert 1 == len(answers)
    ((status, body, challenge),) = answers
    assert (401, 'Bearer realm="samband", error="invalid_token"') == (status, challenge)
    assert "expired" in body


async def test_expiry_ends_a_key_without_anybody_doing_anything(service: Service, ask: Ask, store: Store) -> None:
    key = await made(service)
    await set_columns(store, key, expires_at=dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1))
    assert 200 == (await ask(key, "GET", "/v1/organizations"))[0]
    async with asyncio.timeout(20):
        while (await ask(key, "GET", "/v1/organizations"))[0] == 200:
            await asyncio.sleep(0.05)


async def test_revoked_key_opens_nothing_in_another_process_from_that_moment(
    database_url: str, vault: Vault, service: Service
) -> None:
    key = await made(service)
    other = Store.open(database_url, vault=vault)
    try:
        elsewhere = Keys(other.api_keys)
        assert await elsewhere.holder_of(key) is not None
        await service.keys.revoke(cast(Any, await elsewhere.holder_of(key)), id_of(key))
        assert await elsewhere.holder_of(key) is None
    finally:
        await other.close()


CARRIERS: dict[str, dict[str, Any]] = {
    "basic": {"headers": {"Authorization": "Basic " + base64.b64encode(b"admin:admin").decode()}},
    "the key as basic's password": {"headers": {"Authorization": "KEY_AS_BASIC"}},
    "a web token": {"headers": {"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."}},
    "another scheme": {"headers": {"Authorization": "Token KEY"}},
    "the bare key": {"headers": {"Authorization": "KEY"}},
    "two in one": {"headers": {"Authorization": "Bearer KEY, Bearer KEY"}},
    "two headers": {"headers": [("Authorization", "Bearer KEY"), ("Authorization", "Bearer KEY")]},
    "behind a comma": {"headers": {"Authorization": "Basic eDp5, Bearer KEY"}},
    "another header": {"headers": {"X-API-Key": "KEY", "Api-Key": "KEY", "X-Authorization": "Bearer KEY"}},
    "the proxy's header": {"headers": {"Proxy-Authorization": "Bearer KEY"}},
    "a forwarded user": {"headers": {"X-Forwarded-User": "admin", "X-Remote-User": "admin", "Remote-User": "admin"}},
    "a cookie": {"headers": {"Cookie": "key=KEY; session=KEY; Authorization=Bearer KEY"}},
    "the query": {"params": {"api_key": "KEY", "access_token": "KEY", "key": "KEY", "token": "KEY"}},
    "a form": {"data": {"access_token": "KEY"}},
    "upper case": {"headers": {"Authorization": "Bearer KEY_IN_CAPITALS"}},
    "with a blank inside": {"headers": {"Authorization": "Bearer KEY KEY"}},
    "with another secret's end": {"headers": {"Authorization": "Bearer KEYx"}},
    "with quotes": {"headers": {"Authorization": 'Bearer "KEY"'}},
}


def filled(given: Any, key: str) -> Any:
    """Gives a carrier's options with the key in its places."""
    basic = "Basic " + base64.b64encode(f"{id_of(key)}:{key}".encode()).decode()
    places = {"KEY_AS_BASIC": basic, "KEY_IN_CAPITALS": key.upper(), "KEY": key}

    def put(value: str) -> str:
        place = next((place for place in places if place in value), "")
        return value.replace(place, places[place]) if place else value

    return [(name, put(value)) for name, value in (given.items() if isinstance(given, dict) else given)]


async def test_no_other_credential_opens_anything(service: Service, client: Client) -> None:
    key = await made(service)
    answers = {}
    for carrier, options in CARRIERS.items():
        sent = {what: filled(given, key) for what, given in options.items()}
        answer = await client.request("GET", "/v1/organizations", **sent)
        answers[carrier] = (answer.status, key in await answer.text())
    assert dict.fromkeys(CARRIERS, (401, False)) == answers
    assert 200 == (await client.get("/v1/organizations", headers={"Authorization": f"Bearer {key}"})).status


async def test_bearer_in_any_case_and_with_more_blanks_is_the_same_scheme(service: Service, client: Client) -> None:
    key = await made(service)
    for scheme in ("Bearer ", "bearer ", "BEARER   "):
        answer = await client.get("/v1/organizations", headers={"authorization": scheme + key})
        assert 200 == answer.status


async def test_request_costs_one_look_at_the_keys(store: Store, service: Service, ask: Ask) -> None:
    key = await made(service)
    await set_columns(store, key, last_used_at=dt.datetime.now(dt.UTC))
    asked: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "api_key" in statement:
            asked.append(statement)

    sa.event.listen(store.database.engine.sync_engine, "before_cursor_execute", note)
    await ask(key, "GET", "/v1/organizations/hlf")
    sa.event.remove(store.database.engine.sync_engine, "before_cursor_execute", note)
    assert 1 == len(asked), asked
    async with store.database.read() as conn:
        explain = "EXPLAIN QUERY PLAN " if store.database.is_sqlite else "EXPLAIN "
        if not store.database.is_sqlite:
            await conn.execute(sa.text("SET LOCAL enable_seqscan = off"))  # the table is too small to need its index
        plan = " ".join(
            str(row) for row in await conn.execute(sa.text(f"{explain}SELECT * FROM api_key WHERE id = 'x'"))
        )
    assert "index" in plan.lower()


# ── when a key was last used ─────────────────────────────────────────────────


async def used_at(store: Store, key: str) -> dt.datetime | None:
    found = await store.api_keys.find(id_of(key))
    assert found is not None
    return found.last_used_at


async def test_use_is_noted_at_most_once_an_hour(store: Store) -> None:
    keys = Keys(store.api_keys)
    key = await keys.create("test", verbs=["read"], organizations=None)
    await asyncio.gather(*(keys.holder_of(key) for _ in range(20)))
    await store.api_keys.close()
    first = await used_at(store, key)
    assert first is not None
    await keys.holder_of(key)
    await store.api_keys.close()
    assert first == await used_at(store, key)
    await set_columns(store, key, last_used_at=first - dt.timedelta(hours=1))
    await keys.holder_of(key)
    await store.api_keys.close()
    assert first <= cast(dt.datetime, await used_at(store, key))


async def test_noting_a_use_keeps_nobody_waiting(store: Store) -> None:
    keys = Keys(store.api_keys)
    key = await keys.create("test", verbs=["read"], organizations=None)
    async with store.database.write() as conn:
        # Somebody else holds what the note would need: the whole file on SQLite, the row on PostgreSQL.
        await conn.execute(sa.update(_key).where(_key.c.id == id_of(key)).values(name="held"))
        async with asyncio.timeout(20):
            assert await keys.holder_of(key) is not None
        assert await used_at(store, key) is None
    async with asyncio.timeout(20):
        while await used_at(store, key) is None:
            await asyncio.sleep(0.01)


# ── who may hand out what ────────────────────────────────────────────────────


async def test_verbs_are_independent_and_admin_implies_none(service: Service, ask: Ask) -> None:
    admin = await made(service, verbs=["admin"])
    assert 403 == (await ask(admin, "GET", "/v1/organizations"))[0]
    assert 200 == (await ask(admin, "GET", "/v1/keys"))[0]
    for verb in ("read", "operate", "configure"):
        assert 403 == (await ask(await made(service, verbs=[verb]), "GET", "/v1/keys"))[0]


BEYOND: list[tuple[dict[str, Any], str]] = [
    ({"verbs": ["read"], "organizations": None}, "organizations"),
    ({"verbs": ["read"]}, "organizations"),
    ({"verbs": ["read"], "organizations": ["nbf"]}, "organizations.0"),
    ({"verbs": ["read"], "organizations": ["hlf", "nbf"]}, "organizations.1"),
    ({"verbs": ["read"], "organizations": ["nowhere"]}, "organizations.0"),
    ({"verbs": ["read"], "organizations": ["hlf", "hlf"]}, "organizations"),
    ({"verbs": ["configure"], "organizations": ["hlf"]}, "verbs"),
    ({"verbs": ["read", "read"], "organizations": ["hlf"]}, "verbs"),
    ({"verbs": ["read"], "organizations": ["hlf"], "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
    ({"verbs": ["read"], "organizations": ["hlf"], "expires_at": "2099-01-01T00:00:00Z"}, "expires_at"),
    ({"verbs": ["read"], "organizations": ["hlf"], "expires_at": 1900000000}, "expires_at"),
    ({"verbs": ["read"], "organizations": ["hlf"], "expires_at": "tomorrow"}, "expires_at"),
    ({"verbs": ["read"], "organizations": ["hlf"], "expires_at": "2027-01-01T00:00:00"}, "expires_at"),
    ({"verbs": ["read"], "organizations": ["hlf"], "expires_at": "2027-01-01"}, "expires_at"),
    ({"verbs": ["read"], "organizations": ["hlf"], "expires_at": True}, "expires_at"),
]


async def test_bound_key_gives_nothing_it_does_not_have(service: Service, ask: Ask) -> None:
    bound = await made(service, verbs=["read", "admin"], organizations=["hlf"])
    for body, field in BEYOND:
        status, problem = await ask(bound, "POST", "/v1/keys", json={"name": "more"} | body)
        assert (422, [field]) == (status, [e["field"] for e in problem["errors"]]), body
    assert 1 == len((await ask(bound, "GET", "/v1/keys"))[1]["items"])


async def test_foreign_organisation_and_unknown_one_get_the_same_refusal(service: Service, client: Client) -> None:
    bound = await made(service, verbs=["admin"], organizations=["hlf"])
    bodies = set()
    for organization in ("nbf", "nowhere"):
        answer = await client.post(
            "/v1/keys",
            json={"name": "x", "verbs": ["admin"], "organizations": [organization]},
            headers={"Authorization": f"Bearer {bound}", "X-Request-Id": "same"},
        )
        bodies.add(await answer.text())
    assert 1 == len(bodies)


async def test_key_made_by_a_key_does_not_outlive_it(service: Service, ask: Ask, store: Store) -> None:
    maker = await made(service)
    end = (dt.datetime.now(dt.UTC) + dt.timedelta(days=3)).replace(microsecond=0)
    await set_columns(store, maker, expires_at=end)
    body = {"name": "child", "verbs": ["read"]}
    _, child = await ask(maker, "POST", "/v1/keys", json=body)
    assert end == dt.datetime.fromisoformat(child["expires_at"])
    later = (end + dt.timedelta(seconds=1)).isoformat()
    status, problem = await ask(maker, "POST", "/v1/keys", json=body | {"expires_at": later})
    assert (422, "beyond_own") == (status, problem["errors"][0]["code"])


async def test_key_without_a_wish_lives_a_year_over_the_api_and_for_ever_from_the_host(
    service: Service, ask: Ask
) -> None:
    maker = await made(service)
    _, child = await ask(maker, "POST", "/v1/keys", json={"name": "child", "verbs": ["read"]})
    left = dt.datetime.fromisoformat(child["expires_at"]) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=364) < left <= dt.timedelta(days=365)
    _, own = await ask(maker, "GET", f"/v1/keys/{id_of(maker)}")
    assert (None, "", id_of(maker)) == (own["expires_at"], own["created_by"], child["created_by"])


async def test_bound_key_sees_and_ends_only_what_it_could_have_made(service: Service, ask: Ask) -> None:
    bound = await made(service, verbs=["read", "admin"], organizations=["hlf"])
    mine = await made(service, verbs=["read"], organizations=["hlf"])
    out_of_reach = {
        "another's": await made(service, verbs=["read"], organizations=["nbf"]),
        "shared": await made(service, verbs=["read"], organizations=["hlf", "nbf"]),
        "for all": await made(service, verbs=["read"]),
        "stronger": await made(service, verbs=["configure"], organizations=["hlf"]),
    }
    _, listed = await ask(bound, "GET", "/v1/keys")
    assert {id_of(bound), id_of(mine)} == {item["id"] for item in listed["items"]}
    _, unknown = await ask(bound, "GET", "/v1/keys/000000000000")
    for key in out_of_reach.values():
        for method in ("GET", "DELETE"):
            status, problem = await ask(bound, method, f"/v1/keys/{id_of(key)}")
            assert (404, unknown | {"instance": problem["instance"]}) == (status, problem)
        assert (await ask(key, "GET", "/v1/organizations"))[0] in (200, 403), "it still opens"
    status, ended = await ask(bound, "DELETE", f"/v1/keys/{id_of(mine)}")
    assert (200, "revoked") == (status, ended["state"])
    assert 401 == (await ask(mine, "GET", "/v1/organizations"))[0]


async def test_key_for_two_organisations_hands_out_keys_for_either(service: Service, ask: Ask) -> None:
    both = await made(service, verbs=["read", "admin"], organizations=["hlf", "nbf"])
    for organizations in (["hlf"], ["nbf"], ["nbf", "hlf"]):
        body = {"name": "x", "verbs": ["read"], "organizations": organizations}
        status, child = await ask(both, "POST", "/v1/keys", json=body)
        assert (201, sorted(organizations)) == (status, child["organizations"])


async def test_admin_for_all_may_end_keys_stronger_than_itself_but_makes_none(service: Service, ask: Ask) -> None:
    admin, strong = await made(service, verbs=["admin"]), await made(service)
    status, problem = await ask(admin, "POST", "/v1/keys", json={"name": "x", "verbs": ["read"]})
    assert (422, "beyond_own") == (status, problem["errors"][0]["code"])
    assert 200 == (await ask(admin, "DELETE", f"/v1/keys/{id_of(strong)}"))[0]
    assert 401 == (await ask(strong, "GET", "/v1/keys"))[0]


async def test_ending_a_key_twice_is_one_deed(service: Service, ask: Ask) -> None:
    admin, other = await made(service), await made(service)
    first = await ask(admin, "DELETE", f"/v1/keys/{id_of(other)}")
    assert first == await ask(admin, "DELETE", f"/v1/keys/{id_of(other)}")
    _, entries = await ask(admin, "GET", "/v1/audit", params={"action": "key.revoked"})
    assert [f"key/{id_of(other)}"] == [e["subject"] for e in entries["items"]]
    assert [f"key:{id_of(admin)} test"] == [e["actor"] for e in entries["items"]]


async def test_key_may_end_itself(service: Service, ask: Ask) -> None:
    key = await made(service)
    assert 200 == (await ask(key, "DELETE", f"/v1/keys/{id_of(key)}"))[0]
    assert 401 == (await ask(key, "GET", "/v1/keys"))[0]


async def test_keys_are_listed_part_by_part_and_by_state(service: Service, ask: Ask, store: Store) -> None:
    admin = await made(service)
    keys = [admin] + [await made(service, verbs=["read"]) for _ in range(6)]
    await Keys(store.api_keys).revoke(None, id_of(keys[1]))
    await set_columns(store, keys[2], expires_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=1))
    found: list[str] = []
    after: dict[str, str] = {}
    while True:
        _, page = await ask(admin, "GET", "/v1/keys", params={"limit": "3"} | after)
        found += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert sorted(map(id_of, keys)) == sorted(found)
    assert not any("key" in item or "secret_hash" in item for item in page["items"])
    for state, expected in (("revoked", [keys[1]]), ("expired", [keys[2]]), ("active", [admin, *keys[3:]])):
        _, page = await ask(admin, "GET", "/v1/keys", params={"state": state})
        assert sorted(map(id_of, expected)) == sorted(item["id"] for item in page["items"])
        assert {state} == {item["state"] for item in page["items"]}


async def test_deed_about_a_key_is_told_to_every_organisation_it_is_for_and_to_no_other(
    service: Service, ask: Ask
) -> None:
    admin = await made(service)
    await ask(admin, "POST", "/v1/keys", json={"name": "one", "verbs": ["read"], "organizations": ["hlf"]})
    await ask(admin, "POST", "/v1/keys", json={"name": "two", "verbs": ["read"], "organizations": ["hlf", "nbf"]})
    await ask(admin, "POST", "/v1/keys", json={"name": "all", "verbs": ["read"]})
    told = {}
    for path in ("/v1/organizations/hlf/audit", "/v1/organizations/nbf/audit", "/v1/audit"):
        _, page = await ask(admin, "GET", path, params={"action": "key.created", "actor": f"key:{id_of(admin)}"})
        told[path] = [e["detail"]["name"] for e in page["items"]]
    assert [["one", "two"], ["two"], ["all"]] == list(told.values())
    _, page = await ask(admin, "GET", "/v1/organizations/hlf/audit")
    assert not any("nbf" in str(e) for e in page["items"])


async def test_hosts_that_start_at_once_make_one_first_key(database_url: str, vault: Vault, store: Store) -> None:
    others = [Store.open(database_url, vault=vault) for _ in range(3)]
    try:
        made = await asyncio.gather(*(Keys(s.api_keys).first() for s in [store, *others] for _ in range(3)))
    finally:
        for other in others:
            await other.close()
    assert 1 == len([key for key in made if key is not None])


async def test_names_are_checked_where_no_request_brings_them(store: Store) -> None:
    keys = Keys(ApiKeys(store.database))
    for name in ("", "  ", "x" * 201, "a\nb", "a\x00b"):
        with pytest.raises(InvalidError) as caught:
            await keys.create(name, verbs=["read"], organizations=None)
        assert ["name"] == [p.field for p in caught.value.problems]
