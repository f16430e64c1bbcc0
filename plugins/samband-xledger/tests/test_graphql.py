"""What Xledger's answers mean, over real HTTP: which refusal waits, which ends the run, and which leaves the outcome open."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from samband import (
    AuthError,
    OutcomeUnknownError,
    RateLimitedError,
    RejectedError,
    RemoteError,
    SambandError,
    UnavailableError,
)
from samband.testing import FakeClock, serve
from samband_xledger.graphql import Xledger, edges_of
from samband_xledger.refusals import InputRefusedError, field_of, read_refusals

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
READ, WRITE = (
    "query { accounts { edges { node { dbId } } } }",
    "mutation { addGLImportItems(inputs: []) { edges { clientId } } }",
)
Answer = tuple[int, Any]


class Other:
    """An other side that answers what it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer | Callable[[web.Request], Awaitable[web.StreamResponse]]] = []
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.headers.append(dict(request.headers))
        given = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(given):
            return await given(request)
        status, body = given
        if isinstance(body, str):
            return web.Response(status=status, text=body, content_type="text/html")
        return web.json_response(body, status=status)


@pytest.fixture
def other() -> Iterator[Other]:
    found = Other()
    app = web.Application()
    app.router.add_post("/graphql", found.answer)
    with serve(app) as address:
        found.url = f"{address}/graphql"
        yield found


@pytest.fixture
def wire(other: Other, make_link: Callable[..., Any]) -> Xledger:
    link = make_link({"entity_code": "1", "routes": ["graphql"], "graphql_url": other.url}, clock=FakeClock(START))
    return Xledger(link.ctx)


async def ask(wire: Xledger, *, is_write: bool) -> SambandError:
    with pytest.raises(SambandError) as caught:
        await (wire.write(WRITE, {}) if is_write else wire.read(READ))
    return caught.value


def errors(message: str, **more: Any) -> dict[str, Any]:
    return {"data": None, "errors": [{"message": message, **more}]}


async def test_the_token_travels_as_xledger_wants_it(other: Other, wire: Xledger) -> None:
    other.answers = [(200, {"data": {"accounts": None}})]
    assert {"accounts": None} == await wire.read(READ, {"first": 1})
    assert {"query": READ, "variables": {"first": 1}} == other.asked[0]
    assert "token c2FtYmFuZC10ZXN0LXRva2VuLTAwMDE" == other.headers[0]["Authorization"]


@pytest.mark.parametrize("is_write", [False, True])
@pytest.mark.parametrize("status", [200, 400, 403])
@pytest.mark.parametrize(
    ("code", "extensions", "least_s", "most_s"),
    [
        ("BAD_REQUEST.BURST_RATE_LIMIT_REACHED", {}, 5, 6.25),
        ("BAD_REQUEST.CONCURRENCY_LIMIT_REACHED", {}, 1, 1.25),
        ("BAD_REQUEST.INSUFFICIENT_CREDITS", {}, 1200, 1215),
        ("BAD_REQUEST.INSUFFICIENT_CREDITS", {"resetAt": "2026-03-02T12:10:00Z"}, 600, 615),
        ("BAD_REQUEST.INSUFFICIENT_CREDITS", {"resetAt": "2026-03-02T13:10:00"}, 600, 615),  # Central European time
        ("BAD_REQUEST.INSUFFICIENT_CREDITS", {"resetAt": int((START + timedelta(minutes=10)).timestamp())}, 600, 615),
        ("BAD_REQUEST.INSUFFICIENT_CREDITS", {"resetAt": "2020-01-01T00:00:00Z"}, 1, 1.25),
        ("BAD_REQUEST.INSUFFICIENT_CREDITS", {"resetAt": "soon"}, 1200, 1215),
    ],
)
async def test_a_limit_says_how_long_to_wait_whatever_the_http_status(
    other: Other,
    wire: Xledger,
    code: str,
    extensions: dict[str, Any],
    least_s: float,
    most_s: float,
    status: int,
    is_write: bool,
) -> None:
    other.answers = [(status, errors("Slow down.", code=code, extensions=extensions))]
    error = await ask(wire, is_write=is_write)
    assert isinstance(error, RateLimitedError)
    assert error.retry_after_s is not None
    assert least_s <= error.retry_after_s <= most_s
    assert 1 == len(other.asked)


