"""Cuts a full Dataverse ``$metadata`` document down to the tables the simulator serves.

A development tool, run by hand when the set of simulated tables changes; nothing imports it:

    python cut_metadata.py full-metadata.xml[.gz] ../../src/samband_dynamics365/simulator/data/metadata.csdl.xml

The custom tables of the simulated organisation are added here, written the way the service itself writes them.
"""

from __future__ import annotations

import gzip
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

EDM = "http://docs.oasis-open.org/odata/ns/edm"
EDMX = "http://docs.oasis-open.org/odata/ns/edmx"
CRM = "Microsoft.Dynamics.CRM"

KEPT_WHOLE = ("account", "contact", "systemuser", "sdkmessage", "sdkmessagefilter")
KEPT_PART = {
    "businessunit": ("businessunitid", "name", "createdon", "modifiedon", "versionnumber", "isdisabled"),
    "organization": (
        "organizationid",
        "name",
        "languagecode",
        "localeid",
        "createdon",
        "modifiedon",
        "versionnumber",
        "expirechangetrackingindays",
        "isauditenabled",
        "schemanameprefix",
    ),
}
KEPT = {*KEPT_WHOLE, *KEPT_PART, "principal", "crmbaseentity"}
KEPT_SETS = {
    "accounts",
    "contacts",
    "systemusers",
    "sdkmessages",
    "sdkmessagefilters",
    "businessunits",
    "organizations",
}
KEPT_COMPLEX = {"WhoAmIResponse", "RetrieveUserPrivilegesResponse", "RolePrivilege", "BulkDeleteResponse"}
KEPT_OPERATIONS = {"WhoAmI", "RetrieveUserPrivileges"}

EXTRA_PROPERTIES = {
    "contact": '<Property Name="sb_externalid" Type="Edm.String" Unicode="false"/>',
    "systemuser": '<Property Name="deletedstate" Type="Edm.Int32"/><Property Name="azurestate" Type="Edm.Int32"/>',
}
EXTRA_NAVIGATION = {
    "contact": '<NavigationProperty Name="sb_contact_sb_membership" Type="Collection(mscrm.sb_membership)" '
    'Partner="sb_ContactId"/>',
}

_OWNED = """
  <Property Name="createdon" Type="Edm.DateTimeOffset"/>
  <Property Name="modifiedon" Type="Edm.DateTimeOffset"/>
  <Property Name="overriddencreatedon" Type="Edm.DateTimeOffset"/>
  <Property Name="importsequencenumber" Type="Edm.Int32"/>
  <Property Name="versionnumber" Type="Edm.Int64"/>
  <Property Name="statecode" Type="Edm.Int32"/>
  <Property Name="statuscode" Type="Edm.Int32"/>
  <Property Name="_createdby_value" Type="Edm.Guid"/>
  <Property Name="_modifiedby_value" Type="Edm.Guid"/>
  <Property Name="_ownerid_value" Type="Edm.Guid"/>
  <Property Name="_owninguser_value" Type="Edm.Guid"/>
  <Property Name="_owningbusinessunit_value" Type="Edm.Guid"/>
  <NavigationProperty Name="createdby" Type="mscrm.systemuser" Nullable="false">
    <ReferentialConstraint Property="_createdby_value" ReferencedProperty="systemuserid"/>
  </NavigationProperty>
  <NavigationProperty Name="modifiedby" Type="mscrm.systemuser" Nullable="false">
    <ReferentialConstraint Property="_modifiedby_value" ReferencedProperty="systemuserid"/>
  </NavigationProperty>
  <NavigationProperty Name="ownerid" Type="mscrm.principal" Nullable="false">
    <ReferentialConstraint Property="_ownerid_value" ReferencedProperty="ownerid"/>
  </NavigationProperty>
  <NavigationProperty Name="owninguser" Type="mscrm.systemuser" Nullable="false">
    <ReferentialConstraint Property="_owninguser_value" ReferencedProperty="systemuserid"/>
  </NavigationProperty>
"""

