"""The refresh protocol, for every interleaving: three workers, a crash at any step, a lease that runs out at any moment.

What is explored is `samband.rules.refresh` itself, the code that the token service executes. Around it stand a model of
the row (one atomic step per transaction) and of a token endpoint that rotates refresh tokens: asking is two steps, the
endpoint's and the answer's, so that a crash or a lost lease can fall between them.

A token is named by its number. The endpoint takes refresh token *n* and gives number *n+1*; what has been spent is refused,
and in the stricter mode (RFC 9700 section 4.14.2) its use also revokes everything that descends from it.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import pytest

from samband.rules.refresh import (
    Ask,
    Asked,
    Begin,
    Done,
    Failed,
    GiveBack,
    Keep,
    Look,
    Pause,
    Refuse,
    Renewal,
    Row,
    TakeLease,
)

WORKERS = 3
SIGN_IN_AGAIN = "sign in again"
AWAY = "away"

BEGINNING = Renewal()

Mode: TypeAlias = Literal["rotating", "family"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A token endpoint: which number's refresh token is good, and how often it gave a token or was asked in vain."""

    good: int = 0
    is_revoked: bool = False
    given: int = 0
    refused: int = 0

    def asked(self, number: int | None, mode: Mode) -> tuple[Endpoint, Asked]:
        if number is not None and number == self.good and not self.is_revoked:
            after = replace(self, good=number + 1, given=self.given + 1)
            return after, Asked("token", number + 1)
        is_reuse = mode == "family" and number is not None and number < self.good
        after = replace(self, refused=self.refused + 1, is_revoked=self.is_revoked or is_reuse)
        return after, Asked("refused", SIGN_IN_AGAIN)


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker: where it is in the protocol, and the answer that is on its way to it.

    ``sent_under`` is the fence under which its question went out, as long as no answer has come; ``errands`` is how often
    it will come back for a token.
    """

    renewal: Renewal = BEGINNING
    errands: int = 0
    on_its_way: Asked | None = None
    sent_under: int | None = None
    is_dead: bool = False

    @property
    def is_over(self) -> bool:
        return self.is_dead or self.renewal.is_over


@dataclass(frozen=True, slots=True)
class World:
    """Everything there is, at one moment.

    ``kept`` are the numbers that have ever been in the row; ``told`` counts how often somebody was told to sign in;
    ``ended`` are the generations that have come to their end, by their time or because the API refused them.
    """

    row: Row
    endpoint: Endpoint
    workers: tuple[Worker, ...]
    kept: frozenset[int] = frozenset({0})
    told: int = 0
    crashes_left: int = 0
    lapses_left: int = 0
    lapsed: int = 0
    outages_left: int = 0
    expiries_left: int = 0
    complaints_left: int = 0
    ended: frozenset[int] = frozenset({1})
    had_trouble: bool = False


class BrokenPromiseError(AssertionError):
    """An invariant does not hold."""


def demand(holds: bool, promise: str, world: World) -> None:
    if not holds:
        raise BrokenPromiseError(f"{promise}\n{world}")


# ── what one step does to the world ──────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Model:
    """The rules of the world; the fields are what a mutation can break."""

    mode: Mode
    advance: Callable[[Renewal, Any], Renewal] = Renewal.after
    apply: Callable[[Any, Row], Row | None] = lambda change, row: change.apply(row)

    def after(self, world: World) -> Iterator[World]:
        """Gives every world that one atomic step leads to."""
        for at, worker in enumerate(world.workers):
            if worker.is_over:
                yield from self._returns(world, at, worker)
            else:
                yield from self._steps(world, at, worker)
                if world.crashes_left:
                    yield _with(
                        world, at, replace(worker, is_dead=True, on_its_way=None, sent_under=None),
                        crashes_left=world.crashes_left - 1, had_trouble=True,
                    )  # fmt: skip
        if world.row.is_leased and world.lapses_left:
            row = replace(world.row, is_leased=False)
            yield replace(world, row=row, lapses_left=world.lapses_left - 1, lapsed=world.lapsed + 1, had_trouble=True)
        if world.expiries_left and world.row.is_fresh:
            row = replace(world.row, is_fresh=False, is_usable=False)
            ended = world.ended | {row.generation}
            yield replace(world, row=row, expiries_left=world.expiries_left - 1, ended=ended)

    def _returns(self, world: World, at: int, worker: Worker) -> Iterator[World]:
        """Has a worker come back for a token: as one comes, or because the API refused the one it was given."""
        if worker.is_dead or not worker.errands:
            return
        yield _with(world, at, Worker(errands=worker.errands - 1))
        if world.complaints_left and isinstance(worker.renewal.step, Done):
            refused = worker.renewal.step.row.generation
            again = Worker(Renewal(beyond=refused), errands=worker.errands - 1)
            ended = world.ended | ({refused} & {world.row.generation})
            yield _with(world, at, again, complaints_left=world.complaints_left - 1, ended=ended)

    def _steps(self, world: World, at: int, worker: Worker) -> Iterator[World]:
        match worker.renewal.step:
            case Look():
                yield self._answered(world, at, worker, world.row)
            case Pause():
                # Waiting for a lease that nobody will give back: it runs out.
                row = world.row
                if row.is_leased and not _is_held(world):
                    row = replace(row, is_leased=False)
                yield self._answered(replace(world, row=row), at, worker, None)
            case Ask(kept):
                yield from self._ask(world, at, worker, kept)
            case change:
                yield self._changed(world, at, worker, change)

    def _ask(self, world: World, at: int, worker: Worker, kept: int | None) -> Iterator[World]:
        if worker.on_its_way is not None:
            arrived = replace(worker, on_its_way=None, sent_under=None)
            yield self._answered(world, at, arrived, worker.on_its_way)
            if world.outages_left:
                lost = Asked("failed", AWAY, is_passing=True)
                left = replace(world, outages_left=world.outages_left - 1, had_trouble=True)
                yield self._answered(left, at, arrived, lost)
            return
        mine = worker.renewal.fence
        is_stale = world.row.fence != mine
        demand(is_stale or world.row.refusal is None, "asked though somebody had been told to sign in", world)
        live = sum(w.sent_under is not None for i, w in enumerate(world.workers) if i != at)
        demand(live <= world.lapsed, "two live refreshes, and no lease had run out", world)
        endpoint, answer = world.endpoint.asked(kept, self.mode)
        demand(endpoint.given == world.endpoint.given or kept in world.kept, "asked with what was never kept", world)
        yield _with(world, at, replace(worker, on_its_way=answer, sent_under=mine), endpoint=endpoint)

    def _changed(self, world: World, at: int, worker: Worker, change: Any) -> World:
        row = self.apply(change, world.row)
        kept, told = world.kept, world.told
        if row is not None and isinstance(change, Keep):
            before = world.row.kept
            demand(before is None or row.kept > before, "an older token was kept over a newer one", world)
            demand(row.kept == world.endpoint.good or world.endpoint.is_revoked, "a spent token was kept", world)
            kept |= {row.kept}
        if row is not None and isinstance(change, Refuse):
            lost = world.row.kept
            is_good = lost is not None and lost == world.endpoint.good and not world.endpoint.is_revoked
            demand(not is_good, "a good refresh token was thrown away", world)
            told += world.row.refusal is None
        changed = replace(world, row=world.row if row is None else row, kept=kept, told=told)
        return self._answered(changed, at, worker, row)

    def _answered(self, world: World, at: int, worker: Worker, answer: Any) -> World:
        renewal = self.advance(worker.renewal, answer)
        if isinstance(renewal.step, Done):
            demand(renewal.step.row.kept in world.kept, "a token was used before it was kept", world)
        if renewal.is_over:
            # Of what it took home only the generation matters; forgetting the rest makes equal ends one.
            renewal = _ended(renewal.step)
        return _with(world, at, replace(worker, renewal=renewal))


def _ended(end: Any) -> Renewal:
    return Renewal(step=Done(Row(generation=end.row.generation)) if isinstance(end, Done) else Failed(end.why))


def _with(world: World, at: int, worker: Worker, **changes: Any) -> World:
    workers = [*world.workers[:at], worker, *world.workers[at + 1 :]]
    return dataclasses.replace(world, workers=tuple(workers), **changes)


def _is_held(world: World) -> bool:
    """Tells whether a living worker is on its way under the row's fence, and will give the lease back."""
    return any(not w.is_over and w.renewal.fence == world.row.fence for w in world.workers)


