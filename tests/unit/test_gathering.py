"""What is asked for while one round is at work forms the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from samband.acting import act_for, acting
from samband.gathering import Gathering


class Rounds:
    """Work that waits for a go-ahead, doubles numbers, and remembers what came together."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.go = asyncio.Event()
        self.actors: set[str] = set()

    async def work(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.seen.append(list(numbers))
        self.actors.add(acting().actor)
        await self.go.wait()
        return [ValueError(f"{n} is odd") if n % 2 else 2 * n for n in numbers]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_alone_waits_for_nobody_and_the_rest_come_together() -> None:
    rounds = Rounds()
    gathering = Gathering(rounds.work, at_most=3)
    first = asyncio.create_task(gathering.ask(0))
    await settle()
    others = [asyncio.create_task(gathering.ask(n)) for n in (2, 4, 6, 8)]
    await settle()
    assert ([[0]], 4) == (rounds.seen, gathering.depth)
    rounds.go.set()
    assert [0, 4, 8, 12, 16] == await asyncio.gather(first, *others)
    assert [[0], [2, 4, 6], [8]] == rounds.seen


async def test_who_asks_again_the_moment_it_is_answered_is_answered_again() -> None:
    rounds = Rounds()
    rounds.go.set()
    gathering = Gathering(rounds.work)
    async with asyncio.timeout(20):
        assert [0, 4, 8] == [await gathering.ask(n) for n in (0, 2, 4)]
        asked = [asyncio.create_task(gathering.ask(n)) for n in range(0, 100, 2)]
        for task in asked:
            await task
            await gathering.ask(2)


async def test_each_gets_its_own_error() -> None:
    rounds = Rounds()
    rounds.go.set()
    gathering = Gathering(rounds.work)
    results = await asyncio.gather(*(gathering.ask(n) for n in (1, 2, 3)), return_exceptions=True)
    assert ["1 is odd", 4, "3 is odd"] == [str(r) if isinstance(r, Exception) else r for r in results]


async def test_what_breaks_a_round_is_told_to_all_of_it_and_the_next_one_goes_on() -> None:
    async def work(numbers: Sequence[int]) -> list[int]:
        if 1 in numbers:
            raise RuntimeError("the whole round")
        return list(numbers)

    gathering = Gathering(work, at_most=2)
    results = await asyncio.gather(*(gathering.ask(n) for n in (0, 1, 2, 3)), return_exceptions=True)
    assert ["the whole round", "the whole round", 2, 3] == [str(r) if isinstance(r, Exception) else r for r in results]


async def test_who_leaves_harms_nobody() -> None:
    rounds = Rounds()
    gathering = Gathering(rounds.work)
    first, second, third = (asyncio.create_task(gathering.ask(n)) for n in (0, 2, 4))
    await settle()
    second.cancel()
    await settle()
    rounds.go.set()
    assert [0, 8] == await asyncio.gather(first, third)
    with pytest.raises(asyncio.CancelledError):
        await second
    assert 12 == await gathering.ask(6)


async def test_rounds_go_side_by_side_up_to_their_number() -> None:
    rounds = Rounds()
    gathering = Gathering(rounds.work, side_by_side=2)
    tasks = []
    for n in (0, 2, 4, 6):
        tasks.append(asyncio.create_task(gathering.ask(n)))
        await settle()
    assert [[0], [2]] == rounds.seen
    rounds.go.set()
    assert [0, 4, 8, 12] == await asyncio.gather(*tasks)
    assert [[0], [2], [4, 6]] == rounds.seen


async def test_round_acts_for_nobody_in_particular() -> None:
    rounds = Rounds()
    rounds.go.set()
    with act_for(organization="hlf", actor="somebody"):
        await Gathering(rounds.work).ask(2)
    assert {"samband"} == rounds.actors
