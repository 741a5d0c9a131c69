"""The fast tokenizer as the original would use it: tokenizer.json, corrected by tokenizer_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from tokenizers import Tokenizer, normalizers

from embakery.errors import ConfigurationError
from model_bake.files import read_json_if_there
from model_bake.spec import STATIC, EncoderSpec, Spec

_SLOW_FILES = ("vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")

# transformers lets tokenizer_config.json overrule the normalizer of these classes, and the prefix space of the others.
_BERT_LIKE = {"bert": "Bert", "distilbert": "DistilBert", "mpnet": "MPNet", "electra": "Electra"}
_BYTE_LEVEL = {"roberta": "Roberta"}


def load_tokenizer(spec: Spec) -> Tokenizer:
    """Load a model's fast tokenizer, without padding and truncation. Raises ConfigurationError."""
    tokenizer = _open(spec.folder)
    config = read_json_if_there(spec.folder / "tokenizer_config.json")
    name = str(config.get("tokenizer_class") or _default_class(spec.architecture)).removesuffix("Fast")
    if name in {f"{prefix}Tokenizer" for prefix in _BERT_LIKE.values()}:
        tokenizer = _with_bert_normalizer(tokenizer, config)
    if name in {f"{prefix}Tokenizer" for prefix in _BYTE_LEVEL.values()}:
        tokenizer = _with_prefix_space(tokenizer, config)
    if spec.lower_cases:
        _lower_cases(tokenizer)
    _check_added_tokens(tokenizer, config)
    if spec.architecture == STATIC:
        # A static model knows no special tokens.
        tokenizer = _edited(tokenizer, {"post_processor": None})
    tokenizer.no_padding()
    tokenizer.no_truncation()
    _check_room(tokenizer, spec)
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, graph: onnx.GraphProto) -> None:
    """Refuse a tokenizer that gives ids beyond the rows of the graph's table."""
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    tables = [node.input[0] for node in graph.node if node.op_type == "Gather" and node.input[1] == "input_ids"]
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    for table in tables:
        if table in rows and highest >= rows[table]:
            raise ConfigurationError(
                f"tokenizer.json: gives token id {highest}, the model's table has {rows[table]} rows; "
                "the tokenizer is not this model's"
            )


def _open(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        slow = next((name for name in _SLOW_FILES if (folder / name).exists()), None)
        found = f"only a slow tokenizer ({slow})" if slow else "no tokenizer"
        raise ConfigurationError(
            f"tokenizer.json: {found} is in the model's folder, a fast one is needed; transformers' "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...) writes it for most models"
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises Exception itself
        raise ConfigurationError("tokenizer.json: the tokenizers library cannot read it") from error


def _default_class(architecture: str) -> str:
    return f"{(_BERT_LIKE | _BYTE_LEVEL).get(architecture, '')}Tokenizer"


def _with_bert_normalizer(tokenizer: Tokenizer, config: Mapping[str, Any]) -> Tokenizer:
    state = json.loads(tokenizer.to_str())["normalizer"]
    if not state or state.get("type") != "BertNormalizer":
        return tokenizer
    wanted = {
        "lowercase": config.get("do_lower_case", True),
        "strip_accents": config.get("strip_accents"),
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
    }
    return _edited(tokenizer, {"normalizer": {**state, **wanted}})


def _with_prefix_space(tokenizer: Tokenizer, config: Mapping[str, Any]) -> Tokenizer:
    state = json.loads(tokenizer.to_str())["pre_tokenizer"]
    if not state or state.get("type") != "ByteLevel":
        return tokenizer
    prefix = bool(config.get("add_prefix_space", False))
    return _edited(tokenizer, {"pre_tokenizer": {**state, "add_prefix_space": prefix}})


def _edited(tokenizer: Tokenizer, change: Mapping[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | change))


def _lower_cases(tokenizer: Tokenizer) -> None:
    present = tokenizer.normalizer
    steps = list(present) if isinstance(present, normalizers.Sequence) else [present] if present is not None else []
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def _check_room(tokenizer: Tokenizer, spec: Spec) -> None:
    """Refuse a limit that leaves no token for a text, or for one of a pair."""
    if isinstance(spec, EncoderSpec):
        prompts = [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in spec.prompts.values()]
        taken = tokenizer.num_special_tokens_to_add(is_pair=False) + max(map(len, prompts), default=0)
        what, needed = "the special tokens, the prompt and a text", taken + 1
    else:
        what, needed = "the special tokens and two texts", tokenizer.num_special_tokens_to_add(is_pair=True) + 2
    if spec.max_tokens < needed:
        raise ConfigurationError(f"max tokens {spec.max_tokens}: {what} need {needed} at least")


def _check_added_tokens(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    """Refuse tokens that only tokenizer_config.json knows: the original would add them, and count ids otherwise."""
    known = tokenizer.get_vocab(with_added_tokens=True)
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        content = token.get("content") if isinstance(token, dict) else None
        if known.get(str(content)) != int(number):
            raise ConfigurationError(
                f"tokenizer_config.json: adds token id {number}, which tokenizer.json lacks; save the tokenizer again "
                "with transformers, so that the two agree"
            )
