"""The tables of the simulated organisation: columns and relations from the shipped CSDL, details added by hand.

The CSDL says names, types and relations; it does not say lengths, options, labels or alternate keys. Those stand in
`schema_details`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

from . import schema_details as details

EDM = "{http://docs.oasis-open.org/odata/ns/edm}"
CRM = "Microsoft.Dynamics.CRM"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: its wire type and what the service checks when it is written.

    ``options`` maps choice values to labels; ``scale`` counts the decimals the service always writes.
    """

    name: str
    edm: str
    max_length: int | None = None
    options: Mapping[int, str] | None = None
    scale: int | None = None
    read_only: bool = False
    default: Any = None

    @property
    def is_lookup(self) -> bool:
        """Tells whether this is the readable side of a lookup."""
        return self.name.startswith("_") and self.name.endswith("_value")

    @property
    def is_money(self) -> bool:
        """Tells whether the column drags the row's currency into every answer ("Select columns")."""
        return self.scale == details.MONEY_SCALE


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A single-valued navigation property: case-sensitive name, the column it fills and the table it leads to."""

    name: str
    column: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A collection-valued navigation property: the rows of ``target`` whose ``column`` points here."""

    name: str
    target: str
    column: str
    partner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An alternate key; its columns are named as they stand in a URL (``_x_value`` for a lookup)."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """The fixed shape of one table."""

    name: str
    schema_name: str
    entity_set: str
    object_type_code: int
    primary_id: str
    primary_name: str
    label: str
    custom: bool
    columns: Mapping[str, Column]
    lookups: Mapping[str, Lookup]
    collections: Mapping[str, Collection]
    keys: tuple[Key, ...]
    status_of_state: Mapping[int, tuple[int, ...]]
    always_selected: tuple[str, ...]
    template: Mapping[str, Any]
    targets: Mapping[str, tuple[Lookup, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """All tables, by logical name and by entity set name."""

    tables: Mapping[str, TableSpec]
    sets: Mapping[str, TableSpec]


@lru_cache(maxsize=1)
def csdl() -> bytes:
    """Returns the shipped ``$metadata`` document."""
    return resources.files(__package__).joinpath("data/metadata.csdl.xml").read_bytes()


@lru_cache(maxsize=1)
def load_schema() -> Schema:
    """Reads the shipped document once and joins it with the details written by hand."""
    root = ET.fromstring(csdl())  # noqa: S314  our own file
    sets = {s.get("EntityType", "").removeprefix(f"{CRM}."): s.get("Name", "") for s in root.iter(f"{EDM}EntitySet")}
    entities = {e.get("Name", ""): e for e in root.iter(f"{EDM}EntityType")}
    lookups = {name: _lookups(entities[name]) for name in sets}
    tables = {name: _table(entities[name], sets[name], lookups) for name in sets}
    return Schema(tables=tables, sets={spec.entity_set: spec for spec in tables.values()})


def _lookups(entity: ET.Element) -> dict[str, Lookup]:
    found = {}
    for navigation in entity.iter(f"{EDM}NavigationProperty"):
        constraint = navigation.find(f"{EDM}ReferentialConstraint")
        if constraint is not None:
            target = navigation.get("Type", "").removeprefix("mscrm.")
            name = navigation.get("Name", "")
            # A principal cannot be read by itself; in this organisation every owner is a user.
            target = "systemuser" if target == "principal" else target
            found[name] = Lookup(name=name, column=constraint.get("Property", ""), target=target)
    return found


def _collections(entity: ET.Element, lookups: Mapping[str, Mapping[str, Lookup]]) -> dict[str, Collection]:
    found = {}
    for navigation in entity.iter(f"{EDM}NavigationProperty"):
        kind, name, partner = navigation.get("Type", ""), navigation.get("Name", ""), navigation.get("Partner", "")
        if kind.startswith("Collection(mscrm."):
            target = kind.removeprefix("Collection(mscrm.").removesuffix(")")
            column = lookups[target][partner].column
            found[name] = Collection(name=name, target=target, column=column, partner=partner)
    return found


def _table(entity: ET.Element, entity_set: str, lookups: Mapping[str, Mapping[str, Lookup]]) -> TableSpec:
    name = entity.get("Name", "")
    detail = details.TABLES[name]
    columns = {
        p.get("Name", ""): _column(name, p.get("Name", ""), p.get("Type", "")) for p in entity.iter(f"{EDM}Property")
    }
    primary_id = f"{name}id"
    always: tuple[str, ...] = (primary_id,)
    if name == "systemuser":
        columns["ownerid"] = Column(name="ownerid", edm="Edm.Guid", read_only=True)
        always = (primary_id, "ownerid")
    targets: dict[str, tuple[Lookup, ...]] = {}
    for lookup in lookups[name].values():
        targets[lookup.column] = (*targets.get(lookup.column, ()), lookup)
    return TableSpec(
        name=name,
        schema_name=detail.schema_name,
        entity_set=entity_set,
        object_type_code=detail.object_type_code,
        primary_id=primary_id,
        primary_name=detail.primary_name,
        label=detail.label,
        custom=name.startswith("sb_"),
        columns=columns,
        lookups=lookups[name],
        collections=_collections(entity, lookups),
        keys=tuple(Key(name=key, columns=names) for key, names in detail.keys.items()),
        status_of_state=detail.status_of_state,
        always_selected=always,
        template={"@odata.etag": None, **{c.name: c.default for c in columns.values()}},
        targets=targets,
    )


def _column(table: str, name: str, edm: str) -> Column:
    detail = details.TABLES[table]
    scale = None
    if edm == "Edm.Decimal":
        scale = details.RATE_SCALE if name == "exchangerate" else details.MONEY_SCALE
    default = detail.defaults.get(name, False if edm == "Edm.Boolean" and table in details.BOOLEANS_DEFAULT else None)
    return Column(
        name=name,
        edm=edm,
        max_length=details.LENGTHS.get(name, details.DEFAULT_LENGTH) if edm == "Edm.String" else None,
        options=detail.options.get(name),
        scale=scale,
        read_only=name in details.READ_ONLY or name in detail.read_only,
        default=default,
    )
