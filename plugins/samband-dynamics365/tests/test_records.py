"""Rows become records: pure, no network. Rows are those of a captured contact wherever one was recorded."""

from __future__ import annotations

import datetime as dt
import gc
import json
import re
import string
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from samband import RejectedError, RemoteError
from samband.kinds import BUILTIN_KINDS, Kind
from samband_dynamics365 import records
from samband_dynamics365.plugin import manifest
from samband_dynamics365.records import contact_to_member, row_to_membership, split_rows, user_to_member
from samband_dynamics365.settings import MEMBER_FIELDS, MEMBERSHIP_FIELDS, DynamicsCredentials, DynamicsSettings

DATA = Path(__file__).parent / "data"
CONTACT: dict[str, Any] = json.loads((DATA / "contact.json").read_text())
CHANGES: list[dict[str, Any]] = json.loads((DATA / "change_tracking.json").read_text())
KINDS: dict[str, Kind] = {kind.name: kind for kind in BUILTIN_KINDS}


def dynamics(**settings: Any) -> DynamicsSettings:
    return DynamicsSettings.model_validate(
        {"environment_url": "https://org.crm4.dynamics.com", "tenant_id": "contoso.onmicrosoft.com", **settings}
    )


def contacts(**mapping: Any) -> DynamicsSettings:
    """Settings with the usual status and these further fields."""
    status = {"column": "statecode", "choices": {"0": "active", "1": "inactive"}}
    return dynamics(contacts={"mapping": {"status": status, **mapping}})


def memberships(**extra: Any) -> DynamicsSettings:
    table = {
        "set_name": "sb_memberships",
        "logical_name": "sb_membership",
        "contact_column": "sb_contactid",
        "mapping": {
            "status": {"column": "sb_status", "choices": {"1": "active", "2": "paused", "3": "ended"}},
            **extra,
        },
    }
    return dynamics(memberships=table)


def refusal(row: dict[str, Any], settings: DynamicsSettings) -> RejectedError:
    with pytest.raises(RejectedError) as caught:
        contact_to_member(row, settings)
    return caught.value


# contacts


def test_a_captured_contact_becomes_a_member() -> None:
    assert contact_to_member(CONTACT, dynamics()) == {
        "first_name": "John",
        "last_name": "Doe",
        "email": "johndoe@contoso.com",
        "phone": "555-555-5555",
        "mobile": None,
        "birth_date": "2024-04-10",
        "address": None,
        "postal_code": None,
        "city": None,
        "country": None,
        "status": "active",
    }


def test_what_a_converter_gives_fits_the_canonical_kind() -> None:
    values = contact_to_member(CONTACT, dynamics())
    assert KINDS["member"].validator.validate_python(values)["last_name"] == "Doe"


@pytest.mark.parametrize(
    ("kind", "fields", "own"), [("member", MEMBER_FIELDS, set()), ("membership", MEMBERSHIP_FIELDS, {"member"})]
)
def test_the_fields_that_can_be_mapped_are_those_of_the_kind(kind: str, fields: Any, own: set[str]) -> None:
    assert {*fields, *own} == set(KINDS[kind].fields)


@pytest.mark.parametrize(("kind", "fields"), [("member", MEMBER_FIELDS), ("membership", MEMBERSHIP_FIELDS)])
def test_every_word_a_mapping_may_give_is_taken_by_the_kind(kind: str, fields: Any) -> None:
    hints = get_type_hints(KINDS[kind].shape)
    for name, shape in fields.items():
        if isinstance(shape, tuple):
            assert set(shape) == set(_words(hints[name]))


def _words(hint: Any) -> list[Any]:
    found: list[Any] = []
    for arg in get_args(hint):
        found += [arg] if isinstance(arg, str) else _words(arg)
    return found


@pytest.mark.parametrize("blank", ["", " ", "\t \n", None])
def test_blank_text_is_no_value(blank: str | None) -> None:
    assert contact_to_member({**CONTACT, "address1_city": blank}, dynamics())["city"] is None


def test_text_loses_the_blanks_around_it() -> None:
    assert contact_to_member({**CONTACT, "lastname": "  Østby "}, dynamics())["last_name"] == "Østby"


