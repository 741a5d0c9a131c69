"""Items on their way through the worker: embedded or ranked together, then written, one call for each destination."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from embakery.cache import VectorCache
from embakery.delivery import Failures, Received
from embakery.embed import Embedder
from embakery.embedded import EmbedCounts, Embedded
from embakery.errors import (
    ArtifactError,
    ConfigurationError,
    DeadlineExceededError,
    EmbakeryError,
    EncodingError,
    InvalidRequestError,
    StoreUnavailableError,
)
from embakery.messages import Document, RerankQuery
from embakery.results import EmbeddingResult, RankedDocument, RerankResult, Result, ResultStore, WriteOutcome
from embakery.rounds import Deadline

log = logging.getLogger("embakery")


@dataclass(slots=True)
class WorkCounts:
    """What one batch did, for metrics."""

    documents: int = 0
    queries: int = 0
    tokens: int = 0
    truncated: int = 0
    written: int = 0
    superseded: int = 0
    isolated: int = 0
    poison: int = 0
    dead_lettered: int = 0
    handed_over: int = 0
    embed: EmbedCounts = field(default_factory=EmbedCounts)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What is taken down of one batch while it is worked on."""

    failures: Failures
    counts: WorkCounts = field(default_factory=WorkCounts)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the items of one message share. wave: the message's place in its FIFO group, 0 on a standard queue."""

    received: Received
    destination: str
    job_id: str | None
    input_type: str = "document"
    rerank_method: str | None = None
    wave: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """A document or a query, and where in which message it stands, such as `documents[3]`."""

    envelope: Envelope
    place: str
    content: Document | RerankQuery

    @property
    def size(self) -> int:
        """Characters of text."""
        if isinstance(self.content, Document):
            return len(self.content.text)
        return len(self.content.query) + sum(len(document.text) for document in self.content.documents)


