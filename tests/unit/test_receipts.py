"""What a plugin says of items and ways is checked before anyone relies on it."""

from __future__ import annotations

from typing import Any

import pytest

from samband import Receipt, Route
from samband.adapters.answers import checked_route
from samband.adapters.guarding import GuardedSession
from samband.adapters.receipts import checked_receipt
from samband.errors import ContractError, OutcomeUnknownError
from samband.redaction import Redactor


def scrub(text: str) -> str:
    return text.replace("s3cret", "***")


def checked(**given: Any) -> Receipt:
    return checked_receipt("books", "export", Receipt(**{"key": "k", "state": "accepted", **given}), scrub)


@pytest.mark.parametrize("hook", ["export", "find_exported", "acknowledge"])
@pytest.mark.parametrize("state", ["accepted", "posted", "rejected", "unknown"])
def test_every_state_may_be_told_by_every_hook(hook: str, state: Any) -> None:
    receipt = Receipt(key="k", state=state, reference="70012", message="They said so.")
    assert receipt == checked_receipt("books", hook, receipt, scrub)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"state": "done"}, "none of accepted"),
        ({"state": "posted"}, "without the number"),
        ({"state": "rejected"}, "without saying why"),
        ({"reference": ""}, "reference"),
        ({"reference": "x" * 401}, "reference"),
        ({"reference": "a\x00b"}, "reference"),
        ({"reference": 7}, "reference"),
        ({"evidence": ["a"]}, "evidence"),
        ({"key": None}, "key"),
    ],
)
def test_receipt_that_breaks_a_promise_is_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ContractError, match=named):
        checked(**given)


def test_what_is_no_receipt_is_named() -> None:
    with pytest.raises(ContractError, match="dict instead of"):
        checked_receipt("books", "export", {"key": "k"}, scrub)


def test_evidence_is_bounded_and_without_secrets() -> None:
    kept = checked(evidence={f"label {number}": "s3cret" + "x" * 500 for number in range(30)}).evidence
    assert (20, {400}) == (len(kept), {len(value) for value in kept.values()})
    assert not any("s3cret" in value for value in kept.values())


def test_words_are_cut_to_what_the_database_takes() -> None:
    told = checked(state="rejected", code="c" * 100, field="f" * 500, message="a\x00b s3cret")
    assert (64, 400, "ab ***") == (len(told.code or ""), len(told.field or ""), told.message)


# ── ways ─────────────────────────────────────────────────────────────────────


def test_way_is_given_with_its_reasons_without_secrets() -> None:
    route = checked_route("books", Route(name="api", reasons={"soap": "s3cret was refused"}), scrub, can_render=False)
    assert Route(name="api", reasons={"soap": "*** was refused"}) == route


def test_file_is_a_way_for_those_who_can_write_one() -> None:
    assert "file" == checked_route("books", Route(name="file"), scrub, can_render=True).name
    with pytest.raises(ContractError, match="chose the file"):
        checked_route("books", Route(name="file"), scrub, can_render=False)


@pytest.mark.parametrize(
    "route", [None, "api", Route(name=""), Route(name="x" * 41), Route(name="A way"), Route(name=3)]
)  # type: ignore[arg-type]
def test_what_is_no_way_is_named(route: object) -> None:
    with pytest.raises(ContractError):
        checked_route("books", route, scrub, can_render=True)


def test_reasons_have_to_be_a_mapping() -> None:
    with pytest.raises(ContractError, match="mapping"):
        checked_route("books", Route(name="api", reasons=["why"]), scrub, can_render=True)  # type: ignore[arg-type]


def test_many_reasons_are_cut() -> None:
    many = {f"way {number}": "y" * 500 for number in range(40)}
    route = checked_route("books", Route(name="api", reasons=many), Redactor().scrub, can_render=False)
    assert (20, {400}) == (len(route.reasons), {len(why) for why in route.reasons.values()})


# ── the lease ────────────────────────────────────────────────────────────────


class Session:
    """Counts what goes out."""

    def __init__(self) -> None:
        self.sent = 0

    async def request(self, method: str, url: str, **options: Any) -> Any:
        self.sent += 1

    async def renew_token(self) -> None:
        """Does nothing."""

    async def fill_names(self) -> frozenset[str]:
        return frozenset()


async def test_nothing_goes_out_once_the_lease_is_gone() -> None:
    session, held = Session(), [True]
    guarded = GuardedSession(session, lambda: held[0])
    await guarded.request("POST", "https://books.example/")
    held[0] = False
    with pytest.raises(OutcomeUnknownError) as refused:
        await guarded.request("POST", "https://books.example/")
    assert ("lease_lost", 1) == (refused.value.code, session.sent)
