"""The texts that the bake calibrates on and certifies with.

Calibration text is the project's own and the same everywhere, since the weights' rounding depends on it. Certificates
are measured on other text: held-out passages of many kinds, this Python's documentation, and texts of chosen lengths.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from embakery.texts import TextTokenizer, TokenIds, TokenizedText
from model_bake import corpus

SEED = 20261123
_FOLDER = Path(__file__).parent / "passages"
_DOCUMENTATION = 200
_PER_LENGTH = 10
_JOINED_CHARACTERS = 1100
_QUERIES = 12
_CANDIDATES = 24
_LENGTHS = (4, 8, 16, 32, 64, 128, 256, 512)

# What the golden vectors are made of. Short, long, cased, accented, not Latin: each takes another path.
GOLDEN_TEXTS = (
    "hello world",
    "The same text gets the same bits.",
    "Zürich, São Paulo and Kraków are 3 cities; naïve café façade.",
    "機械学習 and машинное обучение",
    "A vector does not depend on what it was batched with, how many threads ran, or whether it came from the cache. "
    * 6,
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A text and its kind: `science`, `question`, `code` and so on."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A tokenized text, and its kind."""

    kind: str
    ids: TokenIds


def calibration_passages() -> list[Passage]:
    """Return the passages that quantization is calibrated on."""
    return _read("calibration.jsonl")


def joined_passages(texts: Sequence[str]) -> list[str]:
    """Return the same texts, shuffled and joined to long ones: calibration needs words at late positions too."""
    order = random.Random(SEED).sample(texts, len(texts))  # noqa: S311 - not for secrets
    joined, current = [], ""
    for text in order:
        current += f"{text} "
        if len(current) > _JOINED_CHARACTERS:
            joined.append(current)
            current = ""
    return joined


def held_out_passages() -> list[Passage]:
    """Return passages of the same kinds that calibration never sees."""
    return _read("held_out.jsonl")


def certificate_samples(open_tokenizer: Callable[[int], TextTokenizer], max_tokens: int) -> list[Sample]:
    """Return what a certificate is measured on: every kind of text, then chosen lengths up to the model's limit.

    open_tokenizer: gives the model's tokenizer with a limit of so many tokens.
    """
    draw = random.Random(SEED)  # noqa: S311 - not for secrets
    passages = held_out_passages() + _documentation(draw)
    sets = [("", passages, max_tokens)]
    for length in (length for length in _LENGTHS if length <= max_tokens):
        sets.append((f"{length} tokens", _joined(passages, length, draw), length))
    samples = []
    for kind, texts, limit in sets:
        ids = token_ids(open_tokenizer(limit), [passage.text for passage in texts])
        samples += [Sample(kind or passage.kind, one) for passage, one in zip(texts, ids, strict=True) if one]
    return samples


def pair_texts() -> list[tuple[str, list[str]]]:
    """Return queries, each with the passages that a cross-encoder is certified on."""
    draw = random.Random(SEED)  # noqa: S311 - not for secrets
    passages = held_out_passages()
    queries = [passage.text for passage in passages if passage.kind in {"question", "claim"}]
    candidates = [passage.text for passage in passages] + [passage.text for passage in _documentation(draw)]
    return [(query, draw.sample(candidates, _CANDIDATES)) for query in queries[:_QUERIES]]


def token_ids(tokenizer: TextTokenizer, texts: Sequence[str], *, input_type: str = "document") -> list[TokenIds]:
    """Tokenize texts; one that holds nothing the model's tokenizer knows gives no ids."""
    tokenized = tokenizer.tokenize(texts, input_type=input_type)
    return [item.ids if isinstance(item, TokenizedText) else () for item in tokenized]


def _documentation(draw: random.Random) -> list[Passage]:
    passages = corpus.standard_library_passages(limit=4 * _DOCUMENTATION)
    return [Passage("documentation", passage.text) for passage in draw.sample(passages, _DOCUMENTATION)]


def _joined(passages: Sequence[Passage], tokens: int, draw: random.Random) -> list[Passage]:
    """Texts of about so many tokens or more; the tokenizer cuts them to length."""
    texts = []
    for _ in range(_PER_LENGTH):
        text = ""
        while len(text) < 12 * tokens:
            text += draw.choice(passages).text + " "
        texts.append(Passage("", text))
    return texts


def _read(name: str) -> list[Passage]:
    lines = (_FOLDER / name).read_text(encoding="utf-8").splitlines()
    return [Passage(**json.loads(line)) for line in lines]
