"""Cross-encoders at run time: the original's tokens and scores, and the same bits however pairs are batched."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bake_models import save_cross_encoder
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from embakery import CrossEncoder
from embakery.pairs import PairTokenizer, TokenizedPair
from model_bake.bake import Order, bake
from model_bake.corpus import standard_library_passages
from model_bake.gates import Gates
from model_bake.quantize import Precision

SEED = 20261123
MAX_TOKENS = 48
# Two float32 paths to one number. Random weights give scores of a few units at most.
TOLERANCE = 1e-5
# Not the subject here.
LOOSE = Gates(min_rank_agreement=0.5)
PASSAGES = [passage.text for passage in standard_library_passages(limit=400)]
ODD = [
    "x",
    "  spaces before and after  ",
    "line\nbreaks\tand tabs",
    "Zürich, façade; naïve café",
    "今日は良い天気ですね",
    "🙂🙃 emoji and co\u0301mbining",
    "a special token [SEP] in a text </s>",
    "punctuation...?!,;:()[]{}",
]


def random_pairs(count: int) -> list[tuple[str, str]]:
    """Pairs of all lengths: both short, one long, both long."""
    draw = random.Random(SEED)

    def text() -> str:
        if draw.random() < 0.2:
            return draw.choice(ODD)
        words = draw.choice(PASSAGES).split()
        return " ".join(words[: draw.choice([1, 2, 3, 8, 15, 22, 23, 24, 40, 200])])

    return [(text(), text()) for _ in range(count)]


PAIRS = random_pairs(400)


# Tokens


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(PASSAGES, trainers.WordPieceTrainer(vocab_size=2000, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(PASSAGES, trainers.BpeTrainer(vocab_size=2000, special_tokens=special))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=1000, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(PASSAGES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def without_frame() -> Tokenizer:
    """No special tokens around the texts; the library tells them apart by type all the same."""
    tokenizer = byte_level()
    tokenizer.post_processor = processors.ByteLevel()
    return tokenizer


@pytest.mark.parametrize("make", [word_piece, byte_level, unigram, without_frame])
def test_tokens_types_and_truncation_are_those_of_transformers(tmp_path: Path, make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    kind: Any = PreTrainedTokenizerFast
    original = kind(tokenizer_object=tokenizer)
    truncated = set()
    for max_tokens in (8, 9, 16, 33, MAX_TOKENS, 128, 512):
        ours = PairTokenizer(tmp_path / "tokenizer.json", max_tokens=max_tokens).tokenize(PAIRS)
        theirs = original(
            [query for query, _ in PAIRS],
            [document for _, document in PAIRS],
            truncation=True,
            max_length=max_tokens,
            return_token_type_ids=True,
        )
        whole = original([query for query, _ in PAIRS], [document for _, document in PAIRS], truncation=False)
        for index, pair in enumerate(ours):
            assert isinstance(pair, TokenizedPair)
            assert list(pair.ids) == theirs["input_ids"][index]
            assert list(pair.types) == theirs["token_type_ids"][index]
            assert pair.truncated == (len(whole["input_ids"][index]) > max_tokens)
            truncated.add(pair.truncated)
    assert truncated == {True, False}


# Scores


@pytest.mark.parametrize(
    ("architecture", "activation", "labels"),
    [("bert", None, 1), ("roberta", nn.Identity(), 1), ("bert", None, 3)],
    ids=["bert-sigmoid", "roberta-identity", "bert-three-labels"],
)
def test_scores_are_the_original_s(tmp_path: Path, architecture: str, activation: Any, labels: int) -> None:
    original = save_cross_encoder(
        tmp_path / "model", architecture, activation=activation, labels=labels, max_tokens=MAX_TOKENS
    )
    bake(Order(str(tmp_path / "model"), precision="fp32", gates=LOOSE), tmp_path / "artifact")
    ours = CrossEncoder.load(tmp_path / "artifact")
    given: list[Any] = list(PAIRS)
    theirs = np.asarray(original.predict(given)).reshape(len(PAIRS), -1)
    assert np.abs(theirs - theirs.mean(axis=0)).max() > 0.01
    difference = float(np.abs(ours.predict(PAIRS) - theirs).max())
    print(f"largest difference to sentence-transformers over {len(PAIRS)} pairs: {difference:.2g}")
    assert difference <= TOLERANCE
    if labels == 1:
        query, documents = PAIRS[0][0], [document for _, document in PAIRS[:100]]
        ranks: Any = original.rank(query, documents)
        scores = {line["corpus_id"]: float(line["score"]) for line in ranks}
        assert ours.scores(query, documents) == pytest.approx([scores[index] for index in range(100)], abs=TOLERANCE)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_pair_gets_the_same_bits(tmp_path: Path, precision: Precision) -> None:
    save_cross_encoder(tmp_path / "model", max_tokens=MAX_TOKENS)
    bake(Order(str(tmp_path / "model"), precision=precision, gates=LOOSE), tmp_path / "artifact")
    one_thread, two_threads = (CrossEncoder.load(tmp_path / "artifact", threads=threads) for threads in (1, 2))
    one_thread.require_golden()
    alone = [bits(one_thread, [pair])[0] for pair in PAIRS]
    assert len(set(alone)) > 100
    assert bits(one_thread, PAIRS) == alone
    assert bits(two_threads, PAIRS) == alone
    order = random.Random(SEED + 1).sample(range(len(PAIRS)), len(PAIRS))
    assert bits(two_threads, [PAIRS[index] for index in order]) == [alone[index] for index in order]
    parts = [range(start, len(PAIRS), 8) for start in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda part: bits(two_threads, [PAIRS[index] for index in part]), parts))
    assert answers == [[alone[index] for index in part] for part in parts]


def bits(model: CrossEncoder, pairs: list[tuple[str, str]]) -> list[bytes]:
    return [row.tobytes() for row in model.predict(pairs)]