# ── exploring, and what must hold at every end ───────────────────────────────


def explore(model: Model, start: World) -> tuple[int, int]:
    """Walks through every reachable world once; gives how many there are, and how many of them are ends."""
    # Broadly and not deeply, so that a broken promise is shown by one of the shortest ways to it.
    seen, left, ends = {_canonical(start)}, deque([start]), 0
    while left:
        world = left.popleft()
        is_end = True
        for after in model.after(world):
            is_end = False
            key = _canonical(after)
            if key not in seen:
                seen.add(key)
                left.append(after)
        if all(worker.is_over for worker in world.workers):
            ends += 1
            _judge_end(model, world)
        else:
            demand(not is_end, "everybody is stuck", world)
    return len(seen), ends


def _canonical(world: World) -> World:
    # The workers do the same thing, so which of them stands where makes no difference.
    return replace(world, workers=tuple(sorted(world.workers, key=hash)))


def _judge_end(model: Model, world: World) -> None:
    demand(world.told <= 1, "somebody was told to sign in more than once", world)
    demand(
        world.told == (world.row.refusal is not None), "a refusal was kept and not told, or told and not kept", world
    )
    if not world.had_trouble:
        demand(world.endpoint.refused == 0, "a spent refresh token was used though nobody crashed", world)
        noticed = world.ended - ({world.row.generation} if not _is_good(world) else set())
        demand(world.endpoint.given == len(noticed), "not exactly one refresh for each expiry", world)
        demand(not world.row.is_in_flight and not world.row.is_leased, "a lease was left behind", world)
    after = _one_more_worker(model, world)
    token_is_good = after.row.kept == after.endpoint.good and not after.endpoint.is_revoked
    demand(token_is_good or after.told == 1, "neither a valid token nor a word that somebody has to sign in", after)
    asked = after.endpoint.given + after.endpoint.refused - world.endpoint.given - world.endpoint.refused
    demand(asked <= 1, "the lost token was asked for more than once", after)


