"""The canonical record kinds: the shape every system's data takes inside samband.

A kind is a `TypedDict` (validated by pydantic, every field optional unless it says otherwise) plus the data class of each
field. Values are validated before they are stored; a record that does not fit becomes a failed outcome that names the
field, and never shows the value.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal, Required

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import PydanticCustomError
from stdnum.no import kontonr
from typing_extensions import TypedDict

from samband.errors import FieldProblem

__all__ = [
    "BUILTIN_KINDS",
    "Course",
    "CourseEnrollment",
    "DimensionName",
    "Dimensions",
    "FieldClass",
    "Kind",
    "Kinds",
    "Member",
    "Membership",
    "Payee",
    "Reimbursement",
    "ReimbursementLine",
]

FieldClass = Literal["plain", "personal", "special", "national_id"]
"""How careful a field must be treated. ``special`` is data that reveals health or disability (GDPR article 9), which
membership of one of these organisations does."""

# That no text holds NUL, which PostgreSQL cannot store, is looked at once for a whole record (see `samband.rules.intake`).
Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=400)]
Code = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100)]
Email = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=254, pattern=r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+$")
]
# Their key of another record; the core puts our id in its place before it is stored.
Reference = Annotated[str, StringConstraints(min_length=1, max_length=400)]
# Nobody alive was born before 1850; Dataverse's own lower bound is 1753, and year 1 is how some systems write "empty".
BirthDate = Annotated[dt.date, Field(ge=dt.date(1850, 1, 1), le=dt.date(2200, 1, 1))]
Day = Annotated[dt.date, Field(ge=dt.date(1850, 1, 1), le=dt.date(9999, 12, 31))]


def _exact(value: Any) -> Any:
    """Refuses what is not plainly a decimal number: 0.1 as a float is not one, and ``1_0`` or ``1E+2`` are misspellings."""
    if isinstance(value, Decimal) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise ValueError('write it as text, for instance "123.50"')
    return value


_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,3})?", re.ASCII)
Amount = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, max_digits=12, decimal_places=2)]
Quantity = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, max_digits=12, decimal_places=3)]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]


def _account(value: str) -> str:
    """Gives a bank account as 11 digits; dots and spaces, with which people write it, are left out.

    The library also takes the 7 digits of the old postal giro, and 11 that hide such behind 0000: no bank pays there.
    """
    digits = _SEPARATORS.sub("", value)
    if _ACCOUNT.fullmatch(digits) is None or digits.startswith("0000"):
        raise PydanticCustomError("bank_account", "A Norwegian bank account has 11 digits, as in 1234.56.78903")
    if not kontonr.is_valid(digits):
        raise PydanticCustomError("bank_account", "The last digit does not fit the others: one of them is misspelt")
    return digits


_SEPARATORS = re.compile(r"[ .\u00a0]")
_ACCOUNT = re.compile(r"[0-9]{11}", re.ASCII)
BankAccount = Annotated[str, StringConstraints(max_length=40), AfterValidator(_account)]


def _printable(value: str) -> str:
    if not value.isprintable():
        raise PydanticCustomError("not_printable", "Leave out control characters and other marks that show nothing")
    return value


DimensionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
DimensionCode = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100), AfterValidator(_printable)
]
# What the platform calls these things, and its own codes; a mapping says what they are in the books.
Dimensions = Annotated[dict[DimensionName, DimensionCode], Field(max_length=10)]

_CLOSED = ConfigDict(extra="forbid", hide_input_in_errors=True)


@with_config(_CLOSED)
class Member(TypedDict, total=False):
    """A person an organisation knows: member, peer mentor or staff."""

    first_name: Text | None
    last_name: Text | None
    email: Email | None
    phone: Code | None
    mobile: Code | None
    birth_date: BirthDate | None
    address: Text | None
    postal_code: Code | None
    city: Text | None
    country: Text | None
    language: Code | None
    member_number: Code | None
    role: Literal["member", "peer_mentor", "coordinator", "staff"] | None
    status: Required[Literal["active", "paused", "inactive"]]
    joined_on: Day | None
    left_on: Day | None


@with_config(_CLOSED)
class Membership(TypedDict, total=False):
    """A person's belonging to one local association."""

    member: Required[Reference]
    association: Text | None
    association_code: Code | None
    member_number: Code | None
    role: Code | None
    status: Required[Literal["active", "paused", "ended"]]
    is_primary: bool | None
    joined_on: Day | None
    left_on: Day | None


@with_config(_CLOSED)
class Course(TypedDict, total=False):
    """A course as the learning system knows it."""

    title: Required[Text]
    code: Code | None
    starts_on: Day | None
    ends_on: Day | None
    place: Text | None
    status: Required[Literal["planned", "open", "full", "cancelled", "finished"]]


@with_config(_CLOSED)
class CourseEnrollment(TypedDict, total=False):
    """A person's place on a course."""

    course: Required[Reference]
    member: Reference | None
    email: Email | None
    status: Required[Literal["requested", "enrolled", "waiting", "attended", "completed", "cancelled"]]
    enrolled_on: Day | None
    completed_on: Day | None
    expires_on: Day | None


