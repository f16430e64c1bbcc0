"""What an operator says about one Dataverse environment: where it is, what is read and what the columns mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, StringConstraints, field_validator, model_validator

from samband import CredentialsModel, SettingsModel

Name = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]*$", max_length=128)]
"""A table's or column's logical name: always lower-case in Dataverse, unlike navigation properties."""

Shape = Literal["text", "date", "flag"] | tuple[str, ...]
"""What a canonical field takes: text, a calendar date, true or false, or one of a few words."""

MEMBER_FIELDS: Mapping[str, Shape] = MappingProxyType({
    **dict.fromkeys(
        ("first_name", "last_name", "email", "phone", "mobile", "address", "postal_code", "city", "country",
         "language", "member_number"), "text",
    ),
    **dict.fromkeys(("birth_date", "joined_on", "left_on"), "date"),
    "role": ("member", "peer_mentor", "coordinator", "staff"),
    "status": ("active", "paused", "inactive"),
})  # fmt: skip
MEMBERSHIP_FIELDS: Mapping[str, Shape] = MappingProxyType({
    **dict.fromkeys(("association", "association_code", "member_number", "role"), "text"),
    **dict.fromkeys(("joined_on", "left_on"), "date"),
    "is_primary": "flag",
    "status": ("active", "paused", "ended"),
})  # fmt: skip

_WHOLE_NUMBER = re.compile(r"-?[0-9]+")


class Source(SettingsModel):
    """Where one canonical field comes from: a column, or the same value for every row."""

    column: Name | None = Field(
        default=None,
        title="Column",
        description="Logical name of the column as the Web API returns it; for a lookup _name_value.",
    )
    choices: dict[str, str | bool] = Field(
        default={},
        title="Choices",
        description="Their value → ours, for choice columns by option number ('1'), for yes/no by 'true' and 'false'.",
    )
    date_only: bool = Field(
        default=False,
        title="Date only",
        description="Take the UTC date of a column that holds date and time. Not needed for Date Only columns.",
    )
    constant: str | bool | None = Field(
        default=None, title="Constant", description="The same value for every row, instead of a column."
    )

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.column is None) == (self.constant is None):
            raise ValueError("give either 'column' or 'constant'")
        if self.column is None and (self.choices or self.date_only):
            raise ValueError("'choices' and 'date_only' belong to a column, not to a constant")
        if self.choices and self.date_only:
            raise ValueError("'choices' and 'date_only' cannot be used together")
        return self

    @property
    def option_type(self) -> type[int] | type[bool] | type[str]:
        """The JSON type that the keys of ``choices`` stand for."""
        if all(_WHOLE_NUMBER.fullmatch(key) for key in self.choices):
            return int
        return bool if self.choices.keys() <= {"true", "false"} else str

    @property
    def results(self) -> tuple[str | bool, ...]:
        """Every value this source can give, as far as the settings say."""
        return tuple(self.choices.values()) if self.constant is None else (self.constant,)


def _column_by_name(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


FieldMapping = dict[str, Annotated[Source, BeforeValidator(_column_by_name, json_schema_input_type=Name | Source)]]
"""Canonical field → source. A bare string is the name of a column."""


def _check_mapping(mapping: FieldMapping, fields: Mapping[str, Shape], kind: str) -> FieldMapping:
    for name, source in mapping.items():
        if name not in fields:
            raise ValueError(f"{kind} has no field {name!r}; it has {', '.join(sorted(fields))}")
        if problem := _shape_problem(fields[name], source):
            raise ValueError(f"{name}: {problem}")
    if "status" not in mapping:
        raise ValueError(f"{kind} needs 'status', for instance from the column statecode")
    return mapping


def _shape_problem(shape: Shape, source: Source) -> str | None:
    if isinstance(shape, tuple):
        if not source.results:
            return f"say with 'choices' which of the column's values is which of {', '.join(shape)}"
        if not set(source.results) <= set(shape):
            return f"'choices' and 'constant' may give {', '.join(shape)}"
    if shape == "date" and source.results:
        return "a date comes from a column, without 'choices' or 'constant'"
    if shape == "flag" and not all(isinstance(result, bool) for result in source.results):
        return "'choices' and 'constant' may give true and false"
    if shape == "text" and not all(isinstance(result, str) for result in source.results):
        return "'choices' and 'constant' must give text"
    if source.date_only and shape != "date":
        return "'date_only' is for dates"
    return None


def _mapping(**columns: Source | str) -> FieldMapping:
    return {name: Source(column=s) if isinstance(s, str) else s for name, s in columns.items()}


_STATE_OF_CONTACT = Source(column="statecode", choices={"0": "active", "1": "inactive"})
_STATE_OF_MEMBERSHIP = Source(column="statecode", choices={"0": "active", "1": "ended"})
_STANDARD_CONTACT = _mapping(
    first_name="firstname",
    last_name="lastname",
    email="emailaddress1",
    phone="telephone1",
    mobile="mobilephone",
    birth_date="birthdate",
    address="address1_line1",
    postal_code="address1_postalcode",
    city="address1_city",
    country="address1_country",
    status=_STATE_OF_CONTACT,
)
_STAFF = _mapping(
    first_name="firstname",
    last_name="lastname",
    email="internalemailaddress",
    phone="address1_telephone1",
    mobile="mobilephone",
    role=Source(constant="staff"),
    status=Source(column="isdisabled", choices={"false": "active", "true": "inactive"}),
)


class ContactTable(SettingsModel):
    """How a contact becomes a member."""

    mapping: FieldMapping = Field(
        default=_STANDARD_CONTACT,
        title="Mapping",
        description="Member field → column. Only what is listed is read; a list given here replaces the default one.",
    )

    @field_validator("mapping")
    @classmethod
    def _fits_member(cls, mapping: FieldMapping) -> FieldMapping:
        return _check_mapping(mapping, MEMBER_FIELDS, "a member")


class MembershipTable(SettingsModel):
    """A table whose rows each tie one contact to one local association."""

    set_name: Name = Field(
        title="Table set name", description="The table's EntitySetName, for instance sb_memberships."
    )
    logical_name: Name = Field(title="Table name", description="The table's logical name, for instance sb_membership.")
    primary_key: Name | None = Field(
        default=None, title="Primary key", description="The table's id column; by default its logical name with 'id'."
    )
    contact_column: Name = Field(
        title="Contact lookup", description="The lookup to the contact, for instance sb_contact or _sb_contact_value."
    )
    mapping: FieldMapping = Field(
        default=_mapping(status=_STATE_OF_MEMBERSHIP),
        title="Mapping",
        description="Membership field → column. The member itself comes from the contact lookup.",
    )

    @field_validator("contact_column")
    @classmethod
    def _as_returned(cls, name: str) -> str:
        # Reading gives a lookup as _name_value; the maker portal shows it as name.
        return name if name.startswith("_") and name.endswith("_value") else f"_{name}_value"

    @field_validator("mapping")
    @classmethod
    def _fits_membership(cls, mapping: FieldMapping) -> FieldMapping:
        if "member" in mapping:
            raise ValueError("the member comes from 'contact_column', leave it out of the mapping")
        return _check_mapping(mapping, MEMBERSHIP_FIELDS, "a membership")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table as it is read: its three names, its mapping and the columns that are asked for.

    Attributes:
        set_name: ``EntitySetName``, which is what addresses use. It differs from ``LogicalCollectionName`` for some.
        logical_name: The name metadata goes by.
        primary_key: The id column.
        setting: The settings field that an operator changes when something is wrong with the table.
        fields: What each canonical field takes.
        mapping: Canonical field → source.
        lookups: Canonical field → lookup column that holds another stream's key.
        people_only: Whether rows of accounts that are no person are left out.
    """

    set_name: str
    logical_name: str
    primary_key: str
    setting: str
    fields: Mapping[str, Shape]
    mapping: Mapping[str, Source]
    lookups: Mapping[str, str] = field(default_factory=dict)
    people_only: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to select, always in the same order: a delta link is bound to them."""
        mapped = {source.column for source in self.mapping.values() if source.column}
        account = {"applicationid", "accessmode"} if self.people_only else set()
        return tuple(sorted({self.primary_key, *mapped, *self.lookups.values(), *account}))


class DynamicsSettings(SettingsModel):
    """One Dataverse environment and what is read from it."""

    environment_url: str = Field(
        title="Environment address",
        description="The environment's own address without a path, for instance https://org.crm4.dynamics.com.",
    )
    tenant_id: str = Field(
        title="Tenant",
        description="Directory (tenant) id of the app registration, or one of the tenant's domain names.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$",
    )
    authority_url: str = Field(
        default="https://login.microsoftonline.com",
        title="Sign-in address",
        description="Where tokens come from. Only sovereign clouds, such as the Chinese one, use another address.",
    )
    token_version: Literal["v1", "v2"] = Field(
        default="v2", title="Token endpoint version", description="v2 asks for a scope, v1 for a resource. Use v2."
    )
    api_version: str = Field(
        default="v9.2",
        title="Web API version",
        description="The version keeps its behaviour; change it only after a test.",
        pattern=r"^v[0-9]{1,2}\.[0-9]{1,2}$",
    )
    page_size: int = Field(
        default=5000,
        ge=1,
        le=5000,  # the service's own upper bound
        title="Page size",
        description="Rows asked for at a time. Fewer make each answer smaller and the whole read slower.",
    )
    contacts: ContactTable = Field(
        default=ContactTable(), title="Contacts", description="The table contact, read as members."
    )
    memberships: MembershipTable | None = Field(
        default=None, title="Memberships", description="Your own membership table. Leave empty to read none."
    )
    staff: bool = Field(
        default=False, title="Staff", description="Also read the environment's users, as members with the role staff."
    )

    @field_validator("environment_url", "authority_url")
    @classmethod
    def _is_origin(cls, url: str) -> str:
        url = url.strip().rstrip("/").lower()
        try:
            parts = urlsplit(url)
            is_origin = url == f"{parts.scheme}://{parts.netloc}" and "@" not in url and parts.port != 0
        except ValueError:
            is_origin = False
        if not is_origin or not parts.hostname or not re.fullmatch(r"[a-z0-9.:/\[\]-]+", url):
            raise ValueError("give the address alone, without path or sign-in, like https://org.crm4.dynamics.com")
        return url

    @property
    def environment_host(self) -> str:
        """Host of the environment, with the port when there is one."""
        return urlsplit(self.environment_url).netloc

    @property
    def authority_host(self) -> str:
        """Host that tokens come from, with the port when there is one."""
        return urlsplit(self.authority_url).netloc

    @property
    def token_url(self) -> str:
        """Address of the token endpoint."""
        path = {"v1": "oauth2/token", "v2": "oauth2/v2.0/token"}[self.token_version]
        return f"{self.authority_url}/{self.tenant_id}/{path}"

    @property
    def api_url(self) -> str:
        """Address of the Web API, without a slash at the end."""
        return f"{self.environment_url}/api/data/{self.api_version}"

    @cached_property
    def tables(self) -> Mapping[str, Table]:
        """Stream → table, for the streams that these settings switch on, in reading order."""
        tables = {
            "contacts": Table(
                set_name="contacts",
                logical_name="contact",
                primary_key="contactid",
                setting="settings.contacts.mapping",
                fields=MEMBER_FIELDS,
                mapping=self.contacts.mapping,
            )
        }
        if self.staff:
            tables["staff"] = _STAFF_TABLE
        if self.memberships:
            tables["memberships"] = _membership_table(self.memberships)
        return MappingProxyType(tables)


_STAFF_TABLE = Table(
    set_name="systemusers",
    logical_name="systemuser",
    primary_key="systemuserid",
    setting="settings.staff",
    fields=MEMBER_FIELDS,
    mapping=_STAFF,
    people_only=True,
)


def _membership_table(settings: MembershipTable) -> Table:
    return Table(
        set_name=settings.set_name,
        logical_name=settings.logical_name,
        primary_key=settings.primary_key or f"{settings.logical_name}id",
        setting="settings.memberships",
        fields=MEMBERSHIP_FIELDS,
        mapping=settings.mapping,
        lookups={"member": settings.contact_column},
    )


class DynamicsCredentials(CredentialsModel):
    """The app registration that signs in: with a client secret, or with a certificate."""

    client_id: str = Field(
        title="Application (client) id",
        description="From the app registration's overview page.",
        pattern=r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$",
    )
    client_secret: SecretStr | None = Field(
        default=None, title="Client secret", description="The secret's value, not its id. It is shown once, when made."
    )
    certificate_pem: SecretStr | None = Field(
        default=None, title="Certificate", description="The uploaded certificate as PEM text, instead of a secret."
    )
    private_key_pem: SecretStr | None = Field(
        default=None, title="Private key", description="The certificate's private key as PEM text, not encrypted."
    )

    @model_validator(mode="after")
    def _has_one_proof(self) -> Self:
        certificate = (self.certificate_pem is not None, self.private_key_pem is not None)
        if certificate in ((True, False), (False, True)):
            raise ValueError("a certificate needs both 'certificate_pem' and 'private_key_pem'")
        if all(certificate) == (self.client_secret is not None):
            raise ValueError("give either 'client_secret' or 'certificate_pem' with 'private_key_pem'")
        return self

    @property
    def expires_at(self) -> datetime | None:
        """When the certificate ends; None for a secret, whose end only the app registration's own page shows.

        A certificate that cannot be read has no end here: signing in with it says what is wrong.
        """
        if self.certificate_pem is None:
            return None
        from cryptography import x509  # here, because it is needed when credentials are entered and never again

        try:
            certificate = x509.load_pem_x509_certificate(self.certificate_pem.get_secret_value().encode())
        except ValueError:
            return None
        return certificate.not_valid_after_utc
