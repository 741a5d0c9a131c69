"""From a query and a document to one input of a cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from embakery.errors import InvalidRequestError
from embakery.texts import TokenIds


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

    A pair that is too long loses tokens from the end of its longer text (`longest_first`), as with the original.
    """

    def __init__(self, path: Path, *, max_tokens: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, strategy="longest_first")

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> list[TokenizedPair | InvalidRequestError]:
        """Tokenize pairs of texts that `check_text` let pass.

        A pair of which a text yields no tokens gives an error in its place, under `query` or `document`.
        """
        return [_finish(encoding) for encoding in self._tokenizer.encode_batch_fast(list(pairs))]


def _finish(encoding: Encoding) -> TokenizedPair | InvalidRequestError:
    present = set(encoding.sequence_ids)
    for number, name in enumerate(("query", "document")):
        if number not in present:
            return InvalidRequestError(name, "holds nothing that the model's tokenizer knows")
    return TokenizedPair(tuple(encoding.ids), tuple(encoding.type_ids), truncated=bool(encoding.overflowing))
