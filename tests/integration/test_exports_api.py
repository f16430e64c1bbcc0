"""Exports over HTTP: what is answered to an order, to its preview, and to a person's word."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from samband.access import ALL_VERBS
from samband.api import create_app
from samband.store import Store

from .booking import ORG, Books, Desk

BASE = f"/v1/organizations/{ORG}"
Ask = Callable[..., Awaitable[tuple[int, Any]]]
REASON = {"reason": "Seen in their list."}


@pytest.fixture
def desk(store: Store) -> Desk:
    return Desk.around(store, Books())


@pytest.fixture
async def ask(desk: Desk) -> AsyncIterator[Ask]:
    """Sends a request; gives the status and the body."""
    create = desk.service.create_key
    await desk.connect("c-1", "c-2")
    keys = {
        "all": await create("all", verbs=ALL_VERBS, organizations=[ORG]),
        "operator": await create("operator", verbs=["read", "operate"], organizations=[ORG]),
    }
    async with TestClient(TestServer(create_app(desk.service))) as client:

        async def send(method: str, path: str, body: Any = None, *, key: str = "all") -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {keys[key]}", "Content-Type": "application/json"}
            data = None if body is None else json.dumps(body)
            answer = await client.request(method, BASE + path, data=data, headers=headers)
            return answer.status, await answer.json()

        yield send


async def test_order_by_days_is_previewed_granted_and_shown_as_a_batch(ask: Ask) -> None:
    order = {"from": "2026-03-01", "until": "2026-03-31", "exclude": [{"id": "c-2", "reason": "Receipt missing."}]}
    status, seen = await ask("POST", "/reimbursements/export/preview", order, key="operator")
    assert (200, 1, ["c-1"], {"NOK": "100.50"}) == (status, seen["count"], seen["claims"], seen["totals"])
    assert (200, []) == _items(await ask("GET", "/exports"))
    status, ordered = await ask("POST", "/reimbursements/export", order, key="operator")
    assert (202, ["c-1"]) == (status, ordered["reserved"])
    assert [("c-2", "excluded", "Receipt missing.")] == [
        (one["id"], one["reason"], one["message"]) for one in ordered["skipped"]
    ]
    run = ordered["run"]["id"]
    status, listed = await ask("GET", "/exports/batches", key="operator")
    assert (200, [run]) == (status, [one["run"] for one in listed["items"]])
    status, batch = await ask("GET", f"/exports/batches/{run}")
    assert (200, "open", {"reserved": 1}, "operator") == (
        status, batch["outcome"], batch["states"], batch["requested_by"],
    )  # fmt: skip
    status, none = await ask("GET", f"/exports/batches/{'0' * 32}")
    assert (404, "batch_not_found") == (status, none["code"])


async def test_gap_is_a_problem_that_lists_what_is_missing(ask: Ask, desk: Desk) -> None:
    await desk.put("c-3", type="taxi")
    for path in ("/reimbursements/export", "/reimbursements/export/preview"):
        status, refused = await ask("POST", path, {})
        assert (409, "mapping_gap") == (status, refused["code"])
        assert ["mapping.expense_types.taxi"] == [one["field"] for one in refused["errors"]]
        assert "c-3" in refused["errors"][0]["message"]


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({"ids": ["c-1"], "from": "2026-03-01"}, "ids"),
        ({"from": "2026-02-30"}, "from"),
        ({"from": "1 March"}, "from"),
        ({"from": "2026-03-02", "until": "2026-03-01"}, "until"),
        ({"route": "pigeon"}, "route"),
        ({"exclude": [{"id": "c-1", "reason": "no"}]}, "exclude.0.reason"),
        ({"exclude": [{"id": "c-1"}]}, "exclude.0.reason"),
        ({"exclude": {"c-1": "Receipt missing."}}, "exclude"),
        ({"since": "2026-03-01"}, "since"),
        ({"ids": ["c 1"]}, "ids.0"),
    ],
)
async def test_order_that_does_not_fit_names_its_field(ask: Ask, order: dict[str, Any], field: str) -> None:
    for path in ("/reimbursements/export", "/reimbursements/export/preview"):
        status, refused = await ask("POST", path, order)
        assert (422, [field]) == (status, [one["field"] for one in refused["errors"]])


async def test_person_resolves_and_repeats_only_with_the_right_to_configure_and_a_reason(ask: Ask, desk: Desk) -> None:
    await ask("POST", "/reimbursements/export", {"ids": ["c-1"]})
    key = (await desk.items())["c-1/1"].key
    resolve, again = f"/exports/{key}/resolve", "/reimbursements/c-1/export-again"
    for path, body in ((resolve, {"outcome": "booked", **REASON}), (again, REASON)):
        assert 403 == (await ask("POST", path, body, key="operator"))[0]
        status, refused = await ask("POST", path, {**body, "reason": "no"})
        assert (422, ["reason"]) == (status, [one["field"] for one in refused["errors"]])
    assert 404 == (await ask("POST", f"/exports/{'0' * 32}/resolve", {"outcome": "booked", **REASON}))[0]
    assert 404 == (await ask("POST", "/reimbursements/none/export-again", REASON))[0]
    status, refused = await ask("POST", resolve, {"outcome": "booked", **REASON})
    assert (409, "not_uncertain") == (status, refused["code"])
    await desk.change(key, state="unknown")
    wrong = {"outcome": "not_booked", "reference": "7", **REASON}
    assert 422 == (await ask("POST", resolve, wrong))[0]
    status, item = await ask("POST", resolve, {"outcome": "booked", "reference": "70012", **REASON})
    assert (200, "posted", "70012") == (status, item["state"], item["reference"])


async def test_claim_of_a_run_that_is_being_sent_is_told_with_the_run(ask: Ask) -> None:
    _, first = await ask("POST", "/reimbursements/export", {"ids": ["c-1"]})
    status, refused = await ask("POST", "/reimbursements/export", {"ids": ["c-2"]})
    assert (409, "already_running", first["run"]["id"]) == (status, refused["code"], refused["run"])


def _items(answer: tuple[int, Any]) -> tuple[int, list[Any]]:
    return answer[0], answer[1]["items"]
