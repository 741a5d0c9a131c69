"""OpenVINO by NNCF: `int8` calibrates and quantizes weights and activations, `weights` the weights alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.adapters import MAX_TOKENS
from benchmarks.conversions.files import copy_tokenizer

_PASSAGES = Path(__file__).parents[2] / "model_bake" / "passages" / "calibration.jsonl"
_JOINED = 8


def calibration_texts() -> list[str]:
    """Return the project's calibration passages, and long texts joined of some: late positions are to be seen too."""
    lines = _PASSAGES.read_text(encoding="utf-8").splitlines()
    passages = [json.loads(line)["text"] for line in lines]
    return passages + [" ".join(passages[start : start + _JOINED]) for start in range(0, len(passages), _JOINED // 2)]


def main(source: Path, out: Path, kind: str) -> None:
    """Write openvino_model.xml and .bin."""
    import nncf
    import openvino

    copy_tokenizer(source, out)
    model = openvino.convert_model(str(source / "onnx" / "model.onnx"))
    if kind == "int8":
        feeds = list(_feeds(out / "tokenizer.json"))
        model = nncf.quantize(model, nncf.Dataset(feeds), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(feeds))
    else:
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    openvino.save_model(model, str(out / "openvino_model.xml"), compress_to_fp16=False)


def _feeds(tokenizer_file: Path) -> Iterator[dict[str, Any]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.enable_truncation(MAX_TOKENS)
    for text in calibration_texts():
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
