"""Results in Postgres: one row for each (tenant, id, space_id, kind), written only over an older version.

The condition is the database's own: INSERT ... ON CONFLICT DO UPDATE ... WHERE the version there is lower, one
statement for a batch, whose RETURNING names the rows that were written. `vector` is pgvector's `vector` where the
server has it, else `real[]`; both take float4 in binary, so every bit comes back. `metadata` and `ranking` are `json`,
not `jsonb`: json keeps a caller's text as it is, and jsonb refuses U+0000 and rewrites numbers (-0.0, 1e400).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import errors, sql

from embakery.errors import ConfigurationError, StoreUnavailableError
from embakery.results import EmbeddingResult, Result, WriteOutcome
from storage.identities import Identity, identity, write_newest
from storage.postgres_wire import Float4Array, close_socket_after, register_float4_array

CONNECT_SECONDS = 3
STATEMENT_SECONDS = 5
# The server ends a statement itself; the socket is closed when it does not even do that.
_SILENCE_SECONDS = STATEMENT_SECONDS + 2
# Postgres takes 65535 parameters in a statement; a row has 13.
_MAX_ROWS = 500
_DEFAULT_TABLE = "embakery_results"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?")
# Trouble with a value; all else is trouble with the store.
_ROW_TROUBLE = (errors.DataError, errors.IntegrityError, errors.ProgramLimitExceeded)

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


class PostgresStore:
    """Writes rows to one table, which it creates if it is missing.

    url: `postgresql://user@host/database?table=schema.name`; the rest of the query is libpq's own (`sslmode`, `port`).
    The password comes from PGPASSWORD or a password file, as libpq has it. pgvector: whether the vector column of a new
    table may be pgvector's; a table that is there decides for itself. Connects at the first write. Raises
    ConfigurationError for a URL that cannot be read.
    """

    def __init__(self, url: str, *, pgvector: bool = True) -> None:
        self._conninfo, self._table = _read_url(url)
        self._pgvector = pgvector
        self._connection: psycopg.Connection[Any] | None = None
        # One connection, one statement at a time; the threads of a function wait for each other.
        self._lock = threading.Lock()

    def write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        """Write results over older versions, a statement for each 500; a row that Postgres refuses fails alone.

        Raises StoreUnavailableError when the database cannot be reached or takes nothing, ConfigurationError when the
        table is another.
        """
        return write_newest(results, self._write)

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _write(self, results: Sequence[Result]) -> list[WriteOutcome]:
        outcomes = [WriteOutcome.FAILED] * len(results)
        good = [index for index, result in enumerate(results) if _can_be_text(result)]
        # In the order of the key: two batches that take the same rows wait for each other instead of deadlocking.
        good.sort(key=lambda index: identity(results[index]))
        with self._lock:
            for start in range(0, len(good), _MAX_ROWS):
                part = good[start : start + _MAX_ROWS]
                try:
                    written = self._write_part([results[index] for index in part])
                except StoreUnavailableError:
                    if start == 0:
                        raise
                    # What was written before stays so.
                    break
                for index, outcome in zip(part, written, strict=True):
                    outcomes[index] = outcome
        return outcomes

    def _write_part(self, results: Sequence[Result]) -> list[WriteOutcome]:
        try:
            return self._reconnecting(lambda connection: self._upsert(connection, results))
        except _ROW_TROUBLE:
            if len(results) == 1:
                return [WriteOutcome.FAILED]
        # Halved until the refused rows stand alone: a few statements for one of them, not one for each row.
        middle = len(results) // 2
        return self._write_part(results[:middle]) + self._write_part(results[middle:])

    def _reconnecting(self, write: Callable[[psycopg.Connection[Any]], list[WriteOutcome]]) -> list[WriteOutcome]:
        """Run a write; once more, which is harmless, on a new connection if the one kept from before had broken."""
        kept = self._connection is not None
        try:
            return self._guarded(write)
        except psycopg.OperationalError as error:
            if not kept or self._connection is not None:
                raise StoreUnavailableError(_describe(error)) from None
        try:
            return self._guarded(write)
        except psycopg.OperationalError as error:
            raise StoreUnavailableError(_describe(error)) from None

    def _guarded(self, write: Callable[[psycopg.Connection[Any]], list[WriteOutcome]]) -> list[WriteOutcome]:
        """Run a write within the time that it may take, and forget a connection that did not outlive it."""
        try:
            connection = self._open()
            with close_socket_after(connection, seconds=_SILENCE_SECONDS):
                return write(connection)
        except (*_ROW_TROUBLE, psycopg.OperationalError):
            raise
        except psycopg.Error as error:
            # Another table, no right to it, ...: looked at afresh next time. Not chained: messages quote values.
            self.close()
            raise StoreUnavailableError(_describe(error)) from None
        finally:
            if self._connection is not None and self._connection.closed:
                self._connection = None

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            # No prepared statements: a connection pooler may give each transaction another server process.
            connection = psycopg.connect(
                self._conninfo, autocommit=True, prepare_threshold=None, connect_timeout=CONNECT_SECONDS
            )
            try:
                register_float4_array(connection)
                with close_socket_after(connection, seconds=_SILENCE_SECONDS):
                    self._ensure_table(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _ensure_table(self, connection: psycopg.Connection[Any]) -> None:
        """Create the table if it is missing. Raises ConfigurationError if its vector column would not keep the bits."""
        # Asked first: CREATE TABLE IF NOT EXISTS wants the right to create even where there is nothing to do.
        if self._vector_type(connection) is None:
            vector = "vector" if self._pgvector and _has_pgvector(connection) else "real[]"
            with connection.transaction():
                # Two functions that start together would both find no table, and one would fail.
                connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [".".join(self._table)])
                statement = sql.SQL(CREATE_TABLE).format(table=sql.Identifier(*self._table), vector=sql.SQL(vector))
                connection.execute(statement)
        kind = self._vector_type(connection)
        if kind is None or kind.rpartition(".")[2] not in {"vector", "real[]"}:
            raise ConfigurationError(f"postgres: the column vector of the table must be vector or real[], not {kind}")

    def _vector_type(self, connection: psycopg.Connection[Any]) -> str | None:
        """Return the type of the table's vector column; None where there is no such table."""
        name = sql.Identifier(*self._table).as_string(connection)
        row = connection.execute(
            "SELECT format_type(atttypid, NULL) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attname = 'vector'",
            [name],
        ).fetchone()
        return None if row is None else str(row[0])

    def _upsert(self, connection: psycopg.Connection[Any], results: Sequence[Result]) -> list[WriteOutcome]:
        values = [value for result in results for value in _row(result)]
        with connection.transaction():
            # For this transaction alone: poolers and proxies take no such option when the connection starts.
            connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")
            found = connection.execute(_statement(self._table, len(results)), values).fetchall()
        written: set[Identity] = {(tenant, kind, id_, space) for tenant, id_, space, kind in found}
        return [WriteOutcome.WRITTEN if identity(result) in written else WriteOutcome.SUPERSEDED for result in results]


