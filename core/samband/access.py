"""API keys: made, shown once, kept as hashes, and recognised again.

The verbs are independent of each other: ``admin`` is about organisations and keys and implies none of the others, so a
key that hands out keys need not be one that reads members. No key can give what it does not have itself.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from samband.errors import FieldProblem, InvalidError, NotFoundError
from samband.store.api_keys import ApiKeys, KeyState, Reach
from samband.store.models import ApiKey

Verb = Literal["read", "operate", "configure", "admin"]
ALL_VERBS: tuple[Verb, ...] = get_args(Verb)

LIFETIME = dt.timedelta(days=365)
"""How long a key lives that was asked for over the API without saying."""
MAX_LIFETIME = dt.timedelta(days=731)
"""How long one may live that was made over the API; only who reaches the database itself makes one without an end."""
MAX_ORGANIZATIONS = 100

_NO_HASH = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who presented a valid API key.

    Attributes:
        key_id: The key's public part, for the log.
        organizations: The organisations it reaches; None for all.
        verbs: What it may do there.
        expires_at: When it ends, if it does.
    """

    key_id: str
    name: str
    organizations: frozenset[str] | None
    verbs: frozenset[str]
    expires_at: dt.datetime | None = None

    def reaches(self, organization_id: str) -> bool:
        return self.organizations is None or organization_id in self.organizations

    @property
    def reach(self) -> Reach | None:
        """Gives the bounds of the keys it may see and revoke; None for all keys."""
        return None if self.organizations is None else Reach(organizations=self.organizations, verbs=self.verbs)


class Keys:
    """The keys of one database. Nothing is remembered between two calls, so that a revoked key ends at once."""

    def __init__(self, rows: ApiKeys) -> None:
        self._rows = rows

    async def holder_of(self, presented: str) -> Caller | None:
        """Tells who holds this key; None for anything that is not a valid one."""
        prefix, _, rest = presented.partition("_")
        key_id, _, secret = rest.partition("_")
        if prefix != "smb" or not key_id or not secret or len(presented) > 200 or not presented.isascii():
            return None
        key = await self._rows.find(key_id)
        known = _NO_HASH if key is None else key.secret_hash
        if not hmac.compare_digest(known, _hash(secret)) or key is None or state_of(key) != "active":
            return None
        self._rows.note_use(key)
        organizations = None if key.organizations is None else frozenset(key.organizations)
        return Caller(
            key_id=key.id, name=key.name, organizations=organizations, verbs=frozenset(key.verbs),
            expires_at=key.expires_at,
        )  # fmt: skip

    async def first(self) -> str | None:
        """Makes the first key and gives it in clear, this once; None when there are keys already."""
        key, clear = _new_key("admin", ALL_VERBS, None, None, "")
        return clear if await self._rows.add_first(key) else None

    async def create(
        self, name: str, *, verbs: Sequence[Verb], organizations: Sequence[str] | None,
        expires_at: dt.datetime | None = None,
    ) -> str:  # fmt: skip
        """Makes an API key for whoever runs the host, and gives it in clear; only its hash is kept."""
        _, clear = await self.issue(None, name, verbs=verbs, organizations=organizations, expires_at=expires_at)
        return clear

    async def issue(
        self, by: Caller | None, name: str, *, verbs: Sequence[str], organizations: Sequence[str] | None,
        expires_at: dt.datetime | None = None,
    ) -> tuple[ApiKey, str]:  # fmt: skip
        """Makes an API key on somebody's order; gives its row and, this once, the key in clear.

        Args:
            by: Whose key orders it: the new one reaches no farther, allows no more and lives no longer. None for
                whoever runs the host, who is not bound.
            organizations: The ones it reaches; None for all, those to come included.
            expires_at: When it ends. None is a year from now for a caller, and never for whoever runs the host.

        Raises:
            InvalidError: Names every field that asks too much or does not fit.
        """
        now = dt.datetime.now(dt.UTC)
        if by is not None and expires_at is None:
            expires_at = min(now + LIFETIME, by.expires_at or now + LIFETIME)
        problems = [*_name_problems(name), *_verb_problems(by, verbs), *_expiry_problems(by, expires_at, now)]
        problems += await self._organization_problems(by, organizations)
        if problems:
            raise InvalidError("The key cannot be made.", problems=problems)
        made_by = "" if by is None else by.key_id
        key, clear = _new_key(name.strip(), verbs, organizations, expires_at, made_by)
        await self._rows.add(key)
        return key, clear

    async def page(
        self, by: Caller | None, *, state: KeyState | None = None, after: str | None = None, limit: int = 50
    ) -> list[ApiKey]:
        """Gives the keys the caller may see, oldest first."""
        return await self._rows.page(_reach(by), state=state, after=after, limit=limit)

    async def get(self, by: Caller | None, key_id: str) -> ApiKey:
        """Gives a key, or raises `NotFoundError` for one that is unknown or that the caller may not know of."""
        key = await self._rows.find(key_id, within=_reach(by))
        if key is None:
            raise _no_such_key()
        return key

    async def revoke(self, by: Caller | None, key_id: str) -> ApiKey:
        """Ends a key at once, wherever it is in use. Safe to repeat."""
        key = await self._rows.revoke(key_id, within=_reach(by))
        if key is None:
            raise _no_such_key()
        return key

    async def _organization_problems(
        self, by: Caller | None, organizations: Sequence[str] | None
    ) -> list[FieldProblem]:
        if organizations is None:
            if by is None or by.organizations is None:
                return []
            text = "Name the organisations: this key does not reach all of them, so the new one cannot either."
            return [FieldProblem(field="organizations", code="missing", message=text)]
        if not 1 <= len(organizations) <= MAX_ORGANIZATIONS or len(set(organizations)) != len(organizations):
            text = f"Name 1 to {MAX_ORGANIZATIONS} organisations, each once."
            return [FieldProblem(field="organizations", code="bad_count", message=text)]
        # What is out of reach is not looked up: its answer must be that of something which does not exist.
        reached = [o for o in organizations if by is None or by.reaches(o)]
        known = await self._rows.known_organizations(reached)
        text = "There is no such organisation, or none that this key reaches."
        return [
            FieldProblem(field=f"organizations.{place}", code="unknown_organization", message=text)
            for place, organization in enumerate(organizations)
            if organization not in known
        ]