CUSTOM_TYPES = f"""
<EntityType Name="sb_chapter" BaseType="mscrm.crmbaseentity">
  <Key><PropertyRef Name="sb_chapterid"/></Key>
  <Property Name="sb_chapterid" Type="Edm.Guid"/>
  <Property Name="sb_name" Type="Edm.String" Unicode="false"/>
  <Property Name="sb_code" Type="Edm.String" Unicode="false"/>
  {_OWNED}
  <NavigationProperty Name="sb_chapter_sb_membership" Type="Collection(mscrm.sb_membership)" Partner="sb_ChapterId"/>
</EntityType>
<EntityType Name="sb_membership" BaseType="mscrm.crmbaseentity">
  <Key><PropertyRef Name="sb_membershipid"/></Key>
  <Property Name="sb_membershipid" Type="Edm.Guid"/>
  <Property Name="sb_membernumber" Type="Edm.String" Unicode="false"/>
  <Property Name="sb_startdate" Type="Edm.Date"/>
  <Property Name="sb_enddate" Type="Edm.Date"/>
  <Property Name="sb_status" Type="Edm.Int32"/>
  <Property Name="sb_isprimary" Type="Edm.Boolean"/>
  <Property Name="sb_fee" Type="Edm.Decimal" Scale="Variable"/>
  <Property Name="_sb_contactid_value" Type="Edm.Guid"/>
  <Property Name="_sb_chapterid_value" Type="Edm.Guid"/>
  {_OWNED}
  <NavigationProperty Name="sb_ContactId" Type="mscrm.contact" Nullable="false" Partner="sb_contact_sb_membership">
    <ReferentialConstraint Property="_sb_contactid_value" ReferencedProperty="contactid"/>
  </NavigationProperty>
  <NavigationProperty Name="sb_ChapterId" Type="mscrm.sb_chapter" Nullable="false" Partner="sb_chapter_sb_membership">
    <ReferentialConstraint Property="_sb_chapterid_value" ReferencedProperty="sb_chapterid"/>
  </NavigationProperty>
</EntityType>
"""

CUSTOM_SETS = """
<EntitySet Name="sb_chapters" EntityType="Microsoft.Dynamics.CRM.sb_chapter">
  <NavigationPropertyBinding Path="createdby" Target="systemusers"/>
  <NavigationPropertyBinding Path="modifiedby" Target="systemusers"/>
  <NavigationPropertyBinding Path="owninguser" Target="systemusers"/>
  <NavigationPropertyBinding Path="sb_chapter_sb_membership" Target="sb_memberships"/>
</EntitySet>
<EntitySet Name="sb_memberships" EntityType="Microsoft.Dynamics.CRM.sb_membership">
  <NavigationPropertyBinding Path="createdby" Target="systemusers"/>
  <NavigationPropertyBinding Path="modifiedby" Target="systemusers"/>
  <NavigationPropertyBinding Path="owninguser" Target="systemusers"/>
  <NavigationPropertyBinding Path="sb_ContactId" Target="contacts"/>
  <NavigationPropertyBinding Path="sb_ChapterId" Target="sb_chapters"/>
</EntitySet>
"""

MEMBERSHIPS_OF_CONTACT = '<NavigationPropertyBinding Path="sb_contact_sb_membership" Target="sb_memberships"/>'
BULK_DELETE_IMPORT = '<ActionImport Name="BulkDelete" Action="Microsoft.Dynamics.CRM.BulkDelete"/>'

EXTRA_OPERATIONS = """
<Action Name="CreateMultiple" IsBound="true">
  <Parameter Name="entityset" Type="Collection(mscrm.crmbaseentity)" Nullable="false"/>
  <Parameter Name="Targets" Type="Collection(mscrm.crmbaseentity)" Nullable="false"/>
  <ReturnType Type="mscrm.CreateMultipleResponse" Nullable="false"/>
</Action>
<Action Name="UpdateMultiple" IsBound="true">
  <Parameter Name="entityset" Type="Collection(mscrm.crmbaseentity)" Nullable="false"/>
  <Parameter Name="Targets" Type="Collection(mscrm.crmbaseentity)" Nullable="false"/>
</Action>
<Action Name="UpsertMultiple" IsBound="true">
  <Parameter Name="entityset" Type="Collection(mscrm.crmbaseentity)" Nullable="false"/>
  <Parameter Name="Targets" Type="Collection(mscrm.crmbaseentity)" Nullable="false"/>
</Action>
<Action Name="BulkDelete">
  <Parameter Name="JobName" Type="Edm.String" Nullable="false" Unicode="false"/>
  <Parameter Name="SendEmailNotification" Type="Edm.Boolean" Nullable="false"/>
  <Parameter Name="RecurrencePattern" Type="Edm.String" Nullable="false" Unicode="false"/>
  <Parameter Name="StartDateTime" Type="Edm.DateTimeOffset" Nullable="false"/>
  <Parameter Name="RunNow" Type="Edm.Boolean"/>
  <ReturnType Type="mscrm.BulkDeleteResponse" Nullable="false"/>
</Action>
<ComplexType Name="CreateMultipleResponse"><Property Name="Ids" Type="Collection(Edm.Guid)"/></ComplexType>
<EnumType Name="PrivilegeDepth">
  <Member Name="Basic" Value="0"/><Member Name="Local" Value="1"/>
  <Member Name="Deep" Value="2"/><Member Name="Global" Value="3"/>
</EnumType>
"""


