"""Turns a page of their rows into what has to be written: pure, without I/O, one record at a time contained.

The order for each record: is it the version we already hold (then it is unchanged and not even converted) → convert →
validate against its kind → put our ids in place of their keys → compare with what was last agreed. Whatever goes wrong
with one record becomes that record's outcome and names the field; the page goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from samband.contract import Page, Record, Stream
from samband.errors import RejectedError
from samband.kinds import FieldClass, Kind, field_problems
from samband.rules.brake import ends

MAX_KEY_LENGTH = 400
MAX_BODY_BYTES = 256 * 1024
MAX_MESSAGE_LENGTH = 500
MAX_CODE_LENGTH = 64
UNKNOWN_REFERENCE = "unknown_reference"

# Half a character cannot be encoded and NUL cannot be stored by PostgreSQL; the other controls help nobody.
_CONTROLS = dict.fromkeys(range(32), " ")


_REPEATED = "The page has this key again; the later one counts."
_NOT_STORABLE = "A value has no form that can be stored."
_NUL = "\\u0000"  # as JSON writes it; a backslash that is part of a text reads the same, so the values decide
_UNDECLARED = "The plugin has not declared that it moves data of this class."


class Known(NamedTuple):
    """What we hold for one of their keys. ``hash`` is None for a thing that was gone at the other side."""

    record_id: int
    version: int
    tag: str | None
    hash: str | None


class Failure(NamedTuple):
    """A record that was skipped or failed: where it stood in the page, and why."""

    position: int
    key: str
    outcome: str
    code: str
    field: str | None
    message: str


class Valid(NamedTuple):
    """A record whose values fit its kind."""

    position: int
    key: str
    tag: str | None
    values: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """What is needed to take in one stream's records.

    Attributes:
        stream: The plugin's declaration.
        kind: The kind its records become.
        settings: The integration's settings, for ``convert``.
        digest: Names settings and versions; put before every version tag, so that a change of either makes every tag new.
        refused_fields: Canonical fields whose data class the plugin has not declared.
    """

    stream: Stream
    kind: Kind
    settings: Any
    digest: str
    refused_fields: frozenset[str] = frozenset()

    @classmethod
    def build(
        cls, *, stream: Stream, kind: Kind, settings: Any, digest: str, declared: Iterable[FieldClass]
    ) -> StreamPlan:
        allowed = set(declared)
        refused = frozenset(name for name in kind.fields if kind.class_of(name) not in allowed)
        return cls(stream=stream, kind=kind, settings=settings, digest=digest, refused_fields=refused)


@dataclass(slots=True, kw_only=True)
class Converted:
    """A page after conversion and validation; references still hold their keys."""

    valid: list[Valid] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def reference_keys(self, name: str) -> list[str]:
        """Gives the distinct keys that the reference field ``name`` holds."""
        return list({key for v in self.valid if isinstance(key := v.values.get(name), str)})


class Created(NamedTuple):
    key: str
    tag: str | None
    hash: str
    body: str


class Updated(NamedTuple):
    record_id: int
    version: int
    key: str
    tag: str | None
    hash: str
    op: str
    body: str


class Deleted(NamedTuple):
    record_id: int
    version: int
    key: str


@dataclass(slots=True, kw_only=True)
class Intake:
    """Everything one page makes us write."""

    created: list[Created] = field(default_factory=list)
    updated: list[Updated] = field(default_factory=list)
    deleted: list[Deleted] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    retagged: list[tuple[int, str, str | None]] = field(default_factory=list)
    """Record id, key and new tag of records whose version is new and whose values are not."""
    failures: list[Failure] = field(default_factory=list)
    held_failures: list[str] = field(default_factory=list)
    """Keys that failed or were skipped but are still there at the other side: a full read must not delete them."""
    ending: list[int] = field(default_factory=list)
    """Record ids of the updated ones whose status is now an ended one; some may have been ended before."""

    @property
    def change_count(self) -> int:
        return len(self.created) + len(self.updated) + len(self.deleted)

    def counts(self) -> dict[str, int]:
        failed = sum(f.outcome == "failed" for f in self.failures)
        restored = sum(u.op == "created" for u in self.updated)
        return {
            "created": len(self.created) + restored,
            "updated": len(self.updated) - restored,
            "unchanged": len(self.unchanged) + len(self.retagged),
            "deleted": len(self.deleted),
            "skipped": len(self.failures) - failed,
            "failed": failed,
        }


def page_keys(page: Page) -> list[str]:
    """Gives the distinct usable keys of a page, deletions included."""
    keys = {r.key for r in page.records}
    keys.update(page.deleted)
    return [key for key in keys if _is_key(key)]  # type: ignore[misc]


def convert_page(page: Page, known: Mapping[str, Known], plan: StreamPlan) -> Converted:
    """Converts and validates the records whose version is not the one we hold."""
    result = Converted()
    fail, keep, skip = result.failures.append, result.valid.append, result.unchanged.append
    convert, settings, prefix = plan.stream.convert, plan.settings, plan.digest + ":"
    validate, refused = plan.kind.validator.validator.validate_python, plan.refused_fields
    latest = _latest_positions(page.records)
    for position, record in enumerate(page.records):
        key = record.key
        if key is None or not _is_key(key):
            fail(_bad_key(position, key))
            continue
        if latest is not None and latest[key] != position:
            fail(Failure(position, key, "skipped", "duplicate", None, _REPEATED))
            continue
        tag = None if record.version is None else prefix + record.version
        held = known.get(key)
        if held is not None and tag is not None and held.tag == tag and held.hash is not None:
            skip(key)
            continue
        try:
            clean = validate(record.values if convert is None else convert(record.values, settings))
        except ValidationError as err:
            fail(_invalid(position, key, err))
            continue
        except Exception as err:  # noqa: BLE001 - whatever a plugin raises here costs its own record only
            fail(_conversion_failure(position, key, err))
            continue
        if refused and (undeclared := _undeclared(clean, refused)):
            fail(Failure(position, key, "failed", "undeclared_field_class", undeclared, _UNDECLARED))
            continue
        keep(Valid(position, key, tag, clean))
    return result


def take_in(
    converted: Converted,
    page: Page,
    known: Mapping[str, Known],
    references: Mapping[str, Mapping[str, int]],
) -> Intake:
    """Compares what was converted with what was last agreed.

    Args:
        converted: From `convert_page`.
        page: The page itself, for its deletions.
        known: What we hold, by their key.
        references: Reference field → their key → our record id; a key that is not there is unknown to us.
    """
    intake = Intake(unchanged=converted.unchanged, failures=converted.failures)
    dumps, digest = orjson.dumps, hashlib.blake2b
    valid = converted.valid
    valid.reverse()
    while valid:
        # Taken out one by one, so that a page's values and their texts are never all in memory together.
        position, key, tag, values = valid.pop()
        if references:
            failure = _resolve(values, references, position, key)
            if failure is not None:
                intake.failures.append(failure)
                continue
        try:
            body = dumps(values, default=str)
        except (TypeError, ValueError):
            intake.failures.append(Failure(position, key, "failed", "not_storable", None, _NOT_STORABLE))
            continue
        if len(body) > MAX_BODY_BYTES:
            intake.failures.append(Failure(position, key, "failed", "too_large", None, "The record is too large."))
            continue
        content = digest(body, digest_size=16).hexdigest()
        # A copy on purpose: orjson's own bytes keep eight kibibytes each, forty mebibytes for a page.
        text = body.decode()
        if _NUL in text and (nul_field := _field_with_nul(values)):
            intake.failures.append(Failure(position, key, "failed", "not_storable", nul_field, _NOT_STORABLE))
            continue
        held = known.get(key)
        if held is None:
            intake.created.append(Created(key, tag, content, text))
        elif held.hash == content:
            if held.tag == tag:
                intake.unchanged.append(key)
            else:
                intake.retagged.append((held.record_id, key, tag))
        else:
            op = "created" if held.hash is None else "updated"
            intake.updated.append(Updated(held.record_id, held.version + 1, key, tag, content, op, text))
            if held.hash is not None and ends(values):
                intake.ending.append(held.record_id)
    intake.held_failures = [f.key for f in intake.failures if f.key in known]
    _take_in_deletions(page, known, intake)
    return intake


def storable(text: str, limit: int) -> str:
    """Gives a text that both databases take: no half characters, no control characters, at most ``limit`` long."""
    return str(text).encode("utf-8", "replace").decode().translate(_CONTROLS)[:limit]


def _is_key(key: object) -> bool:
    return isinstance(key, str) and 0 < len(key) <= MAX_KEY_LENGTH and key.isprintable()


def _latest_positions(records: Sequence[Record]) -> dict[str | None, int] | None:
    latest = {record.key: position for position, record in enumerate(records)}
    return latest if len(latest) != len(records) else None


def _bad_key(position: int, key: object) -> Failure:
    if key is None or key == "":
        return Failure(position, f"#{position}", "failed", "missing_key", "key", "Their row has no id.")
    return Failure(
        position, f"#{position}", "failed", "bad_key", "key",
        f"Their id is not a printable text of at most {MAX_KEY_LENGTH} characters.",
    )  # fmt: skip


def _conversion_failure(position: int, key: str, err: Exception) -> Failure:
    if isinstance(err, RejectedError):
        field = None if err.field is None else storable(err.field, MAX_CODE_LENGTH)
        return Failure(
            position, key, "failed", storable(err.code, MAX_CODE_LENGTH), field,
            storable(err.message, MAX_MESSAGE_LENGTH),
        )  # fmt: skip
    # The text of an unforeseen error may quote the row, so only its type is kept.
    message = f"The plugin could not convert the row ({type(err).__name__})."
    return Failure(position, key, "failed", "conversion_failed", None, message)


def _invalid(position: int, key: str, err: ValidationError) -> Failure:
    problem = field_problems(err)[0]
    return Failure(
        position, key, "failed", storable(problem.code, MAX_CODE_LENGTH), storable(problem.field, MAX_CODE_LENGTH),
        storable(problem.message, MAX_MESSAGE_LENGTH),
    )  # fmt: skip


def _undeclared(values: Mapping[str, Any], refused: frozenset[str]) -> str | None:
    return next((name for name, value in values.items() if name in refused and value is not None), None)


def _resolve(
    values: dict[str, Any], references: Mapping[str, Mapping[str, int]], position: int, key: str
) -> Failure | None:
    for name, ids in references.items():
        theirs = values.get(name)
        if not isinstance(theirs, str):
            continue
        ours = ids.get(theirs)
        if ours is None:
            return Failure(
                position, key, "failed", UNKNOWN_REFERENCE, name, "It points to something that has not been read."
            )
        values[name] = ours
    return None


def _field_with_nul(values: Mapping[str, Any]) -> str | None:
    return next((name for name, value in values.items() if "\x00" in str(value)), None)


def _take_in_deletions(page: Page, known: Mapping[str, Known], intake: Intake) -> None:
    if not page.deleted:
        return
    present = {r.key for r in page.records}
    for offset, key in enumerate(dict.fromkeys(page.deleted)):
        held = known.get(key)
        if held is None or held.hash is None or key in present:
            position = len(page.records) + offset
            shown = key if _is_key(key) else f"#{position}"
            intake.failures.append(
                Failure(position, shown, "skipped", "not_held", None, "It is gone there, and was not held here.")
            )
            continue
        intake.deleted.append(Deleted(held.record_id, held.version + 1, key))