@pytest.mark.parametrize("is_write", [False, True])
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, errors('Bad format for API Token. Expected header: "Authorization: token <t>"')), "secret_wrong"),
        ((200, errors("Invalid API Token.")), "secret_wrong"),
        ((400, errors("No such token", extensions={"code": "UNAUTHENTICATED"})), "secret_wrong"),
        ((200, errors("The API Token has no write access to GLImportItem.", code="FORBIDDEN")), "missing_privilege"),
        ((200, errors("Access to Account denied")), "missing_privilege"),
        ((403, "<html>no</html>"), "missing_privilege"),
    ],
)
async def test_a_token_or_a_right_that_is_wanting_asks_for_a_person(
    other: Other, wire: Xledger, answer: Answer, reason: str, is_write: bool
) -> None:
    other.answers = [answer]
    error = await ask(wire, is_write=is_write)
    assert isinstance(error, AuthError)
    assert (reason, True) == (error.reason, bool(error.hint))


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("is_write", [False, True])
@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (
            {
                "message": "subledger.code: No value matching owner 42365431, code 'P123456'.",
                "extensions": {"code": "INVALID_VALUE"},
            },
            "subledger.code",
        ),
        ({"message": "Cannot query field 'x' on type 'Y'."}, None),
        ({"message": "Wrong.", "extensions": {"code": "ARGUMENTS_OF_CORRECT_TYPE"}}, None),
        ({"message": "Variable \"$inputs\" got invalid value 'x' at 'inputs[3].node.postedDate'."}, None),
    ],
)
async def test_a_refusal_of_the_input_says_so_in_their_words(
    other: Other, wire: Xledger, entry: dict[str, Any], field: str | None, status: int, is_write: bool
) -> None:
    other.answers = [(status, {"data": None, "errors": [entry]})]
    error = await ask(wire, is_write=is_write)
    assert isinstance(error, InputRefusedError)
    assert isinstance(error, RejectedError)
    assert (entry["message"], field) == (error.remote_message, error.field)


@pytest.mark.parametrize(
    "answer",
    [
        (200, errors("Your query timed out.")),
        (200, errors("Something went wrong.")),
        (500, errors("Something went wrong.")),
        (
            200,
            {"data": None, "errors": [{"message": "x", "extensions": {"code": "INVALID_VALUE"}}, {"message": "boom"}]},
        ),
        (200, {"data": None}),
        (200, {"data": {"addGLImportItems": None}}),
        (200, {}),
        (200, []),
        (200, "<html>maintenance</html>"),
        (200, ""),
        (500, "<html>error</html>"),
        (502, "<html>gateway</html>"),
        (503, "<html>away</html>"),
        (504, "<html>gateway</html>"),
        (404, "<html>not here</html>"),
    ],
)
async def test_after_a_write_whatever_is_not_a_clear_refusal_leaves_the_outcome_open(
    other: Other, wire: Xledger, answer: Answer
) -> None:
    other.answers = [answer]
    assert isinstance(await ask(wire, is_write=True), OutcomeUnknownError)
    assert 1 == len(other.asked)


async def test_a_write_whose_connection_is_lost_is_open_and_not_sent_again(other: Other, wire: Xledger) -> None:
    async def drop(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    other.answers = [drop]
    assert isinstance(await ask(wire, is_write=True), OutcomeUnknownError)
    assert 1 == len(other.asked)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((200, errors("Your query timed out.")), UnavailableError),
        ((200, {"data": None}), UnavailableError),
        ((200, "<html>maintenance</html>"), UnavailableError),
        ((500, errors("boom")), UnavailableError),
        ((200, errors("boom")), RemoteError),
        ((404, "<html>not here</html>"), RemoteError),
    ],
)
async def test_a_read_that_failed_may_be_tried_again_where_that_can_help(
    other: Other, wire: Xledger, answer: Answer, kind: type[SambandError]
) -> None:
    other.answers = [answer]
    assert kind is type(await ask(wire, is_write=False))