def test_a_whole_number_becomes_text() -> None:
    settings = contacts(member_number="sb_number")
    assert contact_to_member({"statecode": 0, "sb_number": 4711}, settings)["member_number"] == "4711"


@pytest.mark.parametrize(
    ("value", "holds"),
    [(1234.56, "a decimal number"), (True, "true or false"), ([1], "a list"), ({"Value": 1}, "an object")],
)
def test_another_type_where_text_is_due_is_refused_by_name(value: Any, holds: str) -> None:
    error = refusal({**CONTACT, "lastname": value}, dynamics())
    assert (error.field, error.code) == ("last_name", "wrong_type")
    assert error.message == f"The column lastname should hold text and holds {holds}."


def test_a_column_that_did_not_come_is_refused_instead_of_clearing_the_field() -> None:
    row = {name: value for name, value in CONTACT.items() if name != "mobilephone"}
    error = refusal(row, dynamics())
    assert (error.field, error.code) == ("mobile", "missing_column")


def test_annotations_and_unmapped_columns_are_ignored() -> None:
    noisy = {**CONTACT, "statecode@OData.Community.Display.V1.FormattedValue": "Inactive", "@odata.etag": 5}
    assert contact_to_member(noisy, dynamics()) == contact_to_member(CONTACT, dynamics())


def test_a_constant_is_given_for_every_row() -> None:
    settings = contacts(role={"constant": "peer_mentor"})
    assert contact_to_member({"statecode": 1}, settings) == {"role": "peer_mentor", "status": "inactive"}


# choices


@pytest.mark.parametrize(("state", "status"), [(0, "active"), (1, "inactive")])
def test_the_state_of_a_contact_is_read_by_its_number(state: int, status: str) -> None:
    assert contact_to_member({**CONTACT, "statecode": state}, dynamics())["status"] == status


def test_an_unknown_option_names_the_column_and_the_number() -> None:
    error = refusal({**CONTACT, "statecode": 717}, dynamics())
    assert (error.field, error.code) == ("status", "unknown_option")
    assert error.message == "The column statecode holds the option 717, which the settings do not explain."


def test_an_unknown_text_is_not_repeated() -> None:
    settings = contacts(language={"column": "sb_language", "choices": {"bokmål": "nb"}})
    error = refusal({"statecode": 0, "sb_language": "very private"}, settings)
    assert (error.field, error.code) == ("language", "unknown_option")
    assert "very private" not in str(error)


@pytest.mark.parametrize("value", [True, False, "0", 0.0, [0]])
def test_an_option_is_matched_by_type_as_well_as_by_value(value: Any) -> None:
    assert refusal({**CONTACT, "statecode": value}, dynamics()).code == "wrong_type"


def test_an_empty_status_is_refused() -> None:
    error = refusal({**CONTACT, "statecode": None}, dynamics())
    assert (error.field, error.code) == ("status", "missing")


def test_an_empty_choice_elsewhere_is_no_value() -> None:
    settings = contacts(role={"column": "sb_role", "choices": {"1": "member"}})
    assert contact_to_member({"statecode": 0, "sb_role": None}, settings)["role"] is None


# dates


def test_a_calendar_date_passes_as_it_is() -> None:
    assert contact_to_member({**CONTACT, "birthdate": "1931-02-28"}, dynamics())["birth_date"] == "1931-02-28"


def test_an_instant_where_a_date_is_due_is_refused_with_the_way_out() -> None:
    error = refusal({**CONTACT, "birthdate": "1990-05-17T22:00:00Z"}, dynamics())
    assert (error.field, error.code) == ("birth_date", "not_a_date")
    assert "date_only" in error.hint


@pytest.mark.parametrize(
    ("instant", "date"),
    [
        ("1990-05-17T22:00:00Z", "1990-05-17"),
        ("1990-05-18T00:30:00+02:00", "1990-05-17"),
        ("1990-05-17T22:00:00.1234567Z", "1990-05-17"),
        ("1990-05-17", "1990-05-17"),
        (None, None),
    ],
)
def test_an_instant_gives_its_date_in_utc_when_asked_to(instant: str | None, date: str | None) -> None:
    settings = contacts(joined_on={"column": "createdon", "date_only": True})
    assert contact_to_member({"statecode": 0, "createdon": instant}, settings)["joined_on"] == date


