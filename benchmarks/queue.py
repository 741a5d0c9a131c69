"""The queue's steady state: documents a second through it, as a share of `Embedder.embed` alone on the same texts.

    python -m benchmarks.queue [--documents 3000] [--rounds 3]

Runs the local system, which plays AWS on the same cores: its emulator, its event source mapping and Redis are part of
what the queue's figure pays for. Each round measures the embedder alone, then the queue with an empty cache, then with
a full one; figures are medians. Also: what a dead Redis adds to a request.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.machine import busy_cores, circumstances
from cli.sender import send_documents
from embakery import Embedder
from embakery.cache import CacheSecret, VectorCache
from embakery.embedded import EmbedCounts
from local.event_source_mapping import EventSourceMapping, MappingSettings
from local.processes import LOOPBACK, free_port
from local.settings import LocalSettings
from local.sqs import SqsQueue
from local.system import LocalSystem
from model_bake.corpus import standard_library_passages
from storage.redis_backend import RedisBackend

ARTIFACT = Path("build/all-MiniLM-L6-v2")
_WARM_UP = 300


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    busy = busy_cores()
    cores = os.cpu_count() or 1
    texts = [passage.text for passage in standard_library_passages(limit=chosen.documents)]
    embedder = Embedder.load(ARTIFACT, threads=cores)
    found = {
        "documents": len(texts),
        "tokens_per_document": round(statistics.mean(len(embedder.tokenize(text).ids) for text in texts), 1),
        "queue": [steady_state(embedder, texts, threads=1, concurrency=cores, rounds=chosen.rounds)],
        "dead_redis_ms": dead_redis(embedder),
        "busy_cores_before": busy,
        **circumstances("numpy", "redis", "ministack"),
    }
    print(json.dumps(found, indent=2))


def steady_state(
    embedder: Embedder, texts: Sequence[str], *, threads: int, concurrency: int, rounds: int
) -> dict[str, object]:
    """Return documents a second of the embedder alone and through the queue, and the shares."""
    alone: list[float] = []
    misses: list[float] = []
    hits: list[float] = []
    settings = LocalSettings(ARTIFACT, threads=threads, queue_concurrency=concurrency)
    with LocalSystem(settings, report=lambda _: None) as system:
        _through_the_queue(system, texts[:_WARM_UP], "warm-up", concurrency)
        for number in range(rounds):
            alone.append(len(texts) / _seconds(lambda: embedder.embed(texts)))
            # Another first word, another text: nothing of it is in the cache.
            fresh = [f"{number} {text}" for text in texts]
            misses.append(len(texts) / _through_the_queue(system, fresh, f"fresh-{number}", concurrency))
            hits.append(len(texts) / _through_the_queue(system, fresh, f"again-{number}", concurrency))
    base = statistics.median(alone)
    return {
        "threads": threads,
        "concurrency": concurrency,
        "alone_docs_per_s": round(base, 1),
        "queue_docs_per_s": round(statistics.median(misses), 1),
        "share": round(statistics.median(misses) / base, 3),
        "all_hits_docs_per_s": round(statistics.median(hits), 1),
        "all_hits_over_alone": round(statistics.median(hits) / base, 2),
    }


def _through_the_queue(system: LocalSystem, texts: Sequence[str], name: str, concurrency: int) -> float:
    """Fill a queue of its own, then let the function have it; return the seconds until the last message is deleted."""
    sqs = system.parts.clients.sqs
    url = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "360"})["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    send_documents(sqs, url, [{"id": f"{name}-{number}", "text": text} for number, text in enumerate(texts)])
    messages = -(-len(texts) // 10)
    mapping = EventSourceMapping(
        MappingSettings(queue_arn=arn, batch_size=10, max_concurrency=concurrency),
        queue=SqsQueue(sqs, url),
        function=system.parts.queue_function,
        log=print,
    )
    began = time.monotonic()
    mapping.start()
    while mapping.statistics.deleted < messages:
        time.sleep(0.01)
    seconds = time.monotonic() - began
    mapping.stop()
    return seconds


def dead_redis(embedder: Embedder, *, samples: int = 30) -> dict[str, dict[str, float]]:
    """Return the milliseconds that a request of one text takes without a cache, and that a dead one adds to it."""
    alone = _median_ms(lambda: _request(embedder, None), samples)
    found = {"without_cache": {"request": round(alone, 2)}}
    with closing(socket.create_server((LOOPBACK, 0))) as silent:
        for name, port in (("refused", free_port()), ("silent", silent.getsockname()[1])):
            first = _median_ms(functools.partial(_first_request, embedder, port), samples)
            cache = _cache(embedder, port)
            while not cache.breaker.is_open:
                _request(embedder, cache)
            spared = _median_ms(functools.partial(_request, embedder, cache), samples)
            found[name] = {"first_call_adds": round(first - alone, 2), "breaker_open_adds": round(spared - alone, 2)}
    return found


def _request(embedder: Embedder, cache: VectorCache | None) -> None:
    embedder.embed_items(["What does a dead cache cost?"], cache=cache, counts=EmbedCounts())


def _first_request(embedder: Embedder, port: int) -> None:
    _request(embedder, _cache(embedder, port))


def _cache(embedder: Embedder, port: int) -> VectorCache:
    return VectorCache(
        RedisBackend(f"redis://{LOOPBACK}:{port}"),
        secret=CacheSecret(b"benchmark"),
        space_id=embedder.manifest.space_id,
        dimension=embedder.manifest.dimension,
        ttl_seconds=60,
    )


def _median_ms(call: Callable[[], None], samples: int) -> float:
    return 1000 * statistics.median(_seconds(call) for _ in range(samples))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
