"""What a model's own configuration says, read from its files alone. What cannot be baked is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embakery.errors import ConfigurationError
from embakery.texts import INPUT_TYPES
from model_bake.bert_layout import family_shape, is_family, read_labels
from model_bake.files import Settings, read_json, read_json_if_there
from model_bake.pipeline import HeadStep, Module, Normalize, read_modules, read_pipeline, read_static_table

STATIC = "static"
# A static model has no positions; this bounds what one text may cost.
_STATIC_MAX_TOKENS = 32_768

# Under any of these names sentence-transformers looks for the first module's own settings.
_SENTENCE_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Tokenizer classes that pass no token types on.
_WITHOUT_TYPES = ("roberta", "camembert", "distilbert", "mpnet", "modernbert", "t5")
SCORE_ACTIVATIONS = {"Sigmoid": "sigmoid", "Identity": "identity"}


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """A sentence encoder: what goes in, and how token vectors become a sentence vector.

    folder: of config, weights and tokenizer. architecture: `model_type` of config.json, or `static`.
    pooling: one or more modes; their results are joined. head: what stands after it.
    dimensions: the full length first, then the shorter ones that vectors may be cut to (Matryoshka).
    lower_cases: whether the text is lowered before the tokenizer sees it.
    """

    folder: Path
    architecture: str
    token_dimension: int
    pooling: tuple[str, ...]
    head: tuple[HeadStep, ...]
    dimensions: tuple[int, ...]
    max_tokens: int
    prompts: Mapping[str, str]
    lower_cases: bool

    @property
    def normalizes(self) -> bool:
        """Whether vectors leave with length 1."""
        return bool(self.head) and isinstance(self.head[-1], Normalize)


@dataclass(frozen=True, slots=True)
class CrossEncoderSpec:
    """A cross-encoder: pairs in, `labels` scores out.

    activation: `sigmoid` or `identity`. tells_types: whether the model is told query and document apart by token types.
    """

    folder: Path
    architecture: str
    labels: int
    activation: str
    tells_types: bool
    max_tokens: int
    lower_cases: bool


Spec = EncoderSpec | CrossEncoderSpec


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the caller of the bake wants otherwise than the model's files say.

    max_tokens: None for the model's own. dimensions: further lengths to cut to. prompts: by input type.
    """

    max_tokens: int | None = None
    dimensions: tuple[int, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)


def read_spec(folder: Path, *, wishes: Wishes, card_prompts: Mapping[str, str]) -> Spec:
    """Read a model's folder. Raises ConfigurationError naming what is missing or not supported."""
    modules = read_modules(folder)
    settings = read_json_if_there(folder / "config_sentence_transformers.json")
    if _is_cross_encoder(folder, settings):
        return _cross_encoder(modules, settings, wishes)
    return _encoder(modules, settings, wishes, card_prompts)


def _encoder(
    modules: list[Module], settings: Mapping[str, Any], wishes: Wishes, card_prompts: Mapping[str, str]
) -> EncoderSpec:
    first = modules[0]
    if first.kind == "StaticEmbedding":
        architecture, max_tokens, lower_cases = STATIC, wishes.max_tokens or _STATIC_MAX_TOKENS, False
        token_dimension = int(read_static_table(first.folder).shape[1])
    else:
        config, sentence = _config(first.folder), _sentence_config(first.folder)
        architecture, max_tokens = config["model_type"], _max_tokens(first.folder, config, sentence, wishes)
        lower_cases, token_dimension = bool(sentence.get("do_lower_case", False)), _hidden_size(config)
    pipeline = read_pipeline(modules, token_dimension)
    prompts = _prompts(settings, wishes, card_prompts)
    if prompts and not pipeline.pools_prompt:
        raise ConfigurationError("include_prompt=false: pooling without the prompt's tokens cannot be baked")
    return EncoderSpec(
        folder=first.folder,
        architecture=architecture,
        token_dimension=token_dimension,
        pooling=pipeline.pooling,
        head=pipeline.head,
        dimensions=_dimensions(pipeline.dimension, settings, wishes),
        max_tokens=max_tokens,
        prompts=prompts,
        lower_cases=lower_cases,
    )


def _is_cross_encoder(folder: Path, settings: Mapping[str, Any]) -> bool:
    kind = settings.get("model_type")
    if kind == "SparseEncoder":
        raise ConfigurationError("model type SparseEncoder: sparse vectors cannot be baked")
    if kind == "CrossEncoder":
        return True
    if (folder / "modules.json").exists():
        return False
    architectures = read_json(folder / "config.json").get("architectures") or [""]
    return str(architectures[0]).endswith("ForSequenceClassification")


