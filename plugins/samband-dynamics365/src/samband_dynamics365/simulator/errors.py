"""The refusals of the simulated service: HTTP status, platform code and text of every documented error.

Codes are those of the platform's own list ("Web service error codes"); statuses follow "Compose HTTP requests and
handle errors". Where no document states a status the docstring says "assumed".
"""

from __future__ import annotations

from collections.abc import Mapping

UNDECLARED_HELP = "https://go.microsoft.com/fwlink/?linkid=2195293"


class ApiError(Exception):
    """A request the service refuses, with everything its answer needs."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


def bad_url(message: str) -> ApiError:
    """Returns the refusal of a URL or query that the service cannot read."""
    return ApiError(400, "0x80060888", message)


def bad_payload(entity: str, reason: str) -> ApiError:
    """Returns the refusal of a body that names unknown properties or holds wrong literals."""
    return ApiError(
        400,
        "0x80048d19",
        f"Error identified in Payload provided by the user for Entity :'{entity}', For more information on this error "
        f"please follow this help link {UNDECLARED_HELP}  ----> InnerException : {reason}.",
    )


def undeclared_bind(entity: str, name: str) -> ApiError:
    """Returns the refusal of a bind to a navigation property that does not exist in exactly this casing."""
    return bad_payload(
        entity,
        f"Microsoft.OData.ODataException: An undeclared property '{name}' which only has property annotations in the "
        "payload but no property value was found in the payload. In OData, only declared navigation properties and "
        "declared named streams can be represented as properties without values",
    )


def invalid_property(entity: str, name: str) -> ApiError:
    """Returns the refusal of a column the table does not have."""
    return bad_payload(
        entity,
        f"Microsoft.OData.ODataException: Invalid property '{name}' was found in entity "
        f"'Microsoft.Dynamics.CRM.{entity}'",
    )


def read_only_lookup(entity: str) -> ApiError:
    """Returns the refusal of a write to the ``_x_value`` side of a lookup."""
    return bad_payload(
        entity,
        "Microsoft.OData.ODataException: CRM do not support direct update of Entity Reference properties, "
        "Use Navigation properties instead",
    )


def wrong_literal(entity: str, value: object, edm_type: str) -> ApiError:
    """Returns the refusal of a JSON value that does not fit the type of its column."""
    shown = str(value)[:100]
    return bad_payload(
        entity,
        f"Microsoft.OData.ODataException: Cannot convert the literal '{shown}' to the expected type '{edm_type}'",
    )


def row_absent(entity: str, row_id: str) -> ApiError:
    """Returns the answer to a primary key that no row has."""
    return ApiError(404, "0x80040217", f"{entity} With Id = {row_id} Does Not Exist")


def key_absent(entity: str) -> ApiError:
    """Returns the answer to alternate key values that no row has (status assumed)."""
    return ApiError(404, "0x80060891", f"A record with the specified key values does not exist in {entity} entity")


def key_not_defined(entity: str) -> ApiError:
    """Returns the refusal of a URL key that is neither the primary key nor an alternate key."""
    return ApiError(
        400,
        "0x80060890",
        f"The key in the request URI is not valid for resource 'Microsoft.Dynamics.CRM.{entity}'. Ensure that the "
        "names and number of key properties match the declared key properties for the resource.",
    )


def key_clash(key: str, columns: str) -> ApiError:
    """Returns the refusal of a row whose alternate key values another row already has."""
    return ApiError(
        412,
        "0x80060892",
        f"Entity Key {key} violated. A record with the same value for {columns} already exists. A duplicate record "
        "cannot be created. Select one or more unique values and try again.",
    )


def already_exists() -> ApiError:
    """Returns the refusal of a create whose row is already there."""
    return ApiError(412, "0x80040237", "A record with matching key values already exists.")


def version_mismatch() -> ApiError:
    """Returns the refusal of a write made against an older version of the row."""
    return ApiError(
        412, "0x80060882", "The version of the existing record doesn't match the RowVersion property provided."
    )


def optimistic_concurrency_off(entity: str) -> ApiError:
    """Returns the refusal of a version condition on a table without optimistic concurrency (status assumed)."""
    return ApiError(
        400,
        "0x8006088D",
        f"Optimistic concurrency isn't enabled for entity type {entity}. The IfVersionMatches value of "
        "ConcurrencyBehavior can only be used if optimistic concurrency is enabled.",
    )


def string_too_long(entity: str, column: str, limit: int) -> ApiError:
    """Returns the refusal of a string longer than its column."""
    return ApiError(
        400,
        "0x80044331",
        f"A validation error occurred. The length of the '{column}' attribute of the '{entity}' entity exceeded the "
        f"maximum allowed length of '{limit}'.",
    )


def choice_out_of_range(entity: str, column: str, value: object, accepted: str) -> ApiError:
    """Returns the refusal of a choice value that is not an option of its column (code assumed)."""
    return ApiError(
        400,
        "0x8004431A",
        f"A validation error occurred. The value {value} of '{column}' on record of type '{entity}' is outside the "
        f"valid range. Accepted Values: {accepted}",
    )


def wrong_status(entity: str, state: int, status: int) -> ApiError:
    """Returns the refusal of a status reason that does not belong to the state (code assumed)."""
    return ApiError(400, "0x80048408", f"{status} is not a valid status code for state code {state} of {entity}.")


def date_too_early(value: str) -> ApiError:
    """Returns the refusal of a moment before the first of January 1753 (code assumed)."""
    return ApiError(
        400,
        "0x80040239",
        f"DateTime is less than minimum value supported by CrmDateTime. Actual value: {value}, "
        "Minimum value supported: 01/01/1753 00:00:00",
    )


def privilege_missing(user_id: str, privilege: str, entity: str) -> ApiError:
    """Returns the refusal of an operation the caller's roles do not allow."""
    return ApiError(
        403,
        "0x80040220",
        f"Principal user (Id={user_id}, type=8) is missing {privilege} privilege for entity '{entity}'.",
    )


