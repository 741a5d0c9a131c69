"""OpenVINO, called directly."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from benchmarks.adapters import Vectors
from benchmarks.adapters.padded import Ids, PaddedEncoder, Session, padded


def open_encoder(model: Path, threads: int, options: Mapping[str, str]) -> PaddedEncoder:
    """Open openvino_model.xml: latency hint for one stream, throughput hint for several.

    precision: of what is not quantized. OpenVINO takes bfloat16 by itself where the CPU has it, which is not always
    faster. options: further properties for compile_model, by OpenVINO's names.
    """
    from openvino import Core

    core = Core()

    def open_session(streams: int, precision: str) -> Session:
        wanted = {
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(threads),
            **({} if precision == "default" else {"INFERENCE_PRECISION_HINT": precision}),
            **options,
        }
        compiled = core.compile_model(str(model / "openvino_model.xml"), "CPU", wanted)
        own = threading.local()

        def run(ids: Ids) -> Vectors:
            if not hasattr(own, "request"):
                own.request = compiled.create_infer_request()
            rows, mask = padded(ids)
            feed = {"input_ids": rows, "attention_mask": mask, "token_type_ids": rows * 0}
            # Shared: valid until this thread's next run, and pooled before that.
            hidden: Vectors = own.request.infer(feed, share_inputs=True, share_outputs=True)[0]
            return hidden

        return run

    return PaddedEncoder(model, threads, open_session, precision=("f32", "default"))
