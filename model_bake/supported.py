"""What can be baked, in words: for `embakery bake --list-supported`."""

from __future__ import annotations

from model_bake.bert_layout import FAMILIES
from model_bake.pipeline import DENSE_ACTIVATIONS, POOLINGS
from model_bake.spec import SCORE_ACTIVATIONS

# Held to the original by tests; others that optimum exports are compared with the original during the bake.
_THROUGH_TORCH = ("modernbert", "albert", "deberta-v2")


def describe() -> dict[str, list[str]]:
    """Return headings and their lines."""
    families = [family.model_type for family in FAMILIES]
    return {
        "architectures, from their files alone": [*families, "static (StaticEmbedding, model2vec)"],
        "architectures, through torch and optimum": [
            *_THROUGH_TORCH,
            "others that optimum exports; the bake compares them with the original and refuses what differs",
        ],
        "pooling": [*POOLINGS, "several of them joined"],
        "modules after the pooling": [f"Dense ({', '.join(DENSE_ACTIVATIONS)})", "LayerNorm", "Normalize"],
        "cross-encoders": [f"one label or several, {' or '.join(SCORE_ACTIVATIONS.values())}"],
        "precision": ["int8 (8-bit weights and activations)", "int8-weights (8-bit weights, fp32 arithmetic)", "fp32"],
        "refused": [
            "pickled weights; models that bring code of their own; adapters that are not merged; sparse encoders; "
            "Router and other modules; slow-only tokenizers; pooling without the prompt's tokens"
        ],
    }
