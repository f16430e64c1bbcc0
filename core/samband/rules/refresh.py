"""How a token is renewed when many workers share it and any of them may die at any moment. Pure: no I/O, no clock.

Two parts, and the service (`samband.tokens`) executes both as they stand here. What may be done to the row that keeps a
token is a `Change`: it is given the row and gives it changed, or None when this worker may not do that any more; the store
applies it inside one transaction. In which order a worker does things is a `Renewal`: it says the next step, is told what
came of it, and says the next one.

What this promises, and what `tests/unit/test_refresh_protocol.py` shows for every interleaving of three workers:

* The one who holds the lease asks, and nobody else, until the lease is given back or has run out.
* Whoever takes the lease looks at the row again before asking: somebody may have renewed it a moment ago.
* A new token is in the row before anyone uses it, its maker included.
* What comes under an older fence than the row's is dropped, a token as well as a refusal.
* A refused grant is kept, and from then on nobody asks until the credentials or the consent are other ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

__all__ = [
    "Ask",
    "Asked",
    "Begin",
    "Change",
    "Done",
    "Failed",
    "GiveBack",
    "Keep",
    "Look",
    "Pause",
    "Refuse",
    "Renewal",
    "Row",
    "Step",
    "TakeLease",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A kept token as one transaction sees it, on behalf of one connection.

    Attributes:
        kept: The token; None when there is none, or only one that belongs to other credentials.
        generation: Grows with every token that is kept.
        fence: Grows with every lease that is granted.
        is_fresh: The token is not due for renewal.
        is_usable: The token is not over.
        is_leased: Somebody's lease runs.
        is_in_flight: Somebody has asked, and what came of it has not been kept.
        refusal: Why nobody asks any more; None while nothing stands against it.
        is_current: The connection has the settings and credentials that the database has now.
    """

    kept: Any = None
    generation: int = 0
    fence: int = 0
    is_fresh: bool = False
    is_usable: bool = False
    is_leased: bool = False
    is_in_flight: bool = False
    refusal: Any = None
    is_current: bool = True


# ── what may be done to the row ──────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class TakeLease:
    """Takes the lease if nobody holds it, under a fence of its own."""

    def apply(self, row: Row) -> Row | None:
        return None if row.is_leased else replace(row, fence=row.fence + 1, is_leased=True)


@dataclass(frozen=True, slots=True)
class Begin:
    """Notes that the token is going to be asked for now, and lets the lease begin anew."""

    fence: int

    def apply(self, row: Row) -> Row | None:
        return replace(row, is_in_flight=True, is_leased=True) if _is_mine(row, self.fence) else None