@dataclass(frozen=True, slots=True)
class Resources:
    """What items are worked on with. rerank_method: for messages that do not say one."""

    embedder: Embedder
    cache: VectorCache | None
    destinations: Mapping[str, Callable[[], ResultStore]]
    tenant: str
    rerank_method: str | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A result on its way to a destination."""

    item: Item
    result: Result


class Pass:
    """Takes items through. Failures go to the ledger; what did not fail is written when `run` returns."""

    def __init__(self, resources: Resources, ledger: Ledger, deadline: Deadline) -> None:
        self._resources = resources
        self._failures = ledger.failures
        self._counts = ledger.counts
        self._deadline = deadline
        self._has_begun = False

    def run(self, items: Sequence[Item]) -> None:
        """Embed, rank and write."""
        self.write(self.compute(items))

    def compute(self, items: Sequence[Item]) -> list[Pending]:
        """Embed and rank. The first call works even past the deadline: every batch must get somewhere.

        Raises ArtifactError: then nothing can be done on this machine, for any message.
        """
        if not items:
            return []
        if self.is_over():
            for item in items:
                self._fail(item, DeadlineExceededError("no time left"))
            return []
        self._has_begun = True
        free = [item for item in items if not self._failures.hold_up(item.envelope.received)]
        return [*self._embedded(free), *self._ranked(free)]

    def write(self, pending: Sequence[Pending]) -> None:
        """Write results, those of each FIFO group in its order."""
        for _, wave in groupby(sorted(pending, key=_wave), key=_wave):
            self._write([one for one in wave if not self._failures.hold_up(one.item.envelope.received)])

    def is_over(self) -> bool:
        """Say whether time is up for everything that has not been begun."""
        return self._has_begun and self._deadline.seconds_left() <= 0

    def _embedded(self, items: Sequence[Item]) -> Iterator[Pending]:
        """Embed the documents, those of each input type together."""
        documents = [(item, item.content) for item in items if isinstance(item.content, Document)]
        self._counts.documents += len(documents)
        for input_type in sorted({item.envelope.input_type for item, _ in documents}):
            same = [(item, document) for item, document in documents if item.envelope.input_type == input_type]
            found = self._vectors([document.text for _, document in same], input_type)
            for (item, document), embedded in zip(same, found, strict=True):
                if isinstance(embedded, EmbakeryError):
                    self._fail(item, embedded)
                else:
                    yield Pending(item, self._embedding(item, document, embedded))

    def _vectors(self, texts: Sequence[str], input_type: str) -> Sequence[Embedded | EmbakeryError]:
        try:
            return self._resources.embedder.embed_items(
                texts,
                input_type=input_type,
                cache=self._resources.cache,
                tenant=self._resources.tenant,
                deadline=self._deadline,
                counts=self._counts.embed,
            )
        except ArtifactError:
            raise
        except Exception as error:
            return [_unexpected(error)] * len(texts)

    def _ranked(self, items: Sequence[Item]) -> Iterator[Pending]:
        """Rank each query's documents; each query fails alone."""
        queries = [(item, item.content) for item in items if isinstance(item.content, RerankQuery)]
        self._counts.queries += len(queries)
        for number, (item, query) in enumerate(queries):
            if (number > 0 or len(queries) < len(items)) and self._deadline.seconds_left() <= 0:
                self._fail(item, DeadlineExceededError("no time left to rerank"))
                continue
            try:
                yield Pending(item, self._ranking(item, query))
            except EmbakeryError as error:
                self._fail(item, error)
            except Exception as error:
                self._fail(item, _unexpected(error))

    def _write(self, pending: Sequence[Pending]) -> None:
        """Write everything, one call for each destination."""
        for name in sorted({one.item.envelope.destination for one in pending}):
            batch = [one for one in pending if one.item.envelope.destination == name]
            for one, outcome in zip(batch, self._outcomes(name, [one.result for one in batch]), strict=True):
                if isinstance(outcome, EmbakeryError):
                    self._fail(one.item, outcome)
                elif outcome is WriteOutcome.FAILED:
                    self._fail(one.item, StoreUnavailableError(f"{one.item.place}: not written to {name}"))
                else:
                    self._counts.written += outcome is WriteOutcome.WRITTEN
                    self._counts.superseded += outcome is WriteOutcome.SUPERSEDED

    def _outcomes(self, name: str, results: Sequence[Result]) -> Sequence[WriteOutcome | EmbakeryError]:
        try:
            return self._resources.destinations[name]().write(results)
        except ConfigurationError as error:
            return [error] * len(results)
        except StoreUnavailableError as error:
            return [StoreUnavailableError(f"destination {name}: {error}")] * len(results)
        except Exception as error:
            return [_unexpected(error)] * len(results)

    def _fail(self, item: Item, error: EmbakeryError) -> None:
        if isinstance(error, InvalidRequestError):
            error = error.within(item.place if error.field else f"{item.place}.text")
        self._failures.add(item.envelope.received.message_id, error)

    def _embedding(self, item: Item, document: Document, embedded: Embedded) -> EmbeddingResult:
        self._counts.tokens += embedded.tokens
        self._counts.truncated += embedded.truncated
        manifest = self._resources.embedder.manifest
        return EmbeddingResult(
            id=document.id,
            version=document.version,
            tenant=self._resources.tenant,
            space_id=manifest.space_id,
            model=manifest.model_id,
            vector=embedded.vector,
            tokens=embedded.tokens,
            truncated=embedded.truncated,
            job_id=item.envelope.job_id,
            metadata=document.metadata,
        )

    def _ranking(self, item: Item, query: RerankQuery) -> RerankResult:
        method = item.envelope.rerank_method or self._resources.rerank_method
        scorer = self._resources.embedder.scored_by(method)
        scorer.require_golden()
        texts = [document.text for document in query.documents]
        ranked = self._resources.embedder.rerank(
            query.query, texts, top_n=query.top_n, method=method, deadline=self._deadline
        )
        return RerankResult(
            id=query.id,
            version=query.version,
            tenant=self._resources.tenant,
            space_id=scorer.manifest.space_id,
            model=scorer.manifest.model_id,
            ranking=tuple(RankedDocument(query.documents[line.index].id, line.index, line.score) for line in ranked),
            job_id=item.envelope.job_id,
        )


def _wave(pending: Pending) -> int:
    return pending.item.envelope.wave


def _unexpected(error: Exception) -> EncodingError:
    """Return a failure of ours. The error's own words may quote a text: its kind and place must do."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    where = "" if traceback is None else f" at {traceback.tb_frame.f_code.co_qualname}:{traceback.tb_lineno}"
    log.error("unexpected_error", extra={"kind": type(error).__name__, "where": where.strip()})
    return EncodingError(f"unexpected {type(error).__name__}{where}")