@with_config(_CLOSED)
class ReimbursementLine(TypedDict, total=False):
    """One line of a claim. Amounts are text with at most two decimals, in the claim's currency.

    ``amount`` is what is to be paid. Toll, parking, transport and other are parts of it, and so is what kilometres times
    the rate that was applied come to; where any of them is given, they make the whole amount (see `samband.rules.claims`).
    A dimension of a line stands before the claim's of the same name.
    """

    expense_type: Required[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]]
    amount: Required[Amount]
    date: Required[Day]
    currency: Currency | None
    text: Text | None
    kilometres: Quantity | None
    rate: Amount | None
    toll: Amount | None
    parking: Amount | None
    transport: Amount | None
    other: Amount | None
    quantity: Quantity | None
    unit: Code | None
    receipt: Text | None
    dimensions: Dimensions | None


@with_config(_CLOSED)
class Payee(TypedDict, total=False):
    """Who is to be paid."""

    id: Required[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]]
    name: Text | None
    bank_account: BankAccount | None


@with_config(_CLOSED)
class Reimbursement(TypedDict, total=False):
    """A claim for expenses, as the platform holds it.

    ``dimensions`` are what it belongs to in the platform's own words and codes, for instance ``activity``.
    """

    payee: Required[Payee]
    currency: Required[Currency]
    status: Required[Literal["draft", "submitted", "approved", "rejected", "withdrawn"]]
    lines: Required[Annotated[list[ReimbursementLine], Field(min_length=1, max_length=200)]]
    text: Text | None
    approved_by: Text | None
    approved_on: Day | None
    dimensions: Dimensions | None


@with_config(_CLOSED)
class VoucherRow(TypedDict, total=False):
    """What a claim comes to in the books, as it is kept; plugins are given a `samband.Voucher`."""

    number: Required[int]
    type: Required[Code]
    date: Required[Day]
    currency: Required[Currency]
    text: Text | None
    claim: Required[Reference]
    mapping_version: Required[int]
    reverses: int | None
    lines: Required[list[dict[str, Any]]]


@dataclass(frozen=True)
class Kind:
    """A canonical record kind.

    Attributes:
        name: ``snake_case``, as in ``/records/{name}``.
        title: For people.
        shape: The `TypedDict` values are validated against. Field order here is the order of storage.
        field_classes: Data class per field; a field that is not listed is ``personal``.
    """

    name: str
    title: str
    shape: type
    field_classes: Mapping[str, FieldClass]

    @cached_property
    def validator(self) -> TypeAdapter[dict[str, Any]]:
        return TypeAdapter(self.shape)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.shape.__annotations__)

    def class_of(self, field: str) -> FieldClass:
        return self.field_classes.get(field, "personal")


class Kinds(Mapping[str, Kind]):
    """The kinds that are known, by name."""

    def __init__(self, kinds: Iterable[Kind] = ()) -> None:
        self._kinds: dict[str, Kind] = {}
        for kind in kinds:
            self.add(kind)

    def add(self, kind: Kind) -> None:
        """Adds a kind; `ValueError` when another one has its name."""
        if self._kinds.setdefault(kind.name, kind) is not kind:
            raise ValueError(f"two kinds are called {kind.name!r}")

    def __getitem__(self, name: str) -> Kind:
        return self._kinds[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)


MEMBER = Kind(
    "member",
    "Member",
    Member,
    {"country": "plain", "language": "plain", "role": "special", "status": "special", "joined_on": "special",
     "left_on": "special", "member_number": "special"},
)  # fmt: skip
MEMBERSHIP = Kind(
    "membership",
    "Membership",
    Membership,
    dict.fromkeys(Membership.__annotations__, "special"),
)
COURSE = Kind("course", "Course", Course, dict.fromkeys(Course.__annotations__, "plain"))
COURSE_ENROLLMENT = Kind(
    "course_enrollment",
    "Course enrolment",
    CourseEnrollment,
    {"course": "plain", "status": "special", "enrolled_on": "special", "completed_on": "special"},
)
REIMBURSEMENT = Kind(
    "reimbursement",
    "Reimbursement",
    Reimbursement,
    {"currency": "plain", "status": "plain", "approved_on": "plain"},
)
VOUCHER = Kind(
    "voucher", "Voucher", VoucherRow, {"number": "plain", "type": "plain", "date": "plain", "currency": "plain"}
)
BUILTIN_KINDS = (MEMBER, MEMBERSHIP, COURSE, COURSE_ENROLLMENT, REIMBURSEMENT, VOUCHER)


def field_problems(error: ValidationError, prefix: str = "") -> list[FieldProblem]:
    """Gives one problem per field of a pydantic error, without the values that were sent."""
    return [
        FieldProblem(
            field=".".join([p for p in (prefix, *map(str, e["loc"])) if p]) or "(body)",
            code=_CODES.get(e["type"], e["type"]),
            message=_sentence(e["msg"]),
        )
        for e in error.errors(include_input=False, include_url=False, include_context=False)
    ]


_CODES = {"extra_forbidden": "unknown_key", "missing": "missing", "string_too_long": "too_long"}


def _sentence(message: str) -> str:
    text = message.removeprefix("Value error, ").strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