@pytest.mark.parametrize(
    "value", ["", "soon", "2024-02-31", "20240410", "2024-W15-3", "0001-01-01T00:00:00+02:00", "1990-05-17T22:00:00", 5]
)
def test_what_is_no_date_is_refused(value: Any) -> None:
    settings = contacts(joined_on={"column": "createdon", "date_only": True})
    assert refusal({"statecode": 0, "createdon": value}, settings).field == "joined_on"


# memberships and staff


def test_a_membership_refers_to_its_contact_by_lower_case_key() -> None:
    row = {"sb_membershipid": "m", "_sb_contactid_value": "0000000A-0000-0000-0000-000000000001", "sb_status": 2}
    assert row_to_membership(row, memberships()) == {
        "member": "0000000a-0000-0000-0000-000000000001",
        "status": "paused",
    }


@pytest.mark.parametrize("value", [None, "", 17])
def test_a_membership_without_a_contact_is_refused(value: Any) -> None:
    with pytest.raises(RejectedError) as caught:
        row_to_membership({"_sb_contactid_value": value, "sb_status": 1}, memberships())
    assert caught.value.field == "member"


@pytest.mark.parametrize(("value", "expected"), [(True, True), (False, False), (None, None)])
def test_a_yes_no_column_is_read_as_it_is(value: bool | None, expected: bool | None) -> None:
    row = {"_sb_contactid_value": "a", "sb_status": 1, "sb_primary": value}
    assert row_to_membership(row, memberships(is_primary="sb_primary"))["is_primary"] is expected


@pytest.mark.parametrize("value", [1, 0, "true"])
def test_what_only_looks_like_yes_or_no_is_refused(value: Any) -> None:
    row = {"_sb_contactid_value": "a", "sb_status": 1, "sb_primary": value}
    with pytest.raises(RejectedError, match="sb_primary should hold true or false"):
        row_to_membership(row, memberships(is_primary="sb_primary"))


def test_a_lookup_mapped_to_text_is_a_lower_case_id() -> None:
    row = {"_sb_contactid_value": "a", "sb_status": 1, "_sb_chapterid_value": "ABC"}
    assert row_to_membership(row, memberships(association_code="_sb_chapterid_value"))["association_code"] == "abc"


@pytest.mark.parametrize(("disabled", "status"), [(False, "active"), (True, "inactive")])
def test_a_user_becomes_staff_and_a_disabled_one_inactive(disabled: bool, status: str) -> None:
    columns = ("firstname", "lastname", "internalemailaddress", "address1_telephone1", "mobilephone")
    user = {**dict.fromkeys(columns), "isdisabled": disabled, "firstname": "Kari"}
    values = user_to_member(user, dynamics(staff=True))
    assert (values["role"], values["status"], values["first_name"]) == ("staff", status, "Kari")


# splitting pages


def test_the_published_delta_gives_its_record_and_its_deletion() -> None:
    table = dynamics().tables["contacts"]
    rows = json.loads(json.dumps(CHANGES[1]["response"]["value"]).replace("accountid", "contactid"))
    found, deleted = split_rows(rows, table)
    assert [(r.key, r.version) for r in found] == [("60c4e274-0d87-e711-80e5-00155db19e6d", 'W/"915244"')]
    assert deleted == ["2e451703-c686-e711-80e5-00155db19e6d"]


@pytest.mark.parametrize("key", [None, 5, ["a"]])
def test_a_row_without_a_usable_id_is_left_to_the_core(key: Any) -> None:
    found, _ = split_rows([{"contactid": key}], dynamics().tables["contacts"])
    assert [record.key for record in found] == [None]


def test_keys_are_lower_case_wherever_they_appear() -> None:
    deletion = {"@odata.context": "…/$metadata#contacts/$deletedEntity", "id": "AB", "reason": "deleted"}
    found, deleted = split_rows([{"contactid": "CD"}, deletion], dynamics().tables["contacts"])
    assert ([record.key for record in found], deleted) == (["cd"], ["ab"])


