"""Xledger's GraphQL as it is on the wire: one address, POST only, pages, and errors that mostly come with HTTP 200."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from samband import AdapterError, Context, HttpResponse, RemoteError, UnavailableError
from samband_xledger.budget import TALLY
from samband_xledger.refusals import (
    InputRefusedError,
    Refusal,
    Row,
    explain,
    incomplete,
    is_about_one_right,
    not_there,
    read_refusals,
    right_missing,
    unknown,
)
from samband_xledger.settings import XledgerSettings

MOST_ROWS: Final = 10_000
"""Most rows that one query may ask for (Xledger's help centre, article on paging)."""

READ_TIMEOUT_S: Final = 60.0
WRITE_TIMEOUT_S: Final = 90.0  # a mutation of 500 lines takes them some seconds, and a wait is better than not knowing


class Xledger:
    """Asks and tells one entity's GraphQL, through the host's authorised session."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._settings: XledgerSettings = ctx.settings

    @property
    def requests_this_month(self) -> int:
        """How many requests this process counted for the account this month."""
        return TALLY.count(self._settings.account, self._ctx.now())

    async def read(self, document: str, variables: Row | None = None, *, timeout_s: float = READ_TIMEOUT_S) -> Row:
        """Gives the ``data`` of a query, as an object. What is in it may still be null.

        Raises:
            AuthError: The token, or a right it lacks.
            RateLimitedError: One of their limits, with the wait.
            UnavailableError: They are away, timed out, or answered without data.
            InputRefusedError: They do not understand the query or one of its values.
            RemoteError: Anything else.
        """
        answer, refusals, response = await self._ask(document, variables, timeout_s=timeout_s, is_write=False)
        if refusals or response.status != 200:
            raise explain(refusals, response.status, is_write=False, now=self._ctx.now())
        data = answer.get("data")
        if not isinstance(data, Mapping):
            raise incomplete("without data")
        return data

    async def write(self, document: str, variables: Row) -> Row:
        """Gives the ``data`` of a mutation.

        Raises:
            AuthError, RateLimitedError, InputRefusedError: Nothing was stored.
            OutcomeUnknownError: It was sent, and whether it was carried out is not known.
        """
        answer, refusals, response = await self._ask(document, variables, timeout_s=WRITE_TIMEOUT_S, is_write=True)
        data = answer.get("data")
        if isinstance(data, Mapping) and any(value is not None for value in data.values()):
            return data  # what was done counts, whatever they complain of beside it
        if refusals or response.status != 200:
            raise explain(refusals, response.status, is_write=True, now=self._ctx.now())
        raise unknown("it answered without data")

    async def partial(self, document: str, variables: Row | None = None) -> tuple[Row, list[Refusal]]:
        """Gives what an answer holds beside what it refuses for want of a right or of such a field.

        For asking what is allowed. Raises as `read` does for everything else: a wrong token, a limit, an outage.
        """
        answer, refusals, response = await self._ask(document, variables, timeout_s=READ_TIMEOUT_S, is_write=False)
        error = explain(refusals, response.status, is_write=False, now=self._ctx.now()) if refusals else None
        if error is not None and not is_about_one_right(error) and not isinstance(error, InputRefusedError):
            raise error
        if not refusals and response.status != 200:
            raise explain((), response.status, is_write=False, now=self._ctx.now())
        data = answer.get("data")
        if not isinstance(data, Mapping) and not refusals:
            raise incomplete("without data")
        return (data if isinstance(data, Mapping) else {}), refusals

    async def pages(
        self, document: str, connection: str, variables: Row | None = None, *, after: str | None = None
    ) -> AsyncGenerator[tuple[list[tuple[str, Row]], bool], None]:
        """Yields pages of ``(cursor, node)`` and whether another one follows.

        Args:
            document: Takes ``$first`` and ``$after``, and asks for edges with cursors and for pageInfo.
            connection: Name or alias of the connection in the answer.
            variables: Further ones.
            after: The cursor to go on from.
        """
        seen: set[int] = set()
        while True:
            asked = {**(variables or {}), "first": self._settings.page_size, "after": after}
            edges, has_more = edges_of(await self.read(document, asked), connection)
            if has_more:
                after = edges[-1][0] if edges else None
                if not after or hash(after) in seen:
                    raise RemoteError("Xledger says that more follows, but not where.", code="paging_loops")
                seen.add(hash(after))
            yield edges, has_more
            if not has_more:
                return

    async def rows(self, document: str, connection: str, variables: Row | None = None) -> list[Row]:
        """Gives all nodes of a connection."""
        found: list[Row] = []
        async for edges, _ in self.pages(document, connection, variables):
            found += [node for _, node in edges]
        return found

    async def _ask(
        self, document: str, variables: Row | None, *, timeout_s: float, is_write: bool
    ) -> tuple[Row, list[Refusal], HttpResponse]:
        TALLY.add(self._ctx, self._settings.account, allowance=self._settings.monthly_requests)
        response = await self._ctx.http.request(
            "POST",
            self._settings.graphql_endpoint,
            headers={"Accept": "application/json"},
            json={"query": document, "variables": dict(variables or {})},
            timeout_s=timeout_s,
            idempotent=not is_write,
        )
        try:
            answer = response.json_exact()
        except RemoteError:
            answer = None
        if not isinstance(answer, Mapping):
            raise _not_an_answer(response, is_write=is_write)
        return answer, read_refusals(answer), response


def edges_of(data: Row, connection: str, *, is_lookup: bool = False) -> tuple[list[tuple[str, Row]], bool]:
    """Gives ``(cursor, node)`` of a connection's edges, and whether more follow.

    Null edges have been seen where an empty list was meant. A read takes them for that when the page says that nothing
    follows; a look-up does not, because it must not conclude from them that something is not there.

    Raises:
        UnavailableError: The connection is missing, or what came cannot be taken for a whole page.
    """
    found = data.get(connection)
    if not isinstance(found, Mapping):
        raise incomplete(f"without {connection}")
    page = found.get("pageInfo")
    has_more = page.get("hasNextPage") if isinstance(page, Mapping) else None
    edges = found.get("edges")
    if not isinstance(has_more, bool) or (edges is None and (is_lookup or has_more)):
        raise incomplete(f"with an incomplete page of {connection}")
    if not isinstance(edges, list | None):
        raise RemoteError(f"Xledger answered with {connection} whose edges are no list.", code="malformed_page")
    pairs = [_edge(edge, connection) for edge in edges or ()]
    return pairs, has_more


def _edge(edge: Any, connection: str) -> tuple[str, Row]:
    node = edge.get("node") if isinstance(edge, Mapping) else None
    if not isinstance(node, Mapping):
        raise incomplete(f"with a row of {connection} that is empty")
    cursor = edge.get("cursor")
    return (cursor if isinstance(cursor, str) else ""), node


def _not_an_answer(response: HttpResponse, *, is_write: bool) -> AdapterError:
    if response.status == 403:
        return right_missing(None)
    if is_write:
        return unknown(f"it answered {response.status} with something that is not GraphQL")
    if response.status == 404:
        return not_there()
    # A web page in place of an answer is what a gateway or a maintenance window gives.
    return UnavailableError(
        f"Xledger answered {response.status} with something that is not GraphQL.", code="not_graphql"
    )
