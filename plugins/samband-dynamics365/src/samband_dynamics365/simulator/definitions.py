"""Table, column, key and relationship definitions as the metadata endpoints show them.

Source: a recorded ``EntityDefinitions`` answer for the contact table; "Query table definitions using the Web API".
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from .schema import Column
from .tables import Organization, Table

Definition = dict[str, Any]
Relations = Mapping[str, Callable[[Definition], list[Definition]]]
_SPACE = uuid.UUID("b2f5ff47-8a0e-4a3c-8c4e-0f9a6c1d2e33")
_LANGUAGE = 1033
_KINDS = {
    "Edm.String": ("StringAttributeMetadata", "String"),
    "Edm.Int32": ("IntegerAttributeMetadata", "Integer"),
    "Edm.Int64": ("BigIntAttributeMetadata", "BigInt"),
    "Edm.Boolean": ("BooleanAttributeMetadata", "Boolean"),
    "Edm.Decimal": ("MoneyAttributeMetadata", "Money"),
    "Edm.Double": ("DoubleAttributeMetadata", "Double"),
    "Edm.Guid": ("UniqueIdentifierAttributeMetadata", "Uniqueidentifier"),
    "Edm.Date": ("DateTimeAttributeMetadata", "DateTime"),
    "Edm.DateTimeOffset": ("DateTimeAttributeMetadata", "DateTime"),
    "Edm.Binary": ("ImageAttributeMetadata", "Virtual"),
}


def metadata_id(*names: str) -> str:
    """Returns the stable id of a definition."""
    return str(uuid.uuid5(_SPACE, "/".join(names)))


def label(text: str) -> Definition:
    """Returns a text with its language, the way definitions hold every text."""
    localized = {
        "Label": text,
        "LanguageCode": _LANGUAGE,
        "IsManaged": False,
        "MetadataId": metadata_id("label", text),
        "HasChanged": None,
    }
    return {"LocalizedLabels": [localized], "UserLocalizedLabel": localized}


def managed(value: bool, name: str) -> Definition:
    """Returns a managed property."""
    return {"Value": value, "CanBeChanged": True, "ManagedPropertyLogicalName": name}


def entity(table: Table) -> Definition:
    """Returns the definition of one table."""
    spec = table.spec
    plural = spec.entity_set
    return {
        "ActivityTypeMask": 0,
        "IsActivity": False,
        "IsCustomEntity": spec.custom,
        "IsIntersect": False,
        "IsManaged": not spec.custom,
        "IsLogicalEntity": False,
        "IsPrivate": False,
        "IsOptimisticConcurrencyEnabled": table.optimistic,
        "ChangeTrackingEnabled": table.tracked,
        "LogicalName": spec.name,
        "SchemaName": spec.schema_name,
        "EntitySetName": spec.entity_set,
        "LogicalCollectionName": plural,
        "CollectionSchemaName": plural[:1].upper() + plural[1:],
        "ObjectTypeCode": spec.object_type_code,
        "OwnershipType": "UserOwned" if "_ownerid_value" in spec.columns else "OrganizationOwned",
        "PrimaryIdAttribute": spec.primary_id,
        "PrimaryNameAttribute": spec.primary_name,
        "PrimaryImageAttribute": "entityimage" if "entityimage" in spec.columns else None,
        "IsStateModelAware": bool(spec.status_of_state),
        "IsImportable": True,
        "IsValidForAdvancedFind": True,
        "TableType": "Standard",
        "DataProviderId": None,
        "ExternalName": None,
        "IntroducedVersion": "5.0.0.0" if not spec.custom else "1.0.0.0",
        "MetadataId": metadata_id(spec.name),
        "HasChanged": None,
        "Description": label(spec.label),
        "DisplayName": label(spec.label),
        "DisplayCollectionName": label(plural),
        "IsAuditEnabled": managed(False, "canmodifyauditsettings"),
        "IsCustomizable": managed(True, "iscustomizable"),
        "IsDuplicateDetectionEnabled": managed(False, "canmodifyduplicatedetectionsettings"),
        "Privileges": privileges(table),
    }


def privileges(table: Table) -> list[Definition]:
    """Returns the privileges a table has, named as roles grant them."""
    found = []
    for kind in ("Create", "Read", "Write", "Delete", "Assign", "Share", "Append", "AppendTo"):
        name = f"prv{kind}{table.spec.schema_name}"
        found.append({"PrivilegeType": kind, "Name": name, "PrivilegeId": metadata_id("privilege", name)})
    return found


def relations(organization: Organization) -> Relations:
    """Returns the lists that ``$expand`` may bring along with a table definition."""

    def below(make: Callable[[Table], list[Definition]]) -> Callable[[Definition], list[Definition]]:
        return lambda row: make(organization.tables[row["LogicalName"]])

    return {
        "Attributes": below(attributes),
        "Keys": below(keys),
        "ManyToOneRelationships": below(many_to_one),
        "OneToManyRelationships": below(one_to_many),
    }


def attributes(table: Table) -> list[Definition]:
    """Returns the column definitions of a table; lookups stand under their logical name, not ``_x_value``."""
    return [_attribute(table, column) for column in table.spec.columns.values()]


def _attribute(table: Table, column: Column) -> Definition:
    spec = table.spec
    name = column.name.removeprefix("_").removesuffix("_value") if column.is_lookup else column.name
    kind, type_name = _kind(table, column)
    row: Definition = {
        "@odata.type": f"#Microsoft.Dynamics.CRM.{kind}",
        "AttributeOf": None,
        "AttributeType": type_name,
        "AttributeTypeName": {"Value": f"{type_name}Type"},
        "EntityLogicalName": spec.name,
        "LogicalName": name,
        "SchemaName": _schema_name(table, column, name),
        "IsCustomAttribute": name.startswith("sb_"),
        "IsPrimaryId": name == spec.primary_id,
        "IsPrimaryName": name == spec.primary_name,
        "IsValidForCreate": not column.read_only,
        "IsValidForRead": True,
        "IsValidForUpdate": not column.read_only,
        "RequiredLevel": {**managed(False, "canmodifyrequirementlevelsettings"), "Value": "None"},
        "DisplayName": label(name),
        "Description": label(name),
        "MetadataId": metadata_id(spec.name, name),
        "HasChanged": None,
    }
    if column.max_length is not None:
        row["MaxLength"] = column.max_length
    if column.edm in {"Edm.Date", "Edm.DateTimeOffset"}:
        row["Format"] = "DateOnly" if column.edm == "Edm.Date" else "DateAndTime"
        row["DateTimeBehavior"] = {"Value": "DateOnly" if column.edm == "Edm.Date" else "UserLocal"}
    if column.is_lookup:
        row["Targets"] = [lookup.target for lookup in spec.targets.get(column.name, ())]
    if column.options is not None:
        row["OptionSet"] = option_set(spec.name, column)
        row["GlobalOptionSet"] = None
        row["DefaultFormValue"] = -1
    return row


def _kind(table: Table, column: Column) -> tuple[str, str]:
    if column.is_lookup:
        return "LookupAttributeMetadata", "Owner" if column.name == "_ownerid_value" else "Lookup"
    if column.name == "statecode":
        return "StateAttributeMetadata", "State"
    if column.name == "statuscode":
        return "StatusAttributeMetadata", "Status"
    if column.options is not None:
        return "PicklistAttributeMetadata", "Picklist"
    if column.name == "description":
        return "MemoAttributeMetadata", "Memo"
    if column.name == "exchangerate":
        return "DecimalAttributeMetadata", "Decimal"
    return _KINDS[column.edm]


def _schema_name(table: Table, column: Column, name: str) -> str:
    if column.is_lookup:
        found = [lookup.name for lookup in table.spec.targets.get(column.name, ())]
        if len(found) == 1:
            return found[0]
    return name


def option_set(entity_name: str, column: Column) -> Definition:
    """Returns the options of a choice column."""
    return {
        "@odata.type": "#Microsoft.Dynamics.CRM.OptionSetMetadata",
        "Name": f"{entity_name}_{column.name}",
        "IsGlobal": False,
        "IsCustomOptionSet": column.name.startswith("sb_"),
        "OptionSetType": "Picklist",
        "MetadataId": metadata_id("optionset", entity_name, column.name),
        "Options": [
            {
                "Value": value,
                "Color": None,
                "IsManaged": False,
                "ExternalValue": "",
                "ParentValues": [],
                "MetadataId": None,
                "HasChanged": None,
                "Label": label(text),
                "Description": {"LocalizedLabels": [], "UserLocalizedLabel": None},
            }
            for value, text in (column.options or {}).items()
        ],
    }


def is_kind(row: Definition, cast: str) -> bool:
    """Tells whether a column definition is of the kind a cast segment names."""
    return row.get("@odata.type") == f"#Microsoft.Dynamics.CRM.{cast}"


def keys(table: Table) -> list[Definition]:
    """Returns the alternate keys of a table with the state of their index."""
    spec = table.spec
    return [
        {
            "DisplayName": label(key.name),
            "EntityKeyIndexStatus": "Pending" if key.name in table.pending_keys else "Active",
            "EntityLogicalName": spec.name,
            "KeyAttributes": [name.removeprefix("_").removesuffix("_value") for name in key.columns],
            "IsCustomizable": managed(True, "iscustomizable"),
            "IsManaged": False,
            "IntroducedVersion": "1.0.0.0",
            "LogicalName": key.name,
            "SchemaName": key.name,
            "IsSynchronous": True,
            "IsExportKey": False,
            "IsSecondaryKey": False,
            "MetadataId": metadata_id("key", spec.name, key.name),
            "HasChanged": None,
            "AsyncJob": None,
        }
        for key in spec.keys
    ]


def many_to_one(table: Table) -> list[Definition]:
    """Returns the relationships in which a table's lookups take part."""
    return [
        {
            "SchemaName": f"{table.spec.name}_{lookup.name}_{lookup.target}",
            "ReferencingEntity": table.spec.name,
            "ReferencingAttribute": lookup.column.removeprefix("_").removesuffix("_value"),
            "ReferencingEntityNavigationPropertyName": lookup.name,
            "ReferencedEntity": lookup.target,
            "ReferencedAttribute": f"{lookup.target}id",
            "RelationshipType": "OneToManyRelationship",
            "MetadataId": metadata_id("relationship", table.spec.name, lookup.name),
            "HasChanged": None,
        }
        for lookup in table.spec.lookups.values()
    ]


def one_to_many(table: Table) -> list[Definition]:
    """Returns the relationships in which other tables' lookups lead to this one."""
    return [
        {
            "SchemaName": f"{found.target}_{found.partner}_{table.spec.name}",
            "ReferencingEntity": found.target,
            "ReferencingAttribute": found.column.removeprefix("_").removesuffix("_value"),
            "ReferencingEntityNavigationPropertyName": found.partner,
            "ReferencedEntity": table.spec.name,
            "ReferencedAttribute": table.spec.primary_id,
            "ReferencedEntityNavigationPropertyName": found.name,
            "RelationshipType": "OneToManyRelationship",
            "MetadataId": metadata_id("relationship", found.target, found.partner),
            "HasChanged": None,
        }
        for found in table.spec.collections.values()
    ]
