"""The queue worker's use case: messages in, results written, and which messages must come again.

    requests = parse(messages)
    embedded = embed every document of every message together
    write    = one write for each destination
    failed   = messages of which any item failed

An item that fails leaves its neighbours, in its message and in others, alone: they are written. Its message is reported
as failed, comes again and ends in the dead-letter queue; writing the neighbours again does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from embakery.cache import VectorCache
from embakery.embed import EmbedCounts, Embedded, Embedder
from embakery.errors import (
    ConfigurationError,
    DeadlineExceededError,
    EmbakeryError,
    InvalidRequestError,
    StoreUnavailableError,
)
from embakery.messages import Document, EmbedMessage, Message, Rejected, RerankMessage, RerankQuery, parse_message
from embakery.results import EmbeddingResult, RankedDocument, RerankResult, Result, ResultStore, WriteOutcome
from embakery.rounds import Deadline

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Received:
    """A message as the queue gave it."""

    message_id: str
    body: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a message must come again. `error` names field and item, never a text."""

    message_id: str
    error: EmbakeryError

    @property
    def is_permanent(self) -> bool:
        """Whether the message will fail again however often it comes."""
        return isinstance(self.error, InvalidRequestError)


@dataclass(slots=True)
class WorkCounts:
    """What one batch did, for metrics."""

    documents: int = 0
    queries: int = 0
    tokens: int = 0
    truncated: int = 0
    written: int = 0
    superseded: int = 0
    embed: EmbedCounts = field(default_factory=EmbedCounts)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The failures, in the messages' order, several for a message of several bad items; and the counts."""

    failures: tuple[Failure, ...]
    counts: WorkCounts

    @property
    def failed_ids(self) -> tuple[str, ...]:
        """The ids of messages that must come again, each once."""
        return tuple(dict.fromkeys(failure.message_id for failure in self.failures))

    @property
    def hopeless_ids(self) -> frozenset[str]:
        """The ids of failed messages in which nothing can ever succeed that has not."""
        worth_retrying = {failure.message_id for failure in self.failures if not failure.is_permanent}
        return frozenset(self.failed_ids) - worth_retrying


@dataclass(frozen=True, slots=True)
class Worker:
    """What the worker needs: a model, perhaps a cache, the destinations by name, and how to rerank if nobody says."""

    embedder: Embedder
    cache: VectorCache | None
    destinations: Mapping[str, Callable[[], ResultStore]]
    tenant: str
    rerank_method: str | None = None

    def process(self, messages: Sequence[Received], *, deadline: Deadline) -> Outcome:
        """Embed, rerank and write. Raises GoldenMismatchError, before any work, on a machine whose bits are others."""
        self.embedder.require_golden()
        run = _Run(self, deadline)
        for message in messages:
            run.take(message)
        run.embed()
        run.rerank()
        run.write()
        order = {message.message_id: position for position, message in enumerate(messages)}
        failures = sorted(run.failures, key=lambda failure: order[failure.message_id])
        return Outcome(tuple(failures), run.counts)


@dataclass(frozen=True, slots=True)
class _Work:
    """An item and the message it came in."""

    message_id: str
    place: str
    message: Message


@dataclass(frozen=True, slots=True)
class _Pending:
    """A result on its way to a destination."""

    work: _Work
    result: Result