@dataclass(frozen=True, slots=True)
class Keep:
    """Keeps a new token and gives the lease back."""

    fence: int
    token: Any

    def apply(self, row: Row) -> Row | None:
        if not _is_mine(row, self.fence) or not row.is_current:
            return None
        return replace(
            row, kept=self.token, generation=row.generation + 1, is_fresh=True, is_usable=True, is_leased=False,
            is_in_flight=False, refusal=None,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refuse:
    """Keeps a refused grant, throws what was refused away, and gives the lease back."""

    fence: int
    refusal: Any

    def apply(self, row: Row) -> Row | None:
        if not _is_mine(row, self.fence) or not row.is_current:
            return None
        return replace(
            row, kept=None, is_fresh=False, is_usable=False, is_leased=False, is_in_flight=False, refusal=self.refusal
        )


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Gives the lease back. ``is_settled`` says that nothing is in flight: it was not asked for, or plainly refused."""

    fence: int
    is_settled: bool

    def apply(self, row: Row) -> Row | None:
        if not _is_mine(row, self.fence):
            return None
        return replace(row, is_leased=False, is_in_flight=row.is_in_flight and not self.is_settled)


Change: TypeAlias = TakeLease | Begin | Keep | Refuse | GiveBack


def _is_mine(row: Row, fence: int) -> bool:
    return row.fence == fence


# ── the other steps of a worker ──────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Look:
    """Read the row."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Somebody else is at it: wait a little, without holding anything."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the other side, with ``kept`` for its refresh token.

    ``was_in_flight`` says that an earlier question was never settled, so that a refresh token may have been spent.
    """

    kept: Any
    was_in_flight: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking.

    ``what`` is the token, the refusal or the error. An error ``is_plain`` when it is certain that nothing was spent, and
    ``is_passing`` when the same may go well later.
    """

    outcome: Literal["token", "refused", "failed"]
    what: Any
    is_plain: bool = False
    is_passing: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """There is a token to use. ``is_interim`` when it is due and a better one may be there in a moment."""

    row: Row
    is_interim: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """There is none. ``error`` is what asking raised; None with ``why`` ``superseded`` (the connection is an old one)."""

    why: Literal["refused", "superseded", "error"]
    error: Any = None


Step: TypeAlias = Look | Pause | Change | Ask | Done | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """One worker's way to a token.

    Attributes:
        beyond: A token of a later generation is wanted than this one, which was refused; None: any that is fresh.
        step: What to do now; `Done` and `Failed` are the ends.
        fence: The lease's, once there is one.
        row: As it was when the lease was taken.
        then: Where to go on once the lease is given back.
    """

    beyond: int | None = None
    step: Step = Look()
    fence: int = 0
    row: Row | None = None
    then: Step | None = None

    @property
    def is_over(self) -> bool:
        return isinstance(self.step, Done | Failed)

    def after(self, answer: Any) -> Renewal:
        """Gives the renewal after its step.

        Args:
            answer: Of `Look` the row; of a change the row after it, or None when it was refused; of `Ask` an `Asked`;
                of `Pause` nothing.
        """
        match self.step:
            case Look():
                return replace(self, step=self._after_look(answer))
            case Pause():
                return replace(self, step=Look())
            case TakeLease():
                return self._after_lease(answer)
            case Begin():
                return self._after_begin(answer)
            case Ask():
                return self._after_ask(answer)
            case Keep() | Refuse():
                return self._after_writing(answer)
            case GiveBack():
                return replace(self, step=self.then or Look(), then=None)
        raise RuntimeError("the renewal is over")

    def _settled(self, row: Row) -> Step | None:
        """Gives the end that the row allows without asking anybody."""
        if not row.is_current:
            return Failed("superseded")
        if row.refusal is not None:
            return Failed("refused", row.refusal)
        if row.kept is not None and row.is_fresh and (self.beyond is None or row.generation > self.beyond):
            return Done(row)
        return None

    def _interim(self, row: Row) -> Step | None:
        """Gives the token that is due and not over, to whoever has no complaint about it."""
        return Done(row, is_interim=True) if self.beyond is None and row.kept is not None and row.is_usable else None

    def _after_look(self, row: Row) -> Step:
        settled = self._settled(row)
        if settled is not None:
            return settled
        if row.is_leased:
            return self._interim(row) or Pause()
        return TakeLease()

    def _after_lease(self, row: Row | None) -> Renewal:
        if row is None:
            return replace(self, step=Pause())
        mine = replace(self, fence=row.fence, row=row)
        settled = self._settled(row)
        if settled is not None:
            return mine._give_back(is_settled=False, then=settled)
        return replace(mine, step=Begin(row.fence))

    def _after_begin(self, row: Row | None) -> Renewal:
        if row is None or self.row is None:
            return replace(self, step=Look())
        return replace(self, step=Ask(row.kept, self.row.is_in_flight))

    def _after_ask(self, asked: Asked) -> Renewal:
        if asked.outcome == "token":
            return replace(self, step=Keep(self.fence, asked.what))
        if asked.outcome == "refused":
            return replace(self, step=Refuse(self.fence, asked.what))
        interim = self._interim(self.row) if self.row is not None and asked.is_passing else None
        return self._give_back(is_settled=asked.is_plain, then=interim or Failed("error", asked.what))

    def _after_writing(self, row: Row | None) -> Renewal:
        if row is None:
            return self._give_back(is_settled=False, then=Look())
        return replace(self, step=Failed("refused", row.refusal) if row.refusal is not None else Done(row))

    def _give_back(self, *, is_settled: bool, then: Step) -> Renewal:
        return replace(self, step=GiveBack(self.fence, is_settled), then=then)
