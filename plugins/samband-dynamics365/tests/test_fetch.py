"""Chosen rows are read by id or by when they were changed, and none is taken for deleted that is not."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from typing import Any
from urllib.parse import unquote

import pytest

from samband import AuthError, Page, Selection
from samband.testing import fake_context
from samband_dynamics365 import plugin
from samband_dynamics365.client import Dataverse

from .test_pull import MEMBERSHIP_TABLE, Connection, Simulator, connected, connection, running_simulator, simulator

__all__ = ["connection", "running_simulator", "simulator"]  # the fixtures


async def fetch(it: Connection, stream: str = "contacts", **selection: Any) -> list[Page]:
    return [page async for page in plugin.fetch(it.context, stream, Selection(**selection))]


def keys_of(pages: list[Page]) -> list[str | None]:
    return [record.key for page in pages for record in page.records]


def deleted_of(pages: list[Page]) -> list[str]:
    return [key for page in pages for key in page.deleted]


def ids(simulator: Simulator, table: str = "contacts") -> list[str]:
    return list(simulator.look(f"state?rows={table}")["rows"][table]["versions"])


def test_many_ids_are_asked_for_in_addresses_that_gateways_let_pass(simulator: Simulator) -> None:
    settings = simulator.settings(memberships=MEMBERSHIP_TABLE)
    asked = [str(uuid.uuid4()) for _ in range(1_000)]
    for table in settings.tables.values():
        links = Dataverse(fake_context(settings=settings).http, settings).choice_links(table, asked)
        assert asked == [key for _, keys in links for key in keys]
        assert max(len(link) for link, _ in links) <= 8_000
        assert min(len(link) for link, _ in links[:-1]) > 7_500
        for link, keys in links:
            assert keys == re.findall(r'"([0-9a-f-]{36})"', unquote(link))


async def test_ids_are_found_in_several_lists_and_several_pages_of_each(
    simulator: Simulator, connection: Connection
) -> None:
    simulator.order("reset", members=250, memberships=0, staff=2, seed=1)
    there, unknown = ids(simulator), [str(uuid.uuid4()) for _ in range(4)]
    asked = [*unknown[:2], *there[:200], *unknown[2:], *there[200:]]
    pages = await fetch(connection, keys=asked)
    assert (sorted(there), sorted(unknown)) == (sorted(map(str, keys_of(pages))), sorted(deleted_of(pages)))
    assert [True] == [page.complete for page in pages if page.complete]
    assert max(len(page.records) for page in pages) <= 5


async def test_ids_are_the_same_in_capitals(simulator: Simulator, connection: Connection) -> None:
    there, gone = ids(simulator)[:2]
    simulator.order("touch", table="contacts", delete=[gone])
    pages = await fetch(connection, keys=[there.upper(), gone.upper()])
    assert ([there], [gone.upper()]) == (keys_of(pages), deleted_of(pages))


async def test_nothing_is_taken_for_gone_when_a_row_came_without_its_id(
    simulator: Simulator, connection: Connection
) -> None:
    asked = ids(simulator)[:3]
    simulator.fault("bad_rows", rows=["null_id"])
    pages = await fetch(connection, keys=asked)
    assert (1, []) == (keys_of(pages).count(None), deleted_of(pages))


async def test_row_that_the_account_may_not_see_is_a_missing_right(simulator: Simulator) -> None:
    simulator.configure_user(privileges={"ReadContact": "Basic"})
    async with connected(simulator.settings(), simulator.credentials()) as it:
        with pytest.raises(AuthError) as caught:
            await fetch(it, keys=ids(simulator)[:1])
    assert "missing_privilege" == caught.value.reason


async def test_account_that_is_no_person_is_gone_when_asked_for_and_left_out_of_a_window(
    simulator: Simulator, connection: Connection
) -> None:
    application = simulator.look("state")["application_user"]
    pages = await fetch(connection, "staff", keys=[application])
    assert ([], [application]) == (keys_of(pages), deleted_of(pages))
    pages = await fetch(connection, "staff", since=dt.datetime(1990, 1, 1, tzinfo=dt.UTC))
    assert ([], True) == (deleted_of(pages), application not in keys_of(pages))


async def test_window_is_taken_to_the_second_in_any_zone(simulator: Simulator, connection: Connection) -> None:
    first, last, before, after = ids(simulator)[:4]
    moments = {first: "10:00:00", last: "10:59:59", before: "09:59:59", after: "11:00:00"}
    simulator.order("touch", table="contacts", update=[
        {"contactid": key, "modifiedon": f"2026-01-10T{moment}Z"} for key, moment in moments.items()
    ])  # fmt: skip
    oslo = dt.timezone(dt.timedelta(hours=1))
    since, until = dt.datetime(2026, 1, 10, 11, tzinfo=oslo), dt.datetime(2026, 1, 10, 12, tzinfo=oslo)
    pages = await fetch(connection, since=since, until=until)
    assert ({first, last}, [False, True]) == (set(keys_of(pages)), [page.complete for page in pages])


async def test_key_that_is_no_guid_is_gone_without_a_question(simulator: Simulator, connection: Connection) -> None:
    pages = await fetch(connection, keys=["1 or 1 eq 1", "'"])
    assert (["1 or 1 eq 1", "'"], [True]) == (deleted_of(pages), [page.complete for page in pages])
