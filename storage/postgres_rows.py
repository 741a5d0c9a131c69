"""Results as rows of Postgres: the table, the statement that writes over older versions alone, and its values.

`vector` is pgvector's `vector` where the server has it, else `real[]`; both take float4 in binary, so every bit comes
back. `metadata` and `ranking` are `json`, not `jsonb`: json keeps a caller's text as it is, and jsonb refuses U+0000
and rewrites numbers (-0.0, 1e400).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from psycopg import sql

from embakery.results import EmbeddingResult, Result
from storage.postgres_wire import Float4Array

CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS {table} (
    tenant text NOT NULL,
    id text NOT NULL,
    space_id text NOT NULL,
    kind text NOT NULL,
    version bigint NOT NULL,
    model text NOT NULL,
    dim integer,
    vector {vector},
    tokens integer,
    truncated boolean,
    metadata json,
    ranking json,
    job_id text,
    PRIMARY KEY (tenant, id, space_id, kind)
)
"""

_COLUMNS = (
    "tenant",
    "id",
    "space_id",
    "kind",
    "version",
    "model",
    "dim",
    "vector",
    "tokens",
    "truncated",
    "metadata",
    "ranking",
    "job_id",
)
_KEY = _COLUMNS[:4]
# The first row decides the types of VALUES, and all its nullable values may be null.
_PLACEHOLDERS = (
    *("%s::text",) * 4,
    "%s::bigint",
    "%s::text",
    "%s::integer",
    "%s::real[]",
    "%s::integer",
    "%s::boolean",
    "%s::json",
    "%s::json",
    "%s::text",
)


def upsert_statement(table: Sequence[str], rows: int) -> sql.Composed:
    """Return the INSERT for some rows. RETURNING gives the keys of those which were inserted or updated."""
    assigned = [column for column in _COLUMNS if column not in _KEY]
    return sql.SQL(
        "INSERT INTO {table} AS kept ({columns}) VALUES {rows} ON CONFLICT ({key}) "
        "DO UPDATE SET {assignments} WHERE kept.version < excluded.version RETURNING {returned}"
    ).format(
        table=sql.Identifier(*table),
        columns=sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)),
        rows=sql.SQL(", ").join([sql.SQL(f"({', '.join(_PLACEHOLDERS)})")] * rows),
        key=sql.SQL(", ").join(map(sql.Identifier, _KEY)),
        assignments=sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in assigned),
        returned=sql.SQL(", ").join(sql.Identifier("kept", name) for name in _KEY),
    )


def row_values(result: Result) -> tuple[Any, ...]:
    """Return a result's values in the order of the columns."""
    key = (result.tenant, result.id, result.space_id, result.kind, result.version, result.model)
    if isinstance(result, EmbeddingResult):
        metadata = json.dumps(dict(result.metadata))
        embedding = (result.vector.shape[0], Float4Array(result.vector), result.tokens, result.truncated, metadata)
        return (*key, *embedding, None, result.job_id)
    ranking = json.dumps(result.to_json()["ranking"])
    return (*key, None, None, None, None, None, ranking, result.job_id)


def can_be_text(result: Result) -> bool:
    """Postgres has no U+0000 in its texts."""
    return not any("\0" in text for text in (result.id, result.tenant, result.model, result.job_id or ""))
