"""What the service says about itself."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any
from urllib.parse import quote

EDM = "{http://docs.oasis-open.org/odata/ns/edm}"


async def test_service_document_lists_the_entity_sets(api: Any) -> None:
    document = await api.read("")
    assert set(document) == {"@odata.context", "value"}
    assert {"name": "contacts", "kind": "EntitySet", "url": "contacts"} in document["value"]


async def test_csdl_is_whole_and_closed(api: Any) -> None:
    reply = await api.get("$metadata")
    assert reply.headers["Content-Type"].startswith("application/xml")
    root = ET.fromstring(reply.body)
    types = {entity.get("Name"): entity for entity in root.iter(f"{EDM}EntityType")}
    contact = types["contact"]
    assert len(contact.findall(f"{EDM}Property")) == 191 + 1
    known = {f"mscrm.{name}" for name in types}
    targets = {n.get("Type", "") for n in root.iter(f"{EDM}NavigationProperty")}
    assert {t.removeprefix("Collection(").removesuffix(")") for t in targets} <= known
    membership = {n.get("Name") for n in types["sb_membership"].iter(f"{EDM}NavigationProperty")}
    assert {"sb_ContactId", "sb_ChapterId"} <= membership
    assert types["systemuser"].get("BaseType") == "mscrm.principal"


async def test_csdl_annotations_tell_which_sets_are_tracked(api: Any) -> None:
    await api.control("config", {"tables": {"sb_chapters": {"tracked": False}}})
    root = ET.fromstring((await api.get("$metadata?annotations=true")).body)
    found = {}
    for entity_set in root.iter(f"{EDM}EntitySet"):
        for annotation in entity_set.iter(f"{EDM}Annotation"):
            assert annotation.get("Term") == "Org.OData.Capabilities.V1.ChangeTracking"
            found[entity_set.get("Name")] = next(annotation.iter(f"{EDM}PropertyValue")).get("Bool")
    assert (found["contacts"], found["sb_chapters"]) == ("true", "false")


async def test_who_am_i_answers_like_the_recorded_one(api: Any, captured: Any) -> None:
    found, recorded = await api.read("WhoAmI"), captured("tfpp-whoami")
    assert list(found) == list(recorded)
    assert found["@odata.context"].partition("$metadata#")[2] == recorded["@odata.context"].partition("$metadata#")[2]
    assert (await api.get(f"systemusers({found['UserId']})")).status == 200
    assert (await api.read("organizations"))["value"][0]["organizationid"] == found["OrganizationId"]
    assert (await api.read("organizations"))["value"][0]["expirechangetrackingindays"] == 7


async def test_definition_is_found_by_filter_as_clients_ask(api: Any) -> None:
    query = "%24select=LogicalName%2CEntitySetName%2CPrimaryIdAttribute&%24filter=LogicalName+eq+%27sb_membership%27"
    rows = (await api.read(f"EntityDefinitions?{query}"))["value"]
    assert [{k: v for k, v in row.items() if k != "MetadataId"} for row in rows] == [
        {
            "LogicalName": "sb_membership",
            "EntitySetName": "sb_memberships",
            "PrimaryIdAttribute": "sb_membershipid",
        }
    ]
    assert (await api.read("EntityDefinitions?$filter=" + quote("LogicalName eq 'nothing'")))["value"] == []


async def test_tracked_tables_can_be_listed(api: Any) -> None:
    await api.control("config", {"tables": {"accounts": {"tracked": False}}})
    query = quote("ChangeTrackingEnabled eq true and IsIntersect eq false")
    rows = (await api.read(f"EntityDefinitions?$select=LogicalName&$filter={query}"))["value"]
    assert {row["LogicalName"] for row in rows} == {"contact", "systemuser", "sb_membership", "sb_chapter"}


async def test_definition_of_one_table_looks_like_the_recorded_one(api: Any, captured: Any) -> None:
    recorded = captured("tfpp-entitydefinition-contact")
    found = await api.read("EntityDefinitions(LogicalName='contact')")
    assert found["@odata.context"].endswith("$metadata#EntityDefinitions/$entity")
    fixed = (
        "LogicalName",
        "SchemaName",
        "EntitySetName",
        "ObjectTypeCode",
        "PrimaryIdAttribute",
        "PrimaryNameAttribute",
    )
    for name in (
        *fixed,
        "ChangeTrackingEnabled",
        "OwnershipType",
        "LogicalCollectionName",
        "IsOptimisticConcurrencyEnabled",
    ):
        assert found[name] == recorded[name], name
    assert set(found["DisplayName"]) == set(recorded["DisplayName"])
    shared = set(found) & set(recorded)
    assert set(found) - shared <= {"Privileges"}
    by_id = await api.read(f"EntityDefinitions({found['MetadataId']})?$select=LogicalName")
    assert by_id["LogicalName"] == "contact"
    assert (await api.get("EntityDefinitions(LogicalName='nothing')")).status == 404


async def test_choices_are_found_through_the_picklist_cast(api: Any) -> None:
    url = (
        "EntityDefinitions(LogicalName='sb_membership')/Attributes/Microsoft.Dynamics.CRM.PicklistAttributeMetadata"
        "?$select=LogicalName&$expand=OptionSet($select=Options)"
    )
    rows = (await api.read(url))["value"]
    assert [row["LogicalName"] for row in rows] == ["sb_status"]
    options = {o["Value"]: o["Label"]["LocalizedLabels"][0]["Label"] for o in rows[0]["OptionSet"]["Options"]}
    assert options == {1: "Active", 2: "Paused", 3: "Ended"}


async def test_attributes_tell_lengths_targets_and_date_behaviour(api: Any) -> None:
    base = "EntityDefinitions(LogicalName='sb_membership')/Attributes"
    rows = {row["LogicalName"]: row for row in (await api.read(base))["value"]}
    assert rows["sb_membernumber"]["MaxLength"] == 50
    assert rows["sb_contactid"]["Targets"] == ["contact"]
    assert rows["sb_contactid"]["SchemaName"] == "sb_ContactId"
    assert rows["sb_startdate"]["DateTimeBehavior"] == {"Value": "DateOnly"}
    assert rows["statecode"]["AttributeType"] == "State"
    one = await api.read(f"{base}(LogicalName='sb_membernumber')/Microsoft.Dynamics.CRM.StringAttributeMetadata")
    assert one["MaxLength"] == 50
    options = await api.read(
        f"{base}(LogicalName='sb_status')/Microsoft.Dynamics.CRM.PicklistAttributeMetadata/OptionSet"
    )
    assert [option["Value"] for option in options["Options"]] == [1, 2, 3]


async def test_keys_show_their_index_status(api: Any) -> None:
    url = "EntityDefinitions(LogicalName='sb_membership')/Keys?$select=LogicalName,KeyAttributes,EntityKeyIndexStatus"
    rows = {row["LogicalName"]: row for row in (await api.read(url))["value"]}
    assert rows["sb_membership_pair_key"]["KeyAttributes"] == ["sb_contactid", "sb_chapterid"]
    assert {row["EntityKeyIndexStatus"] for row in rows.values()} == {"Active"}
    await api.control("config", {"tables": {"sb_memberships": {"pending_keys": ["sb_membership_pair_key"]}}})
    rows = {row["LogicalName"]: row for row in (await api.read(url))["value"]}
    assert rows["sb_membership_pair_key"]["EntityKeyIndexStatus"] == "Pending"


async def test_lists_can_be_expanded_for_one_table(api: Any) -> None:
    url = (
        "EntityDefinitions(LogicalName='sb_membership')?$select=LogicalName"
        "&$expand=Attributes($select=LogicalName),Keys($select=LogicalName),ManyToOneRelationships"
    )
    found = await api.read(url)
    assert {"sb_status", "sb_contactid"} <= {row["LogicalName"] for row in found["Attributes"]}
    assert len(found["Keys"]) == 2
    names = {r["ReferencingEntityNavigationPropertyName"] for r in found["ManyToOneRelationships"]}
    assert "sb_ContactId" in names


async def test_privileges_of_the_caller_tell_what_is_missing(api: Any) -> None:
    client_id = api.address.credentials["client_id"]
    rights = {"prvReadContact": "Basic", "prvCreatesb_Membership": "None"}
    await api.control("config", {"users": [{"client_id": client_id, "privileges": rights}]})
    user = (await api.read("WhoAmI"))["UserId"]
    for suffix in ("", "()"):
        found = await api.read(f"systemusers({user})/Microsoft.Dynamics.CRM.RetrieveUserPrivileges{suffix}")
        depths = {row["PrivilegeName"]: row["Depth"] for row in found["RolePrivileges"]}
        assert depths["prvReadContact"] == "Basic"
        assert depths["prvReadsb_Membership"] == "Global"
        assert "prvCreatesb_Membership" not in depths


async def test_bad_metadata_requests_are_400_or_404(api: Any) -> None:
    base = "EntityDefinitions(LogicalName='contact')"
    for path, status in [
        ("EntityDefinitions?$filter=Nothing%20eq%201", 400),
        ("EntityDefinitions?$select=Nothing", 400),
        ("EntityDefinitions?$orderby=LogicalName", 400),
        (f"{base}/Nothing", 404),
        (f"{base}/Attributes(LogicalName='nothing')", 404),
        (f"{base}/Attributes(LogicalName='lastname')/a/b/c", 404),
        (f"{base}?$expand=Nothing", 400),
    ]:
        assert (await api.get(path)).status == status, path
    assert (await api.send("POST", "EntityDefinitions", json={})).status == 405
