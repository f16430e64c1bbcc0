"""Creating, changing and deleting rows, with every condition the service knows."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

ANOTHER_ETAG = 'W/"1"'


async def made(api: Any, url: str, row: dict[str, Any]) -> str:
    reply = await api.send("POST", url, json=row)
    assert reply.status == 204, reply.body
    return reply.headers["OData-EntityId"].rpartition("(")[2].rstrip(")")


async def etag_of(api: Any, url: str) -> str:
    return str((await api.read(url))["@odata.etag"])


async def test_create_answers_204_with_the_address_of_the_row(api: Any) -> None:
    reply = await api.send("POST", "contacts", json={"firstname": "Åse", "lastname": "Prøve"})
    assert reply.status == 204
    assert reply.body == b""
    url = reply.headers["OData-EntityId"]
    assert url.startswith(f"{api.address.base_url}/api/data/v9.2/contacts(")
    row = await api.read(url)
    assert row["fullname"] == "Åse Prøve"
    assert row["_ownerid_value"] == row["_createdby_value"] == api.state.seeded.application_user


async def test_create_with_representation_answers_201_and_the_row(api: Any) -> None:
    reply = await api.send(
        "POST", "contacts?$select=contactid,lastname", json={"lastname": "A"}, prefer="return=representation"
    )
    assert reply.status == 201
    assert "OData-EntityId" not in reply.headers
    assert reply.headers["Preference-Applied"] == "return=representation"
    assert set(reply.json()) == {"@odata.context", "@odata.etag", "contactid", "lastname"}
    assert reply.json()["@odata.context"].endswith("$metadata#contacts(contactid,lastname)/$entity")


async def test_etag_is_the_version_number_of_one_counter_for_all_tables(api: Any) -> None:
    contact = await api.read((await api.send("POST", "contacts", json={"lastname": "A"})).headers["OData-EntityId"])
    chapter = await api.read((await api.send("POST", "sb_chapters", json={"sb_name": "B"})).headers["OData-EntityId"])
    assert contact["@odata.etag"] == f'W/"{contact["versionnumber"]}"'
    assert chapter["versionnumber"] == contact["versionnumber"] + 1


async def test_client_may_choose_the_id_once(api: Any) -> None:
    row_id = str(uuid.uuid4())
    assert row_id == await made(api, "contacts", {"contactid": row_id, "lastname": "A"})
    again = await api.send("POST", "contacts", json={"contactid": row_id, "lastname": "B"})
    assert (again.status, again.code) == (412, "0x80040237")


@pytest.mark.parametrize(
    ("exists", "header", "status"),
    [
        (True, {}, 204),
        (True, {"If-Match": "*"}, 204),
        (True, {"If-Match": "current"}, 204),
        (True, {"If-Match": ANOTHER_ETAG}, 412),
        (True, {"If-None-Match": "*"}, 412),
        (False, {}, 204),
        (False, {"If-Match": "*"}, 404),
        (False, {"If-Match": ANOTHER_ETAG}, 404),
        (False, {"If-None-Match": "*"}, 204),
    ],
)
async def test_upsert_follows_its_conditions(api: Any, exists: bool, header: dict[str, str], status: int) -> None:
    row_id = str(uuid.uuid4())
    url = f"contacts({row_id})"
    if exists:
        await made(api, "contacts", {"contactid": row_id, "lastname": "Before"})
        header = {k: await etag_of(api, url) if v == "current" else v for k, v in header.items()}
    reply = await api.send("PATCH", url, json={"lastname": "After"}, headers=header)
    assert reply.status == status
    found = await api.get(url)
    expected = "After" if status == 204 else "Before"
    assert found.status == (404 if status == 404 else 200)
    assert status == 404 or found.json()["lastname"] == expected


async def test_upsert_with_representation_tells_created_from_updated(api: Any) -> None:
    url = f"contacts({uuid.uuid4()})?$select=contactid"
    first = await api.send("PATCH", url, json={"lastname": "A"}, prefer="return=representation")
    second = await api.send("PATCH", url, json={"lastname": "A"}, prefer="return=representation")
    assert (first.status, second.status) == (201, 200)
    assert first.json()["@odata.etag"] != second.json()["@odata.etag"]


async def test_upsert_by_alternate_key_echoes_the_key_not_the_id(api: Any) -> None:
    url = "contacts(sb_externalid='X-1')"
    for _ in range(2):
        reply = await api.send("PATCH", url, json={"lastname": "A"})
        assert reply.status == 204
        assert reply.headers["OData-EntityId"] == f"{api.address.base_url}/api/data/v9.2/{url}"
    assert (await api.read(url))["sb_externalid"] == "X-1"


async def test_body_wins_over_url_on_create_and_loses_on_update(api: Any) -> None:
    await api.send("PATCH", "contacts(sb_externalid='X-1')", json={"lastname": "A", "sb_externalid": "Y-1"})
    assert (await api.get("contacts(sb_externalid='X-1')")).code == "0x80060891"
    await api.send("PATCH", "contacts(sb_externalid='Y-1')", json={"lastname": "B", "sb_externalid": "Z-1"})
    assert (await api.read("contacts(sb_externalid='Y-1')"))["lastname"] == "B"


async def test_lookup_columns_make_an_alternate_key(api: Any) -> None:
    contact = await made(api, "contacts", {"lastname": "A"})
    chapter = api.state.seeded.chapters[0]
    url = f"sb_memberships(_sb_contactid_value={contact},_sb_chapterid_value={chapter})"
    assert (await api.send("PATCH", url, json={"sb_status": 2})).status == 204
    row = await api.read(url)
    assert (row["_sb_contactid_value"], row["_sb_chapterid_value"], row["sb_status"]) == (contact, chapter, 2)


async def test_undefined_key_and_user_by_systemuserid_are_refused(api: Any) -> None:
    for url in ("contacts(lastname='A')", f"systemusers(systemuserid={api.state.seeded.application_user})"):
        reply = await api.get(url)
        assert reply.status == 400
        assert "The key in the request URI is not valid" in reply.json()["error"]["message"]
    assert (await api.get(f"systemusers({api.state.seeded.application_user})")).status == 200


async def test_key_whose_index_is_pending_is_not_a_key(api: Any) -> None:
    await made(api, "contacts", {"lastname": "A", "sb_externalid": "P-1"})
    await api.control("config", {"tables": {"contacts": {"pending_keys": ["sb_contact_external_key"]}}})
    assert (await api.get("contacts(sb_externalid='P-1')")).status == 400
    await api.control("config", {"tables": {"contacts": {"pending_keys": []}}})
    assert (await api.get("contacts(sb_externalid='P-1')")).status == 200


@pytest.mark.parametrize("character", ["%25", "%2A", "%26", "%3A", "%3C", "%3E", "%5C", "%3F", "%2B"])
async def test_characters_that_break_keys_do_not_resolve(api: Any, character: str) -> None:
    await made(api, "contacts", {"lastname": "A", "sb_externalid": "a:b"})
    assert (await api.get(f"contacts(sb_externalid='a{character}b')")).status == 400


async def test_alternate_key_clash_is_412_whatever_the_case(api: Any) -> None:
    await made(api, "contacts", {"lastname": "A", "sb_externalid": "Key-1"})
    reply = await api.send("POST", "contacts", json={"lastname": "B", "sb_externalid": "KEY-1"})
    assert (reply.status, reply.code) == (412, "0x80060892")


async def test_navigation_properties_are_case_sensitive(api: Any) -> None:
    contact = api.state.organization.tables["contact"].ids[0]
    reply = await api.send("POST", "sb_memberships", json={"sb_contactid@odata.bind": f"/contacts({contact})"})
    assert (reply.status, reply.code) == (400, "0x80048d19")
    assert "An undeclared property 'sb_contactid'" in reply.json()["error"]["message"]


@pytest.mark.parametrize("form", ["/contacts({id})", "contacts({id})", "{root}/contacts({id})", "contacts({key})"])
async def test_a_row_may_be_bound_by_any_form_of_its_address(api: Any, form: str) -> None:
    contact = await made(api, "contacts", {"lastname": "A", "sb_externalid": "B-1"})
    url = form.format(id=contact, root=f"{api.address.base_url}/api/data/v9.2", key="sb_externalid='B-1'")
    membership = await made(api, "sb_memberships", {"sb_ContactId@odata.bind": url})
    row = await api.read(f"sb_memberships({membership})")
    assert row["_sb_contactid_value"] == contact


async def test_polymorphic_lookup_has_one_navigation_property_per_target(api: Any) -> None:
    account = await made(api, "accounts", {"name": "Laget"})
    contact = await made(
        api, "contacts", {"lastname": "A", "parentcustomerid_account@odata.bind": f"accounts({account})"}
    )
    row = await api.read(f"contacts({contact})", prefer='odata.include-annotations="*"')
    assert row["_parentcustomerid_value"] == account
    assert row["_parentcustomerid_value@Microsoft.Dynamics.CRM.lookuplogicalname"] == "account"
    name = "_parentcustomerid_value@Microsoft.Dynamics.CRM.associatednavigationproperty"
    assert row[name] == "parentcustomerid_account"
    assert row["_parentcustomerid_value@OData.Community.Display.V1.FormattedValue"] == "Laget"


@pytest.mark.parametrize("name", ["sb_ContactId", "sb_ContactId@odata.bind"])
async def test_null_unbinds_a_lookup(api: Any, name: str) -> None:
    membership = api.state.organization.tables["sb_membership"].ids[0]
    assert (await api.send("PATCH", f"sb_memberships({membership})", json={name: None})).status == 204
    assert (await api.read(f"sb_memberships({membership})"))["_sb_contactid_value"] is None


async def test_ref_links_unlink_and_lists(api: Any, captured: Any) -> None:
    contact = await made(api, "contacts", {"lastname": "A"})
    membership = await made(api, "sb_memberships", {"sb_membernumber": "R-1"})
    links = f"contacts({contact})/sb_contact_sb_membership/$ref"
    assert (await api.send("POST", links, json={"@odata.id": f"sb_memberships({membership})"})).status == 204
    listed = await api.read(links)
    example = captured("tfpp-ref-collection")
    assert set(listed) == set(example)
    assert listed["@odata.context"].endswith("$metadata#Collection($ref)")
    assert listed["value"] == [{"@odata.id": f"{api.address.base_url}/api/data/v9.2/sb_memberships({membership})"}]
    url = f"contacts({contact})/sb_contact_sb_membership({membership})/$ref"
    assert (await api.send("DELETE", url)).status == 204
    assert (await api.read(links))["value"] == []
    target = {"@odata.id": f"{api.address.base_url}/api/data/v9.2/contacts({contact})"}
    assert (await api.send("PUT", f"sb_memberships({membership})/sb_ContactId/$ref", json=target)).status == 204
    where = f"{links}?$id={api.address.base_url}/api/data/v9.2/sb_memberships({membership})"
    assert (await api.send("DELETE", where)).status == 204
    assert (await api.get(f"sb_memberships({membership})/sb_ContactId")).status == 204


async def test_related_rows_may_be_created_alongside(api: Any) -> None:
    row = {"lastname": "A", "sb_contact_sb_membership": [{"sb_membernumber": "D-1"}, {"sb_membernumber": "D-2"}]}
    contact = await made(api, "contacts", row)
    listed = await api.read(f"contacts({contact})/sb_contact_sb_membership?$select=sb_membernumber")
    assert sorted(row["sb_membernumber"] for row in listed["value"]) == ["D-1", "D-2"]
    membership = await made(api, "sb_memberships", {"sb_ContactId": {"lastname": "Ny"}})
    assert (await api.read(f"sb_memberships({membership})/sb_ContactId"))["lastname"] == "Ny"


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"_parentcustomerid_value": str(uuid.uuid4())}, "0x80048d19"),
        ({"no_such_column": 1}, "0x80048d19"),
        ({"LastName": "A"}, "0x80048d19"),
        ({"birthdate": "2024-13-01"}, "0x80048d19"),
        ({"birthdate": "1700-01-01"}, "0x80040239"),
        ({"lastusedincampaign": "2024-01-01T10:00:00+01:00Z"}, "0x80048d19"),
        ({"numberofchildren": "two"}, "0x80048d19"),
        ({"donotemail": "yes"}, "0x80048d19"),
        ({"lastname": "x" * 51}, "0x80044331"),
        ({"gendercode": 9}, "0x8004431A"),
        ({"statecode": 1, "statuscode": 1}, "0x80048408"),
        ({"parentcustomerid_account@odata.bind": f"accounts({uuid.uuid4()})"}, "0x80040217"),
    ],
)
async def test_values_that_do_not_fit_are_refused_with_their_code(api: Any, row: dict[str, Any], code: str) -> None:
    reply = await api.send("POST", "contacts", json={"lastname": "A", **row})
    assert reply.status == (404 if code == "0x80040217" else 400)
    assert reply.code == code


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b"\xff\xfe", b'{"lastname": "\\ud800"}'])
async def test_bodies_that_are_not_an_object_are_refused(api: Any, body: bytes) -> None:
    reply = await api.send("POST", "contacts", data=body, headers={"Content-Type": "application/json"})
    assert (reply.status, reply.code) == (400, "0x80048d19")


async def test_moments_lose_fractions_and_zones_and_dates_stay_dates(api: Any) -> None:
    row = {"lastname": "A", "birthdate": "2024-04-10", "lastusedincampaign": "2024-06-12T16:13:17.987+02:00"}
    found = await api.read(f"contacts({await made(api, 'contacts', row)})")
    assert (found["birthdate"], found["lastusedincampaign"]) == ("2024-04-10", "2024-06-12T14:13:17Z")
    naive = await made(api, "contacts", {"lastname": "B", "lastusedincampaign": "2024-06-12T16:13:17"})
    assert (await api.read(f"contacts({naive})"))["lastusedincampaign"] == "2024-06-12T16:13:17Z"


async def test_money_is_written_with_all_its_zeros_and_brings_the_currency(api: Any) -> None:
    contact = await made(api, "contacts", {"lastname": "A", "annualincome": 1234.56})
    reply = await api.get(f"contacts({contact})?$select=annualincome")
    assert b'"annualincome":1234.5600000000' in reply.body
    assert "_transactioncurrencyid_value" in reply.json()


async def test_a_row_looks_like_the_recorded_one(api: Any, captured: Any) -> None:
    recorded = captured("tfpp-contact-entity")
    row = await api.read(f"contacts({api.state.organization.tables['contact'].ids[0]})")
    ours = {name for name in recorded if not name.startswith(("adx_", "msdyn_", "msa_", "mspp_", "_msa_"))}
    assert sorted(ours - set(row) - {"isprivate"}) == []
    assert list(row)[:2] == list(recorded)[:2]
    assert row["@odata.context"].endswith("$metadata#contacts/$entity")
    for name in ("donotemail", "followemail", "customertypecode", "statecode", "telephone3", "creditlimit"):
        assert type(row[name]) is type(recorded[name])


async def test_unchanged_row_is_304_unless_more_was_asked_for(api: Any) -> None:
    url = f"contacts({api.state.organization.tables['contact'].ids[0]})"
    condition = {"If-None-Match": await etag_of(api, url)}
    assert (await api.get(url, headers=condition)).status == 304
    assert (await api.get(f"{url}?$expand=owninguser($select=fullname)", headers=condition)).status == 200
    assert (await api.get(url, headers=condition, prefer='odata.include-annotations="*"')).status == 200


async def test_version_conditions_need_optimistic_concurrency(api: Any) -> None:
    url = f"contacts({api.state.organization.tables['contact'].ids[0]})"
    etag = await etag_of(api, url)
    await api.control("config", {"tables": {"contacts": {"optimistic_concurrency": False}}})
    reply = await api.send("PATCH", url, json={"lastname": "B"}, headers={"If-Match": etag})
    assert (reply.status, reply.code) == (400, "0x8006088D")


async def test_resending_equal_values_still_makes_a_new_version(api: Any) -> None:
    contact = await made(api, "contacts", {"lastname": "A"})
    before = await etag_of(api, f"contacts({contact})")
    await api.send("PATCH", f"contacts({contact})", json={"lastname": "A"})
    assert await etag_of(api, f"contacts({contact})") != before


async def test_state_and_reason_move_together(api: Any) -> None:
    contact = await made(api, "contacts", {"lastname": "A"})
    await api.send("PATCH", f"contacts({contact})", json={"statecode": 1})
    row = await api.read(f"contacts({contact})")
    assert (row["statecode"], row["statuscode"]) == (1, 2)


async def test_single_columns_can_be_read_set_and_cleared(api: Any) -> None:
    url = f"contacts({await made(api, 'contacts', {'lastname': 'A'})})/jobtitle"
    assert (await api.get(url)).status == 204
    assert (await api.send("PUT", url, json={"value": "Leder"})).status == 204
    assert (await api.read(url))["value"] == "Leder"
    assert (await api.get(f"{url}/$value")).body == b"Leder"
    assert (await api.send("DELETE", url)).status == 204
    assert (await api.get(url)).status == 204
    assert (await api.send("DELETE", url.replace("jobtitle", "contactid"))).status == 405


async def test_delete_knows_versions_and_absence(api: Any) -> None:
    contact = await made(api, "contacts", {"lastname": "A"})
    url = f"contacts({contact})"
    assert (await api.send("DELETE", url, headers={"If-Match": ANOTHER_ETAG})).code == "0x80060882"
    assert (await api.send("DELETE", url, headers={"If-Match": await etag_of(api, url)})).status == 204
    gone = await api.send("DELETE", url)
    assert (gone.status, gone.code) == (404, "0x80040217")
    assert gone.json()["error"]["message"] == f"contact With Id = {contact} Does Not Exist"


@pytest.mark.parametrize(("rule", "status"), [("remove_link", 204), ("cascade", 204), ("restrict", 405)])
async def test_deleting_a_contact_follows_the_relationship(api: Any, rule: str, status: int) -> None:
    await api.control("config", {"relationships": {"sb_membership.sb_ContactId": rule}})
    membership, row = next(iter(api.state.organization.tables["sb_membership"].rows.items()))
    contact = row["_sb_contactid_value"]
    assert (await api.send("DELETE", f"contacts({contact})")).status == status
    assert (await api.get(f"contacts({contact})")).status == (200 if rule == "restrict" else 404)
    found = await api.get(f"sb_memberships({membership})")
    assert found.status == (404 if rule == "cascade" else 200)
    assert rule != "remove_link" or found.json()["_sb_contactid_value"] is None


async def test_users_are_not_created_freely_and_deleted_in_two_steps(api: Any) -> None:
    assert (await api.send("POST", "systemusers", json={"firstname": "A"})).status == 405
    user = next(i for i in api.state.organization.tables["systemuser"].ids if i != api.state.seeded.application_user)
    assert (await api.send("DELETE", f"systemusers({user})")).status == 204
    row = await api.read(f"systemusers({user})?$select=isdisabled,deletedstate")
    assert (row["isdisabled"], row["deletedstate"]) == (True, 1)
    assert (await api.send("DELETE", f"systemusers({user})")).status == 204
    assert (await api.get(f"systemusers({user})")).status == 404


async def test_missing_rights_are_refused_per_table_and_operation(api: Any) -> None:
    client_id = api.address.credentials["client_id"]
    rights = {"prvWriteContact": "None", "prvDeleteContact": "Basic", "prvReadsb_Membership": "None"}
    await api.control("config", {"users": [{"client_id": client_id, "privileges": rights}]})
    contact = api.state.organization.tables["contact"].ids[0]
    replies = [
        await api.send("PATCH", f"contacts({contact})", json={"lastname": "B"}),
        await api.send("DELETE", f"contacts({contact})"),
        await api.get("sb_memberships"),
    ]
    assert [(reply.status, reply.code) for reply in replies] == [(403, "0x80040220")] * 3
    assert (await api.get("contacts?$top=1")).status == 200


async def test_reading_only_own_rows_hides_the_others_silently(api: Any) -> None:
    client_id = api.address.credentials["client_id"]
    await api.control("config", {"users": [{"client_id": client_id, "privileges": {"prvReadContact": "Basic"}}]})
    assert (await api.read("contacts"))["value"] == []
    await made(api, "contacts", {"lastname": "Mine"})
    assert [row["lastname"] for row in (await api.read("contacts"))["value"]] == ["Mine"]


async def test_every_answer_carries_the_documented_headers(api: Any) -> None:
    reply = await api.get("contacts?$top=1", prefer='odata.maxpagesize=3,odata.include-annotations="*"')
    names = (
        "OData-Version",
        "x-ms-service-request-id",
        "REQ_ID",
        "x-ms-ratelimit-burst-remaining-xrm-requests",
        "x-ms-ratelimit-time-remaining-xrm-requests",
        "x-ms-dop-hint",
    )
    assert [name for name in names if name not in reply.headers] == []
    assert reply.headers["Set-Cookie"].startswith("ARRAffinity=")
    assert reply.headers["Preference-Applied"] == 'odata.maxpagesize=3,odata.include-annotations="*"'


async def test_error_envelope_gains_details_when_annotations_are_asked_for(api: Any) -> None:
    reply = await api.get(f"contacts({uuid.uuid4()})", prefer='odata.include-annotations="*"')
    assert "@Microsoft.PowerApps.CDS.HelpLink" in reply.json()["error"]
    assert set((await api.get(f"contacts({uuid.uuid4()})")).json()["error"]) == {"code", "message"}


async def test_codes_used_are_those_of_the_vendor_list(captured: Any) -> None:
    from samband_dynamics365.simulator import errors, limits

    known = {entry["hex"].lower() for entry in captured("error-codes-subset")}
    used = [
        errors.row_absent("a", "b"),
        errors.key_absent("a"),
        errors.key_not_defined("a"),
        errors.key_clash("a", "b"),
        errors.already_exists(),
        errors.version_mismatch(),
        errors.optimistic_concurrency_off("a"),
        errors.string_too_long("a", "b", 1),
        errors.privilege_missing("a", "b", "c"),
        errors.not_a_member(),
        errors.no_roles(),
        errors.user_disabled(),
        errors.not_supported(),
        errors.not_tracked("a", 400),
        errors.version_stamp_expired(400),
        errors.too_large(),
    ]
    codes = {error.code.lower() for error in used} | {limits.REQUESTS, limits.EXECUTION, limits.CONCURRENCY}
    assert codes - known == set()


async def test_bodies_over_the_limit_are_413(api: Any) -> None:
    await api.control("config", {"switches": {"max_body_bytes": 1000}})
    reply = await api.send("POST", "contacts", json={"description": "x" * 2000})
    assert (reply.status, reply.code) == (413, "0x8004418A")
