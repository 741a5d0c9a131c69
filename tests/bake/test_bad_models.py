"""What people hand to a bake by mistake: one clear line for each, and nothing on disk."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bake_models import save_cross_encoder, save_model
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from embakery.errors import ConfigurationError
from model_bake.bake import Order, bake
from model_bake.gates import Gates
from model_bake.source import card_prompts
from model_bake.spec import CrossEncoderSpec, EncoderSpec, Wishes, read_spec
from model_bake.tokenizer import load_tokenizer

LOOSE = Gates(0.5, 0.5, 0.1, 0.1)


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    content = {key: value for key, value in (content | changes).items() if value is not None}
    path.write_text(json.dumps(content))


def nan_weights(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    weights["embeddings.LayerNorm.weight"][3] = np.nan
    save_file(weights, model / "model.safetensors")


def half_the_weights(model: Path) -> None:
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[: len(data) // 2])


def slow_only(model: Path) -> None:
    (model / "tokenizer.json").rename(model / "vocab.txt")


def another_tokenizer(model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.add_tokens([f"more-{number}" for number in range(10_000)])
    tokenizer.save(str(model / "tokenizer.json"))


def modules(model: Path, *kinds: str) -> None:
    entries = [
        {"idx": i, "name": str(i), "path": "" if i == 0 else "1_Pooling", "type": k} for i, k in enumerate(kinds)
    ]
    (model / "modules.json").write_text(json.dumps(entries))


TRANSFORMER = "sentence_transformers.models.Transformer"

BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no tokenizer": (
        lambda m: (m / "tokenizer.json").unlink(),
        "tokenizer.json: no tokenizer is in the model's folder",
    ),
    "slow tokenizer": (slow_only, "tokenizer.json: only a slow tokenizer (vocab.txt)"),
    "broken tokenizer": (lambda m: (m / "tokenizer.json").write_text("{}"), "tokenizer.json: the tokenizers library"),
    "another model's tokenizer": (another_tokenizer, "tokenizer.json: gives token id"),
    "NaN": (nan_weights, "holds NaN or infinity"),
    "half a file": (half_the_weights, "is broken or truncated"),
    "config gone": (lambda m: (m / "config.json").unlink(), "config.json: is missing"),
    "config broken": (lambda m: (m / "config.json").write_text("{"), "config.json: is not readable JSON"),
    "code of its own": (
        lambda m: edit(m / "config.json", auto_map={"AutoModel": "x.Y"}),
        "(auto_map), which is never run",
    ),
    "adapter": (lambda m: (m / "adapter_config.json").write_text("{}"), "merge the adapter into the model first"),
    "wrong pooling size": (
        lambda m: edit(m / "1_Pooling" / "config.json", embedding_dimension=99),
        "pooling: made for token vectors of 99",
    ),
    "unknown pooling": (
        lambda m: edit(m / "1_Pooling" / "config.json", pooling_mode="attention"),
        "pooling attention:",
    ),
    "sparse": (lambda m: edit(m / "config_sentence_transformers.json", model_type="SparseEncoder"), "SparseEncoder"),
    "foreign module": (lambda m: modules(m, TRANSFORMER, "custom.Pooling"), "module custom.Pooling: code that comes"),
    "no pooling first": (
        lambda m: modules(m, "sentence_transformers.models.CLIPModel"),
        "modules CLIPModel: must begin",
    ),
    "modules elsewhere": (
        lambda m: (m / "modules.json").write_text(json.dumps([{"type": TRANSFORMER, "path": "../other"}])),
        "leads out of the model's folder",
    ),
    "modules no list": (
        lambda m: (m / "modules.json").write_text("{}"),
        "modules.json: is not a JSON array of objects",
    ),
    "relative positions": (
        lambda m: edit(m / "config.json", position_embedding_type="relative_key"),
        "position_embedding_type",
    ),
    "unknown architecture": (lambda m: edit(m / "config.json", model_type="spaceship"), "spaceship"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_model_is_refused_by_name(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    save_model(tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(ConfigurationError) as refused:
        bake(Order(str(tmp_path / "model")), tmp_path / "out" / "artifact")
    assert message in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"reranker": "model"}, "is not a cross-encoder"),
        ({"model": "cross", "reranker": "cross"}, "only an encoder can have one beside it"),
        ({"reranker": "three"}, "gives 3 labels, a reranker one"),
        ({"wishes": Wishes(max_tokens=1000)}, "--max-tokens 1000: the model has 64 positions"),
        ({"model": "cross", "wishes": Wishes(max_tokens=4)}, "max tokens 4: the special tokens and two texts need 5"),
        ({"wishes": Wishes(max_tokens=2)}, "max tokens 2: the special tokens, the prompt and a text need 3"),
        ({"wishes": Wishes(max_tokens=4, prompts={"query": "a b"})}, "a text need 5"),
        ({"wishes": Wishes(dimensions=(64,))}, "--dimensions 64: the model's vectors have 32 values"),
    ],
)
def test_a_bad_order_is_refused(tmp_path: Path, order: dict[str, Any], message: str) -> None:
    save_model(tmp_path / "model")
    save_cross_encoder(tmp_path / "cross")
    save_cross_encoder(tmp_path / "three", labels=3)
    places: dict[str, Any] = {"model": str(tmp_path / "model")}
    places |= {key: str(tmp_path / value) if isinstance(value, str) else value for key, value in order.items()}
    with pytest.raises(ConfigurationError) as refused:
        bake(Order(**places), tmp_path / "out" / "artifact")
    assert message in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_is_full_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """A real limit on files' sizes, in a process of its own."""
    save_model(tmp_path / "model")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = [sys.executable, "-m", "embakery", "bake", str(tmp_path / "model"), "--out", str(tmp_path / "out" / "a")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 3
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_wishes_and_cards(tmp_path: Path) -> None:
    save_model(tmp_path / "model", prompts={"query": "ask: "})
    wishes = Wishes(max_tokens=60, dimensions=(8, 16), prompts={"document": "text: "})
    spec = read_spec(tmp_path / "model", wishes=wishes, card_prompts={"query": "query: "})
    assert isinstance(spec, EncoderSpec)
    assert (spec.max_tokens, spec.dimensions) == (60, (32, 16, 8))
    assert spec.prompts == {"query": "ask: ", "document": "text: "}
    save_model(tmp_path / "plain")
    carded = read_spec(tmp_path / "plain", wishes=Wishes(), card_prompts=card_prompts("intfloat/e5-small-v2"))
    assert isinstance(carded, EncoderSpec)
    assert carded.prompts == {"query": "query: ", "document": "passage: "}
    assert card_prompts("BAAI/bge-small-en-v1.5")["query"].startswith("Represent this sentence")
    assert card_prompts("someone/else") == {}


def test_legacy_files_are_understood(tmp_path: Path) -> None:
    """As sentence-transformers 2 wrote them: pooling by flags, limits in a file, activation in config.json."""
    save_model(tmp_path / "model")
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    (tmp_path / "model" / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (tmp_path / "model" / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 20, "do_lower_case": True})
    )
    spec = read_spec(tmp_path / "model", wishes=Wishes(), card_prompts={})
    assert isinstance(spec, EncoderSpec)
    assert (spec.pooling, spec.max_tokens, spec.lower_cases) == (("cls", "mean"), 20, True)

    save_cross_encoder(tmp_path / "cross")
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (tmp_path / "cross" / name).unlink()
    edit(tmp_path / "cross" / "config.json", sentence_transformers={"activation_fn": "torch.nn.Identity"})
    cross = read_spec(tmp_path / "cross", wishes=Wishes(), card_prompts={})
    assert isinstance(cross, CrossEncoderSpec)
    assert (cross.labels, cross.activation, cross.max_tokens) == (1, "identity", 48)


def test_the_tokenizer_is_corrected_as_transformers_does(tmp_path: Path) -> None:
    """tokenizer_config.json overrules tokenizer.json, as it does in BertTokenizerFast."""
    from tokenizers import models, normalizers, pre_tokenizers
    from transformers import BertTokenizerFast

    vocabulary = {
        word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cafe", "café", "Cafe"])
    }
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=False)
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    save_model(tmp_path / "model")
    for case in (True, False):
        raw.save(str(tmp_path / "model" / "tokenizer.json"))
        config: dict[str, Any] = {"tokenizer_class": "BertTokenizer", "do_lower_case": case, "added_tokens_decoder": {}}
        (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(config))
        spec = read_spec(tmp_path / "model", wishes=Wishes(max_tokens=48), card_prompts={})
        ours = load_tokenizer(spec)
        theirs = BertTokenizerFast.from_pretrained(str(tmp_path / "model"))
        for text in ("Café", "Cafe cafe", "CAFÉ"):
            expected = theirs(text, add_special_tokens=False)["input_ids"]
            assert ours.encode(text, add_special_tokens=False).ids == expected