def _is_good(world: World) -> bool:
    return world.row.generation not in world.ended


def _one_more_worker(model: Model, world: World) -> World:
    """Lets a last worker come by when everybody is gone, every lease has run out and the token is over."""
    row = replace(world.row, is_leased=False, is_fresh=False, is_usable=False)
    calm = replace(world, row=row, workers=(Worker(),), crashes_left=0, lapses_left=0, outages_left=0, expiries_left=0)
    while not calm.workers[0].is_over:
        (calm,) = model.after(calm)
    return calm


def start(
    *, crashes: int = 0, lapses: int = 0, outages: int = 0, expiries: int = 0, complaints: int = 0, errands: int = 0,
    is_usable: bool = False, beyond: int | None = None,
) -> World:  # fmt: skip
    """Gives a world in which a token has come to its end and everybody wants one."""
    row = Row(kept=0, is_usable=is_usable, generation=1, is_fresh=beyond is not None)
    crowd = tuple(Worker(Renewal(beyond=beyond), errands=errands) for _ in range(WORKERS))
    return World(
        row, Endpoint(), crowd, crashes_left=crashes, lapses_left=lapses, outages_left=outages, expiries_left=expiries,
        complaints_left=complaints,
    )  # fmt: skip


# ── the protocol keeps its promises ──────────────────────────────────────────

