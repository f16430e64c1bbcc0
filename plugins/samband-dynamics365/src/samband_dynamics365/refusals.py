"""What it means when Dataverse or its sign-in service says no: one error per situation, with the way out.

Source: learn.microsoft.com, power-apps/developer/data-platform (webapi/compose-http-requests-handle-errors, api-limits,
reference/web-service-error-codes) and entra/identity-platform/reference-error-codes, read 2025.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from samband import (
    AdapterError,
    AuthError,
    CursorExpiredError,
    HttpResponse,
    RateLimitedError,
    RemoteError,
    UnavailableError,
    errors,
)
from samband_dynamics365.settings import Table

_MAX_WORDS = 300
NO_ROLE = "auth_no_role"
USER_DISABLED = "auth_user_disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that is not what was asked for.

    Attributes:
        status: HTTP status.
        code: The platform's error code as an unsigned number; None when there is none.
        words: Their message, bounded; empty when there is none.
        retry_after: The header as it came.
    """

    status: int
    code: int | None
    words: str
    retry_after: str | None = None


def read_refusal(response: HttpResponse) -> Refusal:
    """Takes an error answer apart, whatever shape it has: envelope, ``{"Message": …}``, or a page for browsers."""
    try:
        body = response.json()
    except RemoteError:
        body = None
    body = body if isinstance(body, dict) else {}
    error = body.get("error")
    error = error if isinstance(error, dict) else {}
    inner = error.get("innererror")
    words = error.get("message") or (inner.get("message") if isinstance(inner, dict) else None) or body.get("Message")
    return Refusal(
        status=response.status,
        code=parse_code(error.get("code")),
        words=" ".join(words.split())[:_MAX_WORDS] if isinstance(words, str) else "",
        retry_after=response.headers.get("Retry-After"),
    )


def parse_code(code: Any) -> int | None:
    """Gives a platform code as an unsigned number: ``0x80040217`` and ``-2147220969`` are the same one."""
    try:
        number = int(code, 16 if code.lower().startswith("0x") else 10) if isinstance(code, str) else int(code)
    except (ValueError, TypeError, OverflowError):
        return None
    return number & 0xFFFF_FFFF or None


def explain_refusal(response: HttpResponse, table: Table | None) -> AdapterError:
    """Gives the error that says what follows from an answer other than 200."""
    refusal = read_refusal(response)
    # The status of several of these codes is not documented, so the code decides.
    explain = _BY_CODE.get(refusal.code or 0) or _BY_STATUS.get(refusal.status)
    if explain:
        return explain(refusal, table)
    if column := _MISSING_COLUMN.search(refusal.words):
        return _missing_column(refusal, table, column[1])
    if refusal.status >= 500 and refusal.status != 501:
        return _unavailable(refusal, table)
    return RemoteError(
        f"Dynamics refused the request with HTTP status {refusal.status}"
        + (f" and code 0x{refusal.code:08X}." if refusal.code else "."),
        remote_message=refusal.words,
    )


_Explain = Callable[[Refusal, Table | None], AdapterError]
_MISSING_COLUMN = re.compile(r"Could not find a property named '([A-Za-z0-9_]{1,128})'")
_PRIVILEGE = re.compile(r"\bprv[A-Za-z0-9_]{1,128}")
_GRANT = "In the Power Platform admin centre, open the environment's application user"


def _no_application_user(refusal: Refusal, table: Table | None) -> AdapterError:
    return AuthError(
        "The app registration is not a user of this environment.",
        reason="no_application_user",
        hint="In the Power Platform admin centre, add it to the environment as an application user, with a role.",
        remote_message=refusal.words,
    )


def _no_role(refusal: Refusal, table: Table | None) -> AdapterError:
    return AuthError(
        "The application user has no security role.",
        reason="missing_privilege",
        code=NO_ROLE,
        hint=f"{_GRANT} and give it a role that reads the mapped tables at organisation level.",
        remote_message=refusal.words,
    )


def _user_disabled(refusal: Refusal, table: Table | None) -> AdapterError:
    return AuthError(
        "The application user is switched off in this environment.",
        code=USER_DISABLED,
        hint=f"{_GRANT} and switch it on again.",
        remote_message=refusal.words,
    )


def _missing_privilege(refusal: Refusal, table: Table | None) -> AdapterError:
    named = _PRIVILEGE.search(refusal.words)
    right = f"the privilege {named[0]}" if named else f"the right to read {table.logical_name if table else 'this'}"
    return AuthError(
        f"The application user lacks {right}.",
        reason="missing_privilege",
        hint=f"{_GRANT} and give its role that right at organisation level.",
        field=table.setting if table else None,
        remote_message=refusal.words,
    )


def _forbidden(refusal: Refusal, table: Table | None) -> AdapterError:
    return AuthError(
        f"Dynamics refused access with HTTP status {refusal.status}.",
        hint="Test the connection: it says which part is missing.",
        remote_message=refusal.words,
    )


def _expired(refusal: Refusal, table: Table | None) -> AdapterError:
    return CursorExpiredError(
        "Dynamics no longer keeps the changes since the last read, or the table has changed.",
        remote_message=refusal.words,
    )


def _not_tracked(refusal: Refusal, table: Table | None) -> AdapterError:
    name = table.logical_name if table else "of this request"
    return RemoteError(
        f"Change tracking is not on for the table {name}.",
        code="table_not_tracked",
        hint="In the maker portal, open the table's properties and switch on 'Track changes'. For a many-to-many table,"
        " both of its tables need it; a membership table of your own is the better way.",
        field=table.setting if table else None,
        remote_message=refusal.words,
    )