def test_a_row_that_is_no_object_fails_the_page_and_says_where() -> None:
    with pytest.raises(RemoteError, match="Row 2 of 3 in an answer for contacts is not an object"):
        split_rows([{}, None, {}], dynamics().tables["contacts"])


def test_a_deletion_without_id_fails_the_page() -> None:
    with pytest.raises(RemoteError, match="not which one"):
        split_rows([{"@odata.context": "#contacts/$deletedEntity"}], dynamics().tables["contacts"])


@pytest.mark.parametrize("etag", [None, 5, ["W"]])
def test_an_etag_that_is_no_text_is_no_version(etag: Any) -> None:
    found, _ = split_rows([{"contactid": "a", "@odata.etag": etag}], dynamics().tables["contacts"])
    assert [record.version for record in found] == [None]


@pytest.mark.parametrize("account", [{"applicationid": "a"}, {"accessmode": 3}, {"accessmode": 4}, {"accessmode": 5}])
def test_accounts_that_are_no_person_are_not_staff(account: dict[str, Any]) -> None:
    table = dynamics(staff=True).tables["staff"]
    rows = [{"systemuserid": "robot", **account}, {"systemuserid": "kari", "applicationid": None, "accessmode": 0}]
    found, deleted = split_rows(rows, table)
    assert ([record.key for record in found], deleted) == (["kari"], ["robot"])


# anything at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(string.printable, max_size=12),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
EVERYTHING = contacts(
    last_name="lastname",
    birth_date="birthdate",
    joined_on={"column": "createdon", "date_only": True},
    role={"column": "sb_role", "choices": {"1": "member"}},
    language={"column": "sb_language", "choices": {"no": "nb"}},
    member_number="_sb_number_value",
)


@given(st.fixed_dictionaries(dict.fromkeys(EVERYTHING.tables["contacts"].columns, json_values)))
def test_any_row_is_converted_or_refused_by_field(row: dict[str, Any]) -> None:
    try:
        values = contact_to_member(row, EVERYTHING)
    except RejectedError as error:
        fields = {error.field}
    else:
        fields = set(values)
    assert fields <= set(EVERYTHING.contacts.mapping)
    assert fields


@given(st.lists(json_values, max_size=5))
def test_any_page_is_split_or_refused(rows: list[Any]) -> None:
    try:
        found, deleted = split_rows(rows, EVERYTHING.tables["contacts"])
    except RemoteError:
        return
    assert len(found) + len(deleted) == len(rows)


def test_a_converter_goes_when_its_settings_go() -> None:
    settings = dynamics()
    key = id(settings)
    contact_to_member(CONTACT, settings)
    assert key in records._compiled
    del settings
    gc.collect()
    assert key not in records._compiled


