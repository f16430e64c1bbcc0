"""The set-based statements that take a page in, once for SQLite and once for PostgreSQL.

A page travels into the database as a few JSON texts and is unpacked there. On SQLite that makes each statement a single
step without the interpreter lock, so that storing runs on another core than fetching; with one step per row the two
would hand the lock to and fro for every record (measured: 5 ms a row beside a busy loop, against 1 µs).

Numbers are given out as ``first + position in the JSON text``, so no row is read back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from samband.rules.brake import ENDED_STATUSES, STATUS_FIELD


@dataclass(frozen=True, slots=True)
class Statement:
    """A prepared text with the names of its parameters, so that a step can be run from one shared scope."""

    clause: sa.TextClause
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PageStatements:
    """One statement per step; ``:rows`` is a JSON array of arrays, ``:keys`` of texts, ``:bodies`` of objects.

    known: keys → JSON ``[[key, record_id, version, tag, hash], …]``
    resolve: keys → JSON ``[[key, record_id], …]`` of things that are still there
    live: record ids in ``:rows`` → how many of them have a status that is not an ended one
    created_*: rows ``[key, tag, hash]`` and their bodies, in the same order
    updated_*: rows ``[record_id, version, key, tag, hash, op]``; their bodies ``[record_id, version, {…}]``
    deleted_*: rows ``[record_id, version, key]``
    retagged: rows ``[record_id, key, tag]`` · seen: keys · outcomes: rows ``[position, key, outcome, code, field, message]``
    gone_*: the bindings a finished full read did not touch
    """

    known: Statement
    resolve: Statement
    live: Statement
    created_records: Statement
    created_bindings: Statement
    created_changes: Statement
    updated_records: Statement
    updated_bindings: Statement
    updated_changes: Statement
    deleted_records: Statement
    deleted_bindings: Statement
    deleted_changes: Statement
    retagged: Statement
    seen: Statement
    outcomes: Statement


_ENDED = ", ".join(f"'{status}'" for status in sorted(ENDED_STATUSES))

_SQLITE = {
    "known": """
        SELECT json_group_array(json_array(b.key, b.record_id, r.version, b.tag, b.hash))
        FROM json_each(:keys) k CROSS JOIN binding b ON b.stream_id = :stream AND b.key = k.value
        JOIN record r ON r.organization_id = :org AND r.kind = :kind AND r.id = b.record_id""",
    "resolve": """
        SELECT json_group_array(json_array(b.key, b.record_id))
        FROM json_each(:keys) k CROSS JOIN binding b ON b.stream_id = :stream AND b.key = k.value
        WHERE b.hash IS NOT NULL""",
    "live": f"""
        SELECT count(*)
        FROM json_each(:rows) v CROSS JOIN record r ON r.organization_id = :org AND r.kind = :kind AND r.id = v.value
        WHERE coalesce(r.body->>'$.{STATUS_FIELD}', '') NOT IN ({_ENDED})""",
    "created_records": """
        INSERT INTO record (organization_id, kind, id, version, deleted, body, updated_at)
        SELECT :org, :kind, :first_id + v.key, 1, 0, v.value, :now FROM json_each(:bodies) v""",
    "created_bindings": """
        INSERT INTO binding (stream_id, key, organization_id, record_id, tag, hash, generation)
        SELECT :stream, v.value->>0, :org, :first_id + v.key, v.value->>1, v.value->>2, :generation
        FROM json_each(:rows) v""",
    "created_changes": """
        INSERT INTO change (organization_id, seq, kind, record_id, op, version, page_id)
        SELECT :org, :first_seq + v.key, :kind, :first_id + v.key, 'created', 1, :page FROM json_each(:rows) v""",
    # Upserts where an update is meant: with UPDATE … FROM json_each SQLite walks the whole table and, for each of its
    # rows, the whole text (measured: seconds for a thousand rows).
    "updated_records": """
        INSERT INTO record (organization_id, kind, id, version, deleted, body, updated_at)
        SELECT :org, :kind, v.value->>0, v.value->>1, 0, v.value->'$[2]', :now FROM json_each(:bodies) v WHERE true
        ON CONFLICT (organization_id, kind, id) DO UPDATE SET
            version = excluded.version, deleted = 0, body = excluded.body, updated_at = excluded.updated_at""",
    "updated_bindings": """
        INSERT INTO binding (stream_id, key, organization_id, record_id, tag, hash, generation)
        SELECT :stream, v.value->>2, :org, v.value->>0, v.value->>3, v.value->>4, :generation
        FROM json_each(:rows) v WHERE true
        ON CONFLICT (stream_id, key) DO UPDATE SET
            tag = excluded.tag, hash = excluded.hash, generation = excluded.generation""",
    "updated_changes": """
        INSERT INTO change (organization_id, seq, kind, record_id, op, version, page_id)
        SELECT :org, :first_seq + v.key, :kind, v.value->>0, v.value->>5, v.value->>1, :page
        FROM json_each(:rows) v""",
    "deleted_records": """
        INSERT INTO record (organization_id, kind, id, version, deleted, body, updated_at)
        SELECT :org, :kind, v.value->>0, v.value->>1, 1, '{}', :now FROM json_each(:rows) v WHERE true
        ON CONFLICT (organization_id, kind, id) DO UPDATE SET
            version = excluded.version, deleted = 1, body = '{}', updated_at = excluded.updated_at""",
    "deleted_bindings": """
        INSERT INTO binding (stream_id, key, organization_id, record_id, tag, hash, generation)
        SELECT :stream, v.value->>2, :org, v.value->>0, NULL, NULL, :generation FROM json_each(:rows) v WHERE true
        ON CONFLICT (stream_id, key) DO UPDATE SET tag = NULL, hash = NULL, generation = excluded.generation""",
    "deleted_changes": """
        INSERT INTO change (organization_id, seq, kind, record_id, op, version, page_id)
        SELECT :org, :first_seq + v.key, :kind, v.value->>0, 'deleted', v.value->>1, :page
        FROM json_each(:rows) v""",
    "retagged": """
        INSERT INTO binding (stream_id, key, organization_id, record_id, tag, hash, generation)
        SELECT :stream, v.value->>1, :org, v.value->>0, v.value->>2, NULL, :generation FROM json_each(:rows) v WHERE true
        ON CONFLICT (stream_id, key) DO UPDATE SET tag = excluded.tag, generation = excluded.generation""",
    "seen": """
        UPDATE binding SET generation = :generation
        WHERE stream_id = :stream AND key IN (SELECT value FROM json_each(:keys))""",
    "outcomes": """
        INSERT INTO outcome (page_id, position, organization_id, key, outcome, code, field, message)
        SELECT :page, v.value->>0, :org, v.value->>1, v.value->>2, v.value->>3, v.value->>4, v.value->>5
        FROM json_each(:rows) v WHERE true
        ON CONFLICT (page_id, position) DO NOTHING""",
}

_ROWS = "jsonb_array_elements(CAST(:rows AS jsonb)) WITH ORDINALITY AS v(value, n)"
_BODIES = "jsonb_array_elements(CAST(:bodies AS jsonb)) WITH ORDINALITY AS b(value, n)"
_KEYS = "jsonb_array_elements_text(CAST(:keys AS jsonb)) AS k(value)"

_POSTGRES = {
    # One look-up per key, whatever the planner believes about tables it has no figures of yet: OFFSET 0 keeps it from
    # joining the tables with each other first (measured: 22 s a page instead of 30 ms).
    "known": f"""
        SELECT CAST(coalesce(jsonb_agg(jsonb_build_array(k.value, b.record_id, r.version, b.tag, b.hash)), '[]') AS text)
        FROM {_KEYS}
        CROSS JOIN LATERAL (
            SELECT record_id, tag, hash FROM binding WHERE stream_id = :stream AND key = k.value OFFSET 0
        ) b
        CROSS JOIN LATERAL (
            SELECT version FROM record WHERE organization_id = :org AND kind = :kind AND id = b.record_id OFFSET 0
        ) r""",
    "resolve": f"""
        SELECT CAST(coalesce(jsonb_agg(jsonb_build_array(k.value, b.record_id)), '[]') AS text)
        FROM {_KEYS}
        CROSS JOIN LATERAL (
            SELECT record_id FROM binding WHERE stream_id = :stream AND key = k.value AND hash IS NOT NULL OFFSET 0
        ) b""",
    "live": f"""
        SELECT count(*)
        FROM jsonb_array_elements_text(CAST(:rows AS jsonb)) AS v(value)
        CROSS JOIN LATERAL (
            SELECT body FROM record
            WHERE organization_id = :org AND kind = :kind AND id = CAST(v.value AS bigint) OFFSET 0
        ) r
        WHERE coalesce(r.body->>'{STATUS_FIELD}', '') NOT IN ({_ENDED})""",
    "created_records": f"""
        INSERT INTO record (organization_id, kind, id, version, deleted, body, updated_at)
        SELECT :org, :kind, :first_id + b.n - 1, 1, false, b.value, CAST(:now AS timestamptz) FROM {_BODIES}""",
    "created_bindings": f"""
        INSERT INTO binding (stream_id, key, organization_id, record_id, tag, hash, generation)
        SELECT :stream, v.value->>0, :org, :first_id + v.n - 1, v.value->>1, v.value->>2, :generation
        FROM {_ROWS}""",
    "created_changes": f"""
        INSERT INTO change (organization_id, seq, kind, record_id, op, version, page_id)
        SELECT :org, :first_seq + v.n - 1, :kind, :first_id + v.n - 1, 'created', 1, :page FROM {_ROWS}""",
    # Upserts where an update is meant, and an array where a join is: each row is found by its key in the index, whatever
    # the planner believes. Behind row-level security it may not take a key out of a JSON text (an operator that is not
    # leakproof) before the policy has looked at the row, so a join walks every row of the stream (measured: 1.6 s a page
    # instead of 10 ms).
    "updated_records": f"""
        INSERT INTO record (organization_id, kind, id, version, deleted, body, updated_at)
        SELECT :org, :kind, CAST(b.value->>0 AS bigint), CAST(b.value->>1 AS integer), false, b.value->2,
            CAST(:now AS timestamptz)
        FROM {_BODIES}
        ON CONFLICT (organization_id, kind, id) DO UPDATE SET
            version = excluded.version, deleted = false, body = excluded.body, updated_at = excluded.updated_at""",
    "updated_bindings": f"""
        INSERT INTO binding (stream_id, key, organization_id, record_id, tag, hash, generation)
        SELECT :stream, v.value->>2, :org, CAST(v.value->>0 AS bigint), v.value->>3, v.value->>4, :generation
        FROM {_ROWS}
        ON CONFLICT (stream_id, key) DO UPDATE SET
            tag = excluded.tag, hash = excluded.hash, generation = excluded.generation""",
    "updated_changes": f"""
        INSERT INTO change (organization_id, seq, kind, record_id, op, version, page_id)
        SELECT :org, :first_seq + v.n - 1, :kind, CAST(v.value->>0 AS bigint), v.value->>5,
            CAST(v.value->>1 AS integer), :page
        FROM {_ROWS}""",
    "deleted_records": f"""
        INSERT INTO record (organization_id, kind, id, version, deleted, body, updated_at)
        SELECT :org, :kind, CAST(v.value->>0 AS bigint), CAST(v.value->>1 AS integer), true, CAST('{{}}' AS jsonb),
            CAST(:now AS timestamptz)
        FROM {_ROWS}
        ON CONFLICT (organization_id, kind, id) DO UPDATE SET
            version = excluded.version, deleted = true, body = excluded.body, updated_at = excluded.updated_at""",
    "deleted_bindings": f"""
        INSERT INTO binding (stream_id, key, organization_id, record_id, tag, hash, generation)
        SELECT :stream, v.value->>2, :org, CAST(v.value->>0 AS bigint), NULL, NULL, :generation FROM {_ROWS}
        ON CONFLICT (stream_id, key) DO UPDATE SET tag = NULL, hash = NULL, generation = excluded.generation""",
    "deleted_changes": f"""
        INSERT INTO change (organization_id, seq, kind, record_id, op, version, page_id)
        SELECT :org, :first_seq + v.n - 1, :kind, CAST(v.value->>0 AS bigint), 'deleted',
            CAST(v.value->>1 AS integer), :page
        FROM {_ROWS}""",
    "retagged": f"""
        INSERT INTO binding (stream_id, key, organization_id, record_id, tag, hash, generation)
        SELECT :stream, v.value->>1, :org, CAST(v.value->>0 AS bigint), v.value->>2, NULL, :generation FROM {_ROWS}
        ON CONFLICT (stream_id, key) DO UPDATE SET tag = excluded.tag, generation = excluded.generation""",
    "seen": f"""
        UPDATE binding SET generation = :generation
        WHERE stream_id = :stream AND key = ANY(ARRAY(SELECT k.value FROM {_KEYS}))""",
    "outcomes": f"""
        INSERT INTO outcome (page_id, position, organization_id, key, outcome, code, field, message)
        SELECT :page, CAST(v.value->>0 AS integer), :org, v.value->>1, v.value->>2, v.value->>3, v.value->>4, v.value->>5
        FROM {_ROWS}
        ON CONFLICT (page_id, position) DO NOTHING""",
}

_PARAMETERS: dict[str, sa.types.TypeEngine[Any]] = {
    "org": sa.Text(),
    "kind": sa.Text(),
    "stream": sa.Integer(),
    "first_id": sa.BigInteger(),
    "first_seq": sa.BigInteger(),
    "generation": sa.Integer(),
    "page": sa.BigInteger(),
    "keys": sa.Text(),
    "rows": sa.Text(),
    "bodies": sa.Text(),
}


def _compile(statements: dict[str, str]) -> PageStatements:
    return PageStatements(**{name: _typed(sql) for name, sql in statements.items()})


def _typed(sql: str) -> Statement:
    names = tuple(dict.fromkeys(re.findall(r"(?<!:):([a-z_]+)", sql)))
    typed = (sa.bindparam(name, type_=_PARAMETERS[name]) for name in names if name in _PARAMETERS)
    return Statement(sa.text(sql).bindparams(*typed), names)


SQLITE = _compile(_SQLITE)
POSTGRES = _compile(_POSTGRES)
