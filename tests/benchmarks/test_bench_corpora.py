"""The three corpora."""

from __future__ import annotations

import functools
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks.corpora import Corpus, make_corpora
from model_bake.corpus import standard_library_passages
from model_bake.source import DEFAULT_MODEL, find_model

# Of some six thousand: so many are read in a moment.
PASSAGES = 1500
SIZES = {"short": 40, "mixed": 200, "long": 10}


@functools.cache
def corpora() -> dict[str, Corpus]:
    return make_corpora(tokenizer_file(), standard_library_passages(limit=PASSAGES), SIZES)


def tokenizer_file() -> Path:
    return find_model(DEFAULT_MODEL).folder / "tokenizer.json"


def test_they_have_the_sizes_asked_for_and_no_text_twice() -> None:
    assert {name: len(corpus.texts) for name, corpus in corpora().items()} == SIZES
    for corpus in corpora().values():
        assert len(set(corpus.texts)) == len(corpus.texts)


def test_they_are_the_same_every_time() -> None:
    assert make_corpora(tokenizer_file(), standard_library_passages(limit=PASSAGES), SIZES) == corpora()


def test_lengths_are_as_told() -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_file()))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for corpus in corpora().values():
        assert [len(each.ids) for each in tokenizer.encode_batch(list(corpus.texts))] == list(corpus.tokens)
    assert all(10 <= count <= 20 for count in corpora()["short"].tokens)
    assert all(16 <= count <= 256 for count in corpora()["mixed"].tokens)
    assert set(corpora()["long"].tokens) == {256}


def test_mixed_has_a_long_tail() -> None:
    tokens = sorted(corpora()["mixed"].tokens)
    assert tokens[len(tokens) // 2] < 60
    assert tokens[-1] > 200


def test_latency_texts_are_of_one_length() -> None:
    texts = Corpus("short", ("a", "b", "c", "d"), (12, 11, 12, 12)).of_length(12, 2)
    assert texts == Corpus("12_tokens", ("a", "c"), (12, 12))


def test_a_size_beyond_what_there_is_gives_what_there_is() -> None:
    passages = standard_library_passages(limit=PASSAGES)
    corpus = make_corpora(tokenizer_file(), passages, {"long": 10**6})["long"]
    assert SIZES["long"] <= len(corpus.texts) < PASSAGES
