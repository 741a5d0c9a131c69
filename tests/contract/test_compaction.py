"""From the log in S3 to Parquet and back: current rows, once, bit for bit, and the second time nothing."""

from __future__ import annotations

import io
import json
import sys
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contract_fakes import VECTOR, embedding, ranking

from embakery.errors import ConfigurationError, StoreUnavailableError
from embakery.results import Result
from embakery.vectors import to_base64
from local.processes import free_port
from local.resources import AwsClients
from storage.compaction import Compaction, compact
from storage.s3 import S3Store, current_rows, read_rows

BUCKET = "contract"


class Log:
    """A log of its own, and what compactions of it wrote."""

    def __init__(self, aws: AwsClients) -> None:
        self.s3 = aws.s3
        self.root = uuid.uuid4().hex
        self.store = S3Store(aws.s3, bucket=BUCKET, prefix=f"{self.root}/log/")

    def compact(self, **options: Any) -> Compaction:
        made = compact(self.s3, BUCKET, f"{self.root}/log/", f"{self.root}/tables/", **options)
        assert made is not None
        return made

    def tables(self, made: Compaction) -> list[pa.Table]:
        bodies = [self.s3.get_object(Bucket=BUCKET, Key=part.key)["Body"].read() for part in made.parts]
        return [pq.read_table(io.BytesIO(body)) for body in bodies]

    def objects(self, folder: str) -> dict[str, Any]:
        listed = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.root}/{folder}/").get("Contents", [])
        return {entry["Key"]: entry["LastModified"] for entry in listed}


@pytest.fixture
def log(aws: AwsClients) -> Log:
    return Log(aws)


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Read a table as a consumer would: back to the rows of `Result.to_json`."""
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        if row["kind"] == "embedding":
            vector = np.array(row["vector"], dtype=np.float32)
            row |= {"vector": to_base64(vector), "dim": vector.size, "dtype": "float32"}
            row["metadata"] = json.loads(row["metadata"])
    return rows


def by_text(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def test_a_table_holds_the_current_row_of_each_identity(log: Log) -> None:
    newer = embedding("a", version=10, vector=VECTOR[::-1].copy())
    batches: list[list[Result]] = [
        [embedding("a", version=9), embedding("b"), ranking()],
        [newer, embedding("a", version=2), embedding("b")],
        [embedding("nul\0", tenant="other", metadata={"\0": [0.1, None]}), embedding("b", space_id="space-2")],
    ]
    for batch in batches:
        log.store.write(batch)
    made = log.compact()
    rows = [row for table in log.tables(made) for row in rows_of(table)]
    expected = current_rows(read_rows(log.s3, bucket=BUCKET, prefix=f"{log.root}/log/"))
    assert by_text(rows) == by_text(expected)
    assert made.rows == len(rows) == 5


def test_columns_are_typed_and_vectors_keep_their_bits(log: Log) -> None:
    log.store.write([embedding(version=2**53 - 1), ranking()])
    embeddings, rankings = log.tables(log.compact())
    schema = embeddings.schema
    assert schema.field("vector").type == pa.list_(pa.float32(), 6)
    assert (schema.field("version").type, schema.field("tokens").type) == (pa.int64(), pa.int32())
    assert (schema.field("truncated").type, schema.field("metadata").type) == (pa.bool_(), pa.string())
    values = embeddings.column("vector").combine_chunks().flatten().to_numpy()
    assert values.tobytes() == VECTOR.tobytes()
    assert rankings.column("ranking").to_pylist()[0][1] == {"id": "d 0", "index": 0, "score": 1 / 3}


def test_the_second_time_nothing_is_done(log: Log) -> None:
    log.store.write([embedding("a"), embedding("b")])
    first = log.compact()
    before = log.objects("tables")
    second = log.compact()
    assert (first.is_new, second.is_new) == (True, False)
    assert (second.manifest, second.parts) == (first.manifest, first.parts)
    assert log.objects("tables") == before


def test_one_that_was_broken_off_is_finished_with_the_same_parts(log: Log) -> None:
    log.store.write([embedding("a"), ranking()])
    first = log.compact()
    log.s3.delete_object(Bucket=BUCKET, Key=first.manifest)
    log.s3.delete_object(Bucket=BUCKET, Key=first.parts[1].key)
    left = log.objects("tables")
    again = log.compact()
    assert again == first
    after = log.objects("tables")
    # What was there was not put again.
    assert {key: after[key] for key in left} == left


def test_a_log_that_has_grown_makes_another_snapshot_and_leaves_the_first(log: Log) -> None:
    log.store.write([embedding("a", version=1)])
    first = log.compact()
    log.store.write([embedding("a", version=2)])
    second = log.compact()
    assert second.manifest != first.manifest
    assert [table.column("version").to_pylist() for table in log.tables(second)] == [[2]]
    assert [table.column("version").to_pylist() for table in log.tables(first)] == [[1]]


def test_the_log_stays_as_it_is(log: Log) -> None:
    log.store.write([embedding("a", version=1)])
    log.store.write([embedding("a", version=2)])
    before = log.objects("log")
    log.compact()
    assert log.objects("log") == before


def test_parts_are_of_a_size_and_of_one_space_and_kind(log: Log) -> None:
    for number in range(5):
        log.store.write([embedding(f"{number}-{n}") for n in range(10)])
        log.store.write([embedding(f"{number}-{n}", space_id="space-2", vector=VECTOR[:3]) for n in range(3)])
    made = log.compact(part_rows=16)
    assert sorted(part.rows for part in made.parts) == [2, 15, 16, 16, 16]
    folder = made.manifest.rpartition("/")[0]
    places = {part.key.removeprefix(f"{folder}/").rpartition("/")[0] for part in made.parts}
    assert places == {"space-1/embedding", "space-2/embedding"}


def test_tables_beside_their_log_are_no_part_of_it(log: Log) -> None:
    log.store.write([embedding()])
    prefix = f"{log.root}/log/"
    first = compact(log.s3, BUCKET, prefix, f"{prefix}tables/")
    second = compact(log.s3, BUCKET, prefix, f"{prefix}tables/")
    assert first is not None
    assert second is not None
    assert (first.is_new, second.is_new) == (True, False)
    assert len(list(read_rows(log.s3, bucket=BUCKET, prefix=prefix))) == 1


def test_an_empty_log_makes_nothing(log: Log) -> None:
    assert compact(log.s3, BUCKET, f"{log.root}/log/", f"{log.root}/tables/") is None
    assert log.objects("tables") == {}


def test_without_s3_it_is_unavailable() -> None:
    clients = AwsClients.connect(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailableError, match=r"^s3 cannot be reached: EndpointConnectionError$"):
        compact(clients.s3, BUCKET, "log/", "tables/")
    clients.close()


def test_without_pyarrow_it_says_what_to_install(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.store.write([embedding()])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'embakery\[parquet\]'"):
        log.compact()
