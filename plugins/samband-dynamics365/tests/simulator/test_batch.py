"""Batches, changesets and bulk messages."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest

JSON = "Content-Type: application/json"


def part(method: str, url: str, body: str | None = None, *headers: str, content_id: str | None = None) -> list[str]:
    lines = ["Content-Type: application/http", "Content-Transfer-Encoding: binary"]
    lines += [f"Content-ID: {content_id}"] if content_id else []
    lines += ["", f"{method} {url} HTTP/1.1", *([JSON] if body is not None else []), *headers, ""]
    return lines + ([body] if body is not None else [])


def joined(boundary: str, parts: list[list[str]]) -> list[str]:
    lines: list[str] = []
    for lines_of_part in parts:
        lines += [f"--{boundary}", *lines_of_part]
    return [*lines, f"--{boundary}--"]


def changeset(parts: list[list[str]], name: str = "changeset_1") -> list[str]:
    return [f"Content-Type: multipart/mixed; boundary={name}", "", *joined(name, parts), ""]


async def send(
    api: Any,
    parts: list[list[str]],
    *,
    prefer: str | None = None,
    newline: str = "\r\n",
    quoted: bool = False,
    lead: str = "",
) -> Any:
    body = lead + newline.join(joined("batch_1", parts)) + newline
    boundary = '"batch_1"' if quoted else "batch_1"
    headers = {"Content-Type": f"multipart/mixed; boundary={boundary}"}
    return await api.send("POST", "$batch", data=body.encode(), headers=headers, prefer=prefer)


def statuses(reply: Any) -> list[int]:
    return [int(found) for found in re.findall(r"^HTTP/1\.1 (\d+)", reply.body.decode(), re.M)]


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.parametrize("lead", ["", "\r\n"])
async def test_all_client_styles_are_read(api: Any, newline: str, quoted: bool, lead: str) -> None:
    root = f"{api.address.base_url}/api/data/v9.2"
    urls = ["WhoAmI", "/api/data/v9.2/WhoAmI", f"{root}/contacts?$select=fullname&$top=1", "/contacts/$count"]
    parts = [part("GET", url) for url in urls]
    reply = await send(api, parts, newline=newline, quoted=quoted, lead=lead)
    assert reply.status == 200
    assert re.fullmatch(r"multipart/mixed; boundary=batchresponse_[0-9a-f-]{36}", reply.headers["Content-Type"])
    assert statuses(reply) == [200] * 4
    assert reply.body.count(b"REQ_ID: ") == 4


async def test_parts_answer_like_single_requests(api: Any) -> None:
    reply = await send(api, [part("POST", "contacts", '{"lastname": "Bø"}', "Prefer: return=representation")])
    text = reply.body.decode()
    assert statuses(reply) == [201]
    assert "Preference-Applied: return=representation" in text
    assert '"lastname":"Bø"' in text
    reply = await send(api, [part("POST", "contacts", '{"lastname": "Bø"}')])
    assert re.search(r"HTTP/1\.1 204 No Content\r\n.*?OData-EntityId: http.*?contacts\(", reply.body.decode(), re.S)


async def test_first_failure_ends_a_batch_and_names_its_status(api: Any) -> None:
    parts = [part("GET", "WhoAmI"), part("GET", f"contacts({uuid.uuid4()})"), part("GET", "WhoAmI")]
    for switch, status in (("part", 404), ("400", 400)):
        await api.control("config", {"switches": {"batch_failure": switch}})
        reply = await send(api, parts)
        assert (reply.status, statuses(reply)) == (status, [200, 404])
    reply = await send(api, parts, prefer="odata.continue-on-error")
    assert (reply.status, statuses(reply)) == (200, [200, 404, 200])
    assert reply.headers["Preference-Applied"] == "odata.continue-on-error"


async def test_changeset_parts_refer_to_earlier_ones(api: Any) -> None:
    contact = part("POST", "contacts", '{"lastname": "Ny"}', content_id="1")
    membership = part(
        "POST", "sb_memberships", '{"sb_membernumber": "B-1", "sb_ContactId@odata.bind": "$1"}', content_id="2"
    )
    rename = part("PATCH", "$1", '{"firstname": "Siv"}', content_id="3")
    child = part("POST", "$1/sb_contact_sb_membership/$ref", '{"@odata.id": "$2"}', content_id="4")
    reply = await send(api, [changeset([contact, membership, rename, child])])
    assert (reply.status, statuses(reply)) == (200, [204, 204, 204, 204])
    assert re.findall(r"Content-ID: (\d)", reply.body.decode()) == ["1", "2", "3", "4"]
    assert b"boundary=changesetresponse_" in reply.body
    row = await api.read("sb_memberships(sb_membernumber='B-1')?$expand=sb_ContactId($select=fullname)")
    assert row["sb_ContactId"]["fullname"] == "Siv Ny"


async def test_references_work_with_representations_too(api: Any) -> None:
    contact = part("POST", "contacts", '{"lastname": "Ny"}', "Prefer: return=representation", content_id="1")
    rename = part("PATCH", "$1", '{"firstname": "Siv"}', content_id="2")
    assert statuses(await send(api, [changeset([contact, rename])])) == [201, 204]


async def test_reference_to_a_later_part_is_refused(api: Any) -> None:
    membership = part("POST", "sb_memberships", '{"sb_ContactId@odata.bind": "$2"}', content_id="1")
    contact = part("POST", "contacts", '{"lastname": "Ny"}', content_id="2")
    reply = await send(api, [changeset([membership, contact])])
    assert reply.status == 400
    assert b"Content-ID Reference: '$2' does not exist in the batch context." in reply.body


@pytest.mark.parametrize("shape", ["single", "wrapped"])
async def test_failed_changeset_leaves_nothing_behind(api: Any, shape: str) -> None:
    await api.control("config", {"switches": {"changeset_failure": shape}})
    before = (await api.get("contacts/$count")).body
    delta = (await api.pages("contacts?$select=fullname", prefer="odata.track-changes"))[-1]["@odata.deltaLink"]
    contact = api.state.organization.tables["contact"].ids[0]
    kept = (await api.get(f"contacts({contact})")).body
    parts = [
        part("POST", "contacts", '{"lastname": "A", "sb_externalid": "Roll-1"}', content_id="1"),
        part("PATCH", f"contacts({contact})", '{"lastname": "Changed"}', content_id="2"),
        part("DELETE", f"contacts({api.state.organization.tables['contact'].ids[1]})", content_id="3"),
        part("POST", "contacts", '{"nonsense": 1}', content_id="4"),
    ]
    reply = await send(api, [changeset(parts)])
    assert (reply.status, statuses(reply)) == (400, [400])
    assert "Content-ID: 4" in reply.body.decode()
    assert (b"changesetresponse_" in reply.body) is (shape == "wrapped")
    assert (await api.get("contacts/$count")).body == before
    assert (await api.get(f"contacts({contact})")).body == kept
    assert (await api.read(delta))["value"] == []
    assert (await api.get("contacts(sb_externalid='Roll-1')")).status == 404
    assert (await api.send("POST", "contacts", json={"lastname": "A", "sb_externalid": "Roll-1"})).status == 204


async def test_malformed_batches_get_plain_json(api: Any) -> None:
    bodies = [
        ("multipart/mixed", b"--b--"),
        ("application/json", b"{}"),
        ("multipart/mixed; boundary=b", b""),
        ("multipart/mixed; boundary=b", b"--b\r\nContent-Type: application/http\r\n\r\nGET WhoAmI HTTP/1.1\r\n\r\n"),
        ("multipart/mixed; boundary=b", b"--b\r\n\r\nnonsense\r\n--b--\r\n"),
        ("multipart/mixed; boundary=b", b"--b\r\n\xff\xfe\r\n--b--\r\n"),
        ("multipart/mixed; boundary=b", b"--b--\r\n"),
    ]
    for content_type, body in bodies:
        reply = await api.send("POST", "$batch", data=body, headers={"Content-Type": content_type})
        assert reply.status == 400, body
        assert reply.code == "0x80060888"


async def test_batches_are_neither_nested_nor_longer_than_a_thousand(api: Any) -> None:
    reply = await send(api, [part("POST", "$batch", "{}")])
    assert reply.status == 400
    assert statuses(await send(api, [part("GET", "WhoAmI")] * 1000)) == [200] * 1000
    assert (await send(api, [part("GET", "WhoAmI")] * 1001)).status == 400


async def test_changesets_take_no_reads(api: Any) -> None:
    assert (await send(api, [changeset([part("GET", "WhoAmI")])])).status == 400


def targets(*rows: dict[str, Any], entity: str = "contact") -> dict[str, Any]:
    return {"Targets": [{"@odata.type": f"Microsoft.Dynamics.CRM.{entity}", **row} for row in rows]}


async def bulk(api: Any, message: str, body: Any, entity_set: str = "contacts") -> Any:
    return await api.send("POST", f"{entity_set}/Microsoft.Dynamics.CRM.{message}", json=body)


async def test_create_multiple_answers_with_ids_in_order(api: Any) -> None:
    reply = await bulk(api, "CreateMultiple", targets({"lastname": "A"}, {"lastname": "B"}))
    assert reply.status == 200
    names = [(await api.read(f"contacts({row_id})"))["lastname"] for row_id in reply.json()["Ids"]]
    assert names == ["A", "B"]


async def test_update_multiple_needs_the_primary_key_and_creates_nothing(api: Any) -> None:
    ids = api.state.organization.tables["contact"].ids[:2]
    reply = await bulk(api, "UpdateMultiple", targets(*({"contactid": i, "jobtitle": "X"} for i in ids)))
    assert (reply.status, reply.body) == (204, b"")
    assert (await bulk(api, "UpdateMultiple", targets({"jobtitle": "X"}))).status == 400
    reply = await bulk(api, "UpdateMultiple", targets({"contactid": str(uuid.uuid4()), "jobtitle": "X"}))
    assert (reply.status, reply.code) == (404, "0x80040217")


async def test_upsert_multiple_goes_by_reference_and_says_nothing_about_rows(api: Any) -> None:
    rows = [{"@odata.id": f"contacts(sb_externalid='U-{i}')", "lastname": f"N{i}"} for i in range(3)]
    for _ in range(2):
        reply = await bulk(api, "UpsertMultiple", targets(*rows))
        assert (reply.status, reply.body) == (204, b"")
    assert (await api.read("contacts(sb_externalid='U-2')"))["lastname"] == "N2"


async def test_key_columns_in_body_and_reference_clash_on_create(api: Any) -> None:
    row = {"@odata.id": "contacts(sb_externalid='U-9')", "sb_externalid": "U-9", "lastname": "N"}
    assert (await bulk(api, "UpsertMultiple", targets(row))).status == 400
    await api.send("POST", "contacts", json={"sb_externalid": "U-9", "lastname": "N"})
    assert (await bulk(api, "UpsertMultiple", targets(row))).status == 204


@pytest.mark.parametrize("message", ["CreateMultiple", "UpsertMultiple"])
async def test_bulk_is_all_or_nothing(api: Any, message: str) -> None:
    before = (await api.get("contacts/$count")).body
    reply = await bulk(api, message, targets({"lastname": "A"}, {"lastname": "x" * 60}))
    assert (reply.status, reply.code) == (400, "0x80044331")
    assert (await api.get("contacts/$count")).body == before


async def test_bulk_needs_the_type_of_every_row(api: Any) -> None:
    for body in ({"Targets": [{"lastname": "A"}]}, targets({"lastname": "A"}, entity="account"), {"Targets": []}, {}):
        assert (await bulk(api, "CreateMultiple", body)).status == 400


async def test_bulk_is_offered_where_message_filters_say_so(api: Any) -> None:
    query = "sdkmessagefilters?$select=primaryobjecttypecode&$filter=sdkmessageid/name%20eq%20%27CreateMultiple%27"
    offered = {row["primaryobjecttypecode"] for row in (await api.read(query))["value"]}
    assert offered == {"account", "contact", "sb_membership", "sb_chapter"}
    assert (await bulk(api, "CreateMultiple", targets({"a": 1}, entity="systemuser"), "systemusers")).status == 405
    assert (await bulk(api, "DeleteMultiple", {})).json()["error"]["message"] == (
        "DeleteMultiple has not yet been implemented."
    )


async def test_bulk_delete_is_a_job(api: Any) -> None:
    ids = api.state.organization.tables["contact"].ids[:3]
    conditions = [
        {
            "AttributeName": "contactid",
            "Operator": "In",
            "Values": [{"Value": row_id, "Type": "System.Guid"} for row_id in ids],
        }
    ]
    query = {"EntityName": "contact", "Criteria": {"FilterOperator": "And", "Conditions": conditions}}
    reply = await api.send("POST", "BulkDelete", json={"JobName": "x", "QuerySet": [query]})
    assert reply.status == 200
    assert (await api.get(f"contacts({ids[0]})")).status == 404
    assert api.state.jobs == {reply.json()["JobId"]: "succeeded"}
    for broken in ({}, {"QuerySet": [5]}, {"QuerySet": [{"EntityName": "contact", "Criteria": {"Conditions": [5]}}]}):
        assert (await api.send("POST", "BulkDelete", json=broken)).status == 400
