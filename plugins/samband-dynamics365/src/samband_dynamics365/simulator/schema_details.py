"""What the CSDL leaves out about the simulated tables: labels, lengths, options, defaults and alternate keys.

Defaults and decimal scales follow a recorded contact row; lengths and option labels of the standard tables follow the
vendor's "Table/entity reference" where it states them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MONEY_SCALE = 10
RATE_SCALE = 12
DEFAULT_LENGTH = 100
LENGTHS = {
    "firstname": 50,
    "middlename": 50,
    "lastname": 50,
    "fullname": 160,
    "name": 160,
    "accountnumber": 20,
    "telephone1": 50,
    "telephone2": 50,
    "mobilephone": 50,
    "employeeid": 50,
    "governmentid": 50,
    "description": 2000,
    "address1_line1": 250,
    "address1_line2": 250,
    "address1_line3": 250,
    "address1_city": 80,
    "address1_postalcode": 20,
    "address1_country": 80,
    "internalemailaddress": 100,
    "domainname": 1024,
    "sb_code": 20,
    "sb_membernumber": 50,
}
READ_ONLY = frozenset(
    {"versionnumber", "createdon", "modifiedon", "fullname", "yomifullname", "exchangerate", "address1_composite"}
)
BOOLEANS_DEFAULT = frozenset({"account", "contact", "sb_membership", "sb_chapter"})

ACTIVE_INACTIVE = {0: "Active", 1: "Inactive"}
STATUS_REASONS = {1: "Active", 2: "Inactive"}
MEMBERSHIP_STATUS = {1: "Active", 2: "Paused", 3: "Ended"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDetail:
    """The details of one table; ``keys`` maps an alternate key's name to its columns as a URL names them."""

    schema_name: str
    object_type_code: int
    primary_name: str
    label: str
    options: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    status_of_state: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    read_only: frozenset[str] = frozenset()


_STATE_OPTIONS = {"statecode": ACTIVE_INACTIVE, "statuscode": STATUS_REASONS}
_STATE_DEFAULTS = {"statecode": 0, "statuscode": 1}
_STATUS_OF_STATE = {0: (1,), 1: (2,)}

TABLES: dict[str, TableDetail] = {
    "account": TableDetail(
        schema_name="Account",
        object_type_code=1,
        primary_name="name",
        label="Account",
        options={
            **_STATE_OPTIONS,
            "customertypecode": {1: "Competitor", 3: "Customer", 5: "Investor", 6: "Partner", 12: "Other"},
        },
        defaults={**_STATE_DEFAULTS, "followemail": True, "preferredcontactmethodcode": 1},
        keys={"sb_account_number_key": ("accountnumber",)},
        status_of_state=_STATUS_OF_STATE,
    ),
    "contact": TableDetail(
        schema_name="Contact",
        object_type_code=2,
        primary_name="fullname",
        label="Contact",
        options={
            **_STATE_OPTIONS,
            "gendercode": {1: "Male", 2: "Female"},
            "preferredcontactmethodcode": {1: "Any", 2: "Email", 3: "Phone", 4: "Fax", 5: "Mail"},
            "familystatuscode": {1: "Single", 2: "Married", 3: "Divorced", 4: "Widowed"},
        },
        defaults={
            **_STATE_DEFAULTS,
            "followemail": True,
            "preferredcontactmethodcode": 1,
            "preferredappointmenttimecode": 1,
            "customertypecode": 1,
            "customersizecode": 1,
            "educationcode": 1,
            "haschildrencode": 1,
            "leadsourcecode": 1,
            "shippingmethodcode": 1,
            "territorycode": 1,
            "address2_addresstypecode": 1,
            "address2_freighttermscode": 1,
            "address2_shippingmethodcode": 1,
            "timezoneruleversionnumber": 0,
        },
        keys={"sb_contact_external_key": ("sb_externalid",)},
        status_of_state=_STATUS_OF_STATE,
    ),
    "systemuser": TableDetail(
        schema_name="SystemUser",
        object_type_code=8,
        primary_name="fullname",
        label="User",
        options={
            "accessmode": {
                0: "Read-Write",
                1: "Administrative",
                2: "Read",
                3: "Support User",
                4: "Non-interactive",
                5: "Delegated Admin",
            },
            "deletedstate": {0: "Not deleted", 1: "Soft deleted"},
            "azurestate": {0: "Exists", 1: "Soft deleted", 2: "Not found or hard deleted"},
        },
        defaults={
            "isdisabled": False,
            "islicensed": True,
            "setupuser": False,
            "issyncwithdirectory": True,
            "isintegrationuser": False,
            "displayinserviceviews": True,
            "defaultfilterspopulated": False,
            "isemailaddressapprovedbyo365admin": False,
            "accessmode": 0,
            "caltype": 0,
            "deletedstate": 0,
            "azurestate": 0,
        },
        read_only=frozenset({"islicensed", "issyncwithdirectory", "deletedstate", "azurestate", "organizationid"}),
    ),
    "businessunit": TableDetail(
        schema_name="BusinessUnit",
        object_type_code=10,
        primary_name="name",
        label="Business Unit",
        defaults={"isdisabled": False},
    ),
    "organization": TableDetail(
        schema_name="Organization",
        object_type_code=1019,
        primary_name="name",
        label="Organization",
        defaults={"isauditenabled": False},
    ),
    "sdkmessage": TableDetail(
        schema_name="SdkMessage", object_type_code=4606, primary_name="name", label="Sdk Message"
    ),
    "sdkmessagefilter": TableDetail(
        schema_name="SdkMessageFilter",
        object_type_code=4607,
        primary_name="primaryobjecttypecode",
        label="Sdk Message Filter",
    ),
    "sb_chapter": TableDetail(
        schema_name="sb_Chapter",
        object_type_code=10101,
        primary_name="sb_name",
        label="Chapter",
        options=_STATE_OPTIONS,
        defaults=_STATE_DEFAULTS,
        keys={"sb_chapter_code_key": ("sb_code",)},
        status_of_state=_STATUS_OF_STATE,
    ),
    "sb_membership": TableDetail(
        schema_name="sb_Membership",
        object_type_code=10102,
        primary_name="sb_membernumber",
        label="Membership",
        options={**_STATE_OPTIONS, "sb_status": MEMBERSHIP_STATUS},
        defaults=_STATE_DEFAULTS,
        keys={
            "sb_membership_number_key": ("sb_membernumber",),
            "sb_membership_pair_key": ("_sb_contactid_value", "_sb_chapterid_value"),
        },
        status_of_state=_STATUS_OF_STATE,
    ),
}
