"""Small random SentenceTransformers, saved as a user would have them on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from model_bake.corpus import standard_library_passages

SEED = 20261123
HIDDEN = 32
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def save_bert(
    folder: Path,
    *,
    pooling: str | tuple[str, ...] = "mean",
    normalize: bool = True,
    extra: tuple[Any, ...] = (),
    max_tokens: int = 48,
    prompts: Mapping[str, str] | None = None,
    include_prompt: bool = True,
) -> SentenceTransformer:
    """Save a two-layer BERT with a word tokenizer, and return it as loaded again."""
    encoder = folder.parent / f"{folder.name}-encoder"
    words = _save_encoder(encoder)
    transformer = Transformer(str(encoder), max_seq_length=max_tokens)
    modules = [transformer, Pooling(HIDDEN, pooling, include_prompt=include_prompt), *extra]
    if normalize:
        modules.append(Normalize())
    model = SentenceTransformer(modules=modules, prompts=dict(prompts or {}), device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
    assert words > 500
    saved: SentenceTransformer = SentenceTransformer(str(folder), device="cpu")
    return saved


def _save_encoder(folder: Path) -> int:
    """Write config, weights and tokenizer; returns the vocabulary's size."""
    text = " ".join(passage.text.lower() for passage in standard_library_passages(limit=300))
    words = sorted(set(text.split()))
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    fast.save_pretrained(str(folder))
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(str(folder))
    return len(vocabulary)
