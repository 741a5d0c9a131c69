"""What is particular to Postgres: bits in both kinds of column, rows that fail alone, connections that break."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest
from contract_fakes import VECTOR, embedding, ranking
from places import PostgresUnderTest
from postgres_server import PostgresServer

import storage.postgres
from embakery.errors import ConfigurationError, StoreUnavailableError
from embakery.results import Result, WriteOutcome
from local.processes import free_port
from storage.postgres import PostgresStore

WRITTEN, SUPERSEDED, FAILED = WriteOutcome.WRITTEN, WriteOutcome.SUPERSEDED, WriteOutcome.FAILED
Make = Callable[..., PostgresUnderTest]


@pytest.fixture
def make(postgres: PostgresServer) -> Iterator[Make]:
    """Makes tables, each with a store, in one database; both end with the test."""
    made: list[PostgresUnderTest] = []

    def one(database: str = "with_pgvector", *, pgvector: bool = True, user: str = "postgres") -> PostgresUnderTest:
        postgres.database(database)
        made.append(PostgresUnderTest(postgres.url(database, user=user), pgvector=pgvector))
        return made[-1]

    yield one
    for place in made:
        place.close()


def column_type(place: PostgresUnderTest) -> str:
    ((name,),) = set(place.query("pg_typeof(vector)::text"))
    return str(name)


def backend_of(place: PostgresUnderTest) -> int:
    connection = place.store._connection
    assert connection is not None
    return connection.info.backend_pid


# Columns


def test_pgvector_keeps_every_bit(make: Make) -> None:
    place = make()
    place.store.write([embedding()])
    # vector_send: two of dimension, two unused, then float4 in network order.
    assert place.query("vector_send(vector)") == [(b"\0\6\0\0" + VECTOR.astype(">f4").tobytes(),)]
    assert column_type(place) == "vector"


def test_real_arrays_keep_every_bit(make: Make) -> None:
    place = make("without_pgvector", pgvector=False)
    place.store.write([embedding()])
    ((sent,),) = place.query("array_send(vector)")
    elements = np.frombuffer(sent[20:], dtype=[("length", ">i4"), ("value", ">f4")])
    assert elements["value"].tobytes() == VECTOR.astype(">f4").tobytes()
    assert column_type(place) == "real[]"


def test_spaces_of_other_dimensions_share_a_table_and_can_be_searched_apart(make: Make) -> None:
    place = make()
    batch: list[Result] = [embedding("a"), embedding("b", space_id="space-2", vector=VECTOR[:3]), ranking()]
    assert place.store.write(batch) == [WRITTEN] * 3
    with psycopg.connect(place.url) as connection:
        found = connection.execute(
            f"SELECT id FROM {place.table} WHERE space_id = 'space-1' AND kind = 'embedding' "
            "ORDER BY vector::vector(6) <#> '[0,0,0,0,0,1]'".encode()
        ).fetchall()
    assert found == [("a",)]


def test_a_user_who_may_not_create_the_extension_gets_real_arrays(postgres: PostgresServer, make: Make) -> None:
    make("plain")
    postgres.run("CREATE ROLE writer LOGIN")
    postgres.run("GRANT CREATE ON SCHEMA public TO writer", database="plain")
    # From 13 on pgvector is trusted: whoever may create in the database may create it.
    place = make("plain", user="writer")
    assert place.store.write([embedding()]) == [WRITTEN]
    assert column_type(place) == "real[]"


def test_a_user_who_may_not_create_tables_writes_to_one_that_is_there(postgres: PostgresServer, make: Make) -> None:
    owner = make("with_pgvector")
    owner.store.write([embedding("a")])
    postgres.run("CREATE ROLE guest LOGIN")
    postgres.run(f"GRANT SELECT, INSERT, UPDATE ON {owner.table} TO guest", database="with_pgvector")
    guest = PostgresUnderTest(postgres.url("with_pgvector", user="guest"), pgvector=True, table=owner.table)
    assert guest.store.write([embedding("a"), embedding("b")]) == [SUPERSEDED, WRITTEN]
    guest.close()


def test_a_user_who_may_do_nothing_finds_the_store_unavailable(postgres: PostgresServer, make: Make) -> None:
    postgres.run("CREATE ROLE stranger LOGIN")
    with pytest.raises(StoreUnavailableError, match=r"^postgres: InsufficientPrivilege 42501$"):
        make(user="stranger").store.write([embedding()])


def test_a_column_that_would_lose_bits_is_refused(postgres: PostgresServer, make: Make) -> None:
    place = make()
    postgres.run(f"CREATE TABLE {place.table} (id text, vector halfvec(6))", database="with_pgvector")
    with pytest.raises(ConfigurationError, match=r"must be vector or real\[\], not halfvec"):
        place.store.write([embedding()])


def test_writers_that_start_together_make_one_table(make: Make) -> None:
    first = make("together")
    others = [PostgresUnderTest(first.url, pgvector=True, table=first.table) for _ in range(7)]
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda place: place.store.write([embedding()]), [first, *others]))
    for place in others:
        place.close()
    assert sorted(outcome.value for (outcome,) in written) == ["superseded"] * 7 + ["written"]


def test_a_table_may_be_in_a_schema(postgres: PostgresServer, make: Make) -> None:
    place = make()
    postgres.run("CREATE SCHEMA results", database="with_pgvector")
    place.table = "results.vectors"
    store = PostgresStore(f"{place.url}?table=results.vectors&application_name=embakery")
    assert store.write([embedding()]) == [WRITTEN]
    store.close()
    assert place.effects() == 1


# Rows that fail alone


def test_rows_that_postgres_refuses_fail_alone(make: Make) -> None:
    """pgvector takes no NaN: nothing that leaves the engine has one, but one row must never take a batch with it."""
    place = make()
    broken = VECTOR.copy()
    broken[0] = np.nan
    batch: list[Result] = [embedding(str(n), vector=broken if n in {3, 17} else VECTOR) for n in range(20)]
    assert [n for n, outcome in enumerate(place.store.write(batch)) if outcome is FAILED] == [3, 17]
    assert place.effects() == 18


def test_more_rows_than_a_statement_takes(make: Make) -> None:
    place = make()
    batch: list[Result] = [embedding(str(n)) for n in range(1201)]
    assert place.store.write(batch) == [WRITTEN] * 1201
    assert place.store.write(batch) == [SUPERSEDED] * 1201


def test_batches_of_the_same_rows_in_another_order_do_not_deadlock(make: Make) -> None:
    first = make()
    second = PostgresUnderTest(first.url, pgvector=True, table=first.table)
    first.store.write([embedding()])

    def write(place: PostgresUnderTest, step: int) -> list[list[WriteOutcome]]:
        batches = [[embedding(f"{n:03}", version=version) for n in range(300)] for version in range(8)]
        return [place.store.write(batch[::step]) for batch in batches]

    with ThreadPoolExecutor(2) as pool:
        written = list(pool.map(write, [first, second], [1, -1]))
    second.close()
    assert all(FAILED not in outcomes for rounds in written for outcomes in rounds)


# Connections


def test_a_connection_that_broke_is_opened_again(postgres: PostgresServer, make: Make) -> None:
    place = make()
    place.store.write([embedding("a")])
    postgres.run(f"SELECT pg_terminate_backend({backend_of(place)})")
    assert place.store.write([embedding("b")]) == [WRITTEN]


def test_a_table_that_was_dropped_is_made_again_at_the_next_write(postgres: PostgresServer, make: Make) -> None:
    place = make()
    place.store.write([embedding("a")])
    postgres.run(f"DROP TABLE {place.table}", database="with_pgvector")
    with pytest.raises(StoreUnavailableError, match=r"^postgres: UndefinedTable 42P01$"):
        place.store.write([embedding("a")])
    assert place.store.write([embedding("a")]) == [WRITTEN]


def test_a_server_that_went_away_and_came_back(own_postgres: PostgresServer) -> None:
    place = PostgresUnderTest(own_postgres.url(), pgvector=True)
    place.store.write([embedding("a")])
    own_postgres.process.kill()
    with pytest.raises(StoreUnavailableError):
        place.store.write([embedding("b")])
    own_postgres.process.restart()
    assert place.store.write([embedding("a"), embedding("b")]) == [SUPERSEDED, WRITTEN]
    place.close()


def test_a_row_that_another_holds_ends_the_wait(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.postgres, "STATEMENT_SECONDS", 1)
    place = make()
    place.store.write([embedding()])
    with psycopg.connect(place.url) as holder:
        holder.execute(f"SELECT * FROM {place.table} FOR UPDATE".encode())
        with pytest.raises(StoreUnavailableError, match=r"^postgres: QueryCanceled 57014$"):
            place.store.write([embedding(version=2)])
    assert place.store.write([embedding(version=2)]) == [WRITTEN]


def test_a_server_that_does_not_answer_ends_the_wait(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.postgres, "_SILENCE_SECONDS", 1)
    place = make()
    place.store.write([embedding("a")])
    silent = backend_of(place)
    os.kill(silent, signal.SIGSTOP)
    try:
        started = time.monotonic()
        # The silent one is given up, and another answers.
        assert place.store.write([embedding("b")]) == [WRITTEN]
        assert 0.9 < time.monotonic() - started < 5
    finally:
        os.kill(silent, signal.SIGCONT)


# URLs and what errors say


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:canary@host/db?table=no-such.name.at all",
        "postgresql://me:canary@host/db?table=a;DROP TABLE b",
        "postgresql://me:canary@host/db?nonsense=1",
        "postgresql://me:canary@[host/db",
        "mysql://me:canary@host/db",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PostgresStore(url)
    assert str(caught.value) == "must be postgresql://user@host/database?table=name, percent-encoded"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("write", [[embedding("the-canary")], [embedding("a"), ranking("the-canary")]])
def test_an_unreachable_server_is_named_by_its_kind_of_error_alone(write: list[Any]) -> None:
    store = PostgresStore(f"postgresql://canary:canary@127.0.0.1:{free_port()}/canary")
    with pytest.raises(StoreUnavailableError) as caught:
        store.write(write)
    assert str(caught.value) == "postgres: OperationalError"
    assert caught.value.__cause__ is None


def test_the_password_may_come_from_the_environment(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "canary")
    place = PostgresUnderTest(postgres.database("with_pgvector"), pgvector=True)
    place.store.write([embedding()])
    connection = place.store._connection
    assert connection is not None
    assert connection.info.password == "canary"
    place.close()