async def test_what_was_done_counts_though_they_complain_beside_it(other: Other, wire: Xledger) -> None:
    done = {"addGLImportItems": {"edges": []}}
    other.answers = [(200, {"data": done, "errors": [{"message": "a warning"}]})]
    assert done == await wire.write(WRITE, {})


@pytest.mark.parametrize("is_lookup", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        {},
        {"x": None},
        {"x": {"edges": []}},
        {"x": {"edges": [], "pageInfo": None}},
        {"x": {"edges": None, "pageInfo": {"hasNextPage": True}}},
        {"x": {"edges": [None], "pageInfo": {"hasNextPage": False}}},
        {"x": {"edges": [{"node": None}], "pageInfo": {"hasNextPage": False}}},
    ],
)
def test_a_page_that_is_not_whole_is_never_taken_for_an_empty_one(data: dict[str, Any], is_lookup: bool) -> None:
    with pytest.raises(UnavailableError):
        edges_of(data, "x", is_lookup=is_lookup)


def test_null_edges_are_an_empty_page_for_a_read_and_nothing_for_a_look_up() -> None:
    data = {"x": {"edges": None, "pageInfo": {"hasNextPage": False}}}
    assert ([], False) == edges_of(data, "x")
    with pytest.raises(UnavailableError):
        edges_of(data, "x", is_lookup=True)


async def test_paging_that_runs_in_circles_ends(other: Other, wire: Xledger) -> None:
    page = {"edges": [{"cursor": "1", "node": {"dbId": "1"}}], "pageInfo": {"hasNextPage": True}}
    other.answers = [(200, {"data": {"accounts": page}})]
    with pytest.raises(RemoteError) as caught:
        await wire.rows(READ, "accounts")
    assert "paging_loops" == caught.value.code


async def test_rows_are_read_page_by_page_from_the_last_cursor(other: Other, wire: Xledger) -> None:
    def page(cursor: str, *, more: bool) -> Answer:
        edges = [{"cursor": cursor, "node": {"dbId": cursor}}]
        return 200, {"data": {"accounts": {"edges": edges, "pageInfo": {"hasNextPage": more}}}}

    other.answers = [page("23601.1", more=True), page("23601.2", more=False)]
    assert ["23601.1", "23601.2"] == [row["dbId"] for row in await wire.rows(READ, "accounts")]
    assert [None, "23601.1"] == [asked["variables"]["after"] for asked in other.asked]


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ({}, []),
        ({"errors": []}, []),
        ({"errors": None}, []),
        ({"errors": "x"}, ["x"]),
        ({"errors": [1, {}]}, ["1", ""]),
    ],
)
def test_errors_of_any_shape_are_read(given: dict[str, Any], messages: Sequence[str]) -> None:
    assert list(messages) == [refusal.message for refusal in read_refusals(given)]


def test_a_field_is_named_by_the_message_before_the_path() -> None:
    (refusal,) = read_refusals({"errors": [{"message": "account.code: No.", "path": ["addGLImportItems", 0, "node"]}]})
    assert "account.code" == field_of(refusal)


async def test_the_months_requests_are_warned_of_once_at_eighty_percent(
    other: Other, make_link: Callable[..., Any]
) -> None:
    other.answers = [(200, {"data": {"accounts": None}})]
    settings = {"entity_code": "80", "routes": ["graphql"], "graphql_url": other.url, "monthly_requests": 10}
    link = make_link(settings, clock=FakeClock(START))
    wire = Xledger(link.ctx)
    warned = []
    for _ in range(10):
        await wire.read(READ)
        warned.append(sum(entry.event == "monthly_requests_nearly_used" for entry in link.log.entries))
    assert [0] * 7 + [1] * 3 == warned
    assert 10 == wire.requests_this_month
    link.clock.advance(40 * 86_400)
    assert 0 == wire.requests_this_month