# settings


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"emial": "emailaddress1"}, "a member has no field 'emial'; it has address, birth_date"),
        ({"email": "EMailAddress1"}, "should match pattern"),
        ({"email": "a,b"}, "should match pattern"),
        ({"role": "sb_role"}, "say with 'choices'"),
        ({"role": {"constant": "boss"}}, "may give member, peer_mentor, coordinator, staff"),
        ({"birth_date": {"constant": "2000-01-01"}}, "a date comes from a column"),
        ({"email": {"column": "emailaddress1", "date_only": True}}, "'date_only' is for dates"),
        ({"email": {"constant": True}}, "must give text"),
        ({"email": {}}, "either 'column' or 'constant'"),
        ({"email": {"column": "a", "constant": "b"}}, "either 'column' or 'constant'"),
        ({"email": {"constant": "a", "choices": {"1": "b"}}}, "belong to a column"),
        ({"email": {"column": "a", "kind": "b"}}, "Extra inputs are not permitted"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused_with_the_way_out(mapping: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        contacts(**mapping)


def test_a_mapping_without_status_is_refused() -> None:
    with pytest.raises(ValidationError, match="a member needs 'status', for instance from the column statecode"):
        dynamics(contacts={"mapping": {"email": "emailaddress1"}})


@pytest.mark.parametrize(
    "url",
    ["org.crm4.dynamics.com", "https://org.crm4.dynamics.com/main.aspx", "https://a@org.crm4.dynamics.com", "https://",
     "https://org.crm4.dynamics.com?x=1", "https://org.crm4.dynamics.com:x", "https://ørg.no", "https://a b", "https://[::1"],
)  # fmt: skip
def test_an_environment_address_is_an_address_alone(url: str) -> None:
    with pytest.raises(ValidationError, match="give the address alone"):
        dynamics(environment_url=url)


def test_an_address_is_kept_in_its_plain_form() -> None:
    settings = dynamics(environment_url="https://Org.CRM4.dynamics.com/ ")
    assert settings.api_url == "https://org.crm4.dynamics.com/api/data/v9.2"


def test_only_mapped_columns_are_read_and_always_in_the_same_order() -> None:
    assert contacts(email="emailaddress1").tables["contacts"].columns == ("contactid", "emailaddress1", "statecode")


def test_a_lookup_may_be_named_either_way() -> None:
    table = memberships().tables["memberships"]
    assert table.columns == ("_sb_contactid_value", "sb_membershipid", "sb_status")
    explicit = memberships().memberships.model_dump() | {"contact_column": "_sb_contactid_value"}
    assert dynamics(memberships=explicit).tables["memberships"] == table


def test_settings_survive_being_stored() -> None:
    settings = memberships(is_primary="sb_primary")
    assert DynamicsSettings.model_validate_json(settings.model_dump_json()) == settings


def test_every_setting_explains_itself() -> None:
    for model in (DynamicsSettings, DynamicsCredentials):
        schema = model.model_json_schema()
        for shape in (schema, *schema.get("$defs", {}).values()):
            for name, field in shape["properties"].items():
                assert field.get("title"), name
                assert field.get("description"), name


CLIENT = "3c1f0d52-8a7e-4b69-b3d4-62f1a8c0e5d7"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"client_secret": "s", "certificate_pem": "c", "private_key_pem": "k"},
        {"certificate_pem": "c"},
        {"private_key_pem": "k"},
    ],
)
def test_credentials_are_a_secret_or_a_certificate(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="certificate_pem"):
        DynamicsCredentials.model_validate({"client_id": CLIENT, **fields})


def test_certificate_tells_when_it_ends_and_a_secret_does_not() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "samband")])
    begin, end = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2027, 2, 3, 4, 5, 6, tzinfo=dt.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, end).sign(key, hashes.SHA256())
    pem = made.public_bytes(serialization.Encoding.PEM).decode()
    kinds = ({"certificate_pem": pem}, {"certificate_pem": "no certificate"}, {"client_secret": "hush-hush"})
    ends = []
    for kind in kinds:
        private = {"private_key_pem": "k"} if "certificate_pem" in kind else {}
        credentials = DynamicsCredentials.model_validate({"client_id": CLIENT, **kind, **private})
        ends.append(manifest.credentials_expire_at(credentials))
    assert [end, None, None] == ends


def test_credentials_do_not_show_their_secret() -> None:
    credentials = DynamicsCredentials.model_validate({"client_id": CLIENT, "client_secret": "hush-hush"})
    assert "hush-hush" not in f"{credentials!r} {credentials}"


# the documentation

PLUGIN = Path(__file__).parents[1]
README = (PLUGIN / "README.md").read_text()
SOURCE = "".join(path.read_text() for path in (PLUGIN / "src/samband_dynamics365").glob("*.py"))


@pytest.mark.parametrize("name", [*DynamicsSettings.model_fields, *DynamicsCredentials.model_fields])
def test_the_readme_explains_every_setting(name: str) -> None:
    assert f"`{name}`" in README or f"`{name}." in README


def test_the_readme_names_only_codes_that_exist_and_misses_none() -> None:
    section = README.partition("## When something is wrong")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    documented = {code for cell in first_cells for code in re.findall(r"`([a-z_]+)`", cell)}
    raised = set(re.findall(r'code=(?:"missing" if value is None else )?"([a-z_]+)"', SOURCE)) | {"missing"}
    raised |= set(re.findall(r'(?:NO_ROLE|USER_DISABLED) = "([a-z_]+)"', SOURCE))
    reasons = re.findall(r'(?:reason=|_SignInRefusal\(\s*)"([a-z_]+)"', SOURCE)
    raised |= {f"auth_{reason}" for reason in reasons}
    assert documented == raised
