"""The API's routes: a request in, an answer's content out."""

from __future__ import annotations

from collections.abc import Sequence

from embakery.embedded import EmbedCounts, Embedded
from embakery.errors import EmbakeryError, InvalidRequestError, NotFoundError, RequestTooLargeError
from embakery.rounds import Deadline
from embakery.texts import INPUT_TYPES, check_truncate, json_type
from embakery.vectors import check_dimensions, cut_dimensions, to_base64
from handlers.http import Json, Request
from handlers.services import Services
from handlers.telemetry import record, record_embeddings

# Lambda gives back 6 MB at most. A float32 in JSON, as a double, takes up to 24 bytes with its comma.
_MAX_ANSWER_BYTES = 6_000_000
_BYTES_PER_VALUE = {"float": 24.0, "base64": 16 / 3}
_BYTES_PER_ITEM = 120


def embeddings(request: Request, services: Services, deadline: Deadline) -> Json:
    """POST /v1/embeddings, as OpenAI: input, dimensions, encoding_format. Ours: input_type, truncate."""
    body = request.json()
    services.embedder.manifest.check_model(body.get("model"), "model")
    texts = _inputs(body.get("input"), services.settings.max_items)
    dimensions = _dimensions(body, services)
    encoding = _choice(body, "encoding_format", tuple(_BYTES_PER_VALUE))
    _check_answer_size(len(texts), dimensions, encoding)
    counts = EmbedCounts()
    items = services.embedder.embed_items(
        texts,
        input_type=_choice(body, "input_type", INPUT_TYPES),
        truncate=check_truncate(body.get("truncate", "END")),
        cache=services.cache,
        tenant=services.settings.tenant,
        deadline=deadline,
        counts=counts,
    )
    good = _all_good(items, "input")
    tokens = sum(item.tokens for item in good)
    record_embeddings(items=len(good), tokens=tokens, counts=counts, cache=services.cache)
    return {
        "object": "list",
        "model": services.embedder.manifest.model_id,
        "data": [_embedding(index, item, dimensions, encoding) for index, item in enumerate(good)],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "space_id": services.embedder.manifest.space_id,
    }


def rerank(request: Request, services: Services, deadline: Deadline) -> Json:
    """POST /v1/rerank, as Cohere and Jina: query, documents, top_n, return_documents. Ours: method."""
    body = request.json()
    method = _rerank_method(body, services)
    if not isinstance(body.get("query"), str):
        raise InvalidRequestError("query", f"must be a string, not {json_type(body.get('query'))}")
    texts = [_document_text(index, item) for index, item in enumerate(_items(body, "documents", services))]
    wants_documents = body.get("return_documents", False)
    if not isinstance(wants_documents, bool):
        raise InvalidRequestError("return_documents", f"must be a boolean, not {json_type(wants_documents)}")
    ranked = services.embedder.rerank(body["query"], texts, top_n=body.get("top_n"), method=method, deadline=deadline)
    record({"RerankRequests": 1, "RerankDocuments": len(texts)})
    manifest = services.embedder.scored_by(method).manifest
    return {
        "model": manifest.model_id,
        "results": [
            {"index": line.index, "relevance_score": line.score}
            | ({"document": {"text": texts[line.index]}} if wants_documents else {})
            for line in ranked
        ],
        "method": method,
        "space_id": manifest.space_id,
    }


def models(_: Request, services: Services, __: Deadline) -> Json:
    """GET /v1/models, as OpenAI, with what a client must know to compare vectors or scores."""
    embedder = services.embedder
    data = [
        {
            "id": model.manifest.model_id,
            "object": "model",
            "created": 0,
            "owned_by": "embakery",
            "kind": model.manifest.kind,
            "dimensions": list(model.manifest.dimensions),
            "max_tokens": model.manifest.max_tokens,
            "space_id": model.manifest.space_id,
            "engine": model.manifest.engine.name,
            "certificate": model.certificate,
        }
        for model in (embedder, embedder.reranker)
        if model is not None
    ]
    return {"object": "list", "data": data}


