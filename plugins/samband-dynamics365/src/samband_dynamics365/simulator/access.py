"""Who may do what: application users, their privileges and the checks the service makes on every operation.

Sources: "Use change tracking" (organisation-level read needed), "Service protection API limits" (an application user
is limited like any user), platform error codes for the refusals.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import errors

OPERATIONS = ("Create", "Read", "Write", "Delete", "Append", "AppendTo", "Assign", "Share")
DEPTHS = ("None", "Basic", "Local", "Deep", "Global")
_PRIVILEGE_SPACE = uuid.UUID("5f0a3b56-6b1d-4d0c-9a53-7d2b5b3e6f11")


@dataclass(slots=True, kw_only=True)
class ApplicationUser:
    """The user behind one app registration; ``privileges`` overrides the full rights an administrator has.

    Keys of ``privileges`` are privilege names without their prefix (``ReadContact``), values a depth or ``None``.
    """

    client_id: str
    user_id: str
    roles: list[str] = field(default_factory=lambda: ["System Administrator"])
    disabled: bool = False
    privileges: dict[str, str] = field(default_factory=dict)

    def depth(self, operation: str, schema_name: str) -> str:
        """Returns how far the user's right for an operation reaches, one of `DEPTHS`."""
        return self.privileges.get(f"{operation}{schema_name}", self.privileges.get(operation, "Global"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The user a request runs as."""

    user: ApplicationUser

    @property
    def user_id(self) -> str:
        """Returns the caller's ``systemuserid``."""
        return self.user.user_id

    def require(self, operation: str, schema_name: str, entity: str) -> str:
        """Returns the depth of a right the caller holds, or refuses."""
        depth = self.user.depth(operation, schema_name)
        if depth == "None":
            raise errors.privilege_missing(self.user_id, f"prv{operation}{schema_name}", entity)
        return depth

    def require_global_read(self, schema_name: str, entity: str) -> None:
        """Refuses change tracking to callers who may not read the whole organisation's rows."""
        if self.user.depth("Read", schema_name) != "Global":
            raise errors.privilege_missing(self.user_id, f"prvRead{schema_name}", entity)


def admitted(user: ApplicationUser | None) -> Caller:
    """Returns the caller for an application user, or refuses one who is unknown, disabled or without roles."""
    if user is None:
        raise errors.not_a_member()
    if user.disabled:
        raise errors.user_disabled()
    if not user.roles:
        raise errors.no_roles()
    return Caller(user=user)


def privileges_of(user: ApplicationUser, schema_names: list[str], business_unit: str) -> Iterator[dict[str, str]]:
    """Yields the rows of ``RetrieveUserPrivileges``: one per privilege the user holds, with its depth."""
    for schema_name in schema_names:
        for operation in OPERATIONS:
            depth = user.depth(operation, schema_name)
            if user.roles and depth != "None":
                name = f"prv{operation}{schema_name}"
                yield {
                    "Depth": depth,
                    "PrivilegeId": str(uuid.uuid5(_PRIVILEGE_SPACE, name)),
                    "BusinessUnitId": business_unit,
                    "PrivilegeName": name,
                }