def _statement(table: Sequence[str], rows: int) -> sql.Composed:
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


def _row(result: Result) -> tuple[Any, ...]:
    key = (result.tenant, result.id, result.space_id, result.kind, result.version, result.model)
    if isinstance(result, EmbeddingResult):
        metadata = json.dumps(dict(result.metadata))
        embedding = (result.vector.shape[0], Float4Array(result.vector), result.tokens, result.truncated, metadata)
        return (*key, *embedding, None, result.job_id)
    ranking = json.dumps(result.to_json()["ranking"])
    return (*key, None, None, None, None, None, ranking, result.job_id)


def _can_be_text(result: Result) -> bool:
    """Postgres has no U+0000 in its texts."""
    return not any("\0" in text for text in (result.id, result.tenant, result.model, result.job_id or ""))


def _has_pgvector(connection: psycopg.Connection[Any]) -> bool:
    """Say whether the extension is there, creating it if the user may."""
    query = "SELECT installed_version FROM pg_available_extensions WHERE name = 'vector'"
    row = connection.execute(query).fetchone()
    if row is None or row[0] is not None:
        return row is not None
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except (errors.InsufficientPrivilege, errors.UniqueViolation):
        # Unique: another writer created it at this moment.
        row = connection.execute(query).fetchone()
        return row is not None and row[0] is not None
    return True


def _read_url(url: str) -> tuple[str, tuple[str, ...]]:
    """Return libpq's part of a URL, and the table's name by its parts."""
    problem = ConfigurationError("must be postgresql://user@host/database?table=name, percent-encoded")
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, strict_parsing=bool(parts.query))
        conninfo = urlunsplit(parts._replace(query=urlencode([pair for pair in options if pair[0] != "table"])))
        psycopg.conninfo.conninfo_to_dict(conninfo)
    except (ValueError, psycopg.Error):
        # Not chained: the error quotes the URL, which may hold a password.
        raise problem from None
    table = dict(options).get("table", _DEFAULT_TABLE)
    if parts.scheme not in {"postgres", "postgresql"} or not _NAME.fullmatch(table):
        raise problem
    return conninfo, tuple(table.split("."))


def _describe(error: psycopg.Error) -> str:
    """Name an error by its class and SQLSTATE: messages quote values, hosts and users."""
    return f"postgres: {type(error).__name__} {error.sqlstate or ''}".rstrip()
