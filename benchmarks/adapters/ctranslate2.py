"""CTranslate2, called directly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.adapters import Vectors
from benchmarks.adapters.padded import Ids, PaddedEncoder, Session


def open_encoder(model: Path, threads: int, options: Mapping[str, str]) -> PaddedEncoder:
    """Open the converted model; streams are its inter_threads. It pads, and removes padding inside, by itself."""
    import ctranslate2

    def open_session(streams: int) -> Session:
        encoder = ctranslate2.Encoder(
            str(model),
            device="cpu",
            compute_type=options["compute_type"],
            inter_threads=streams,
            intra_threads=max(1, threads // streams),
        )

        def run(ids: Ids) -> Vectors:
            hidden: Vectors = np.asarray(encoder.forward_batch(ids).last_hidden_state)
            return hidden

        return run

    return PaddedEncoder(model, threads, open_session)
