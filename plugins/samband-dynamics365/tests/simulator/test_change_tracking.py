"""Change tracking: full reads, deltas, deletions, expiry and what happens while pages are being read."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import pytest

TRACK = "odata.track-changes"


async def first_read(api: Any, url: str = "contacts?$select=fullname", size: int = 25) -> tuple[list[Any], str]:
    """Returns all rows and the delta link."""
    pages = await api.pages(url, prefer=f"{TRACK},odata.maxpagesize={size}")
    assert [page for page in pages[:-1] if "@odata.deltaLink" in page] == []
    return [row for page in pages for row in page["value"]], pages[-1]["@odata.deltaLink"]


async def delta(api: Any, link: str, size: int = 25) -> tuple[list[Any], list[str], str]:
    """Returns the changed rows, the deleted ids and the next delta link."""
    pages = await api.pages(link, prefer=f"odata.maxpagesize={size}")
    values = [value for page in pages for value in page["value"]]
    kinds = ["deleted" if "reason" in value else "row" for value in values]
    assert kinds == sorted(kinds, reverse=True), "deletions come last"
    rows = [value for value in values if "reason" not in value]
    return rows, [value["id"] for value in values if "reason" in value], pages[-1]["@odata.deltaLink"]


async def test_full_read_ends_with_a_delta_link_of_the_documented_form(api: Any, captured: Any) -> None:
    rows, link = await first_read(api)
    assert len(rows) == 60
    example = captured("mslearn-change-tracking-exchange")[0]["response"]["@odata.deltaLink"]
    pattern = re.compile(r"\$select=[a-z,0-9]+&\$deltatoken=\d+%21\d\d%2f\d\d%2f\d{4}%20\d\d%3a\d\d%3a\d\d$")
    assert pattern.search(example)
    assert pattern.search(link)


async def test_preference_applied_names_tracking(api: Any) -> None:
    reply = await api.get("contacts?$select=fullname", prefer=f"{TRACK}, odata.maxpagesize=5")
    assert reply.headers["Preference-Applied"] == f"odata.maxpagesize=5,{TRACK}"
    assert "istracking%3d%22True%22" in reply.json()["@odata.nextLink"]


async def test_quiet_delta_is_empty_with_a_new_link(api: Any, captured: Any) -> None:
    _, link = await first_read(api)
    page = await api.read(link)
    assert page["value"] == []
    assert set(page) == set(captured("mslearn-change-tracking-exchange")[1]["response"])
    assert page["@odata.context"].endswith("$metadata#contacts(fullname)/$delta")


async def test_delta_reports_exactly_what_was_touched(api: Any, captured: Any) -> None:
    _, link = await first_read(api)
    order = {"table": "contacts", "create": 4, "update": 6, "delete": 3, "create_and_delete": 2}
    expected = (await api.control("touch", order))["expected"]["contacts"]
    rows, deleted, _ = await delta(api, link, size=4)
    assert sorted(row["contactid"] for row in rows) == expected["upserted_ids"]
    assert sorted(deleted) == expected["deleted_ids"]
    assert (expected["upserts"], expected["deletions"]) == (10, 5)
    versions = [int(re.sub(r"\D", "", row["@odata.etag"])) for row in rows]
    assert versions == sorted(versions)
    example = captured("mslearn-change-tracking-exchange")[1]["response"]["value"]
    page = await api.read(link)
    assert set(page["value"][0]) == {"@odata.etag", "fullname", "contactid"}
    assert set(page["value"][-1]) == set(example[-1])
    assert page["value"][-1]["@odata.context"].endswith("$metadata#contacts/$deletedEntity")


async def test_row_created_and_deleted_between_polls_is_a_deletion_of_an_unknown_id(api: Any) -> None:
    known, link = await first_read(api)
    await api.control("touch", {"table": "contacts", "create_and_delete": 1})
    rows, deleted, _ = await delta(api, link)
    assert rows == []
    assert len(deleted) == 1
    assert deleted[0] not in {row["contactid"] for row in known}


async def test_row_modified_twice_is_reported_once_as_it_is_now(api: Any) -> None:
    known, link = await first_read(api)
    row_id = known[0]["contactid"]
    for name in ("En", "To"):
        await api.send("PATCH", f"contacts({row_id})", json={"firstname": name, "lastname": "Endret"})
    rows, _, _ = await delta(api, link)
    assert [row["fullname"] for row in rows] == ["To Endret"]


@pytest.mark.parametrize("place", ["read already", "still to come"])
async def test_row_modified_during_a_paged_full_read_is_in_the_next_delta(api: Any, place: str) -> None:
    page = await api.read("contacts?$select=fullname", prefer=f"{TRACK},odata.maxpagesize=20")
    read = [row["contactid"] for row in page["value"]]
    later = [row_id for row_id in api.state.organization.tables["contact"].ids if row_id not in read]
    changed = read[3] if place == "read already" else later[3]
    gone = read[4] if place == "read already" else later[4]
    touched = [{"contactid": changed, "lastname": "Midt i"}]
    await api.control("touch", {"table": "contacts", "update": touched, "delete": [gone]})
    pages = await api.pages(page["@odata.nextLink"], prefer=f"{TRACK},odata.maxpagesize=20")
    rows, deleted, _ = await delta(api, pages[-1]["@odata.deltaLink"])
    assert [row["contactid"] for row in rows] == [changed]
    assert deleted == [gone]


async def test_row_modified_during_a_paged_delta_is_in_the_next_one(api: Any) -> None:
    known, link = await first_read(api)
    await api.control("touch", {"table": "contacts", "update": 10})
    page = await api.read(link, prefer="odata.maxpagesize=4")
    seen = {row["contactid"] for row in page["value"]}
    again = next(iter(seen))
    new = next(row["contactid"] for row in known if row["contactid"] not in seen)
    touched = [{"contactid": again, "lastname": "A"}, {"contactid": new, "lastname": "B"}]
    await api.control("touch", {"table": "contacts", "update": touched})
    pages = await api.pages(page["@odata.nextLink"], prefer="odata.maxpagesize=4")
    rows, _, _ = await delta(api, pages[-1]["@odata.deltaLink"])
    assert {again, new} == {row["contactid"] for row in rows}


@pytest.mark.parametrize("option", ["$filter=statecode%20eq%200", "$orderby=fullname", "$expand=owninguser", "$top=5"])
async def test_refused_options_name_themselves(api: Any, option: str) -> None:
    _, link = await first_read(api)
    name = unquote(option).partition("=")[0]
    for url, prefer in ((f"contacts?{option}", TRACK), (f"{link}&{option}", None)):
        reply = await api.get(url, prefer=prefer)
        assert reply.status == 400
        text = reply.json()["error"]["message"]
        assert text == f'The "{name}" query parameter isn\'t supported when Change Tracking is enabled.'


async def test_changes_can_be_counted(api: Any) -> None:
    _, link = await first_read(api)
    await api.control("touch", {"table": "contacts", "create": 2, "delete": 1})
    token = link.partition("$deltatoken=")[2]
    assert (await api.get(f"contacts/$count?$deltatoken={token}")).body == b"3"


async def test_expired_token_is_an_error_not_a_silent_full_read(api: Any) -> None:
    _, link = await first_read(api)
    await api.control("config", {"delta_expiry": "now"})
    reply = await api.get(link)
    assert (reply.status, reply.code) == (400, "0x80044352")
    _, fresh = await first_read(api)
    assert (await api.get(fresh)).status == 200


async def test_tokens_expire_after_seven_days_unless_configured(api: Any) -> None:
    _, link = await first_read(api)
    await api.control("config", {"advance_s": 6.9 * 86_400})
    await api.log_in()
    assert (await api.get(link)).status == 200
    await api.control("config", {"advance_s": 0.2 * 86_400})
    await api.log_in()
    assert (await api.get(link)).code == "0x80044352"
    await api.control("config", {"delta_expiry": 30 * 86_400, "tracking": {"expired_status": 410}})
    assert (await api.get(link)).status == 200
    await api.control("config", {"delta_expiry": 1})
    assert (await api.get(link)).status == 410


async def test_schema_change_invalidates_tokens_of_that_table_only(api: Any) -> None:
    _, contacts = await first_read(api)
    _, memberships = await first_read(api, "sb_memberships?$select=sb_status")
    await api.control("config", {"schema_changed": ["contacts"]})
    assert (await api.get(contacts)).code == "0x80044352"
    assert (await api.get(memberships)).status == 200


async def test_untracked_table_says_so(api: Any) -> None:
    await api.control("config", {"tables": {"sb_memberships": {"tracked": False}}})
    reply = await api.get("sb_memberships", prefer=TRACK)
    assert (reply.status, reply.code) == (400, "0x80072491")
    assert (await api.get("businessunits", prefer=TRACK)).code == "0x80072491"


async def test_tracking_needs_read_rights_for_the_whole_organisation(api: Any) -> None:
    client_id = api.address.credentials["client_id"]
    await api.control("config", {"users": [{"client_id": client_id, "privileges": {"prvReadContact": "Local"}}]})
    reply = await api.get("contacts", prefer=TRACK)
    assert (reply.status, reply.code) == (403, "0x80040220")
    assert "prvReadContact" in reply.json()["error"]["message"]


async def test_links_cut_by_a_deletion_are_changes_too(api: Any) -> None:
    _, link = await first_read(api, "sb_memberships?$select=sb_status,_sb_contactid_value")
    report = await api.control("touch", {"table": "contacts", "delete": 5})
    rows, deleted, _ = await delta(api, link)
    assert sorted(row["sb_membershipid"] for row in rows) == report["expected"]["sb_memberships"]["upserted_ids"]
    assert {row["_sb_contactid_value"] for row in rows} == {None}
    assert deleted == []


async def test_reseeding_expires_tokens_and_never_turns_the_counter_back(api: Any) -> None:
    _, link = await first_read(api)
    before = api.state.organization.version
    await api.control("seed", {"members": 10, "memberships": 10, "seed": 3})
    assert api.state.organization.version > before
    assert (await api.get(link)).code == "0x80044352"


async def test_log_compaction_loses_no_change(api: Any) -> None:
    from samband_dynamics365.simulator import tables

    table = api.state.organization.tables["sb_chapter"]
    _, link = await first_read(api, "sb_chapters?$select=sb_name")
    row_id = table.ids[0]
    organization = api.state.organization
    for _ in range(tables._COMPACT_ABOVE + 10):
        organization.write(table, row_id, table.rows[row_id])
    assert len(table.change_ids) < tables._COMPACT_ABOVE
    rows, _, _ = await delta(api, link)
    assert [row["sb_chapterid"] for row in rows] == [row_id]