SCENES: dict[str, dict[str, int]] = {
    "everything at once": {"crashes": 1, "lapses": 1, "outages": 1},
    "nobody crashes, and the token ends again and again": {"expiries": 2, "errands": 2},
    "the token is due and not over": {"is_usable": 1, "expiries": 1, "errands": 2},
    "the API refuses tokens before their time": {"beyond": 1, "complaints": 2, "errands": 2},
    "one crashes": {"crashes": 1, "expiries": 1, "errands": 1},
    "leases run out under living workers": {"lapses": 2, "errands": 1},
    "answers are lost": {"outages": 2, "errands": 2, "expiries": 1},
    "one crashes, a lease runs out and the API refuses a token": {
        "crashes": 1,
        "lapses": 1,
        "complaints": 1,
        "errands": 1,
    },
}
MODES: tuple[Mode, ...] = ("rotating", "family")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scene", SCENES)
def test_every_interleaving_ends_with_a_valid_token_or_with_sign_in_again(scene: str, mode: Mode) -> None:
    states, ends = explore(Model(mode), start(**SCENES[scene]))  # type: ignore[arg-type]
    # An exploration that has collapsed proves nothing. The smallest of them has some 3,900 worlds.
    assert states > 3_000
    assert ends > 50


def test_a_renewal_that_a_worker_took_to_its_grave_is_told_once_and_never_asked_for_again() -> None:
    told = []

    class Noting(Model):
        def _changed(self, world: World, at: int, worker: Worker, change: Any) -> World:
            if isinstance(change, Refuse):
                told.append(world.endpoint.refused)
            return Model._changed(self, world, at, worker, change)

    explore(Noting("rotating"), start(crashes=1))
    assert {1} == set(told)


# ── and each of its walls is needed ──────────────────────────────────────────


def without_fence(change: Any, row: Row) -> Row | None:
    if isinstance(change, Keep | Refuse | GiveBack | Begin):
        change = replace(change, fence=row.fence)
    return change.apply(row)  # type: ignore[no-any-return]


def without_lease(change: Any, row: Row) -> Row | None:
    return change.apply(replace(row, is_leased=False) if isinstance(change, TakeLease) else row)  # type: ignore[no-any-return]


def without_second_look(renewal: Renewal, answer: Any) -> Renewal:
    if isinstance(renewal.step, TakeLease) and answer is not None:
        return replace(renewal, fence=answer.fence, row=answer, step=Begin(answer.fence))
    return renewal.after(answer)


def used_before_it_is_kept(renewal: Renewal, answer: Any) -> Renewal:
    if isinstance(renewal.step, Ask) and answer.outcome == "token":
        return replace(renewal, step=Done(Row(kept=answer.what)))
    return renewal.after(answer)


def refusal_forgotten(renewal: Renewal, answer: Any) -> Renewal:
    if isinstance(renewal.step, Ask) and answer.outcome == "refused":
        return replace(renewal, step=GiveBack(renewal.fence, True), then=Failed("error", answer.what))
    return renewal.after(answer)


def asked_though_refused(renewal: Renewal, answer: Any) -> Renewal:
    if isinstance(renewal.step, Look | TakeLease) and answer is not None and answer.refusal is not None:
        answer = replace(answer, refusal=None)
    return renewal.after(answer)


CALM, STORMY = "nobody crashes, and the token ends again and again", "everything at once"


@pytest.mark.parametrize(
    ("broken", "scene", "promise"),
    [
        (Model("rotating", apply=without_fence), STORMY, "a good refresh token was thrown away"),
        (Model("rotating", apply=without_lease), CALM, "two live refreshes, and no lease had run out"),
        (Model("rotating", advance=without_second_look), CALM, "not exactly one refresh for each expiry"),
        (Model("rotating", advance=used_before_it_is_kept), CALM, "a token was used before it was kept"),
        (Model("rotating", advance=refusal_forgotten), STORMY, "neither a valid token nor a word"),
        (Model("rotating", advance=asked_though_refused), STORMY, "asked though somebody had been told to sign in"),
    ],
    ids=["fence", "lease", "second look", "keeping before using", "keeping a refusal", "heeding a refusal"],
)
def test_without_one_of_its_walls_the_protocol_breaks_a_promise(broken: Model, scene: str, promise: str) -> None:
    with pytest.raises(BrokenPromiseError, match=promise):
        explore(broken, start(**SCENES[scene]))  # type: ignore[arg-type]
