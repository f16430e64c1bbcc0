"""The Dataverse Web API as it is on the wire: requests, pages, links, and metadata.

Source: learn.microsoft.com, power-apps/developer/data-platform/webapi (compose-http-requests-handle-errors,
query/page-results, use-change-tracking-synchronize-data-external-systems), read 2025.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, unquote

from samband import AuthError, CursorExpiredError, HttpResponse, HttpSession, RemoteError, Selection
from samband_dynamics365.refusals import NO_ROLE, explain_refusal, read_refusal
from samband_dynamics365.settings import DynamicsSettings, Table

PAGE_TIMEOUT_S = 60.0  # a full page of 5,000 rows takes the service some seconds, and longer when it is busy
_MAX_LINK = 32_768  # the service's own limit for an address
# Far below that limit, because gateways on the way often stop at 8 KiB.
_MAX_CHOICE_LINK = 8_000
_ROW_ABSENT = 0x80040217
_GUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PRIVILEGE_NAME = re.compile(r"prv[A-Za-z0-9_]{1,128}")
_HEADERS = {
    "Accept": "application/json",
    "OData-Version": "4.0",
    "OData-MaxVersion": "4.0",
    "If-None-Match": "null",  # the literal word: no condition, whatever sits between us
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One page as it came.

    Attributes:
        rows: The elements of ``value``, not looked at.
        next_link: Where the following page is; None on the last one.
        delta_link: Where the changes since this read will be; only on the last page of a tracked table.
    """

    rows: Sequence[Any]
    next_link: str | None
    delta_link: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What the environment's metadata says about a table."""

    set_name: str
    primary_key: str
    is_tracked: bool
    read_privilege: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a read from which it can go on, and the cursor that stands for it.

    Attributes:
        link: Address of the next request, exactly as the service gave it.
        is_delta: Whether a finished read ended here, so that only changes follow.
        tracked: Whether the table's changes are tracked; the request headers must stay as they began.
    """

    link: str
    is_delta: bool = False
    tracked: bool = True

    def to_cursor(self) -> str:
        """Gives the cursor that `from_cursor` reads."""
        cursor: dict[str, Any] = {"v": 1, "delta" if self.is_delta else "next": self.link}
        return json.dumps(cursor if self.tracked else {**cursor, "tracked": False}, separators=(",", ":"))

    @classmethod
    def from_cursor(cls, cursor: str, settings: DynamicsSettings) -> Self:
        """Gives the position a cursor stands for; `CursorExpiredError` when it is not one of ours."""
        try:
            fields = json.loads(cursor)
            (name, link) = next((n, fields[n]) for n in ("next", "delta") if n in fields)
        except (ValueError, TypeError, StopIteration, RecursionError):
            raise CursorExpiredError("The stored cursor cannot be read.") from None
        if fields.get("v") != 1 or not isinstance(link, str) or not is_own_link(link, settings):
            raise CursorExpiredError("The stored cursor belongs to another environment or version.")
        return cls(link=link, is_delta=name == "delta", tracked=fields.get("tracked") is not False)


class LoopGuard:
    """Notices when the service sends a reader in circles.

    Servers have repeated a link, and also counted the page number up over the same paging cookie (both are guarded
    against in Microsoft's own PowerPlatform-Dataverse-Client 1.1.0).
    """

    def __init__(self, link: str) -> None:
        # Hashes, so that a long read stays small in memory.
        self._seen = set(map(hash, _marks(link)))

    def check(self, link: str, table: Table) -> None:
        """Passes a link that is new; `RemoteError` for one that leads back."""
        marks = set(map(hash, _marks(link)))
        if self._seen & marks:
            raise RemoteError(
                f"Dynamics sends the reading of {table.set_name} in circles: a page names itself or an earlier one as"
                " the next.",
                code="paging_loops",
                hint="Start a full read. If it happens again, try another page size and tell Microsoft.",
            )
        self._seen |= marks


def _marks(link: str) -> list[str]:
    _, _, token = link.partition("$skiptoken=")
    cookie = re.search(r'pagingcookie="([^"]+)"', unquote(token))
    return [link, cookie[1]] if cookie else [link]


def is_own_link(link: str, settings: DynamicsSettings) -> bool:
    """Tells whether a link stays within the configured environment's Web API.

    The token goes wherever the link goes, so it is compared as text: scheme, host, port and path as they are written,
    before any parser reads them its own way.
    """
    prefix = f"{settings.environment_url}/api/data/"
    is_clean = re.fullmatch(r"[!-\[\]-~]+", link) is not None  # printable ASCII but the backslash, no blanks
    return is_clean and len(link) <= _MAX_LINK and link[: len(prefix)].lower() == prefix


class Dataverse:
    """Reads one environment through the host's authorised session."""

    def __init__(self, http: HttpSession, settings: DynamicsSettings) -> None:
        self._http = http
        self._settings = settings

    async def user_id(self) -> str:
        """Gives the id of the user that the token signs in as (``WhoAmI``)."""
        user_id = _text(await self._object("WhoAmI"), "UserId")
        if re.fullmatch(r"[0-9A-Fa-f-]{36}", user_id):
            return user_id
        raise RemoteError("Dynamics answered with a UserId that is no id.", code="malformed_answer")

    async def organization_name(self) -> str | None:
        """Gives the environment's own name, or None when the account may not read it."""
        try:
            rows = (await self._object("organizations?$select=name")).get("value")
        except AuthError as err:
            if err.reason == "missing_privilege" and err.code != NO_ROLE:
                return None
            raise
        first = rows[0] if isinstance(rows, list) and rows else None
        return _text(first, "name") if isinstance(first, dict) else None

    async def definition(self, table: Table) -> Definition:
        """Gives what metadata says about the table; `RemoteError` ``table_not_found`` when there is none."""
        select = "LogicalName,EntitySetName,PrimaryIdAttribute,ChangeTrackingEnabled,Privileges"
        found = await self._object(f"{_metadata(table)}?$select={select}", table)
        privileges = found.get("Privileges")
        read = [p.get("Name") for p in privileges or () if isinstance(p, dict) and p.get("PrivilegeType") == "Read"]
        return Definition(
            set_name=_text(found, "EntitySetName"),
            primary_key=_text(found, "PrimaryIdAttribute"),
            is_tracked=found.get("ChangeTrackingEnabled") is True,
            # Tables do not always name their privilege after themselves: systemuser's is prvReadUser.
            read_privilege=str(read[0]) if read else f"read {table.logical_name}",
        )

    async def columns(self, table: Table) -> frozenset[str]:
        """Gives the logical names of the table's columns. One table's only: all of them at once is far too much."""
        found = await self._object(f"{_metadata(table)}/Attributes?$select=LogicalName", table)
        columns = found.get("value")
        return (
            frozenset(_text(column, "LogicalName") for column in columns) if isinstance(columns, list) else frozenset()
        )

    async def privilege_depths(self, user_id: str, privilege: str) -> frozenset[str] | None:
        """Gives how far a privilege reaches for the user: Basic, Local, Deep, Global; empty when it is not held.

        Roles that come through a team count (``RetrieveUserPrivileges`` would not show their depth). None when the
        account may not ask.
        """
        if not _PRIVILEGE_NAME.fullmatch(privilege):
            return None
        function = f"RetrieveUserPrivilegeByPrivilegeName(PrivilegeName='{privilege}')"
        try:
            found = await self._object(f"systemusers({user_id})/Microsoft.Dynamics.CRM.{function}")
        except (AuthError, RemoteError):
            return None
        held = found.get("RolePrivileges")
        return frozenset(str(p.get("Depth")) for p in held if isinstance(p, dict)) if isinstance(held, list) else None

    def first_link(self, table: Table) -> str:
        """Gives the address a full read begins at. The columns are always the same ones in the same order."""
        return f"{self._settings.api_url}/{table.set_name}?$select={','.join(table.columns)}"

    def choice_links(self, table: Table, keys: Sequence[str]) -> list[tuple[str, list[str]]]:
        """Gives the addresses at which the rows with these ids are found, each with its ids: few enough for an address.

        An id that is not a GUID is in none of them: no row has it, and the service would refuse the whole question.
        """
        guids = [key for key in keys if _GUID.fullmatch(key)]
        start = f"{self.first_link(table)}&$filter="
        function = f"Microsoft.Dynamics.CRM.In(PropertyName='{table.primary_key}',PropertyValues="
        # Each id stands between two quotes and before a comma; a quote is three characters long when it is encoded.
        at_once = max(1, (_MAX_CHOICE_LINK - len(start) - len(quote(function)) - 9) // (36 + 7))
        parts = [guids[n : n + at_once] for n in range(0, len(guids), at_once)]
        return [(start + _encoded(f"{function}{json.dumps(part, separators=(',', ':'))})"), part) for part in parts]

    def window_link(self, table: Table, window: Selection) -> str:
        """Gives the address at which the rows begin that were changed at or after ``since`` and before ``until``."""
        bounds = (("ge", window.since), ("lt", window.until))
        terms = [f"modifiedon {operator} {_instant(bound)}" for operator, bound in bounds if bound is not None]
        link = self.first_link(table)
        return f"{link}&$filter={_encoded(' and '.join(terms))}" if terms else link

    async def is_gone(self, table: Table, key: str) -> bool:
        """Tells whether there is no such row, as against one that the account may not see."""
        url = f"{self._settings.api_url}/{table.set_name}({key})?$select={table.primary_key}"
        response = await self._http.request("GET", url, headers=_HEADERS)
        if response.status == 200:
            return False
        if read_refusal(response).code == _ROW_ABSENT:
            return True
        raise explain_refusal(response, table)

    async def page(self, link: str, table: Table, *, tracked: bool, page_size: int | None = None) -> Answer:
        """Reads the page at a link, which is followed as it is written.

        Args:
            link: `first_link`, or a link that an earlier page or a cursor named.
            table: Whose rows they are.
            tracked: Whether to ask for a delta link; the same for every page of one read.
            page_size: Another number of rows than the settings'.
        """
        prefer = [f"odata.maxpagesize={page_size or self._settings.page_size}"]
        if tracked:
            prefer.insert(0, "odata.track-changes")
        headers = {**_HEADERS, "Prefer": ",".join(prefer)}
        answer = _parse(await self._get(link, headers, table, PAGE_TIMEOUT_S))
        rows = answer.get("value")
        if not isinstance(rows, list):
            raise RemoteError(f"An answer for {table.set_name} holds no list of rows.", code="malformed_page")
        return Answer(
            rows=rows,
            next_link=self._link(answer, "@odata.nextLink", table),
            delta_link=self._link(answer, "@odata.deltaLink", table),
        )

    def _link(self, answer: Mapping[str, Any], name: str, table: Table) -> str | None:
        link = answer.get(name)
        if link is None:
            return None
        if isinstance(link, str) and is_own_link(link, self._settings):
            return link
        raise RemoteError(
            f"An answer for {table.set_name} leads away from {self._settings.environment_host}; it was not followed.",
            code="paging_link_refused",
            hint="If the environment has moved, correct 'environment_url'. Otherwise have the answer looked into.",
            field="settings.environment_url",
        )

    async def _object(self, path: str, table: Table | None = None) -> dict[str, Any]:
        return _parse(await self._get(f"{self._settings.api_url}/{path}", _HEADERS, table, None))

    async def _get(
        self, url: str, headers: Mapping[str, str], table: Table | None, timeout_s: float | None
    ) -> HttpResponse:
        response = await self._http.request("GET", url, headers=headers, timeout_s=timeout_s)
        if response.status == 200:
            return response
        raise explain_refusal(response, table)


def _encoded(expression: str) -> str:
    return quote(expression, safe="(),:'=.")


def _instant(instant: dt.datetime) -> str:
    return instant.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _metadata(table: Table) -> str:
    return f"EntityDefinitions(LogicalName='{table.logical_name}')"


def _parse(response: HttpResponse) -> dict[str, Any]:
    answer = response.json()
    if isinstance(answer, dict):
        return answer
    raise RemoteError("Dynamics answered something that is not an object.", code="malformed_answer")


def _text(found: Any, name: str) -> str:
    value = found.get(name) if isinstance(found, dict) else None
    if isinstance(value, str) and value:
        return value
    raise RemoteError(f"Dynamics answered without {name}.", code="malformed_answer")
