"""The promise: the same text gets the same bits, whatever it is batched with and however many threads run."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from embakery import Embedder
from embakery.vectors import Vectors
from model_bake.corpus import standard_library_passages

SEED = 20261123
SCRIPTS = (
    "Быстрая коричневая лиса прыгает через ленивую собаку",
    "今日は良い天気ですね。散歩に行きましょう",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich",
    "مرحبا بالعالم هذا اختبار",
    "🙂🙃 emoji, math ∑∫√ and co\u0301mbining marks",
)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """500 texts of one word to beyond the model's 256 tokens."""
    draw = random.Random(SEED)
    passages = [passage.text for passage in standard_library_passages(limit=3000)]
    short = [" ".join(draw.choice(passages).split()[: draw.randint(1, 12)]) for _ in range(200)]
    long = [" ".join(draw.sample(passages, 6)) for _ in range(25)]
    return draw.sample([*short, *long, *SCRIPTS, *draw.sample(passages, 270)], 500)


@pytest.fixture(scope="module")
def one_thread(default_artifact: Path) -> Embedder:
    return Embedder.load(default_artifact, threads=1)


@pytest.fixture(scope="module")
def two_threads(default_artifact: Path) -> Embedder:
    return Embedder.load(default_artifact, threads=2)


@pytest.fixture(scope="module")
def alone(texts: list[str], one_thread: Embedder) -> list[bytes]:
    return [one_thread.embed([text])[0].tobytes() for text in texts]


def rows(vectors: Vectors) -> list[bytes]:
    return [vector.tobytes() for vector in vectors]


def test_the_texts_are_of_mixed_length(texts: list[str], one_thread: Embedder) -> None:
    tokens = [one_thread.tokenize(text) for text in texts]
    lengths = [len(item.ids) for item in tokens]
    assert (len(texts), min(lengths), max(lengths)) == (500, 3, 256)
    assert len(set(lengths)) > 100
    assert sum(item.truncated for item in tokens) >= 20


def test_in_one_batch_on_one_and_two_threads(
    texts: list[str], alone: list[bytes], one_thread: Embedder, two_threads: Embedder
) -> None:
    assert rows(one_thread.embed(texts)) == alone
    assert rows(two_threads.embed(texts)) == alone


def test_in_shuffled_batches_of_seven(texts: list[str], alone: list[bytes], two_threads: Embedder) -> None:
    order = random.Random(SEED + 1).sample(range(len(texts)), len(texts))
    for start in range(0, len(order), 7):
        batch = order[start : start + 7]
        assert rows(two_threads.embed([texts[index] for index in batch])) == [alone[index] for index in batch]


def test_from_many_threads_at_once(texts: list[str], alone: list[bytes], two_threads: Embedder) -> None:
    parts = [range(start, 200, 8) for start in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda part: rows(two_threads.embed([texts[index] for index in part])), parts))
    assert answers == [[alone[index] for index in part] for part in parts]


def test_token_vectors_hold_still_too(texts: list[str], one_thread: Embedder) -> None:
    ids = [one_thread.tokenize(text).ids for text in texts[:60]]
    together = one_thread.engine.encode_tokens(ids)
    assert [vectors.tobytes() for vectors in together] == [
        one_thread.engine.encode_tokens([one])[0].tobytes() for one in ids
    ]


def test_a_ranking_does_not_depend_on_the_other_candidates(texts: list[str], two_threads: Embedder) -> None:
    candidates = texts[:40]
    together = {line.index: line.score for line in two_threads.rerank("how are errors handled?", candidates)}
    for index, candidate in enumerate(candidates):
        (line,) = two_threads.rerank("how are errors handled?", [candidate])
        assert line.score == together[index]
