from __future__ import annotations

from typing import Any

import pytest

RUNS = "/v1/organizations/hlf/runs"
TRIGGER = "/v1/organizations/hlf/integrations/dynamics365/runs"


async def test_a_run_is_accepted_and_followed_at_its_location(ask: Any, service: Any) -> None:
    accepted = await ask("POST", TRIGGER)
    found = await ask("GET", accepted.headers["Location"])
    assert (accepted.status, accepted.headers["Location"]) == (202, f"{RUNS}/r1")
    assert "Idempotency-Replayed" not in accepted.headers
    assert ((await found.json())["state"], (await found.json())["requested_by"]) == ("queued", "admin")


async def test_an_order_names_streams_and_a_full_read(ask: Any, service: Any) -> None:
    accepted = await ask("POST", TRIGGER, json={"streams": ["contacts", "accounts"], "full": True})
    run = await accepted.json()
    assert (run["streams"], run["full"]) == (["contacts", "accounts"], True)


async def test_an_order_without_streams_is_refused(ask: Any) -> None:
    refused = await ask("POST", TRIGGER, json={"streams": []})
    assert (refused.status, [e["field"] for e in (await refused.json())["errors"]]) == (422, ["streams"])


async def test_a_second_order_is_refused_and_pointed_to_the_run_that_is_alive(ask: Any) -> None:
    await ask("POST", TRIGGER)
    refused = await ask("POST", TRIGGER)
    body = await refused.json()
    assert (refused.status, refused.headers["Location"]) == (409, f"{RUNS}/r1")
    assert (body["code"], body["run"]) == ("already_running", "r1")


async def test_the_same_idempotency_key_gives_the_same_run_again(ask: Any, service: Any) -> None:
    key = {"Idempotency-Key": '"9f-1 ?"'.replace(" ", "")}
    first, second = [await ask("POST", TRIGGER, json={"full": True}, headers=key) for _ in range(2)]
    assert (first.status, second.status, second.headers["Idempotency-Replayed"]) == (202, 202, "true")
    assert await first.read() == await second.read()
    assert second.headers["Location"] == first.headers["Location"]
    assert len(service.runs) == 1


async def test_an_idempotency_key_for_another_order_is_refused(ask: Any) -> None:
    key = {"Idempotency-Key": "one"}
    await ask("POST", TRIGGER, headers=key)
    refused = await ask("POST", TRIGGER, json={"full": True}, headers=key)
    assert (refused.status, (await refused.json())["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\tinside", "ø"])
async def test_an_idempotency_key_that_is_no_plain_text_is_named(ask: Any, service: Any, key: str) -> None:
    refused = await ask("POST", TRIGGER, headers={"Idempotency-Key": key})
    assert (refused.status, [e["field"] for e in (await refused.json())["errors"]]) == (422, ["Idempotency-Key"])
    assert service.runs == {}


async def test_an_idempotency_key_sent_twice_is_refused(client: Any, keys: dict[str, str]) -> None:
    headers = [("Authorization", f"Bearer {keys['admin']}"), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    refused = await client.post(TRIGGER, headers=headers)
    assert [e["code"] for e in (await refused.json())["errors"]] == ["not_once"]


async def test_the_latest_run_is_found_or_said_to_be_missing(ask: Any) -> None:
    never = await ask("GET", f"{TRIGGER}/latest")
    await ask("POST", TRIGGER)
    found = await ask("GET", f"{TRIGGER}/latest")
    assert (never.status, (await never.json())["code"]) == (404, "never_ran")
    assert (await found.json())["id"] == "r1"


async def test_runs_are_read_part_by_part_newest_first(ask: Any, service: Any) -> None:
    for _ in range(3):
        run = await (await ask("POST", TRIGGER)).json()
        service.runs[run["id"]] = service.runs[run["id"]].model_copy(update={"state": "succeeded"})
    seen, after = [], ""
    for _ in range(2):
        part = await (await ask("GET", f"{RUNS}?limit=2{after}")).json()
        seen.append([r["id"] for r in part["items"]])
        after = f"&after={part['next']}"
    assert (seen, after) == ([["r3", "r2"], ["r1"]], "&after=None")


async def test_runs_are_filtered_as_asked(ask: Any, service: Any) -> None:
    await ask("GET", f"{RUNS}?type=dynamics365&state=failed&limit=500")
    assert ("list_runs", {"type": "dynamics365", "state": "failed", "after": None, "limit": 500}) in service.calls


async def test_a_run_of_another_organisation_is_not_there(ask: Any) -> None:
    await ask("POST", TRIGGER)
    answer = await ask("GET", "/v1/organizations/nbf/runs/r1")
    assert (answer.status, (await answer.json())["code"]) == (404, "run_not_found")


async def test_outcomes_of_a_run_are_filtered_and_read_on(ask: Any, service: Any) -> None:
    await ask("POST", TRIGGER)
    part = await (await ask("GET", f"{RUNS}/r1/outcomes?outcome=failed&after=5")).json()
    assert ("list_outcomes", {"outcome": "failed", "after": 5, "limit": 100}) in service.calls
    assert (part["items"][0]["key"], part["next"]) == ("a", "1")
    assert (await ask("GET", f"{RUNS}/r1/outcomes?outcome=unchanged")).status == 422
