"""Small random SentenceTransformers, saved as a user would have them on disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from model_bake.corpus import standard_library_passages

SEED = 20261123
HIDDEN = 32
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def save_model(
    folder: Path,
    architecture: str = "bert",
    *,
    pooling: str | tuple[str, ...] = "mean",
    normalize: bool = True,
    extra: tuple[Any, ...] = (),
    max_tokens: int = 48,
    prompts: Mapping[str, str] | None = None,
    include_prompt: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> SentenceTransformer:
    """Save a two-layer encoder with a word tokenizer; return it as loaded again.

    extra: modules after the pooling. settings: more of config.json.
    """
    encoder = folder.parent / f"{folder.name}-encoder"
    words = save_tokenizer(encoder, types=architecture not in WITHOUT_TYPES)
    save_family(encoder, architecture, settings={"vocab_size": words, **(settings or {})})
    transformer = Transformer(str(encoder), max_seq_length=max_tokens)
    hidden = transformer.get_embedding_dimension()
    modules = [transformer, Pooling(hidden, pooling, include_prompt=include_prompt), *extra]
    return _save_modules(folder, [*modules, Normalize()] if normalize else modules, prompts)


def save_static(folder: Path, *, prompts: Mapping[str, str] | None = None) -> SentenceTransformer:
    """Save a table of random token vectors, as model2vec's models are."""
    words = save_tokenizer(folder.parent / f"{folder.name}-tokenizer")
    tokenizer = Tokenizer.from_file(str(folder.parent / f"{folder.name}-tokenizer" / "tokenizer.json"))
    table = np.random.default_rng(SEED).normal(size=(words, HIDDEN)).astype(np.float32)
    return _save_modules(folder, [StaticEmbedding(tokenizer, embedding_weights=table), Normalize()], prompts)


def _save_modules(folder: Path, modules: list[Any], prompts: Mapping[str, str] | None) -> SentenceTransformer:
    model = SentenceTransformer(modules=modules, prompts=dict(prompts or {}), device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
    saved: SentenceTransformer = SentenceTransformer(str(folder), device="cpu")
    return saved


def save_cross_encoder(
    folder: Path,
    architecture: str = "bert",
    *,
    labels: int = 1,
    activation: Any = None,
    max_tokens: int = 48,
    settings: Mapping[str, Any] | None = None,
) -> CrossEncoder:
    """Save a two-layer cross-encoder with a word tokenizer; return it as loaded again. settings: as `save_model`."""
    plain = folder.parent / f"{folder.name}-plain"
    words = save_tokenizer(plain, types=architecture not in WITHOUT_TYPES)
    save_family(plain, architecture, labels=labels, settings={"vocab_size": words, **(settings or {})})
    model = CrossEncoder(str(plain), device="cpu", max_length=max_tokens, activation_fn=activation)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(folder))
    saved: CrossEncoder = CrossEncoder(str(folder), device="cpu")
    return saved


def save_tokenizer(folder: Path, *, types: bool = True) -> int:
    """Save a fast word tokenizer for texts and pairs; returns the vocabulary's size. types: whether it tells types."""
    text = " ".join(passage.text.lower() for passage in standard_library_passages(limit=300))
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *sorted(set(text.split()))])}
    assert len(vocabulary) > 500
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", *(["token_type_ids"] if types else []), "attention_mask"],
    )
    fast.save_pretrained(str(folder))
    return len(vocabulary)


# What BERT-like configurations call the same sizes, for a small model.
_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
_SIZES = {"num_hidden_layers": 2, "hidden_size": HIDDEN, "num_attention_heads": 4, "intermediate_size": 64}
FAMILY_SIZES: Mapping[str, Mapping[str, int]] = {
    "distilbert": {"n_layers": 2, "dim": HIDDEN, "n_heads": 4, "hidden_dim": 64},
    "electra": {**_SIZES, "embedding_size": HIDDEN},
    "albert": {**_SIZES, "embedding_size": HIDDEN},
    # A window of 16 tokens in every other layer: shorter than the texts, so that losing it would show.
    "modernbert": {**_SIZES, "local_attention": 16, "global_attn_every_n_layers": 2, **dict.fromkeys(_TOKENS, 0)},
}
WITHOUT_TYPES = {"distilbert", "mpnet", "modernbert", "roberta", "xlm-roberta", "camembert"}
FAMILY_VOCABULARY = 100


def save_family(
    folder: Path, model_type: str, *, labels: int | None = None, settings: Mapping[str, Any] | None = None
) -> Any:
    """Save a two-layer model of a BERT-like family, without a tokenizer, and return it.

    labels: how many a cross-encoder has; None for a bare encoder. settings: more of config.json.
    """
    common = {"vocab_size": FAMILY_VOCABULARY, "max_position_embeddings": 64, "initializer_range": 0.2}
    sizes: dict[str, Any] = {**common, **FAMILY_SIZES.get(model_type, _SIZES), **(settings or {})}
    config: Any = CONFIG_MAPPING[model_type](**sizes)
    torch.manual_seed(SEED)
    config._attn_implementation = "eager"
    if labels is None:
        model = AutoModel.from_config(config)
    else:
        config.num_labels = labels
        model = AutoModelForSequenceClassification.from_config(config)
    for name, parameter in model.named_parameters():
        # Made all zeros and ones, gains and biases would hide a mix-up.
        if parameter.ndim == 1 or "token_type" in name:
            parameter.data += torch.randn_like(parameter) * 0.2
    model.eval().save_pretrained(str(folder))
    return model
