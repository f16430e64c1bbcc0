from __future__ import annotations

from typing import Any

import pytest

ORG = "/v1/organizations/hlf"


async def test_request_without_a_key_is_refused_with_the_way_to_present_one(ask: Any) -> None:
    answer = await ask("GET", "/v1/plugins", key=None)
    body = await answer.json()
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="samband"'
    assert answer.content_type == "application/problem+json"
    assert (body["code"], body["type"]) == ("key_missing", "/problems/key_missing")


@pytest.mark.parametrize(
    "value",
    [
        "Bearer unknown-key",
        "Basic YWRtaW46YWRtaW4=",
        "bearer",
        "Bearer ",
        "Bearer a b",
        "smb_admin_1",
        "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.",
        "Bearer " + "x" * 600,
        "Bearer smb_admin_1, Bearer smb_admin_1",
        "Token smb_admin_1",
    ],
)
async def test_anything_but_one_valid_bearer_key_is_refused(ask: Any, value: str) -> None:
    answer = await ask("GET", "/v1/plugins", key=None, headers={"Authorization": value})
    assert answer.status == 401
    assert (await answer.json())["code"] == "key_refused"


async def test_a_refused_key_is_not_repeated(ask: Any) -> None:
    answer = await ask("GET", "/v1/plugins", key="smb_revoked_hunter2")
    assert answer.status == 401
    assert "hunter2" not in await answer.text()


async def test_two_authorization_headers_are_refused(client: Any, keys: dict[str, str]) -> None:
    header = ("Authorization", f"Bearer {keys['admin']}")
    answer = await client.get("/v1/plugins", headers=[header, header])
    assert answer.status == 401


@pytest.mark.parametrize(
    "carrier", [{"params": {"api_key": "smb_admin_1"}}, {"headers": {"Cookie": "key=smb_admin_1"}}]
)
async def test_a_key_in_the_query_or_in_a_cookie_is_not_looked_at(ask: Any, carrier: dict[str, Any]) -> None:
    answer = await ask("GET", "/v1/plugins", key=None, **carrier)
    assert (await answer.json())["code"] == "key_missing"


async def test_the_scheme_is_recognised_in_any_case(ask: Any, keys: dict[str, str]) -> None:
    answer = await ask("GET", "/v1/plugins", key=None, headers={"Authorization": f"bEaReR {keys['admin']}"})
    assert answer.status == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.json"])
async def test_probes_and_the_description_need_no_key(ask: Any, path: str) -> None:
    assert (await ask("GET", path, key=None)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/organizations", {"id": "x", "name": "X"}),
        ("POST", f"{ORG}/integrations", {"type": "xledger", "settings": {}}),
        ("PATCH", f"{ORG}/integrations/dynamics365", {"display_name": "x"}),
        ("PUT", f"{ORG}/integrations/dynamics365/credentials", {"credentials": {}}),
        ("POST", f"{ORG}/integrations/dynamics365/test", None),
        ("POST", f"{ORG}/integrations/dynamics365/enable", None),
        ("POST", f"{ORG}/integrations/dynamics365/disable", None),
        ("POST", f"{ORG}/integrations/dynamics365/runs", None),
        ("POST", f"{ORG}/dead-letters/7/acknowledge", None),
    ],
)
async def test_a_key_that_may_only_read_changes_nothing(
    ask: Any, service: Any, keys: dict[str, str], method: str, path: str, body: Any
) -> None:
    answer = await ask(method, path, key=keys["reader"], json=body)
    assert answer.status == 403
    assert (await answer.json())["code"] == "access_refused"
    assert "insufficient_scope" in answer.headers["WWW-Authenticate"]
    assert [name for name, _ in service.calls] == ["authenticate_key"]


async def test_a_key_that_may_operate_starts_runs_but_changes_no_settings(ask: Any, keys: dict[str, str]) -> None:
    started = await ask("POST", f"{ORG}/integrations/dynamics365/runs", key=keys["operator"])
    changed = await ask("PATCH", f"{ORG}/integrations/dynamics365", key=keys["operator"], json={"display_name": "x"})
    assert (started.status, changed.status) == (202, 403)


async def test_an_organisation_out_of_reach_and_an_unknown_one_get_the_same_answer(
    ask: Any, keys: dict[str, str]
) -> None:
    bodies = []
    for key, org in (("bound", "nbf"), ("bound", "nowhere"), ("bound", "later"), ("admin", "nowhere"), ("admin", "N?")):
        answer = await ask("GET", f"/v1/organizations/{org}", key=keys[key], headers={"X-Request-Id": "same"})
        assert answer.status == 404
        bodies.append(await answer.json())
    assert bodies == [bodies[0]] * 5
    assert bodies[0]["code"] == "organization_not_found"


async def test_an_organisation_out_of_reach_is_hidden_before_verbs_and_bodies_are_looked_at(
    ask: Any, service: Any, keys: dict[str, str]
) -> None:
    answer = await ask("POST", "/v1/organizations/nbf/integrations", key=keys["bound"], json={"wrong": 1})
    assert (await answer.json())["code"] == "organization_not_found"
    assert [name for name, _ in service.calls] == ["authenticate_key"]


async def test_a_bound_key_sees_only_its_organisations_and_adds_none(ask: Any, keys: dict[str, str]) -> None:
    listed = await ask("GET", "/v1/organizations", key=keys["bound"])
    added = await ask("POST", "/v1/organizations", key=keys["bound"], json={"id": "mine", "name": "Mine"})
    assert [o["id"] for o in (await listed.json())["items"]] == ["hlf"]
    assert added.status == 403


async def test_figures_of_the_host_need_a_key_that_reaches_all_organisations(ask: Any, keys: dict[str, str]) -> None:
    statuses = [(await ask("GET", "/metrics", key=key)).status for key in (None, keys["bound"], keys["reader"])]
    assert statuses == [401, 403, 200]


async def test_a_traceback_of_a_plugin_is_shown_to_administrators_only(ask: Any, keys: dict[str, str]) -> None:
    shown = await (await ask("GET", "/v1/plugins/broken")).json()
    hidden = await (await ask("GET", "/v1/plugins/broken", key=keys["reader"])).json()
    assert (shown["detail"], hidden["detail"]) == ("Traceback: /srv/secret/path", "")
