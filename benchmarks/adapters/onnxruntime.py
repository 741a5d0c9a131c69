"""onnxruntime, called directly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.adapters import Vectors
from benchmarks.adapters.padded import Ids, PaddedEncoder, Session, padded


def open_encoder(model: Path, threads: int, _options: Mapping[str, str]) -> PaddedEncoder:
    """Open onnx/model.onnx: one session for each number of streams, with that share of the threads."""
    import onnxruntime  # noqa: TID251 - a peer, in a process where the driver has switched its telemetry off

    def open_session(streams: int) -> Session:
        choices = onnxruntime.SessionOptions()
        choices.intra_op_num_threads = max(1, threads // streams)
        session = onnxruntime.InferenceSession(
            model / "onnx" / "model.onnx", choices, providers=["CPUExecutionProvider"]
        )

        def run(ids: Ids) -> Vectors:
            rows, mask = padded(ids)
            feed = {"input_ids": rows, "attention_mask": mask, "token_type_ids": rows * 0}
            hidden: Vectors = session.run(None, feed)[0]
            return hidden

        return run

    return PaddedEncoder(model, threads, open_session)