def _cross_encoder(modules: list[Module], settings: Mapping[str, Any], wishes: Wishes) -> CrossEncoderSpec:
    if [module.kind for module in modules] != ["Transformer"]:
        kinds = " -> ".join(module.kind for module in modules)
        raise ConfigurationError(f"modules {kinds}: a cross-encoder must be one Transformer")
    folder = modules[0].folder
    config, sentence = _config(folder), _sentence_config(folder)
    task = sentence.get("transformer_task", "sequence-classification")
    if task != "sequence-classification":
        raise ConfigurationError(f"cross-encoder by {task}: only sequence classification can be baked")
    if (settings.get("prompts") or {}).get(settings.get("default_prompt_name") or ""):
        raise ConfigurationError("default_prompt_name: a cross-encoder with a prompt cannot be baked")
    labels = read_labels(Settings.read(folder))
    return CrossEncoderSpec(
        folder=folder,
        architecture=config["model_type"],
        labels=labels,
        activation=_score_activation(config, settings, labels),
        tells_types=_tells_types(folder, config["model_type"]),
        max_tokens=_max_tokens(folder, config, sentence, wishes),
        lower_cases=bool(sentence.get("do_lower_case", False)),
    )


def _tells_types(folder: Path, architecture: str) -> bool:
    """Whether the original's tokenizer passes token types on; by its class, where its configuration does not say."""
    config = read_json_if_there(folder / "tokenizer_config.json")
    if "model_input_names" in config:
        return "token_type_ids" in config["model_input_names"]
    name = str(config.get("tokenizer_class") or architecture.replace("-", "")).lower()
    return not any(kind in name for kind in _WITHOUT_TYPES)


def _score_activation(config: Mapping[str, Any], settings: Mapping[str, Any], labels: int) -> str:
    """The first that is named, in the original's order; else sigmoid for one label, none for several."""
    named = (
        settings.get("activation_fn"),
        (config.get("sentence_transformers") or {}).get("activation_fn"),
        config.get("sbert_ce_default_activation_function"),
    )
    path = next((str(value) for value in named if value), "")
    if not path.startswith("torch."):
        return "sigmoid" if labels == 1 else "identity"
    name = path.rpartition(".")[2]
    if name not in SCORE_ACTIVATIONS:
        raise ConfigurationError(f"cross-encoder with {name}: only {' or '.join(SCORE_ACTIVATIONS)} can be baked")
    return SCORE_ACTIVATIONS[name]


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise ConfigurationError("config.json: no model_type")
    if "auto_map" in config:
        raise ConfigurationError(
            f"architecture {config['model_type']}: it brings code of its own (auto_map), which is never run"
        )
    if (folder / "adapter_config.json").exists():
        raise ConfigurationError("adapter_config.json: merge the adapter into the model first, then bake that")
    return config


def _sentence_config(folder: Path) -> dict[str, Any]:
    return next((read_json(folder / name) for name in _SENTENCE_CONFIGS if (folder / name).exists()), {})


def _hidden_size(config: Mapping[str, Any]) -> int:
    size = next((config[name] for name in ("hidden_size", "dim", "d_model") if name in config), None)
    if not isinstance(size, int):
        raise ConfigurationError("config.json: no hidden_size")
    return size


def _max_tokens(folder: Path, config: Mapping[str, Any], sentence: Mapping[str, Any], wishes: Wishes) -> int:
    """The model's limit, or the wished one, never above the positions it was trained with."""
    positions = family_shape(folder).positions if is_family(config) else config.get("max_position_embeddings")
    usable = positions if isinstance(positions, int) and positions > 0 else None
    if wishes.max_tokens is not None:
        if usable is not None and wishes.max_tokens > usable:
            raise ConfigurationError(f"--max-tokens {wishes.max_tokens}: the model has {usable} positions")
        return wishes.max_tokens
    own = sentence.get("max_seq_length") or read_json_if_there(folder / "tokenizer_config.json").get("model_max_length")
    limits = [int(limit) for limit in (own, usable) if limit]
    # Tokenizers without a limit say 10^30.
    if not limits or min(limits) > 10**6:
        raise ConfigurationError("the model does not say how many tokens it takes: say it with --max-tokens")
    return min(limits)


def _prompts(settings: Mapping[str, Any], wishes: Wishes, card_prompts: Mapping[str, str]) -> dict[str, str]:
    """Map the model's prompts to input types, by the names that encode_query and encode_document look for.

    An empty prompt is one: only a type without any name falls back to the default prompt.
    """
    named = settings.get("prompts") or {}
    if not any(named.values()):
        named = {**named, **card_prompts}
    default = named.get(settings.get("default_prompt_name") or "", "")
    prompts = {
        "query": named.get("query", default),
        "document": next((named[name] for name in ("document", "passage", "corpus") if name in named), default),
    } | dict(wishes.prompts)
    return {name: prompts[name] for name in INPUT_TYPES if prompts[name]}


def _dimensions(full: int, settings: Mapping[str, Any], wishes: Wishes) -> tuple[int, ...]:
    shorter = {*wishes.dimensions, settings.get("truncate_dim") or full} - {full}
    if wrong := [size for size in shorter if not 0 < size < full]:
        raise ConfigurationError(f"--dimensions {wrong[0]}: the model's vectors have {full} values")
    return (full, *sorted(shorter, reverse=True))
