"""Rows of `Result.to_json` as Parquet: typed columns, vectors as lists of float32 of one length, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from embakery.errors import ConfigurationError
from embakery.vectors import from_base64

_TEXTS = ("id", "tenant", "space_id", "model", "kind", "job_id")


def to_parquet(rows: Sequence[dict[str, Any]], file: BinaryIO) -> None:
    """Write rows of one kind and dimension as one Parquet file. Raises ConfigurationError where pyarrow is missing.

    Columns: id, tenant, space_id, model, kind, job_id (string), version (int64); of embeddings vector
    (fixed_size_list<float32>[dim]), tokens (int32), truncated (bool), metadata (string, JSON); of rankings ranking
    (list<struct<id: string, index: int32, score: double>>).
    """
    try:
        import pyarrow as pa  # 60 MB: where it is used
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigurationError("compaction needs pyarrow: pip install 'embakery[parquet]'") from error

    columns: dict[str, Any] = {name: pa.array([row[name] for row in rows], pa.string()) for name in _TEXTS}
    columns["version"] = pa.array([row["version"] for row in rows], pa.int64())
    if rows[0]["kind"] == "rerank":
        line = pa.struct([("id", pa.string()), ("index", pa.int32()), ("score", pa.float64())])
        columns["ranking"] = pa.array([row["ranking"] for row in rows], pa.list_(line))
    else:
        values = np.concatenate([from_base64(row["vector"]) for row in rows])
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), rows[0]["dim"])
        columns["tokens"] = pa.array([row["tokens"] for row in rows], pa.int32())
        columns["truncated"] = pa.array([row["truncated"] for row in rows], pa.bool_())
        metadata = [json.dumps(row["metadata"], sort_keys=True, ensure_ascii=False) for row in rows]
        columns["metadata"] = pa.array(metadata, pa.string())
    # Dictionaries for what repeats; floats that do not would be written twice.
    pq.write_table(
        pa.table(columns), file, compression="zstd", use_dictionary=["tenant", "space_id", "model", "kind", "job_id"]
    )