def health(_: Request, services: Services, __: Deadline) -> Json:
    """GET /health: `degraded` where this machine computes other bits than the bake's.

    Of the encoder, it answers without the cache; of the cross-encoder, the queue's rankings by it are not written.
    """
    embedder = services.embedder
    cross_encoder = None if embedder.reranker is None else embedder.reranker.open()
    all_golden = embedder.golden_matches and (cross_encoder is None or cross_encoder.golden_matches)
    answer = {
        "status": "ok" if all_golden else "degraded",
        "golden": embedder.golden_matches,
        "engine": embedder.engine.name,
        "space_id": embedder.manifest.space_id,
    }
    if cross_encoder is None:
        return answer
    beside = {"golden": cross_encoder.golden_matches, "space_id": cross_encoder.manifest.space_id}
    return {**answer, "reranker": beside}


def _rerank_method(body: Json, services: Services) -> str:
    """The method asked for by name, or by naming its model; else the deployment's own."""
    embedder, wanted, model = services.embedder, body.get("method"), body.get("model")
    manifests = {"late-interaction": embedder.manifest}
    if embedder.reranker is not None:
        manifests["cross-encoder"] = embedder.reranker.manifest
    named = [name for name, manifest in manifests.items() if model is None or manifest.is_called(model)]
    if not named:
        served = " and ".join(manifest.model_id for manifest in manifests.values())
        raise NotFoundError("model", f"this deployment reranks by {served}")
    method = embedder.rerank_method(services.settings.rerank_method if wanted is None else wanted)
    if method in named:
        return method
    if wanted is not None:
        raise InvalidRequestError("method", f"the model that was asked for ranks by {named[0]}")
    return named[0]


def _embedding(index: int, item: Embedded, dimensions: int, encoding: str) -> Json:
    vector = cut_dimensions(item.vector, dimensions)
    return {
        "object": "embedding",
        "index": index,
        "embedding": to_base64(vector) if encoding == "base64" else vector.tolist(),
        "tokens": item.tokens,
        "truncated": item.truncated,
    }


def _check_answer_size(items: int, dimensions: int, encoding: str) -> None:
    """Refuse, before any work is done, what Lambda would refuse after it."""
    fits = int(_MAX_ANSWER_BYTES / (dimensions * _BYTES_PER_VALUE[encoding] + _BYTES_PER_ITEM))
    if items > fits:
        advice = "" if encoding == "base64" else "; encoding_format base64 takes four times as many"
        raise RequestTooLargeError("input", f"{items} items, an answer holds {fits} of them as {encoding}{advice}")


def _inputs(value: object, limit: int) -> Sequence[object]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise InvalidRequestError("input", f"must be a string or an array of strings, not {json_type(value)}")
    return _bounded(value, "input", limit)


def _items(body: Json, name: str, services: Services) -> Sequence[object]:
    value = body.get(name)
    if not isinstance(value, list):
        raise InvalidRequestError(name, f"must be an array, not {json_type(value)}")
    return _bounded(value, name, services.settings.max_items)


def _bounded(items: list[object], name: str, limit: int) -> list[object]:
    if not items:
        raise InvalidRequestError(name, "must not be empty")
    if len(items) > limit:
        raise RequestTooLargeError(name, f"{len(items)} items, the limit is {limit}")
    return items


def _document_text(index: int, item: object) -> str:
    text = item.get("text") if isinstance(item, dict) else item
    if not isinstance(text, str):
        raise InvalidRequestError(f"documents[{index}]", "must be a string or an object with a string `text`")
    return text


def _dimensions(body: Json, services: Services) -> int:
    manifest = services.embedder.manifest
    wanted = body.get("dimensions")
    return manifest.dimension if wanted is None else check_dimensions(wanted, manifest.dimensions)


def _choice(body: Json, name: str, choices: Sequence[str]) -> str:
    value = choices[0] if body.get(name) is None else body[name]
    if value not in choices:
        raise InvalidRequestError(name, f"must be {' or '.join(choices)}")
    return str(value)


def _all_good(items: Sequence[Embedded | EmbakeryError], field: str) -> list[Embedded]:
    """Return the vectors. Raises the first error, naming the item: an answer is whole or it is an error."""
    good = []
    for index, item in enumerate(items):
        if isinstance(item, InvalidRequestError):
            raise item.within(f"{field}[{index}]")
        if isinstance(item, EmbakeryError):
            raise item
        good.append(item)
    return good