def state_of(key: ApiKey) -> KeyState:
    """Tells whether a key opens anything now."""
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= dt.datetime.now(dt.UTC):
        return "expired"
    return "active"


def _reach(by: Caller | None) -> Reach | None:
    return None if by is None else by.reach


def _no_such_key() -> NotFoundError:
    return NotFoundError("There is no such key, or none that this key reaches.", code="key_not_found")


def _name_problems(name: str) -> list[FieldProblem]:
    text = name.strip()
    if text and len(text) <= 200 and text.isprintable():
        return []
    return [FieldProblem(field="name", code="bad_name", message="Use 1 to 200 printable characters.")]


def _verb_problems(by: Caller | None, verbs: Sequence[str]) -> list[FieldProblem]:
    known = f"Use some of: {', '.join(ALL_VERBS)}; each once."
    if not verbs or not set(verbs) <= set(ALL_VERBS) or len(set(verbs)) != len(verbs):
        return [FieldProblem(field="verbs", code="bad_verbs", message=known)]
    beyond = [verb for verb in verbs if by is not None and verb not in by.verbs]
    if not beyond:
        return []
    text = f"The key does not allow {' or '.join(beyond)} itself, and cannot give what it does not have."
    return [FieldProblem(field="verbs", code="beyond_own", message=text)]


def _expiry_problems(by: Caller | None, expires_at: dt.datetime | None, now: dt.datetime) -> list[FieldProblem]:
    if expires_at is None:
        return []
    if expires_at <= now:
        return [FieldProblem(field="expires_at", code="past", message="Name an instant that is still to come.")]
    if by is None:
        return []
    if by.expires_at is not None and expires_at > by.expires_at:
        text = "The new key cannot live longer than the one that makes it."
        return [FieldProblem(field="expires_at", code="beyond_own", message=text)]
    if expires_at - now > MAX_LIFETIME:
        text = "Two years at most. Whoever runs the host can make one without an end on the command line."
        return [FieldProblem(field="expires_at", code="too_far", message=text)]
    return []


def _new_key(
    name: str, verbs: Sequence[str], organizations: Sequence[str] | None, expires_at: dt.datetime | None, made_by: str
) -> tuple[ApiKey, str]:
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    now = dt.datetime.now(dt.UTC)
    row = ApiKey(
        id=key_id, name=name, secret_hash=_hash(secret), last_four=secret[-4:],
        verbs=[verb for verb in ALL_VERBS if verb in verbs],
        organizations=None if organizations is None else sorted(organizations),
        created_at=now.replace(microsecond=0), created_by=made_by,
        expires_at=None if expires_at is None else expires_at.replace(microsecond=0),
    )  # fmt: skip
    return row, f"smb_{key_id}_{secret}"


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
