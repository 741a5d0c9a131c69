"""The worker's use case over fake stores: what is written, what must come again, and what never can succeed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from unit_fakes import FakeBackend, FakeDeadline, FakeQueue, FakeStore, Tiny, make_tiny

from embakery.cache import CacheCounts, CacheSecret, VectorCache
from embakery.delivery import Failure, Received
from embakery.embedded import EmbedCounts
from embakery.errors import (
    ConfigurationError,
    DeadlineExceededError,
    EncodingError,
    GoldenMismatchError,
    InvalidRequestError,
    StoreUnavailableError,
)
from embakery.results import EmbeddingResult, RankedDocument, RerankResult
from embakery.work import Resources, WorkCounts
from embakery.worker import Outcome, Worker


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path / "artifact", prompts={"query": "query: "})


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def make_worker(
    tiny: Tiny, stores: Mapping[str, FakeStore], *, cache: VectorCache | None = None, rerank_method: str | None = None
) -> Worker:
    def opener(store: FakeStore) -> FakeStore:
        return store

    destinations = {name: (lambda store=store: opener(store)) for name, store in stores.items()}
    return Worker(Resources(tiny.embedder, cache, destinations, tenant="acme", rerank_method=rerank_method))


def process(worker: Worker, *bodies: str, questions: int | None = None) -> Outcome:
    received = [Received(f"m{number}", body) for number, body in enumerate(bodies)]
    return worker.process(received, queue=FakeQueue(), deadline=FakeDeadline(questions))


def embed_body(*documents: object, **more: object) -> str:
    return json.dumps({"v": 1, "documents": documents, **more})


def rerank_body(*queries: object, **more: object) -> str:
    return json.dumps({"v": 1, "rerank": queries, **more})


def doc(id_: str, text: str = "a", **more: object) -> dict[str, object]:
    return {"id": id_, "text": text, **more}


def failures(outcome: Outcome) -> list[tuple[str, str]]:
    return [(failure.message_id, str(failure.error)) for failure in outcome.failures]


# All is well


def test_nothing_to_do(tiny: Tiny, store: FakeStore) -> None:
    assert process(make_worker(tiny, {"default": store})) == Outcome((), (), frozenset(), WorkCounts())
    assert store.writes == 0


def test_a_document_is_written_with_all_that_is_known_of_it(tiny: Tiny, store: FakeStore) -> None:
    body = embed_body(doc("one", "a b", version=3, metadata={"page": 4}), doc("two"), job_id="job-1")
    outcome = process(make_worker(tiny, {"default": store}), body)
    assert (outcome.failures, outcome.failed_ids, outcome.hopeless_ids) == ((), (), frozenset())
    first, second = store.results
    assert isinstance(first, EmbeddingResult)
    assert isinstance(second, EmbeddingResult)
    assert first.to_json() == {
        "kind": "embedding",
        "id": "one",
        "version": 3,
        "tenant": "acme",
        "space_id": tiny.embedder.manifest.space_id,
        "model": "tiny",
        "dim": 4,
        "dtype": "float32",
        # (10, 2, 4, 4)
        "vector": "AAAgQQAAAEAAAIBAAACAQA==",
        "tokens": 4,
        "truncated": False,
        "job_id": "job-1",
        "metadata": {"page": 4},
    }
    assert (second.version, second.metadata, second.vector.tolist()) == (1, {}, [6, 2, 3, 3])


def test_the_documents_of_all_messages_are_encoded_together_and_written_at_once(tiny: Tiny, store: FakeStore) -> None:
    worker = make_worker(tiny, {"default": store})
    outcome = process(worker, embed_body(doc("one"), doc("two", "b")), embed_body(doc("three", "c"), doc("four")))
    assert [[ids[1] for ids in batch] for batch in tiny.engine.encoded] == [[3, 4, 5]]
    assert (store.writes, store.ids) == (1, ["one", "two", "three", "four"])
    assert outcome.counts == WorkCounts(documents=4, tokens=12, written=4, embed=EmbedCounts(not_from_cache=4))


def test_each_message_keeps_its_input_type(tiny: Tiny, store: FakeStore) -> None:
    worker = make_worker(tiny, {"default": store})
    process(worker, embed_body(doc("one"), input_type="query"), embed_body(doc("two"), input_type="document"))
    vectors = {result.id: result.vector.tolist() for result in store.results if isinstance(result, EmbeddingResult)}
    # `query:` is (8, 0, 2, 1).
    assert vectors == {"one": [14, 2, 5, 4], "two": [6, 2, 3, 3]}


def test_counts(tiny: Tiny) -> None:
    store = FakeStore(superseded_ids=frozenset({"old"}))
    backend = FakeBackend()
    space_id = tiny.embedder.manifest.space_id
    cache = VectorCache(backend, secret=CacheSecret(b"s"), space_id=space_id, dimension=4)
    worker = make_worker(tiny, {"default": store}, cache=cache)
    body = embed_body(doc("new"), doc("old", "b"), doc("long", "a b c d e a b"))
    assert process(worker, body).counts == WorkCounts(
        documents=3, tokens=14, truncated=1, written=2, superseded=1, embed=EmbedCounts(not_from_cache=3)
    )
    backend.values[next(iter(backend.values))] = b"rubbish"
    assert process(worker, body).counts == WorkCounts(
        documents=3,
        tokens=14,
        truncated=1,
        written=2,
        superseded=1,
        embed=EmbedCounts(from_cache=2, not_from_cache=1, cache=CacheCounts(corrupt=1)),
    )


def test_a_result_that_was_there_already_is_a_success(tiny: Tiny) -> None:
    outcome = process(
        make_worker(tiny, {"default": FakeStore(superseded_ids=frozenset({"one"}))}), embed_body(doc("one"))
    )
    assert outcome.failures == ()


def test_an_openai_batch_line_is_written_like_any_message(tiny: Tiny, store: FakeStore) -> None:
    line = {"custom_id": "line", "method": "POST", "url": "/v1/embeddings", "body": {"input": ["a", "b"]}}
    assert process(make_worker(tiny, {"default": store}), json.dumps(line)).failures == ()
    assert store.ids == ["line#0", "line#1"]


# Bad messages and bad items


def test_a_bad_message_fails_alone(tiny: Tiny, store: FakeStore) -> None:
    worker = make_worker(tiny, {"default": store})
    outcome = process(worker, embed_body(doc("one")), "{", embed_body(doc("two")))
    assert failures(outcome) == [("m1", "body: is not valid JSON at character 1")]
    assert store.ids == ["one", "two"]
    assert (outcome.failed_ids, outcome.hopeless_ids) == (("m1",), frozenset({"m1"}))


def test_a_bad_item_fails_its_message_but_its_neighbours_are_written(tiny: Tiny, store: FakeStore) -> None:
    worker = make_worker(tiny, {"default": store})
    body = embed_body(doc("one"), doc("bad", " "), doc("two", "b"), {"text": "c"})
    outcome = process(worker, body, embed_body(doc("three")))
    assert failures(outcome) == [
        ("m0", "documents[1].text: must not be empty or blank"),
        ("m0", "documents[3].id: must be a string, not null"),
    ]
    assert store.ids == ["one", "two", "three"]
    assert (outcome.failed_ids, outcome.hopeless_ids) == (("m0",), frozenset({"m0"}))
    assert outcome.counts.documents == 3


def test_a_text_that_only_the_tokenizer_refuses_is_named_by_its_place_in_its_own_message(
    tiny: Tiny, store: FakeStore
) -> None:
    worker = make_worker(tiny, {"default": store})
    outcome = process(worker, embed_body(doc("one"), doc("two")), embed_body(doc("three"), doc("bad", "\u200b")))
    assert failures(outcome) == [("m1", "documents[1].text: holds nothing that the model's tokenizer knows")]
    assert store.ids == ["one", "two", "three"]
    assert outcome.hopeless_ids == {"m1"}


def test_the_embedders_limits_hold_for_messages(tiny: Tiny, store: FakeStore) -> None:
    worker = make_worker(tiny, {"default": store})
    outcome = process(worker, embed_body(doc("one", "x" * 200_001)))
    assert failures(outcome) == [("m0", "documents[0].text: 200001 characters, the limit is 200000")]


def test_an_unknown_destination_fails_alone_naming_the_known_ones_and_not_itself(tiny: Tiny, store: FakeStore) -> None:
    worker = make_worker(tiny, {"default": store, "table": FakeStore()})
    outcome = process(worker, embed_body(doc("one"), destination="elsewhere"), embed_body(doc("two")))
    assert failures(outcome) == [("m0", "destination: is not one of this deployment's: default, table")]
    assert store.ids == ["two"]
    assert outcome.hopeless_ids == {"m0"}


def test_failures_come_in_the_messages_order(tiny: Tiny, store: FakeStore) -> None:
    worker = make_worker(tiny, {"default": store})
    outcome = process(worker, embed_body(doc("one", "nan")), "{", embed_body(doc("two", "nan"), doc("three", "")), "[")
    assert [failure.message_id for failure in outcome.failures] == ["m0", "m1", "m2", "m2", "m3"]
    assert outcome.failed_ids == ("m0", "m1", "m2", "m3")


# Trouble that passes


def test_a_bad_vector_fails_alone_and_may_be_tried_again(tiny: Tiny, store: FakeStore) -> None:
    outcome = process(make_worker(tiny, {"default": store}), embed_body(doc("one"), doc("bad", "nan")))
    assert [type(failure.error) for failure in outcome.failures] == [EncodingError]
    assert (outcome.failed_ids, outcome.hopeless_ids) == (("m0",), frozenset())
    assert store.ids == ["one"]


def test_a_message_with_bad_and_passing_trouble_is_not_hopeless(tiny: Tiny, store: FakeStore) -> None:
    outcome = process(make_worker(tiny, {"default": store}), embed_body(doc("bad", ""), doc("nan", "nan")), "{")
    assert (outcome.failed_ids, outcome.hopeless_ids) == (("m0", "m1"), frozenset({"m1"}))


def test_is_permanent() -> None:
    assert Failure("m", InvalidRequestError("", "bad")).is_permanent
    assert not Failure("m", StoreUnavailableError("down")).is_permanent
    assert not Failure("m", EncodingError("NaN")).is_permanent


def test_a_store_that_fails_for_one_result_fails_that_message_alone(tiny: Tiny) -> None:
    store = FakeStore(failing_ids=frozenset({"two"}))
    outcome = process(
        make_worker(tiny, {"default": store}), embed_body(doc("one"), doc("two")), embed_body(doc("three"))
    )
    assert failures(outcome) == [("m0", "documents[1]: not written to default")]
    assert type(outcome.failures[0].error) is StoreUnavailableError
    assert store.ids == ["one", "three"]
    assert (outcome.counts.written, outcome.hopeless_ids) == (2, frozenset())


def test_a_store_that_is_down_fails_its_messages_and_no_other_destinations(tiny: Tiny, store: FakeStore) -> None:
    worker = make_worker(tiny, {"default": store, "table": FakeStore(is_down=True)})
    bodies = [
        embed_body(doc("one"), destination="table"),
        embed_body(doc("two")),
        embed_body(doc("x"), destination="table"),
    ]
    outcome = process(worker, *bodies)
    assert failures(outcome) == [("m0", "destination table: down"), ("m2", "destination table: down")]
    assert store.ids == ["two"]
    assert (outcome.counts.written, outcome.hopeless_ids) == (1, frozenset())


def test_a_destination_that_is_set_wrongly_fails_its_messages_and_no_others(tiny: Tiny, store: FakeStore) -> None:
    def misconfigured() -> FakeStore:
        raise ConfigurationError("destination archive: its URL is wrong")

    resources = make_worker(tiny, {"default": store}).resources
    worker = Worker(replace(resources, destinations={"archive": misconfigured, **resources.destinations}))
    outcome = process(worker, embed_body(doc("one"), destination="archive"), embed_body(doc("two")))
    assert failures(outcome) == [("m0", "destination archive: its URL is wrong")]
    assert (store.ids, outcome.hopeless_ids) == (["two"], frozenset())


def test_two_destinations_are_written_once_each(tiny: Tiny, store: FakeStore) -> None:
    table = FakeStore()
    bodies = [
        embed_body(doc("one"), destination="table"),
        embed_body(doc("two")),
        embed_body(doc("three"), destination="table"),
    ]
    outcome = process(make_worker(tiny, {"default": store, "table": table}), *bodies)
    assert outcome.failures == ()
    assert (store.writes, store.ids, table.writes, table.ids) == (1, ["two"], 1, ["one", "three"])


def test_a_destination_that_nobody_names_is_not_opened(tiny: Tiny, store: FakeStore) -> None:
    def opened() -> FakeStore:
        raise AssertionError("opened")

    destinations = {"default": lambda: store, "table": opened}
    worker = Worker(Resources(tiny.embedder, None, destinations, tenant="acme"))
    assert process(worker, embed_body(doc("one"))).failures == ()


def test_past_the_deadline_the_first_round_is_written_and_the_rest_comes_again(
    tmp_path: Path, store: FakeStore
) -> None:
    tiny = make_tiny(tmp_path / "long", max_tokens=6000)
    long = [embed_body(doc(id_, " ".join(["a"] * length))) for id_, length in (("short", 4000), ("long", 5000))]
    outcome = process(make_worker(tiny, {"default": store}), *long, questions=1)
    assert store.ids == ["short"]
    assert [type(failure.error) for failure in outcome.failures] == [DeadlineExceededError]
    assert (outcome.failed_ids, outcome.hopeless_ids) == (("m1",), frozenset())


def test_at_the_deadline_whole_messages_are_done_and_whole_messages_come_again(
    tmp_path: Path, store: FakeStore
) -> None:
    tiny = make_tiny(tmp_path / "long", max_tokens=6000)
    bodies = [
        embed_body(
            doc(f"long-{number}", " ".join("a" * (3990 - number))), doc(f"short-{number}", " ".join("b" * number))
        )
        for number in range(1, 5)
    ]
    outcome = process(make_worker(tiny, {"default": store}), *bodies, questions=1)
    assert store.ids == ["long-1", "short-1", "long-2", "short-2"]
    assert outcome.failed_ids == ("m2", "m3")


def test_an_openai_batch_line_that_asks_for_another_model_is_refused(tiny: Tiny, store: FakeStore) -> None:
    line = {"custom_id": "line", "url": "/v1/embeddings", "body": {"model": "text-embedding-3-large", "input": "a"}}
    outcome = process(make_worker(tiny, {"default": store}), json.dumps(line))
    assert [failure.error.code for failure in outcome.failures] == ["not_found"]
    assert store.ids == []


def test_on_a_machine_of_other_bits_nothing_is_done(tmp_path: Path, store: FakeStore) -> None:
    tiny = make_tiny(tmp_path / "artifact", offset=1.0)
    with pytest.raises(GoldenMismatchError):
        process(make_worker(tiny, {"default": store}), embed_body(doc("one")))
    assert (store.writes, tiny.engine.encoded) == (0, [])


# Rerank


def query(id_: str, text: str = "a", *documents: dict[str, object], **more: object) -> dict[str, object]:
    return {"id": id_, "query": text, "documents": documents or (doc("d0", "a"), doc("d1", "b")), **more}


def test_a_ranking_is_written_best_first_with_the_senders_ids(tiny: Tiny, store: FakeStore) -> None:
    body = rerank_body(query("q", version=2), job_id="job-1")
    outcome = process(make_worker(tiny, {"default": store}), body)
    assert outcome.failures == ()
    (result,) = store.results
    assert isinstance(result, RerankResult)
    assert (result.id, result.version, result.tenant, result.job_id) == ("q", 2, "acme", "job-1")
    assert (result.space_id, result.model) == (tiny.embedder.manifest.space_id, "tiny")
    assert [(line.id, line.index) for line in result.ranking] == [("d1", 1), ("d0", 0)]
    assert outcome.counts == WorkCounts(queries=1, written=1)


def test_a_ranking_as_the_stores_write_it() -> None:
    ranking = (RankedDocument("d1", 1, 0.75), RankedDocument("d0", 0, 0.5))
    assert RerankResult("q", 2, "acme", "space", "tiny", ranking, None).to_json() == {
        "kind": "rerank",
        "id": "q",
        "version": 2,
        "tenant": "acme",
        "space_id": "space",
        "model": "tiny",
        "ranking": [{"id": "d1", "index": 1, "score": 0.75}, {"id": "d0", "index": 0, "score": 0.5}],
        "job_id": None,
    }


def test_top_n_is_kept(tiny: Tiny, store: FakeStore) -> None:
    process(make_worker(tiny, {"default": store}), rerank_body(query("q", top_n=1)))
    (result,) = store.results
    assert isinstance(result, RerankResult)
    assert [line.id for line in result.ranking] == ["d1"]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (query("bad", "\u200b"), "rerank[1].query: holds nothing that the model's tokenizer knows"),
        (
            query("bad", "a", doc("d0"), doc("d1", "\u200b")),
            "rerank[1].documents[1]: holds nothing that the model's tokenizer knows",
        ),
        (query("bad", ""), "rerank[1].query: must not be empty or blank"),
        ({"id": "bad", "query": "a"}, "rerank[1].documents: must be an array, not null"),
    ],
)
def test_a_bad_query_fails_alone(tiny: Tiny, store: FakeStore, bad: dict[str, object], error: str) -> None:
    outcome = process(make_worker(tiny, {"default": store}), rerank_body(query("one"), bad, query("two")))
    assert failures(outcome) == [("m0", error)]
    assert store.ids == ["one", "two"]
    assert outcome.hopeless_ids == {"m0"}


def test_a_query_of_a_bad_token_vector_fails_alone_and_may_be_tried_again(
    tiny: Tiny, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny.engine.encode_tokens
    monkeypatch.setattr(
        tiny.engine,
        "encode_tokens",
        lambda batch: [vectors * (9 not in ids) for ids, vectors in zip(batch, plain(batch), strict=True)],
    )
    outcome = process(make_worker(tiny, {"default": store}), rerank_body(query("bad", "nan"), query("good")))
    assert [type(failure.error) for failure in outcome.failures] == [EncodingError]
    assert (store.ids, outcome.hopeless_ids) == (["good"], frozenset())


def test_documents_and_queries_mix_in_one_batch(tiny: Tiny, store: FakeStore) -> None:
    table = FakeStore()
    outcome = process(
        make_worker(tiny, {"default": store, "table": table}),
        rerank_body(query("q1")),
        embed_body(doc("one"), doc("bad", "")),
        rerank_body(query("q2"), destination="table"),
        "rubbish",
    )
    assert outcome.failed_ids == ("m1", "m3")
    assert (store.ids, table.ids) == (["one", "q1"], ["q2"])
    assert outcome.counts == WorkCounts(
        documents=1, queries=2, tokens=3, written=3, embed=EmbedCounts(not_from_cache=1)
    )


def test_past_the_deadline_queries_come_again_unless_nothing_else_was_done(tiny: Tiny, store: FakeStore) -> None:
    worker = make_worker(tiny, {"default": store})
    outcome = process(worker, embed_body(doc("one")), rerank_body(query("q1")), questions=1)
    assert failures(outcome) == [("m1", "no time left to rerank")]
    assert (store.ids, outcome.hopeless_ids) == (["one"], frozenset())
    outcome = process(worker, rerank_body(query("q2"), query("q3")), questions=1)
    assert failures(outcome) == [("m0", "no time left to rerank")]
    assert store.ids == ["one", "q2"]


# Rerank by a cross-encoder


@pytest.fixture
def judged(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path / "judged", reranker=True)


SHARING = query("q", "a b", doc("d0", "a"), doc("d1", "a b a"), doc("d2", "c"))


def stamps(tiny: Tiny) -> dict[str, tuple[str, str]]:
    """Space and model of whoever scores, by method."""
    assert tiny.embedder.reranker is not None
    manifests = {"late-interaction": tiny.embedder.manifest, "cross-encoder": tiny.embedder.reranker.manifest}
    return {name: (manifest.space_id, manifest.model_id) for name, manifest in manifests.items()}


@pytest.mark.parametrize(
    ("asked", "deployed", "used"),
    [
        (None, None, "cross-encoder"),
        (None, "late-interaction", "late-interaction"),
        ("cross-encoder", "late-interaction", "cross-encoder"),
        ("late-interaction", None, "late-interaction"),
        ("late-interaction", "cross-encoder", "late-interaction"),
    ],
)
def test_a_ranking_is_stamped_by_whoever_scored(
    judged: Tiny, store: FakeStore, asked: str | None, deployed: str | None, used: str
) -> None:
    worker = make_worker(judged, {"default": store}, rerank_method=deployed)
    assert process(worker, rerank_body(SHARING, method=asked)).failures == ()
    (result,) = store.results
    assert isinstance(result, RerankResult)
    assert (result.space_id, result.model) == stamps(judged)[used]
    assert len(judged.opened) == (used == "cross-encoder")
    if used == "cross-encoder":
        assert [(line.id, line.score) for line in result.ranking] == [("d1", 3.0), ("d0", 1.0), ("d2", 0.0)]


def test_a_cross_encoder_that_was_not_baked_is_refused_naming_the_method(tiny: Tiny, store: FakeStore) -> None:
    outcome = process(
        make_worker(tiny, {"default": store}),
        rerank_body(query("q1"), method="cross-encoder"),
        rerank_body(query("q2")),
    )
    assert failures(outcome) == [("m0", "method: no cross-encoder was baked here: use late-interaction")]
    assert outcome.hopeless_ids == {"m0"}
    assert store.ids == ["q2"]


def test_other_scores_than_the_bakes_are_not_written_but_vectors_and_late_interaction_are(
    tmp_path: Path, store: FakeStore
) -> None:
    tiny = make_tiny(tmp_path / "artifact", reranker=True, reranker_offset=1e-6)
    outcome = process(
        make_worker(tiny, {"default": store}),
        embed_body(doc("one")),
        rerank_body(query("q1")),
        rerank_body(query("q2"), method="late-interaction"),
    )
    assert [(failure.message_id, type(failure.error)) for failure in outcome.failures] == [("m1", GoldenMismatchError)]
    assert outcome.hopeless_ids == frozenset()
    assert store.ids == ["one", "q2"]


def test_a_pair_that_cannot_be_scored_fails_its_query_alone(judged: Tiny, store: FakeStore) -> None:
    outcome = process(
        make_worker(judged, {"default": store}),
        rerank_body(query("nan", "a", doc("d0", "nan")), query("good")),
        rerank_body(query("bad", "a", doc("d0"), doc("d1", "\u200b")), query("late")),
    )
    assert failures(outcome) == [
        ("m0", "the cross-encoder gave NaN or infinity"),
        ("m1", "rerank[0].documents[1]: holds nothing that the model's tokenizer knows"),
    ]
    assert store.ids == ["good", "late"]
    assert outcome.hopeless_ids == {"m1"}
