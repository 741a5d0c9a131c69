"""The way of a text to its vector, over a real tokenizer and an engine that remembers what it was asked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit_fakes import (
    CLS,
    SEP,
    FakeBackend,
    FakeDeadline,
    FakeEngine,
    FakeScorer,
    Tiny,
    make_tiny,
    write_artifact,
    write_cross_encoder,
)

import embakery.cross_encoder
import embakery.embed
from embakery.artifact import Artifact
from embakery.cache import CacheCounts, CacheSecret, VectorCache
from embakery.embed import Embedder
from embakery.embedded import EmbedCounts, Embedded
from embakery.errors import (
    ArtifactError,
    ConfigurationError,
    DeadlineExceededError,
    EmbakeryError,
    EncodingError,
    GoldenMismatchError,
    InvalidRequestError,
    RequestTooLargeError,
)
from embakery.texts import TextLimits, TokenizedText

A = (CLS, 3, SEP)
B = (CLS, 4, SEP)
C = (CLS, 5, SEP)
QUERY_A = (CLS, 8, 3, SEP)


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path / "artifact", prompts={"query": "query: "})


def make_cache(embedder: Embedder, backend: FakeBackend) -> VectorCache:
    secret = CacheSecret(b"secret")
    return VectorCache(backend, secret=secret, space_id=embedder.manifest.space_id, dimension=4)


def bits(item: Embedded | EmbakeryError) -> bytes:
    assert isinstance(item, Embedded)
    return item.vector.tobytes()


def error_of(item: Embedded | EmbakeryError) -> EmbakeryError:
    assert isinstance(item, EmbakeryError)
    return item


# Embedding


def test_vectors_come_in_the_texts_order(tiny: Tiny) -> None:
    vectors = tiny.embedder.embed(["b", "a b c", "a"])
    assert vectors.dtype == np.float32
    # [CLS] is (1, 1, 1, 1) and [SEP] is (2, 0, 2, 1); a is (3, 1, 0, 1), b (4, 0, 1, 1), c (5, 1, 2, 1).
    assert vectors.tolist() == [[7, 1, 4, 3], [15, 3, 6, 5], [6, 2, 3, 3]]


def test_no_texts_give_no_vectors(tiny: Tiny) -> None:
    assert tiny.embedder.embed([]).shape == (0, 4)
    assert tiny.embedder.embed_items([]) == []
    assert tiny.engine.encoded == []


def test_equal_tokens_are_encoded_once(tiny: Tiny) -> None:
    items = tiny.embedder.embed_items(["a", "b", " a ", "a", "b\u200b"])
    assert tiny.engine.encoded == [[A, B]]
    assert [bits(item) for item in items] == [tiny.engine.vector(ids).tobytes() for ids in (A, B, A, A, B)]


def test_each_item_says_its_tokens_and_whether_it_was_truncated(tiny: Tiny) -> None:
    items = tiny.embedder.embed_items(["a b", "a b c d e a b"])
    assert [(item.tokens, item.truncated) for item in items if isinstance(item, Embedded)] == [(4, False), (8, True)]


def test_the_truncation_policy_reaches_the_tokenizer(tiny: Tiny) -> None:
    long = "a b c d e a b"
    (first,) = tiny.embedder.embed_items([long], truncate="START")
    (second,) = tiny.embedder.embed_items(["b c d e a b"])
    assert bits(first) == bits(second)
    (third,) = tiny.embedder.embed_items([long], truncate="NONE")
    assert str(error_of(third)) == "9 tokens, the model takes 8"
    with pytest.raises(RequestTooLargeError) as caught:
        tiny.embedder.embed(["a", long], truncate="NONE")
    assert str(caught.value) == "texts[1]: 9 tokens, the model takes 8"


def test_the_prompt_of_the_input_type_is_put_before(tiny: Tiny) -> None:
    tiny.embedder.embed(["a"], input_type="query")
    tiny.embedder.embed(["a"], input_type="document")
    assert tiny.engine.encoded == [[QUERY_A], [A]]


def test_a_bad_item_fails_alone(tiny: Tiny) -> None:
    texts: list[object] = ["a", "", None, "b\0", "\ud800", "\u200b", "b"]
    items = tiny.embedder.embed_items(texts)
    assert tiny.engine.encoded == [[A, B]]
    assert [str(item) if isinstance(item, EmbakeryError) else item.tokens for item in items] == [
        3,
        "must not be empty or blank",
        "must be a string, not null",
        "must not contain the NUL character",
        "must not contain lone surrogates (it is not valid Unicode)",
        "holds nothing that the model's tokenizer knows",
        3,
    ]
    assert all(isinstance(item, InvalidRequestError) for item in items[1:6])


def test_embed_raises_for_the_first_bad_text_naming_it(tiny: Tiny) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        tiny.embedder.embed(["a", " ", "\0"])
    assert (caught.value.field, caught.value.problem) == ("texts[1]", "must not be empty or blank")


def test_the_character_limit_is_the_embedders(tmp_path: Path) -> None:
    artifact = Artifact.load(write_artifact(tmp_path / "artifact"))
    embedder = Embedder(artifact, FakeEngine(), limits=TextLimits(max_characters=3))
    good, bad = embedder.embed_items(["a b", "a b "])
    assert isinstance(good, Embedded)
    assert str(error_of(bad)) == "4 characters, the limit is 3"


@pytest.mark.parametrize("word", ["nan", "zero"])
def test_a_bad_vector_of_the_engine_fails_alone_and_is_neither_cached_nor_given(tiny: Tiny, word: str) -> None:
    backend = FakeBackend()
    cache = make_cache(tiny.embedder, backend)
    counts = EmbedCounts()
    good, bad, other = tiny.embedder.embed_items(["a", word, "b"], cache=cache, counts=counts)
    assert [bits(good), bits(other)] == [tiny.engine.vector(ids).tobytes() for ids in (A, B)]
    assert type(error_of(bad)) is EncodingError
    assert sorted(backend.values) == sorted([cache.key("default", A), cache.key("default", B)])
    assert (counts.from_cache, counts.not_from_cache) == (0, 2)
    with pytest.raises(EncodingError):
        tiny.embedder.embed(["a", word])


@pytest.mark.parametrize("dimensions", [None, 4, 2])
def test_dimensions(tmp_path: Path, dimensions: int | None) -> None:
    embedder = make_tiny(tmp_path / "artifact", dimensions=(4, 2)).embedder
    vectors = embedder.embed(["a", "b"], dimensions=dimensions)
    assert vectors.shape == (2, dimensions or 4)
    expected = [6, 2, 3, 3] if dimensions != 2 else [6 / 40**0.5, 2 / 40**0.5]
    assert vectors[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert embedder.embed([], dimensions=dimensions).shape == (0, dimensions or 4)


@pytest.mark.parametrize("texts", [[], ["a"]])
def test_other_dimensions_are_refused(tiny: Tiny, texts: list[str]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        tiny.embedder.embed(texts, dimensions=3)
    assert str(caught.value) == "dimensions: this model gives 4"


def test_tokenize(tiny: Tiny) -> None:
    assert tiny.embedder.tokenize("a", input_type="query") == TokenizedText(QUERY_A, (True, False, False, True), False)
    with pytest.raises(InvalidRequestError) as caught:
        tiny.embedder.tokenize(" ")
    assert str(caught.value) == "text: must not be empty or blank"


def test_close_frees_the_engine(tiny: Tiny) -> None:
    tiny.embedder.close()
    assert tiny.engine.closed


# With a cache


def test_hits_equal_misses_bit_for_bit(tiny: Tiny) -> None:
    cache = make_cache(tiny.embedder, FakeBackend())
    counts = EmbedCounts()
    first = tiny.embedder.embed_items(["a", "b", "a"], cache=cache, counts=counts)
    second = tiny.embedder.embed_items(["b", "a", "c"], cache=cache, counts=counts)
    assert tiny.engine.encoded == [[A, B], [C]]
    assert [item.cached for item in [*first, *second] if isinstance(item, Embedded)] == [False] * 3 + [
        True,
        True,
        False,
    ]
    assert [bits(item) for item in second] == [bits(first[1]), bits(first[0]), tiny.engine.vector(C).tobytes()]
    assert counts == EmbedCounts(from_cache=2, not_from_cache=4)


def test_a_batch_is_one_read_and_one_write_and_hits_are_not_written_again(tiny: Tiny) -> None:
    backend = FakeBackend()
    cache = make_cache(tiny.embedder, backend)
    tiny.embedder.embed_items(["a", "b", "c"], cache=cache)
    assert backend.calls == ["get", "set"]
    tiny.embedder.embed_items(["a", "b", "c"], cache=cache)
    assert backend.calls == ["get", "set", "get"]


def test_tenants_do_not_share_vectors(tiny: Tiny) -> None:
    cache = make_cache(tiny.embedder, FakeBackend())
    tiny.embedder.embed_items(["a"], cache=cache, tenant="one")
    tiny.embedder.embed_items(["a"], cache=cache, tenant="two")
    assert tiny.engine.encoded == [[A], [A]]


def test_query_and_document_vectors_do_not_mix(tiny: Tiny) -> None:
    cache = make_cache(tiny.embedder, FakeBackend())
    tiny.embedder.embed_items(["a"], cache=cache, input_type="document")
    tiny.embedder.embed_items(["a"], cache=cache, input_type="query")
    assert tiny.engine.encoded == [[A], [QUERY_A]]


def test_a_dead_cache_only_costs_encoding(tiny: Tiny) -> None:
    backend = FakeBackend(is_down=True)
    counts = EmbedCounts()
    items = tiny.embedder.embed_items(["a", "b"], cache=make_cache(tiny.embedder, backend), counts=counts)
    assert [bits(item) for item in items] == [tiny.engine.vector(ids).tobytes() for ids in (A, B)]
    # Its silence is waited for once, not again to write.
    assert counts == EmbedCounts(not_from_cache=2, cache=CacheCounts(errors=1))


def test_a_lying_cache_is_seen_through_and_mended(tiny: Tiny) -> None:
    backend = FakeBackend()
    cache = make_cache(tiny.embedder, backend)
    tiny.embedder.embed_items(["a", "b"], cache=cache)
    first, second = backend.values
    backend.values[first], backend.values[second] = backend.values[second], backend.values[first]
    counts = EmbedCounts()
    items = tiny.embedder.embed_items(["a", "b"], cache=cache, counts=counts)
    assert [bits(item) for item in items] == [tiny.engine.vector(ids).tobytes() for ids in (A, B)]
    assert counts == EmbedCounts(not_from_cache=2, cache=CacheCounts(corrupt=2))
    again = tiny.embedder.embed_items(["a", "b"], cache=cache)
    assert [item.cached for item in again if isinstance(item, Embedded)] == [True, True]


# Deadlines


@pytest.fixture
def long(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path / "long", max_tokens=6000)


def words(letter: str, count: int) -> str:
    return " ".join([letter] * count)


def test_the_first_round_always_runs_and_the_rest_gives_deadline_errors(long: Tiny) -> None:
    """Two texts of 5,000 tokens do not fit one round of 8,192; the first to come goes first."""
    cache = make_cache(long.embedder, FakeBackend())
    counts = EmbedCounts()
    texts = [words("a", 4900), words("b", 5000), "", words("a", 4900)]
    first, second, third, fourth = long.embedder.embed_items(
        texts, cache=cache, deadline=FakeDeadline(questions=1), counts=counts
    )
    assert isinstance(first, Embedded)
    assert isinstance(fourth, Embedded)
    assert type(error_of(second)) is DeadlineExceededError
    assert type(error_of(third)) is InvalidRequestError
    assert [[ids[1] for ids in batch] for batch in long.engine.encoded] == [[3]]
    assert (counts.from_cache, counts.not_from_cache) == (0, 2)


def test_a_batch_that_comes_again_gets_further_each_time(long: Tiny) -> None:
    cache = make_cache(long.embedder, FakeBackend())
    texts = [words(letter, 5000) for letter in "abc"]
    done = []
    for _ in range(3):
        items = long.embedder.embed_items(texts, cache=cache, deadline=FakeDeadline(questions=1))
        done.append(sum(isinstance(item, Embedded) for item in items))
    assert done == [1, 2, 3]


def test_work_stops_at_the_round_in_which_the_deadline_comes_near(long: Tiny) -> None:
    texts = [words(letter, 5000) for letter in "abc"]
    items = long.embedder.embed_items(texts, deadline=FakeDeadline(questions=2))
    assert [isinstance(item, Embedded) for item in items] == [True, True, False]
    assert len(long.engine.encoded) == 2


def test_short_texts_share_a_round(long: Tiny) -> None:
    long.embedder.embed_items(["a", words("b", 5000), "b", words("c", 3000)], deadline=FakeDeadline(questions=1))
    assert [[len(ids) for ids in batch] for batch in long.engine.encoded] == [[3, 5002, 3, 3002]]


def test_a_round_that_is_done_is_remembered_though_a_later_one_kills_the_process(long: Tiny) -> None:
    backend = FakeBackend()
    cache = make_cache(long.embedder, backend)
    long.engine.dies_at_batch = 1
    with pytest.raises(MemoryError):
        long.embedder.embed_items([words("a", 5000), words("b", 5000)], cache=cache)
    long.engine.dies_at_batch = None
    items = long.embedder.embed_items([words("a", 5000), words("b", 5000)], cache=cache)
    assert [item.cached for item in items if isinstance(item, Embedded)] == [True, False]


def test_a_text_that_the_engine_cannot_take_fails_alone(long: Tiny) -> None:
    expected = long.embedder.embed(["a", "b"])
    first, second, third = long.embedder.embed_items(["a", "a refused b", "b"])
    assert isinstance(first, Embedded)
    assert isinstance(third, Embedded)
    assert np.stack([first.vector, third.vector]).tobytes() == expected.tobytes()
    assert type(error_of(second)) is EncodingError


def test_one_string_is_not_a_sequence_of_texts(long: Tiny) -> None:
    with pytest.raises(InvalidRequestError, match="not one string"):
        long.embedder.embed("hello")


def test_an_unknown_input_type_is_refused(long: Tiny) -> None:
    with pytest.raises(InvalidRequestError, match="input_type: must be document or query"):
        long.embedder.embed(["a"], input_type="querry")


def test_a_ranking_stops_at_the_deadline(long: Tiny) -> None:
    documents = [words(letter, 5000) for letter in "ab"]
    assert len(long.embedder.rerank("a", documents, deadline=FakeDeadline(questions=2))) == 2
    with pytest.raises(DeadlineExceededError):
        long.embedder.rerank("a", documents, deadline=FakeDeadline(questions=1))


# Golden vectors


def test_the_bakes_own_bits_may_be_written(tiny: Tiny) -> None:
    tiny.embedder.require_golden()
    assert tiny.embedder.golden_matches is True


def test_other_bits_than_the_bakes_may_not_be_written_and_do_not_touch_the_cache(tmp_path: Path) -> None:
    # A thousandth of a thousandth: far below what a tolerance would see.
    tiny = make_tiny(tmp_path / "artifact", offset=1e-6)
    backend = FakeBackend()
    assert tiny.embedder.golden_matches is False
    with pytest.raises(GoldenMismatchError, match=tiny.embedder.manifest.space_id):
        tiny.embedder.require_golden()
    items = tiny.embedder.embed_items(["a"], cache=make_cache(tiny.embedder, backend))
    assert isinstance(items[0], Embedded)
    assert (backend.calls, backend.values) == ([], {})


def test_loading_checks_golden_vectors_and_logs_a_mismatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_artifact(tmp_path / "artifact")
    opened: Callable[..., FakeEngine] = lambda *_: FakeEngine(offset=1.0)  # noqa: E731
    monkeypatch.setattr(embakery.embed, "open_engine", opened)
    with caplog.at_level(logging.INFO, logger="embakery"):
        assert Embedder.load(folder).golden_matches is False
    assert [record.getMessage() for record in caplog.records] == ["golden_mismatch"]


def test_an_unknown_engine_is_a_configuration_error(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "artifact")
    with pytest.raises(ConfigurationError, match="engine 'cuda' is unknown: use auto, native, onnx"):
        Embedder.load(folder, engine="cuda")


# Rerank


def test_rerank_scores_by_late_interaction_best_first(tiny: Tiny) -> None:
    """The query has its prompt; token vectors are a (3, 1, 0, 1), b (4, 0, 1, 1), query: (8, 0, 2, 1)."""
    ranked = tiny.embedder.rerank("a", ["a", "b", "a"])
    same = (1 + (3 * 8 + 1) / (11 * 69) ** 0.5) / 2
    other = ((3 * 4 + 1) / (11 * 18) ** 0.5 + (8 * 4 + 2 + 1) / (69 * 18) ** 0.5) / 2
    assert [line.index for line in ranked] == [1, 0, 2]
    assert [line.score for line in ranked] == pytest.approx([other, same, same], abs=1e-6)


def test_rerank_keeps_the_best_top_n(tiny: Tiny) -> None:
    assert [line.index for line in tiny.embedder.rerank("a", ["a", "b", "c"], top_n=1)] == [1]
    assert tiny.embedder.rerank("a", []) == []


@pytest.mark.parametrize(
    ("query", "documents", "error"),
    [
        (" ", ["a"], "query: must not be empty or blank"),
        ("a", ["a", "\u200b"], "documents[1]: holds nothing that the model's tokenizer knows"),
        ("a", ["a", "b", ""], "documents[2]: must not be empty or blank"),
    ],
)
def test_rerank_names_a_bad_text(tiny: Tiny, query: str, documents: list[str], error: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        tiny.embedder.rerank(query, documents)
    assert str(caught.value) == error


@pytest.mark.parametrize("top_n", [0, "1"])
def test_rerank_refuses_a_bad_top_n(tiny: Tiny, top_n: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        tiny.embedder.rerank("a", ["b"], top_n=top_n)
    assert caught.value.field == "top_n"


def test_rerank_of_many_long_documents_gives_each_its_own_score(long: Tiny) -> None:
    """Documents run longest first, in rounds: each score must find back to its document."""
    documents = ["a", words("b", 5000), "c", words("a", 5500), words("d", 100)]
    together = {line.index: line.score for line in long.embedder.rerank("a", documents)}
    alone = {index: long.embedder.rerank("a", [document])[0].score for index, document in enumerate(documents)}
    assert together == pytest.approx(alone, abs=1e-6)
    assert sorted(together, key=lambda index: -together[index])[:2] in ([0, 3], [3, 0])


# Rerank by a cross-encoder


@pytest.fixture
def judged(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path / "judged", prompts={"query": "query: "}, reranker=True)


def ranking(tiny: Tiny, **more: Any) -> list[tuple[int, float]]:
    return [(line.index, line.score) for line in tiny.embedder.rerank("a b", ["a", "a b a", "c"], **more)]


def test_a_baked_cross_encoder_ranks_by_default_and_without_the_encoder_s_prompts(judged: Tiny) -> None:
    assert ranking(judged) == ranking(judged, method="cross-encoder") == [(1, 3.0), (0, 1.0), (2, 0.0)]
    assert judged.scorer.scored[0][0] == (CLS, 3, 4, SEP, 3, SEP)
    assert ranking(judged, top_n=1) == [(1, 3.0)]


def test_late_interaction_may_be_asked_for_beside_it(judged: Tiny, tiny: Tiny) -> None:
    assert ranking(judged, method="late-interaction") == ranking(tiny)
    assert judged.opened == []


def test_the_cross_encoder_opens_once_and_only_when_it_is_needed(judged: Tiny) -> None:
    judged.embedder.embed(["a"])
    judged.embedder.rerank_method("cross-encoder")
    assert judged.embedder.reranker is not None
    assert judged.embedder.reranker.manifest.model_id == "owner/judge"
    assert judged.opened == []
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: id(judged.embedder.scored_by(None)), range(32)))) == 1
    assert len(judged.opened) == 1
    judged.embedder.close()
    assert (judged.engine.closed, judged.scorer.closed) == (True, True)


def test_what_was_never_opened_needs_no_closing(judged: Tiny) -> None:
    judged.embedder.close()
    assert (judged.engine.closed, judged.scorer.closed) == (True, False)


def test_who_scored_is_who_stamps(judged: Tiny, tiny: Tiny) -> None:
    assert judged.embedder.scored_by("late-interaction") is judged.embedder
    assert judged.embedder.scored_by(None) is judged.opened[0]
    assert tiny.embedder.scored_by(None) is tiny.embedder


@pytest.mark.parametrize("method", ["bm25", "", 7, [], True])
def test_an_unknown_method_is_refused(judged: Tiny, method: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ranking(judged, method=method)
    assert str(caught.value) == "method: must be late-interaction or cross-encoder"


def test_a_cross_encoder_that_was_not_baked_is_refused_saying_what_there_is(tiny: Tiny) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ranking(tiny, method="cross-encoder")
    assert str(caught.value) == "method: no cross-encoder was baked here: use late-interaction"


def test_an_embedder_does_not_open_a_cross_encoder(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path / "judge")
    with pytest.raises(
        ArtifactError, match=r"judge: holds a cross-encoder, not an encoder; CrossEncoder\.load opens it"
    ):
        Embedder.load(folder)


def test_loading_passes_engine_threads_and_limits_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_artifact(tmp_path / "artifact", reranker=True)
    asked: list[tuple[Path, str, int]] = []

    def opened(artifact: Artifact, engine: str, threads: int) -> FakeScorer:
        asked.append((artifact.path, engine, threads))
        return FakeScorer()

    monkeypatch.setattr(embakery.embed, "open_engine", lambda *_: FakeEngine())
    monkeypatch.setattr(embakery.cross_encoder, "open_pair_scorer", opened)
    limits = TextLimits(max_characters=2)
    embedder = Embedder.load(folder, engine="onnx", threads=3, limits=limits)
    with pytest.raises(RequestTooLargeError, match=r"^documents\[0\]: 3 characters"):
        embedder.rerank("a", ["b b"])
    assert asked == [(folder / "reranker", "onnx", 3)]


# Megabytes of text


def test_a_large_batch_is_tokenized_some_at_a_time_with_a_look_at_the_clock(tiny: Tiny) -> None:
    """Of texts of 150,000 characters two do not fit one portion; the time ends after the first."""
    texts = ["a" + " " * 150_000, "b" + " " * 150_000, "c" + " " * 150_000]
    done = tiny.embedder.embed_items(texts, deadline=FakeDeadline(questions=1))
    assert [isinstance(item, Embedded) for item in done] == [True, False, False]
    assert {type(error_of(item)) for item in done[1:]} == {DeadlineExceededError}
    assert all(isinstance(item, Embedded) for item in tiny.embedder.embed_items(texts, deadline=FakeDeadline()))


def test_equal_texts_of_two_portions_are_encoded_once_and_bad_ones_fail_alone(tiny: Tiny) -> None:
    backend, counts = FakeBackend(), EmbedCounts()
    texts = ["a" + " " * 150_000, 7, "a " + " " * 150_000, "b", "a"]
    done = tiny.embedder.embed_items(texts, cache=make_cache(tiny.embedder, backend), counts=counts)
    assert [isinstance(item, Embedded) for item in done] == [True, False, True, True, True]
    assert [[ids[1] for ids in batch] for batch in tiny.engine.encoded] == [[3], [4]]
    assert (counts.from_cache, counts.not_from_cache, len(backend.values)) == (0, 4, 2)
