from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

BASE = "/v1/organizations/hlf/integrations"
ONE = f"{BASE}/dynamics365"
SETTINGS = {"environment_url": "https://contoso.example"}


async def test_an_integration_is_added_and_its_credentials_are_never_given_back(ask: Any, service: Any) -> None:
    body = {"type": "xledger", "settings": SETTINGS, "credentials": {"client_secret": "hunter2-hunter2-1234"}}
    added = await ask("POST", BASE, json=body)
    found = await ask("GET", added.headers["Location"])
    assert (added.status, added.headers["Location"], added.headers["ETag"]) == (201, f"{BASE}/xledger", '"1"')
    assert (await found.json())["credentials"] == {"client_secret": "1234"}
    assert "hunter2" not in await added.text() + await found.text()


async def test_a_second_integration_of_the_same_type_is_refused(ask: Any) -> None:
    again = await ask("POST", BASE, json={"type": "dynamics365", "settings": SETTINGS})
    assert (again.status, (await again.json())["code"]) == (409, "integration_exists")


async def test_what_the_service_finds_wrong_with_settings_is_told_field_by_field(ask: Any) -> None:
    refused = await ask("POST", BASE, json={"type": "xledger", "settings": {"x": 1}})
    problem = {
        "field": "settings.environment_url",
        "code": "missing",
        "message": "Give the address of the environment.",
    }
    assert (refused.status, (await refused.json())["errors"]) == (422, [problem])


async def test_an_edit_based_on_the_current_revision_is_made(ask: Any) -> None:
    etag = (await ask("GET", ONE)).headers["ETag"]
    edited = await ask("PATCH", ONE, json={"display_name": "Min Side"}, headers={"If-Match": etag})
    assert (edited.status, edited.headers["ETag"]) == (200, '"2"')
    assert (await edited.json())["display_name"] == "Min Side"


@pytest.mark.parametrize("etag", ['"7"', 'W/"1"', '"abc"', '"-1"'])
async def test_an_edit_based_on_another_revision_is_refused(ask: Any, etag: str) -> None:
    refused = await ask("PATCH", ONE, json={"display_name": "x"}, headers={"If-Match": etag})
    assert (refused.status, (await refused.json())["code"]) == (412, "revision_mismatch")
    assert (await ask("GET", ONE)).headers["ETag"] == '"1"'


@pytest.mark.parametrize("headers", [{}, {"If-Match": "*"}])
async def test_an_edit_without_a_revision_is_made(ask: Any, service: Any, headers: dict[str, str]) -> None:
    edited = await ask("PATCH", ONE, json={"settings": SETTINGS}, headers=headers)
    assert edited.status == 200
    assert ("update_integration", {"if_revision": None}) in service.calls


@pytest.mark.parametrize("etag", ["1", "", '"1", "2"', '"\x01"'.replace("\x01", "é")])
async def test_an_if_match_that_is_no_entity_tag_is_named(ask: Any, etag: str) -> None:
    refused = await ask("PATCH", ONE, json={"display_name": "x"}, headers={"If-Match": etag})
    assert (refused.status, [e["field"] for e in (await refused.json())["errors"]]) == (422, ["If-Match"])


async def test_an_edit_that_changes_nothing_is_refused(ask: Any) -> None:
    refused = await ask("PATCH", ONE, json={})
    problem = {"field": "(body)", "code": "value_error", "message": "Give display_name, settings or both."}
    assert (await refused.json())["errors"] == [problem]


async def test_credentials_are_written_and_only_their_end_is_shown(ask: Any, service: Any) -> None:
    secret = {"client_secret": "hunter2-hunter2-9876"}
    written = await ask("PUT", f"{ONE}/credentials", json={"credentials": secret})
    assert (await written.json())["credentials"] == {"client_secret": "9876"}
    assert written.headers["ETag"] == '"2"'
    assert ("set_credentials", {"credentials": secret}) in service.calls
    assert (await ask("GET", f"{ONE}/credentials")).status == 405


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"credentials": {}, "expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"credentials": {}, "expires_at": "soon"}, "expires_at"),
        ({"credentials": {}, "expires_at": 1900000000}, "expires_at"),
        ({"credentials": {}, "test": "perhaps"}, "test"),
        ({"expires_at": "2030-01-01T00:00:00Z"}, "credentials"),
    ],
)
async def test_what_goes_with_credentials_is_read_strictly(ask: Any, body: dict[str, Any], field: str) -> None:
    refused = await ask("PUT", f"{ONE}/credentials", json=body)
    assert (refused.status, [e["field"] for e in (await refused.json())["errors"]]) == (422, [field])


async def test_end_of_credentials_is_read_with_its_zone(ask: Any, service: Any) -> None:
    body = {"credentials": {}, "expires_at": "2030-01-01T01:00:00+01:00"}
    assert (await ask("PUT", f"{ONE}/credentials", json=body)).status == 200
    assert dt.datetime(2030, 1, 1, tzinfo=dt.UTC) == service.expires_at


async def test_credentials_are_edited_on_the_revision_that_was_read(ask: Any) -> None:
    body = {"credentials": {"client_secret": "hunter2-hunter2-9876"}}
    refused = await ask("PUT", f"{ONE}/credentials", json=body, headers={"If-Match": '"7"'})
    assert (refused.status, (await refused.json())["code"]) == (412, "revision_mismatch")
    assert (await ask("PUT", f"{ONE}/credentials", json=body, headers={"If-Match": '"1"'})).status == 200


async def test_a_connection_is_tested_and_switched_on_and_off(ask: Any) -> None:
    tested = await (await ask("POST", f"{ONE}/test")).json()
    states = [(await (await ask("POST", f"{ONE}/{verb}")).json())["state"] for verb in ("enable", "disable")]
    assert (tested["ok"], states) == (True, ["enabled", "disabled"])


async def test_the_status_names_the_connection(ask: Any) -> None:
    status = await (await ask("GET", f"{ONE}/status")).json()
    assert (status["connection"], status["live_run"]) == ("connected", None)


@pytest.mark.parametrize(
    ("method", "suffix"),
    [
        ("GET", ""),
        ("GET", "/status"),
        ("GET", "/runs/latest"),
        ("POST", "/test"),
        ("POST", "/enable"),
        ("POST", "/runs"),
    ],
)
async def test_an_integration_that_is_not_there_is_told_apart_from_its_organisation(
    ask: Any, method: str, suffix: str
) -> None:
    answer = await ask(method, f"{BASE}/xledger{suffix}")
    assert (answer.status, (await answer.json())["code"]) == (404, "integration_not_found")


async def test_integrations_are_listed_for_one_organisation(ask: Any) -> None:
    mine = await (await ask("GET", BASE)).json()
    theirs = await (await ask("GET", "/v1/organizations/nbf/integrations")).json()
    assert ([i["type"] for i in mine["items"]], theirs["items"]) == (["dynamics365"], [])
