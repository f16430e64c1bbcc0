"""Tokens, rights, entities, and the two environments."""

from __future__ import annotations

from typing import Any

import pytest

ONE = "{ accounts(first: 1) { edges { node { dbId code } } } }"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "No API Token given."),
        ("Bearer abc", 'Bad format for API Token. Expected header: "Authorization: token <your-token>"'),
        ("Token abc", 'Bad format for API Token. Expected header: "Authorization: token <your-token>"'),
        ("token", 'Bad format for API Token. Expected header: "Authorization: token <your-token>"'),
        ("token unknown", "Invalid API Token."),
    ],
)
async def test_a_request_without_a_good_token_is_refused(api: Any, header: str | None, message: str) -> None:
    headers = {} if header is None else {"Authorization": header}
    assert (200, {"data": None, "errors": [{"message": message}]}) == await api.send(ONE, headers=headers)
    await api.control("config", {"switches": {"auth_status": 401}})
    status, _ = await api.send(ONE, headers=headers)
    assert 401 == status


async def test_demo_and_live_have_their_own_tokens_and_books(api: Any) -> None:
    live = api.address.live
    url, token = live["settings"]["graphql_url"], live["credentials"]["api_token"]
    _, refused = await api.send(ONE, url=url)
    assert "Invalid API Token." == refused["errors"][0]["message"]
    headers = {"Authorization": f"token {token}"}
    _, body = await api.send(api.add_query, url=url, headers=headers, inputs=api.voucher(1))
    assert "errors" not in body
    await api.run_job()
    assert (0, 2) == ((await api.look("books"))["lines"], (await api.look("books?environment=live"))["lines"])


async def test_a_refresh_takes_the_tokens_of_demo_away_and_lets_those_of_live_in(api: Any) -> None:
    await api.control("refresh")
    _, body = await api.send(ONE)
    assert "Invalid API Token." == body["errors"][0]["message"]
    headers = {"Authorization": f"token {api.address.live['credentials']['api_token']}"}
    _, body = await api.send(ONE, headers=headers)
    assert "errors" not in body


@pytest.mark.parametrize(
    ("change", "query", "message"),
    [
        ({"without_read": ["Account"]}, ONE, "The API Token has no read access to Account."),
        (
            {"without_write": ["GLImportItem"]},
            'mutation { addGLImportItems(inputs: {node: {text: "x"}}) { edges { clientId } } }',
            "The API Token has no write access to GLImportItem.",
        ),
    ],
)
async def test_a_missing_right_is_named_and_the_rest_of_the_query_is_answered(
    api: Any, change: dict[str, Any], query: str, message: str
) -> None:
    token = api.address.credentials["api_token"]
    await api.control("config", {"tokens": [{"token": token, **change}]})
    status, body = await api.send(query)
    assert (200, message, "FORBIDDEN") == (status, body["errors"][0]["message"], body["errors"][0]["code"])
    _, body = await api.send("{ currencies { edges { node { code } } } accounts { edges { cursor } } }")
    assert ["NOK", "SEK", "EUR"] == [edge["node"]["code"] for edge in body["data"]["currencies"]["edges"]]


async def test_a_token_posts_in_its_entity_and_below_and_sees_what_stands_above(api: Any) -> None:
    await api.add(api.voucher(1), api.voucher(2, owner={"code": "23602"}))
    for code in ("23600", "23700", "99999"):
        _, body = await api.send(api.add_query, inputs=api.voucher(3, owner={"code": code}))
        assert f"code '{code}'" in body["errors"][0]["message"]
    await api.run_job()
    assert {"23601", "23602"} == {line["entity"] for line in (await api.look("books"))["entries"]}
    entities = await api.nodes("{ entities { edges { node { code ownerCode } } } }", "entities")
    assert {("23601", "23600"), ("23602", "23601")} == {(row["code"], row["ownerCode"]) for row in entities}


async def test_a_token_of_an_entity_does_not_see_the_one_beside_it(api: Any) -> None:
    await api.control("config", {"tokens": [{"token": "bmVpZ2hib3Vy", "entity": "23700"}]})
    await api.add(api.voucher(1))
    await api.run_job()
    _, body = await api.send(api.posted_query, headers={"Authorization": "token bmVpZ2hib3Vy"}, keys=["1-1"])
    assert [] == body["data"]["journalEntries"]["edges"]


async def test_use_is_counted_by_month(api: Any) -> None:
    for _ in range(3):
        await api.ask(ONE)
    month = (await api.look("state"))["local"][:7]
    used = (await api.look("counters"))["months"]["samband"][month]
    assert 3 == used["requests"]
    assert used["bytes_up"] > 0
    assert used["bytes_down"] > 0