class _Run:
    """One batch on its way through the worker."""

    def __init__(self, worker: Worker, deadline: Deadline) -> None:
        self._worker = worker
        self._deadline = deadline
        self._documents: list[tuple[_Work, Document]] = []
        self._queries: list[tuple[_Work, RerankQuery]] = []
        self._pending: list[_Pending] = []
        self.failures: list[Failure] = []
        self.counts = WorkCounts()

    def take(self, received: Received) -> None:
        """Parse a message and sort out its items."""
        try:
            message = parse_message(received.body, limits=self._worker.embedder.limits)
            self._check_destination(message.destination)
            if isinstance(message, EmbedMessage):
                self._worker.embedder.manifest.check_model(message.model, "body.model")
            else:
                self._worker.embedder.rerank_method(message.method)
        except InvalidRequestError as error:
            self.failures.append(Failure(received.message_id, error))
            return
        if isinstance(message, EmbedMessage):
            self._documents += self._accept(received, message, "documents", message.documents)
        else:
            self._queries += self._accept(received, message, "rerank", message.queries)

    def embed(self) -> None:
        """Embed the documents of all messages together, each input type in one go."""
        for input_type in sorted({_input_type(work) for work, _ in self._documents}):
            same = [(work, document) for work, document in self._documents if _input_type(work) == input_type]
            items = self._worker.embedder.embed_items(
                [document.text for _, document in same],
                input_type=input_type,
                cache=self._worker.cache,
                tenant=self._worker.tenant,
                deadline=self._deadline,
                counts=self.counts.embed,
            )
            for (work, document), item in zip(same, items, strict=True):
                if isinstance(item, EmbakeryError):
                    self._fail(work, item)
                else:
                    self._pending.append(_Pending(work, self._embedding(work, document, item)))
        self.counts.documents = len(self._documents)

    def rerank(self) -> None:
        """Rank each query's documents; each query fails alone."""
        for work, query in self._queries:
            if self._deadline.is_near() and self._pending:
                self._fail(work, DeadlineExceededError("no time left to rerank"))
                continue
            try:
                self._pending.append(_Pending(work, self._ranking(work, query)))
            except EmbakeryError as error:
                self._fail(work, error)
        self.counts.queries = len(self._queries)

    def write(self) -> None:
        """Write everything, one call for each destination."""
        for name in sorted({pending.work.message.destination for pending in self._pending}):
            batch = [pending for pending in self._pending if pending.work.message.destination == name]
            try:
                outcomes = self._worker.destinations[name]().write([pending.result for pending in batch])
            except (StoreUnavailableError, ConfigurationError) as error:
                for pending in batch:
                    self._fail(pending.work, error)
                continue
            for pending, outcome in zip(batch, outcomes, strict=True):
                if outcome is WriteOutcome.FAILED:
                    self._fail(pending.work, StoreUnavailableError(f"{pending.work.place}: not written to {name}"))
            self.counts.written += outcomes.count(WriteOutcome.WRITTEN)
            self.counts.superseded += outcomes.count(WriteOutcome.SUPERSEDED)

    def _check_destination(self, name: str) -> None:
        if name not in self._worker.destinations:
            known = ", ".join(sorted(self._worker.destinations))
            raise InvalidRequestError("destination", f"is not one of this deployment's: {known}")

    def _accept(
        self, received: Received, message: Message, name: str, items: Iterable[Value | Rejected]
    ) -> list[tuple[_Work, Value]]:
        accepted = []
        for index, item in enumerate(items):
            if isinstance(item, Rejected):
                self.failures.append(Failure(received.message_id, item.error))
            else:
                accepted.append((_Work(received.message_id, f"{name}[{index}]", message), item))
        return accepted

    def _fail(self, work: _Work, error: EmbakeryError) -> None:
        if isinstance(error, InvalidRequestError):
            error = error.within(work.place if error.field else f"{work.place}.text")
        self.failures.append(Failure(work.message_id, error))

    def _embedding(self, work: _Work, document: Document, item: Embedded) -> EmbeddingResult:
        self.counts.tokens += item.tokens
        self.counts.truncated += item.truncated
        manifest = self._worker.embedder.manifest
        return EmbeddingResult(
            id=document.id,
            version=document.version,
            tenant=self._worker.tenant,
            space_id=manifest.space_id,
            model=manifest.model_id,
            vector=item.vector,
            tokens=item.tokens,
            truncated=item.truncated,
            job_id=work.message.job_id,
            metadata=document.metadata,
        )

    def _ranking(self, work: _Work, query: RerankQuery) -> RerankResult:
        asked = work.message.method if isinstance(work.message, RerankMessage) else None
        method = asked or self._worker.rerank_method
        scorer = self._worker.embedder.scored_by(method)
        scorer.require_golden()
        texts = [document.text for document in query.documents]
        ranked = self._worker.embedder.rerank(
            query.query, texts, top_n=query.top_n, method=method, deadline=self._deadline
        )
        return RerankResult(
            id=query.id,
            version=query.version,
            tenant=self._worker.tenant,
            space_id=scorer.manifest.space_id,
            model=scorer.manifest.model_id,
            ranking=tuple(RankedDocument(query.documents[line.index].id, line.index, line.score) for line in ranked),
            job_id=work.message.job_id,
        )


def _input_type(work: _Work) -> str:
    return work.message.input_type if isinstance(work.message, EmbedMessage) else "query"