def _missing_table(refusal: Refusal, table: Table | None) -> AdapterError:
    if table is None:
        return RemoteError(
            "There is no Dataverse Web API at this address.",
            code="api_not_found",
            hint="Check 'environment_url' and 'api_version'.",
            field="settings.environment_url",
            remote_message=refusal.words,
        )
    return RemoteError(
        f"The environment has no table {table.logical_name} with the set name {table.set_name}.",
        code="table_not_found",
        hint=f"Check {table.setting}.",
        field=table.setting,
        remote_message=refusal.words,
    )


def _missing_column(refusal: Refusal, table: Table | None, column: str) -> AdapterError:
    return RemoteError(
        f"The table {table.logical_name if table else ''} has no column {column}.",
        code="column_not_found",
        hint="Take it out of the mapping, or correct its name. A lookup is read as _name_value.",
        field=table.setting if table else None,
        remote_message=refusal.words,
    )


def _unavailable(refusal: Refusal, table: Table | None) -> AdapterError:
    return UnavailableError(
        f"Dynamics could not answer just now (HTTP status {refusal.status}).", remote_message=refusal.words
    )


def _limited(refusal: Refusal, table: Table | None) -> AdapterError:
    seconds = refusal.retry_after or ""
    return RateLimitedError(
        "Dynamics asks us to slow down.",
        retry_after_s=float(seconds) if re.fullmatch(r"[0-9]{1,6}", seconds) else None,
        remote_message=refusal.words,
    )


# Names are the platform's own, from its list of error codes.
_BY_CODE: Mapping[int, _Explain] = {
    0x80072560: _no_application_user,  # UserNotMemberOfOrg
    0x80042F09: _no_role,  # UserNotAssignedRoles
    0x8004A112: _user_disabled,  # SystemUserDisabled
    0x80040220: _missing_privilege,  # PrivilegeDenied
    0x80048405: _missing_privilege,  # AccessDenied
    0x80040256: _missing_privilege,  # CrmSecurityError
    0x80044352: _expired,  # ExpiredVersionStamp
    0x80072491: _not_tracked,  # ChangeTrackingNotEnabledForEntity
    0x80072492: _not_tracked,  # ChangeTrackingNotEnabledForRelatedEntities
    0x80044150: _unavailable,  # deadlock in the database
    0x80044151: _unavailable,  # time limit in the database
    0x80072321: _limited,  # execution time
    0x80072322: _limited,  # number of requests
    0x80072326: _limited,  # concurrent requests
}
_BY_STATUS: Mapping[int, _Explain] = {
    401: _forbidden,
    403: _forbidden,
    404: _missing_table,
    408: _unavailable,
    429: _limited,
}


@dataclass(frozen=True, slots=True)
class _SignInRefusal:
    reason: errors.AuthReason
    field: str
    message: str
    hint: str


# Microsoft asks not to branch on these numbers: they choose the hint an operator reads, and nothing else.
_SIGN_IN: Mapping[int, _SignInRefusal] = {
    7000215: _SignInRefusal(
        "secret_wrong",
        "credentials.client_secret",
        "Microsoft does not accept the client secret.",
        "Enter the secret's value. Its id looks similar, and the value is only shown when the secret is made.",
    ),
    7000222: _SignInRefusal(
        "secret_expired",
        "credentials.client_secret",
        "The client secret has expired.",
        "Make a new secret in the app registration and enter its value.",
    ),
    700016: _SignInRefusal(
        "client_unknown",
        "credentials.client_id",
        "The tenant has no application with this client id.",
        "Check the client id, and that the app registration is in this tenant.",
    ),
    90002: _SignInRefusal(
        "tenant_unknown",
        "settings.tenant_id",
        "Microsoft knows no such tenant.",
        "Enter the directory (tenant) id from the app registration's overview page.",
    ),
    500011: _SignInRefusal(
        "scope_refused",
        "settings.environment_url",
        "The tenant does not know this environment.",
        "Check the environment's address, and that it belongs to this tenant.",
    ),
    65001: _SignInRefusal(
        "consent_missing",
        "settings.tenant_id",
        "The tenant has not agreed to this application.",
        "Have an administrator of the tenant grant consent in the app registration.",
    ),
    70011: _SignInRefusal(
        "scope_refused",
        "settings.environment_url",
        "Microsoft does not accept the scope made from the environment's address.",
        "Enter the address as the Power Platform admin centre shows it.",
    ),
    1002012: _SignInRefusal(
        "scope_refused",
        "settings.environment_url",
        "Microsoft does not accept the scope made from the environment's address.",
        "Enter the address as the Power Platform admin centre shows it.",
    ),
    700027: _SignInRefusal(
        "secret_wrong",
        "credentials.certificate_pem",
        "Microsoft does not accept the signature made with the private key.",
        "Upload this certificate to the app registration, and check that the private key belongs to it.",
    ),
}


def explain_sign_in(status: int, document: Mapping[str, Any]) -> AuthError | None:
    """Gives the error for a refusal of the sign-in service whose AADSTS number is known; None for any other."""
    codes = document.get("error_codes")
    code = next((c for c in codes if isinstance(c, int) and c in _SIGN_IN), None) if isinstance(codes, list) else None
    if code is None:
        return None
    known, trace = _SIGN_IN[code], document.get("trace_id")
    # Their text is left out: it may repeat what was sent. Number and trace are what their support asks for.
    traced = f", trace {trace}" if isinstance(trace, str) and re.fullmatch(r"[0-9A-Fa-f-]{36}", trace) else ""
    return AuthError(
        known.message, reason=known.reason, hint=known.hint, field=known.field, remote_message=f"AADSTS{code}{traced}"
    )
