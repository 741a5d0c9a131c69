"""Results in Postgres: one row for each (tenant, id, space_id, kind), written only over an older version.

The condition is the database's own: INSERT ... ON CONFLICT DO UPDATE ... WHERE the version there is lower, one
statement for a batch, whose RETURNING names the rows that were written.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import errors, sql

from embakery.errors import ConfigurationError, StoreUnavailableError
from embakery.results import Result, WriteOutcome
from storage.identities import Identity, identity, write_newest
from storage.postgres_rows import CREATE_TABLE, can_be_text, row_values, upsert_statement
from storage.postgres_wire import close_socket_after, register_float4_array

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
        good = [index for index, result in enumerate(results) if can_be_text(result)]
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
        values = [value for result in results for value in row_values(result)]
        with connection.transaction():
            # For this transaction alone: poolers and proxies take no such option when the connection starts.
            connection.execute(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")
            found = connection.execute(upsert_statement(self._table, len(results)), values).fetchall()
        written: set[Identity] = {(tenant, kind, id_, space) for tenant, id_, space, kind in found}
        return [WriteOutcome.WRITTEN if identity(result) in written else WriteOutcome.SUPERSEDED for result in results]


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
