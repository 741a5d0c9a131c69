"""Pairs of texts: special tokens, types, and what is cut off."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors
from unit_fakes import write_tokenizer

from embakery.errors import InvalidRequestError
from embakery.pairs import PairTokenizer, TokenizedPair, longest_first

CLS, SEP, UNK = 1, 2, 0
A, B, C, D, E = 3, 4, 5, 6, 7


@pytest.fixture
def tokenizer(tmp_path: Path) -> PairTokenizer:
    return PairTokenizer(write_tokenizer(tmp_path / "tokenizer.json"), max_tokens=8)


def one(tokenizer: PairTokenizer, query: str, document: str) -> TokenizedPair | InvalidRequestError:
    (pair,) = tokenizer.tokenize([(query, document)])
    return pair


def test_special_tokens_and_types(tokenizer: PairTokenizer) -> None:
    expected = TokenizedPair((CLS, A, B, SEP, C, SEP), (0, 0, 0, 0, 1, 1), truncated=False)
    assert one(tokenizer, "a b", "c") == expected


@pytest.mark.parametrize(
    ("query", "document", "ids"),
    [
        ("a b", "c d e", (CLS, A, B, SEP, C, D, E, SEP)),
        ("a b", "c d e a b", (CLS, A, B, SEP, C, D, E, SEP)),
        ("a b c d e", "a", (CLS, A, B, C, D, SEP, A, SEP)),
        # Both are too long: equal parts, and the odd token goes to the longer text, to the document if they are equal.
        ("a b c d", "a b c d e", (CLS, A, B, SEP, A, B, C, SEP)),
        ("a b c d e", "a b c d", (CLS, A, B, C, SEP, A, B, SEP)),
        ("a b c d", "e d c b", (CLS, A, B, SEP, E, D, C, SEP)),
        ("a " * 100, "b", (CLS, A, A, A, A, SEP, B, SEP)),
    ],
)
def test_the_longer_text_is_cut_first(
    tokenizer: PairTokenizer, query: str, document: str, ids: tuple[int, ...]
) -> None:
    pair = one(tokenizer, query, document)
    assert isinstance(pair, TokenizedPair)
    assert pair.ids == ids
    assert pair.types == tuple(int(place > ids.index(SEP)) for place in range(len(ids)))
    assert pair.truncated == (len(query.split()) + len(document.split()) > 5)


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [
        ((2, 3), 5, (2, 3)),
        ((0, 9), 5, (0, 5)),
        ((1, 9), 5, (1, 4)),
        ((9, 1), 5, (4, 1)),
        ((9, 2), 5, (3, 2)),
        ((3, 3), 5, (2, 3)),
        ((4, 3), 5, (3, 2)),
        ((3, 4), 5, (2, 3)),
        ((4, 4), 6, (3, 3)),
        ((9, 9), 1, (0, 1)),
    ],
)
def test_longest_first(lengths: tuple[int, int], room: int, kept: tuple[int, int]) -> None:
    assert longest_first(*lengths, room) == kept


def test_longest_first_as_the_library_does_it(tmp_path: Path) -> None:
    """Every pair of lengths, every room: the tokenizers library's own truncation, with its own special tokens."""
    library = Tokenizer.from_file(str(write_tokenizer(tmp_path / "tokenizer.json")))
    for max_tokens in (5, 6, 9, 12):
        library.enable_truncation(max_tokens, strategy="longest_first")
        ours = PairTokenizer(tmp_path / "tokenizer.json", max_tokens=max_tokens)
        pairs = [(" ".join(["a"] * n), " ".join(["b"] * m)) for n in range(1, 14) for m in range(1, 14)]
        for pair, theirs in zip(ours.tokenize(pairs), library.encode_batch(pairs), strict=True):
            assert pair == TokenizedPair(tuple(theirs.ids), tuple(theirs.type_ids), bool(theirs.overflowing))


@pytest.mark.parametrize(
    ("query", "document", "field"),
    [("\u200b", "a", "query"), ("a", "\u200b", "document"), ("\u200b", "\u200b", "query")],
)
def test_a_text_without_tokens_is_refused_in_its_place(
    tokenizer: PairTokenizer, query: str, document: str, field: str
) -> None:
    good, bad, last = tokenizer.tokenize([("a", "b"), (query, document), ("c", "d")])
    assert isinstance(bad, InvalidRequestError)
    assert (bad.field, bad.problem) == (field, "holds nothing that the model's tokenizer knows")
    assert [good, last] == [one(tokenizer, "a", "b"), one(tokenizer, "c", "d")]
    assert isinstance(one(tokenizer, query, document), InvalidRequestError)


def test_special_tokens_written_in_a_text_belong_to_the_text(tokenizer: PairTokenizer) -> None:
    pair = one(tokenizer, "a [SEP] b", "[CLS]")
    assert pair == TokenizedPair((CLS, A, SEP, B, SEP, CLS, SEP), (0, 0, 0, 0, 0, 1, 1), truncated=False)


def test_a_pair_alone_and_among_others_is_the_same(tokenizer: PairTokenizer) -> None:
    pairs = [("a", "b"), ("b", "a"), ("a", "a"), ("a b c d e", "a"), ("a", "b"), ("x", "b c d e a b c")]
    assert tokenizer.tokenize(pairs) == [one(tokenizer, *pair) for pair in pairs]
    assert tokenizer.tokenize([]) == []


def test_a_file_s_own_truncation_and_padding_are_not_applied(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tokenizer.json")
    expected = one(PairTokenizer(path, max_tokens=8), "a b", "c")
    library = Tokenizer.from_file(str(path))
    library.enable_truncation(5)
    library.enable_padding(length=8)
    library.save(str(path))
    assert one(PairTokenizer(path, max_tokens=8), "a b", "c") == expected


def test_other_frames(tmp_path: Path) -> None:
    """Two separators between the texts, one type, and the document before the query."""
    path = write_tokenizer(tmp_path / "tokenizer.json")
    for pair, ids, types in (
        ("[CLS] $A [SEP] [SEP] $B [SEP]", (CLS, A, SEP, SEP, B, SEP), (0,) * 6),
        ("$B:1 [SEP]:1 $A:0", (B, SEP, A), (1, 1, 0)),
        ("$A $B:1", (A, B), (0, 1)),
    ):
        library = Tokenizer.from_file(str(path))
        library.post_processor = processors.TemplateProcessing(
            single="$A", pair=pair, special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
        )
        library.save(str(tmp_path / "other.json"))
        made = one(PairTokenizer(tmp_path / "other.json", max_tokens=8), "a", "b")
        assert made == TokenizedPair(ids, types, truncated=False)


def test_two_very_long_texts_take_little_memory(tokenizer: PairTokenizer) -> None:
    """The library's own truncation keeps every combination of what it cuts off: here 10^10 tokens."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pair = one(tokenizer, "a " * 100_000, "b " * 100_000)
    assert isinstance(pair, TokenizedPair)
    assert (len(pair.ids), pair.truncated) == (8, True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