def not_a_member() -> ApiError:
    """Returns the refusal of a valid token whose application is not a user of this environment."""
    return ApiError(403, "0x80072560", "The user is not a member of the organization.")


def no_roles() -> ApiError:
    """Returns the refusal of an application user without any security role (status assumed)."""
    return ApiError(403, "0x80042F09", "The user has not been assigned any roles.")


def user_disabled() -> ApiError:
    """Returns the refusal of a disabled application user (status assumed)."""
    return ApiError(403, "0x8004A112", "The system user was disabled therefore the ticket expired.")


def not_supported(message: str = "This action is not supported.") -> ApiError:
    """Returns the refusal of an operation the resource does not have."""
    return ApiError(405, "0x80040315", message)


def unknown_resource(segment: str) -> ApiError:
    """Returns the answer to a path that names nothing in the service."""
    return ApiError(404, "0x80060888", f"Resource not found for the segment '{segment}'.")


def not_tracked(entity: str, status: int) -> ApiError:
    """Returns the refusal of change tracking on a table where it is off."""
    return ApiError(status, "0x80072491", f"Entity {entity} isn't enabled for change tracking.")


def version_stamp_expired(status: int) -> ApiError:
    """Returns the refusal of a delta token the service no longer keeps changes for."""
    return ApiError(
        status,
        "0x80044352",
        "Version stamp associated with the client has expired. Please perform a full sync.",
    )


def tracking_option_refused(option: str) -> ApiError:
    """Returns the refusal of a query option that change tracking does not allow."""
    return bad_url(f'The "{option}" query parameter isn\'t supported when Change Tracking is enabled.')


def too_large() -> ApiError:
    """Returns the refusal of a body over the size limit."""
    return ApiError(413, "0x8004418A", "Request message length is too large.")
