"""How an encoder is calibrated, pinned and judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embakery.artifact import Golden
from embakery.engines import encoder_of
from embakery.engines.onnx import OnnxEngine
from embakery.texts import TextTokenizer
from model_bake import certify
from model_bake.calibrate import Feed
from model_bake.given import GivenData, PlainEncoder
from model_bake.progress import SILENT, Report
from model_bake.report import encoder_page
from model_bake.samples import (
    GOLDEN_TEXTS,
    calibration_passages,
    certificate_samples,
    held_out_passages,
    joined_passages,
    token_ids,
)
from model_bake.spec import EncoderSpec
from model_bake.trial import Certificate

if TYPE_CHECKING:
    from model_bake.export import Original

_COMPARED = 32


@dataclass(frozen=True, slots=True)
class EncoderTrial:
    """An encoder, its tokenizer's file, and data that the caller wants it judged on as well."""

    spec: EncoderSpec
    tokenizer: Path
    given: GivenData | None = None
    report: Report = SILENT

    def calibration(self) -> list[Feed]:
        """Return what quantization is calibrated on."""
        passages = [passage.text for passage in calibration_passages()]
        passages += joined_passages(passages)
        ids = token_ids(self._open(self.spec.max_tokens), passages)
        return [
            {"input_ids": np.array(one, dtype=np.int64), "token_type_ids": np.zeros(len(one), dtype=np.int64)}
            for one in ids
            if one
        ]

    def golden(self, folder: Path, engine: str) -> Golden:
        """Encode the golden texts as the function will."""
        ids = [one for one in token_ids(self._open(self.spec.max_tokens), GOLDEN_TEXTS) if one]
        return Golden(tuple(ids), encoder_of(folder, engine).encode(ids))

    def difference(self, graph: Path, original: Original) -> float:
        """Return the largest difference of any value between the fp32 graph's vectors and the original's."""
        texts = [passage.text for passage in held_out_passages()[:_COMPARED]]
        ours = OnnxEngine(graph).encode(token_ids(self._open(self.spec.max_tokens), texts))
        theirs = original.vectors(texts, prompt=self.spec.prompts.get("document", ""))
        return float(np.abs(ours - theirs).max())

    def certify(self, reference: Path, folder: Path, engine: str) -> Certificate:
        """Measure an engine of the baked folder against the fp32 graph."""
        samples = certificate_samples(self._open, self.spec.max_tokens)
        before, after = OnnxEngine(reference), encoder_of(folder, engine)
        fidelity = certify.measure(before, after, samples)
        figures = certify.summarize(fidelity)
        if self.given is not None:
            tokenizer = self._open(self.spec.max_tokens)
            plain, quantized = PlainEncoder(tokenizer, before), PlainEncoder(tokenizer, after)
            figures["evaluation"] = self.given.figures(plain, quantized, self.report)
        return Certificate(figures, lambda finished: encoder_page(finished, fidelity))

    def _open(self, max_tokens: int) -> TextTokenizer:
        return TextTokenizer(self.tokenizer, max_tokens=max_tokens, prompts=self.spec.prompts)
