"""From a query and a document to one input of a cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from embakery.errors import InvalidRequestError
from embakery.texts import TokenIds

_QUERY, _DOCUMENT = 0, 1


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    """A pair as the cross-encoder sees it.

    ids: final token ids, special tokens included. types: each token's type, 0 for the query and 1 for the document
    where the model tells them apart. truncated: whether tokens were cut off to fit the model.
    """

    ids: TokenIds
    types: TokenIds
    truncated: bool


class PairTokenizer:
    """A cross-encoder's tokenizer with its length limit.

    A pair that is too long loses tokens from the end of its longer text (`longest_first`), as with the original. The
    tokenizers library is not asked to do it: it keeps every combination of what it cuts off, 4 GB for two texts of
    60,000 characters.
    """

    def __init__(self, path: Path, *, max_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._room = max_tokens - self._tokenizer.num_special_tokens_to_add(is_pair=True)
        self._frame: tuple[_Part, ...] | None = None

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> list[TokenizedPair | InvalidRequestError]:
        """Tokenize pairs of texts that `check_text` let pass; each text once, however many pairs hold it.

        A pair of which a text yields no tokens gives an error in its place, under `query` or `document`.
        """
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        tokens = {text: self._shortened(encoding) for text, encoding in zip(texts, encodings, strict=True)}
        return [self._finish(pair, tokens[pair[_QUERY]], tokens[pair[_DOCUMENT]]) for pair in pairs]

    def _shortened(self, encoding: Encoding) -> _Tokens:
        return _Tokens(tuple(encoding.ids[: self._room]), len(encoding.ids))

    def _finish(self, pair: tuple[str, str], query: _Tokens, document: _Tokens) -> TokenizedPair | InvalidRequestError:
        for name, tokens in (("query", query), ("document", document)):
            if tokens.length == 0:
                return InvalidRequestError(name, "holds nothing that the model's tokenizer knows")
        if self._frame is None:
            # Any pair shows it: what surrounds two texts does not depend on them.
            self._frame = _frame(self._tokenizer.encode_batch_fast([pair])[0])
        kept = longest_first(query.length, document.length, self._room)
        texts = {_QUERY: query.ids[: kept[_QUERY]], _DOCUMENT: document.ids[: kept[_DOCUMENT]]}
        ids: list[int] = []
        types: list[int] = []
        for part in self._frame:
            added = (part.token,) if part.text is None else texts[part.text]
            ids += added
            types += [part.type] * len(added)
        return TokenizedPair(tuple(ids), tuple(types), truncated=kept != (query.length, document.length))


def longest_first(query: int, document: int, room: int) -> tuple[int, int]:
    """Return how many tokens of each text to keep: those of Hugging Face's `longest_first`.

    The longer text is cut down to the shorter one, then both; where they cannot be equal, it keeps one more.
    """
    if query + document <= room:
        return query, document
    shorter = min(query, document, room // 2)
    return (shorter, room - shorter) if query <= document else (room - shorter, shorter)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A text's ids, as far as they can be needed, and how many there are."""

    ids: TokenIds
    length: int


@dataclass(frozen=True, slots=True)
class _Part:
    """A special token of an input, or the place of a text (`text` is its number), and the type."""

    text: int | None
    token: int
    type: int


def _frame(encoding: Encoding) -> tuple[_Part, ...]:
    """Read off a pair's encoding what the tokenizer's post-processor puts around two texts."""
    parts: list[_Part] = []
    places = zip(encoding.sequence_ids, encoding.ids, encoding.type_ids, strict=True)
    for text, token, type_ in places:
        if text is None or all(part.text != text for part in parts):
            parts.append(_Part(text, token, type_))
    return tuple(parts)
