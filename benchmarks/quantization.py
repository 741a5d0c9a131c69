"""Ways to bring the default model to eight bits, side by side: fidelity and speed of each, in one run.

    python -m benchmarks.quantization --eval ../shared/eval [--limit 200]

Cosines are to the fp32 graph, on sentences (STS-B) and abstracts (SciFact, 256 tokens); calibration is on the project's
own passages. Only what the product uses lives in the product: the other ways are here.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.machine import circumstances
from embakery.engines.onnx import OnnxEngine
from embakery.texts import TextTokenizer, TokenIds
from embakery.vectors import Vectors
from evaluation.collection import read_scored_pairs, read_texts
from model_bake.build import build_fp32
from model_bake.calibrate import Feed, batch_by_length
from model_bake.certify import cosine, encode, spread
from model_bake.encoder import EncoderTrial
from model_bake.equalize import equalize
from model_bake.outliers import split_loud_units
from model_bake.quantize import Quantizer, quantize_model
from model_bake.rounding import PEAK, Bytes, Doubles, Floats
from model_bake.samples import SEED, token_ids
from model_bake.source import DEFAULT_MODEL, find_model
from model_bake.spec import EncoderSpec, Wishes, read_spec
from model_bake.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True)
class Way:
    """One way to quantize. clip: tries smaller scales for each column and keeps that of the least squared error."""

    split: bool = False
    equalize: bool = False
    gptq: bool = False
    fine: bool = False
    clip: bool = False


WAYS = {
    "per token, nearest": Way(),
    "+ clipped weights (MSE)": Way(clip=True),
    "+ equalized": Way(equalize=True),
    "+ loud units split": Way(equalize=True, split=True),
    "GPTQ alone": Way(gptq=True),
    "equalized, split, GPTQ": Way(equalize=True, split=True, gptq=True),
    "the same, values in 16 bits (chosen)": Way(equalize=True, split=True, gptq=True, fine=True),
}


class VariedQuantizer(Quantizer):
    """The product's quantizer with steps left out."""

    way: Way = Way()

    def rounded(self, weight: Doubles, scale: Floats, seen: Floats) -> Bytes:
        """Round by GPTQ or to the nearest, clipped or not; the caller's scale is changed in place by clipping."""
        if self.way.gptq:
            return super().rounded(weight, scale, seen)
        if self.way.clip:
            scale[:] = _least_error_scale(weight, scale)
        return np.clip(np.rint(weight / scale), -PEAK, PEAK).astype(np.int8)

    def is_fine(self, weight: str) -> bool:
        """Whether a weight's activations get sixteen bits."""
        return self.way.fine and super().is_fine(weight)


def _least_error_scale(weight: Doubles, scale: Floats) -> Floats:
    best, chosen = np.full(scale.shape, np.inf), scale.copy()
    for factor in np.arange(1, 0.5, -0.05):
        smaller = (scale * factor).astype(np.float32)
        error = ((np.clip(np.rint(weight / smaller), -PEAK, PEAK) * smaller - weight) ** 2).sum(axis=0)
        chosen = np.where(error < best, smaller, chosen)
        best = np.minimum(error, best)
    return chosen


def quantize(model: onnx.ModelProto, feeds: Sequence[Feed], way: Way) -> onnx.ModelProto:
    """Quantize one way."""
    chunks = batch_by_length(feeds)
    if way.split:
        model = split_loud_units(model, chunks)
    if way.equalize:
        model = equalize(model, chunks)
    quantizer = VariedQuantizer(model, chunks, "int8")
    quantizer.way = way
    return quantizer.run()


class _Reader:
    """Feeds onnxruntime's own static calibration, a text at a time."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = iter([{"input_ids": feed["input_ids"][None]} for feed in feeds])

    def get_next(self) -> dict[str, Any] | None:
        """Return the next text's inputs."""
        return next(self._feeds, None)


def static_qdq(model: onnx.ModelProto, feeds: Sequence[Feed]) -> onnx.ModelProto:
    """Quantize as onnxruntime does with calibrated, static, per-tensor activations and per-channel weights."""
    from onnxruntime import quantization  # noqa: TID251 - a part that runtime.py does not bring

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, before)
        quantization.quantize_static(
            before,
            after,
            _Reader(feeds[:100]),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["MatMul"],
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
        )
        return onnx.load(after)


def main() -> None:
    """Print the table, and a JSON line with machine, versions and seed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--eval", type=Path, required=True)
    arguments.add_argument("--limit", type=int, default=1000)
    options = arguments.parse_args()
    source = find_model(DEFAULT_MODEL)
    spec = read_spec(source.folder, wishes=Wishes(), card_prompts={})
    assert isinstance(spec, EncoderSpec)  # noqa: S101
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(load_tokenizer(spec).to_str(), encoding="utf-8")
        tokenizer = TextTokenizer(path, max_tokens=256, prompts={})
        feeds = EncoderTrial(spec, path).calibration()
        sets = {name: token_ids(tokenizer, texts) for name, texts in _texts(options.eval, options.limit)}
        fp32 = build_fp32(source, spec, route="auto").model
        rows = list(_rows(fp32, feeds, sets, Path(folder) / "model.onnx"))
    for row in rows:
        print(row)
    print(json.dumps(circumstances("onnxruntime", "numpy") | {"seed": SEED}))


def _rows(fp32: onnx.ModelProto, feeds: Sequence[Feed], sets: dict[str, list[TokenIds]], path: Path) -> Iterator[str]:
    reference, speed = _measure(fp32, sets, path)
    yield _row("fp32", None, {}, speed)
    ways: dict[str, Callable[[], onnx.ModelProto]] = {
        "static per tensor (onnxruntime)": lambda: static_qdq(fp32, feeds)
    }
    ways |= {name: lambda way=way: quantize(fp32, feeds, way) for name, way in WAYS.items()}  # type: ignore[misc]
    ways["8-bit weights, fp32 arithmetic"] = lambda: quantize_model(fp32, calibration=feeds, precision="int8-weights")
    for name, make in ways.items():
        started = time.monotonic()
        model = make()
        seconds = time.monotonic() - started
        vectors, speed = _measure(model, sets, path)
        yield _row(name, seconds, {key: cosine(vectors[key], reference[key]) for key in sets}, speed)


def _measure(model: onnx.ModelProto, sets: dict[str, list[TokenIds]], path: Path) -> tuple[dict[str, Vectors], float]:
    onnx.save(model, path)
    engine = OnnxEngine(path)
    started = time.monotonic()
    vectors = {name: encode(engine, ids) for name, ids in sets.items()}
    return vectors, sum(len(one) for ids in sets.values() for one in ids) / (time.monotonic() - started)


def _row(name: str, seconds: float | None, cosines: dict[str, Vectors], speed: float) -> str:
    cells = [f"{part['mean']:.5f} / {part['p1']:.5f} / {part['min']:.5f}" for part in map(spread, cosines.values())]
    return f"| {name} | {' | '.join(cells)} | {speed:,.0f} | {'' if seconds is None else f'{seconds:.0f}'} |"


def _texts(folder: Path, limit: int) -> Iterator[tuple[str, list[str]]]:
    draw = random.Random(SEED)  # noqa: S311 - not for secrets
    pairs = read_scored_pairs(folder / "stsb" / "test.tsv")
    yield "sentences", draw.sample(sorted({text for pair in pairs for text in (pair.left, pair.right)}), limit)
    yield "abstracts", draw.sample(list(read_texts(folder / "scifact" / "docs.jsonl").values()), limit)


if __name__ == "__main__":
    main()
