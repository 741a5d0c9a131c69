"""How close the baked encoder is to the original, in numbers, and whether its bits hold still."""

from __future__ import annotations

import platform
import random
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from embakery.engines import Engine
from embakery.errors import ConfigurationError
from embakery.texts import TextTokenizer, TokenIds, TokenizedText
from embakery.vectors import Vectors
from model_bake import corpus

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SEED = 20261123
TEXTS = 300
# Above this the graph is wrong, not merely rounded: another pooling, a lost layer, a wrong prompt.
EXPORT_TOLERANCE = 1e-4

# What the golden vectors are made of. Short, long, cased, accented, not Latin: each takes another path.
GOLDEN_TEXTS = (
    "hello world",
    "The same text gets the same bits.",
    "Zürich, São Paulo and Kraków are 3 cities; naïve café façade.",
    "機械学習 and машинное обучение",
    "A vector does not depend on what it was batched with, how many threads ran, or whether it came from the cache. "
    * 6,
)


def sample_texts() -> list[str]:
    """Return TEXTS passages of real text, drawn with SEED."""
    passages = corpus.standard_library_passages(limit=4 * TEXTS)
    return [passage.text for passage in random.Random(SEED).sample(passages, TEXTS)]  # noqa: S311 - not for secrets


def token_ids(tokenizer: TextTokenizer, texts: Sequence[str]) -> list[TokenIds]:
    """Tokenize texts that are known to be good."""
    tokenized = tokenizer.tokenize(texts, input_type="document")
    return [item.ids for item in tokenized if isinstance(item, TokenizedText)]


def reference_vectors(model: SentenceTransformer, texts: Sequence[str]) -> Vectors:
    """Return the original's own vectors for documents, float32 (n, dim), whole even where the model would cut them."""
    vectors = model.encode_document(
        list(texts), convert_to_numpy=True, show_progress_bar=False, truncate_dim=model[1].pooling_output_dimension
    )
    return np.asarray(vectors, dtype=np.float32)


def check_export(engine: Engine, ids: Sequence[TokenIds], reference: Vectors) -> float:
    """Return the largest difference between the fp32 graph and the original. Raises ConfigurationError if too large."""
    difference = float(np.abs(engine.encode(ids) - reference).max())
    if not difference <= EXPORT_TOLERANCE:
        raise ConfigurationError(
            f"the exported graph differs from the original by {difference:.2g}, more than {EXPORT_TOLERANCE:.0e}: "
            "this model needs something that the bake does not know"
        )
    return difference


def certify(engine: Engine, ids: Sequence[TokenIds], reference: Vectors, *, export_difference: float) -> dict[str, Any]:
    """Measure fidelity and batch invariance of the baked engine. Cosines are to the fp32 original."""
    together = engine.encode(ids)
    cosines = cosine(together, reference)
    return {
        "texts": len(ids),
        "tokens": {"mean": round(float(np.mean([len(i) for i in ids])), 1), "max": max(len(i) for i in ids)},
        "corpus": corpus.describe(),
        "seed": SEED,
        "cosine": {
            "mean": round(float(cosines.mean()), 6),
            "p1": round(float(np.quantile(cosines, 0.01)), 6),
            "min": round(float(cosines.min()), 6),
        },
        "export_max_abs_difference": export_difference,
        "batch_invariant_texts": count_batch_invariant(engine, ids, together),
        "versions": {name: version(name) for name in ("onnxruntime", "onnx", "torch", "transformers", "optimum-onnx")},
        "machine": platform.machine(),
    }


def cosine(left: Vectors, right: Vectors) -> Vectors:
    """Return the cosine of each pair of rows, float32 (n,)."""
    dots = np.einsum("ij,ij->i", left, right)
    return np.asarray(dots / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)), dtype=np.float32)


def count_batch_invariant(engine: Engine, ids: Sequence[TokenIds], together: Vectors) -> int:
    """Count the texts whose bits are the same alone as they were `together`."""
    alone = (engine.encode([one])[0] for one in ids)
    return sum(vector.tobytes() == row.tobytes() for vector, row in zip(alone, together, strict=True))
