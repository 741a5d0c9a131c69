"""What a SentenceTransformer's own configuration says, as far as it can be baked. The rest is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embakery.errors import ConfigurationError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# These count positions from the padding token's id + 1.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})

POOLINGS = ("mean", "cls", "max", "lasttoken")


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """How token vectors become a sentence vector, and what goes in. `dimensions`: full length first."""

    pooling: str
    normalize: bool
    dimensions: tuple[int, ...]
    max_tokens: int
    prompts: Mapping[str, str]


def read_spec(model: SentenceTransformer) -> EncoderSpec:
    """Read a loaded model's pipeline. Raises ConfigurationError naming what is not supported."""
    names = [type(module).__name__ for module in model]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ConfigurationError(
            f"modules {' -> '.join(names)}: only Transformer -> Pooling [-> Normalize] can be baked"
        )
    transformer, pooling = model[0], model[1]
    prompts = _prompts(model)
    if prompts and not getattr(pooling, "include_prompt", True):
        raise ConfigurationError("include_prompt=false: pooling without the prompt's tokens cannot be baked")
    return EncoderSpec(
        pooling=_pooling(pooling),
        normalize=names[-1] == "Normalize",
        dimensions=_dimensions(model, pooling),
        max_tokens=_max_tokens(transformer),
        prompts=prompts,
    )


def _pooling(pooling: Any) -> str:
    mode = pooling.pooling_mode
    if mode not in POOLINGS:
        raise ConfigurationError(f"pooling {mode}: only {', '.join(POOLINGS)} can be baked")
    return str(mode)


def _dimensions(model: SentenceTransformer, pooling: Any) -> tuple[int, ...]:
    """The full length, and the shorter one that the model's configuration cuts its vectors to, if any (Matryoshka)."""
    full, cut = int(pooling.pooling_output_dimension), model.truncate_dim
    return (full,) if cut is None or cut >= full else (full, cut)


def _max_tokens(transformer: Any) -> int:
    """The model's limit, never above the positions it was trained with."""
    config = transformer.auto_model.config
    positions = getattr(config, "max_position_embeddings", None)
    offset = (config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_POSITIONS else 0
    limits = [limit for limit in (transformer.max_seq_length, positions and positions - offset) if limit]
    if not limits:
        raise ConfigurationError("the model does not say how many tokens it takes")
    return int(min(limits))


def _prompts(model: SentenceTransformer) -> dict[str, str]:
    """Map the model's prompts to input types, by the names that encode_query and encode_document look for.

    An empty prompt is one: only a type without any name falls back to the default prompt.
    """
    named = model.prompts or {}
    default = named.get(model.default_prompt_name or "", "")
    prompts = {
        "query": named.get("query", default),
        "document": next((named[name] for name in ("document", "passage", "corpus") if name in named), default),
    }
    return {name: prompt for name, prompt in prompts.items() if prompt}