def fragment(text: str) -> list[ET.Element]:
    """Parses CSDL text without a namespace into elements of the EDM namespace."""
    return list(ET.fromstring(f'<x xmlns="{EDM}">{text}</x>'))


def target_of(type_name: str) -> str:
    """Returns the entity type a navigation property leads to."""
    return type_name.removeprefix("Collection(").removesuffix(")").removeprefix("mscrm.")


def cut_type(entity: ET.Element) -> None:
    """Removes what leads out of the kept tables and adds what this organisation customised."""
    name = entity.get("Name", "")
    for child in list(entity):
        kind = child.tag.removeprefix(f"{{{EDM}}}")
        dropped_column = kind == "Property" and name in KEPT_PART and child.get("Name") not in KEPT_PART[name]
        leads_out = kind == "NavigationProperty" and (
            target_of(child.get("Type", "")) not in KEPT or name in {"principal", *KEPT_PART}
        )
        if dropped_column or leads_out:
            entity.remove(child)
    for extra in (EXTRA_PROPERTIES.get(name), EXTRA_NAVIGATION.get(name)):
        entity.extend(fragment(extra or ""))


def cut(root: ET.Element) -> None:
    """Cuts the document in place."""
    schema = next(root.iter(f"{{{EDM}}}Schema"))
    navigations: dict[str, set[str]] = {}
    for child in list(schema):
        kind, name = child.tag.removeprefix(f"{{{EDM}}}"), child.get("Name", "")
        if kind == "EntityType" and name in KEPT:
            cut_type(child)
            navigations[name] = {n.get("Name", "") for n in child.iter(f"{{{EDM}}}NavigationProperty")}
        elif kind == "EntityContainer":
            cut_container(child, navigations)
        elif not (
            (kind == "ComplexType" and name in KEPT_COMPLEX)
            or (kind in {"Function", "Action"} and name in KEPT_OPERATIONS)
        ):
            schema.remove(child)
    for privilege in schema.iter(f"{{{EDM}}}ComplexType"):
        if privilege.get("Name") == "RolePrivilege":
            privilege.extend(fragment('<Property Name="PrivilegeName" Type="Edm.String" Unicode="false"/>'))
    container = schema[-1]
    schema.remove(container)
    schema.extend([*fragment(CUSTOM_TYPES), *fragment(EXTRA_OPERATIONS), container])
    container.extend(fragment(CUSTOM_SETS + BULK_DELETE_IMPORT))
    drop_dangling_navigation(schema)


def drop_dangling_navigation(schema: ET.Element) -> None:
    """Removes partner names that were cut away, and the collections that only those partners could fill."""
    entities = {entity.get("Name", ""): entity for entity in schema.iter(f"{{{EDM}}}EntityType")}
    names = {n: {x.get("Name") for x in e.iter(f"{{{EDM}}}NavigationProperty")} for n, e in entities.items()}
    for entity in entities.values():
        for navigation in list(entity.iter(f"{{{EDM}}}NavigationProperty")):
            kind = navigation.get("Type", "")
            if navigation.get("Partner") in names[target_of(kind)]:
                continue
            navigation.attrib.pop("Partner", None)
            if kind.startswith("Collection("):
                entity.remove(navigation)
                names[entity.get("Name", "")].discard(navigation.get("Name"))
    for entity_set in schema.iter(f"{{{EDM}}}EntitySet"):
        kept = names[entity_set.get("EntityType", "").removeprefix(f"{CRM}.")]
        for binding in [b for b in entity_set if b.get("Path") not in kept]:
            entity_set.remove(binding)


def cut_container(container: ET.Element, navigations: dict[str, set[str]]) -> None:
    """Keeps the entity sets of kept tables and the imports of kept functions."""
    for child in list(container):
        kind, name = child.tag.removeprefix(f"{{{EDM}}}"), child.get("Name", "")
        if kind == "EntitySet" and name in KEPT_SETS:
            owner = child.get("EntityType", "").removeprefix(f"{CRM}.")
            for binding in list(child):
                if binding.get("Path") not in navigations[owner] or binding.get("Target") not in KEPT_SETS:
                    child.remove(binding)
            if owner == "contact":
                child.extend(fragment(MEMBERSHIPS_OF_CONTACT))
        elif name not in KEPT_OPERATIONS:
            container.remove(child)


def main(source: Path, target: Path) -> None:
    """Reads the full document, cuts it and writes it indented."""
    ET.register_namespace("", EDM)
    ET.register_namespace("edmx", EDMX)
    data = gzip.decompress(source.read_bytes()) if source.suffix == ".gz" else source.read_bytes()
    root = ET.fromstring(data)
    cut(root)
    ET.indent(root)
    target.write_bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
