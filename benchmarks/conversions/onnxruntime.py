"""onnxruntime's dynamic int8: fused by its transformer optimizer, signed weights, a scale for each output channel.

A scale for the whole matrix would cost .05 of mean cosine, unsigned weights half the speed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.conversions.files import copy_tokenizer

_HEADS, _HIDDEN = 12, 384


def main(source: Path, out: Path) -> None:
    """Write onnx/model.onnx in int8, with the source's other files."""
    import onnx
    from onnxruntime.quantization import (  # noqa: TID251 - a peer, in a process where the driver has switched its telemetry off
        QuantType,
        quantize_dynamic,
    )
    from onnxruntime.transformers.optimizer import optimize_model  # noqa: TID251 - as above

    copy_tokenizer(source, out)
    (out / "onnx").mkdir()
    fused, quantized = out / "onnx" / "fused.onnx", out / "onnx" / "model.onnx"
    optimized = optimize_model(
        str(source / "onnx" / "model.onnx"), model_type="bert", num_heads=_HEADS, hidden_size=_HIDDEN, opt_level=0
    )
    optimized.save_model_to_file(str(fused))
    quantize_dynamic(
        fused,
        quantized,
        per_channel=True,
        weight_type=QuantType.QInt8,
        # The types of what the fused operators give cannot be inferred.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    fused.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
