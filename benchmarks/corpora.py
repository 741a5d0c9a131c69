"""Three corpora out of what every Python installation carries, the same on every run of one Python version."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_bake.corpus import Passage

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SEED = 20261124
MAX_TOKENS = 256
SHORT_TOKENS = range(10, 21)
MIXED_TOKENS = range(16, MAX_TOKENS + 1)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts and their numbers of tokens, special ones included."""

    name: str
    texts: tuple[str, ...]
    tokens: tuple[int, ...]

    def write(self, folder: Path) -> Path:
        """Write the texts for the workers, return where."""
        path = folder / f"{self.name}.json"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.texts), encoding="utf-8")
        return path

    def of_length(self, tokens: int, most: int) -> Corpus:
        """Return the first texts of exactly so many tokens."""
        texts = [text for text, count in zip(self.texts, self.tokens, strict=True) if count == tokens][:most]
        return Corpus(f"{tokens}_tokens", tuple(texts), (tokens,) * len(texts))


@dataclass(frozen=True, slots=True)
class Counted:
    """A text and its number of tokens."""

    text: str
    tokens: int


# short: one-line summaries. mixed: passages as long as they are, most of them short, a few at the limit.
# long: texts that fill the model's 256 tokens.
NAMES = ("short", "mixed", "long")


def make_corpora(tokenizer_file: Path, found: Sequence[Passage], sizes: Mapping[str, int]) -> dict[str, Corpus]:
    """Return the corpora of the given sizes by name, each at most as large as there is text for."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    passages = [passage.text for passage in found]
    makers: dict[str, Callable[[Tokenizer, Sequence[str]], list[Counted]]] = {
        "short": _summaries,
        "mixed": _passages,
        "long": _full,
    }
    return {name: _drawn(name, makers[name](tokenizer, passages), size) for name, size in sizes.items()}


def _drawn(name: str, found: Sequence[Counted], size: int) -> Corpus:
    drawn = random.Random(SEED).sample(found, min(size, len(found)))  # noqa: S311 - not for secrets
    return Corpus(name, tuple(each.text for each in drawn), tuple(each.tokens for each in drawn))


def _summaries(tokenizer: Tokenizer, passages: Sequence[str]) -> list[Counted]:
    firsts = [re.split(r"(?<=[.!?]) ", passage, maxsplit=1)[0] for passage in passages]
    return [each for each in _counted(tokenizer, firsts) if each.tokens in SHORT_TOKENS]


def _passages(tokenizer: Tokenizer, passages: Sequence[str]) -> list[Counted]:
    return [each for each in _counted(tokenizer, passages) if each.tokens in MIXED_TOKENS]


def _full(tokenizer: Tokenizer, passages: Sequence[str]) -> list[Counted]:
    """Return consecutive pieces of the long passages, cut where 256 tokens end: nobody pays for text cut off."""
    pieces = [piece for passage in passages for piece in _pieces(tokenizer, passage)]
    return [each for each in _counted(tokenizer, pieces) if each.tokens == MAX_TOKENS]


def _pieces(tokenizer: Tokenizer, passage: str) -> Iterator[str]:
    offsets = tokenizer.encode(passage, add_special_tokens=False).offsets
    size = MAX_TOKENS - tokenizer.num_special_tokens_to_add(is_pair=False)
    for start in range(0, len(offsets) - size + 1, size):
        yield passage[offsets[start][0] : offsets[start + size - 1][1]]


def _counted(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Counted]:
    distinct = list(dict.fromkeys(texts))
    encodings = tokenizer.encode_batch(distinct)
    return [Counted(text, len(encoding.ids)) for text, encoding in zip(distinct, encodings, strict=True)]
